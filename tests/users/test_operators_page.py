"""Who may change operators. Nobody can give a right that they do not hold."""

from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission

from tests.factories import PASSWORD, AdministratorFactory, OperatorFactory, UserFactory
from tests.operators import client_of, operator_with, permission, sent_by
from users.models import Operator, User

pytestmark = pytest.mark.django_db

MAY_EDIT = ("users.view_operator", "users.add_operator", "users.change_operator")
NEW_PASSWORD = "an entirely different one"


def page(operator: User, name: str = "change") -> str:
    return f"/admin/users/operator/{operator.pk}/{name}/"


def filled_in(operator: User, **changes: Any) -> dict[str, Any]:
    """Returns the fields of the operator's form as the page would send them."""
    return {
        "email": operator.email,
        "first_name": operator.first_name,
        "last_name": operator.last_name,
        "groups": list(operator.groups.values_list("pk", flat=True)),
        "is_active": "on" if operator.is_active else "",
    } | changes


@pytest.fixture
def administrator(db: None) -> Operator:
    """An operator in the group Administrator, who is no superuser."""
    return operator_with(group="Administrator")


def group(name: str) -> Group:
    return Group.objects.get(name=name)


# --- Allowed ------------------------------------------------------------------------------------


def test_an_administrator_creates_an_operator_who_can_log_in(administrator: Operator) -> None:
    answer = client_of(administrator).post(
        "/admin/users/operator/add/",
        {
            "email": "new@example.com",
            "password1": NEW_PASSWORD,
            "password2": NEW_PASSWORD,
            "groups": [group("Billing operator").pk],
            "time_zone": "Europe/Berlin",
        },
    )
    new = User.objects.get(email="new@example.com")
    assert answer["Location"] == page(new)
    assert new.is_staff
    assert not new.is_superuser
    assert new.check_password(NEW_PASSWORD)
    assert new.has_perm("billing.change_balance")
    assert new.time_zone == "Europe/Berlin"


def test_a_new_operator_needs_a_password_and_an_address_of_their_own(
    administrator: Operator,
) -> None:
    UserFactory(email="taken@example.com")
    answer = client_of(administrator).post(
        "/admin/users/operator/add/",
        {
            "email": "TAKEN@example.com",
            "usable_password": "false",
            "password1": "",
            "password2": "",
        },
    )
    assert set(answer.context["adminform"].form.errors) == {"email", "password1", "password2"}


def test_an_administrator_edits_operators_and_sets_passwords(administrator: Operator) -> None:
    other = operator_with(group="Viewer")
    client = client_of(administrator)
    changes = {"first_name": "Grace", "groups": [group("Billing operator").pk]}
    assert client.post(page(other), filled_in(other, **changes)).status_code == 302
    passwords = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    assert client.post(page(other, "password"), passwords).status_code == 302
    other = Operator.objects.get(pk=other.pk)
    assert other.first_name == "Grace"
    assert other.has_perm("billing.change_balance")
    assert other.check_password(NEW_PASSWORD)


def test_a_superuser_gives_any_right() -> None:
    other = operator_with()
    changes = {"is_superuser": "on", "user_permissions": [permission("users.view_user").pk]}
    client_of(AdministratorFactory()).post(page(other), filled_in(other, **changes))
    other.refresh_from_db()
    assert other.is_superuser
    assert other.user_permissions.count() == 1


def test_what_is_taken_from_an_operator_meanwhile_is_not_given_back() -> None:
    other = operator_with("users.view_user", group="Administrator")
    client = client_of(AdministratorFactory())
    opened = sent_by(client.get(page(other)))
    other.groups.set([group("Viewer")])
    other.user_permissions.clear()
    User.objects.filter(pk=other.pk).update(is_active=False)
    assert client.post(page(other), opened | {"comment": "On leave"}).status_code == 302
    other = Operator.objects.get(pk=other.pk)
    assert other.comment == "On leave"
    assert not other.is_active
    assert not other.user_permissions.exists()
    assert list(other.groups.all()) == [group("Viewer")]


def test_of_groups_that_two_change_at_once_the_second_is_told_which_they_are() -> None:
    other = operator_with(group="Administrator")
    client = client_of(AdministratorFactory())
    mine = {"groups": [str(group("Billing operator").pk)]}
    opened = sent_by(client.get(page(other))) | mine
    other.groups.set([group("Viewer")])
    answer = client.post(page(other), opened)
    [why] = answer.context["adminform"].form.errors["groups"]
    assert "to Viewer." in why
    assert list(other.groups.all()) == [group("Viewer")]
    assert client.post(page(other), sent_by(answer)).status_code == 302
    assert list(other.groups.all()) == [group("Billing operator")]


# --- Attempts to gain rights --------------------------------------------------------------------


def test_a_crafted_form_makes_nobody_a_superuser(administrator: Operator) -> None:
    other = operator_with(group="Viewer")
    changes = {
        "is_superuser": "on",
        "user_permissions": [permission("users.delete_user").pk],
        "is_staff": "",
        "first_name": "Changed",
    }
    client_of(administrator).post(page(other), filled_in(other, **changes))
    other.refresh_from_db()
    assert other.first_name == "Changed", "the form itself must have been taken"
    assert not other.is_superuser
    assert other.is_staff
    assert not other.user_permissions.exists()


@pytest.mark.parametrize("is_active", [True, False])
def test_superusers_are_out_of_reach_of_everybody_else(
    administrator: Operator, *, is_active: bool
) -> None:
    superuser = AdministratorFactory(is_active=is_active)
    administrator.user_permissions.set(Permission.objects.all())  # all, and still no superuser
    client = client_of(administrator)
    assert client.get(page(superuser)).status_code == 200  # may only be read
    assert (
        client.post(page(superuser), filled_in(superuser, email="me@example.com")).status_code
        == 403
    )
    passwords = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    assert client.post(page(superuser, "password"), passwords).status_code == 403
    superuser.refresh_from_db()
    assert superuser.email != "me@example.com"
    assert superuser.check_password(PASSWORD)


@pytest.mark.parametrize("is_active", [True, False])
def test_nobody_takes_over_an_operator_with_more_rights(*, is_active: bool) -> None:
    """Also not an inactive one: somebody who may activate them could log in as them."""
    stronger = operator_with(group="Billing operator", is_active=is_active)
    weaker = operator_with(*MAY_EDIT)
    client = client_of(weaker)
    assert client.post(page(stronger), filled_in(stronger, is_active="on")).status_code == 403
    passwords = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    assert client.post(page(stronger, "password"), passwords).status_code == 403
    client.post("/admin/users/operator/", {"action": "activate", "_selected_action": [stronger.pk]})
    stronger.refresh_from_db()
    assert stronger.is_active == is_active
    assert stronger.check_password(PASSWORD)


def test_groups_with_rights_beyond_ones_own_cannot_be_given() -> None:
    weaker = operator_with(*MAY_EDIT)
    other = operator_with()
    answer = client_of(weaker).post(
        page(other), filled_in(other, groups=[group("Billing operator").pk])
    )
    assert "groups" in answer.context["adminform"].form.errors
    assert not other.groups.exists()


def test_nor_with_a_new_operator() -> None:
    client_of(operator_with(*MAY_EDIT)).post(
        "/admin/users/operator/add/",
        {
            "email": "new@example.com",
            "password1": NEW_PASSWORD,
            "password2": NEW_PASSWORD,
            "groups": [group("Administrator").pk],
        },
    )
    assert not User.objects.filter(email="new@example.com").exists()


def test_operators_neither_raise_nor_lower_nor_lock_out_themselves(administrator: Operator) -> None:
    changes = {"is_active": "", "groups": [], "is_superuser": "on", "first_name": "Changed"}
    client = client_of(administrator)
    client.post(page(administrator), filled_in(administrator, **changes))
    selected = {"action": "deactivate", "_selected_action": [administrator.pk]}
    client.post("/admin/users/operator/", selected)
    me = Operator.objects.get(pk=administrator.pk)
    assert me.first_name == "Changed", "the form itself must have been taken"
    assert me.is_active
    assert not me.is_superuser
    assert [each.name for each in me.groups.all()] == ["Administrator"]


def test_even_a_superuser_does_not_demote_themself() -> None:
    superuser = AdministratorFactory()
    client_of(superuser).post(page(superuser), filled_in(superuser, is_active=""))
    superuser.refresh_from_db()
    assert superuser.is_superuser
    assert superuser.is_active


def test_the_operators_page_does_not_reach_customers(administrator: Operator) -> None:
    customer = UserFactory()
    client = client_of(administrator)
    assert client.post(page(customer), filled_in(customer)).status_code == 302
    passwords = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    assert client.post(page(customer, "password"), passwords).status_code in (403, 404)
    customer.refresh_from_db()
    assert not customer.is_staff
    assert not customer.check_password(NEW_PASSWORD)


# --- Who sees the page --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "permissions", "status"),
    [
        ("/admin/users/operator/", (), 403),
        ("/admin/users/operator/", ("users.view_user", "users.change_user"), 403),
        ("/admin/users/operator/", ("users.view_operator",), 200),
        ("/admin/users/operator/add/", ("users.view_operator",), 403),
        ("/admin/users/operator/add/", MAY_EDIT, 200),
        ("/admin/auth/group/", (), 403),
        ("/admin/auth/group/", ("auth.view_group",), 200),
        ("/admin/auth/group/add/", ("auth.view_group",), 403),
    ],
)
def test_pages_ask_for_their_permissions(
    path: str, permissions: tuple[str, ...], status: int
) -> None:
    assert client_of(operator_with(*permissions)).get(path).status_code == status


def test_nobody_deletes_operators() -> None:
    other = OperatorFactory()
    assert client_of(AdministratorFactory()).post(page(other, "delete")).status_code == 403
    assert User.objects.filter(pk=other.pk).exists()


def test_a_reader_gets_no_fields_and_no_buttons() -> None:
    other = OperatorFactory()
    answer = client_of(operator_with("users.view_operator")).get(page(other))
    assert 'name="email"' not in answer.text
    assert 'name="_save"' not in answer.text
    assert client_of(operator_with("users.view_operator")).post(page(other)).status_code == 403
