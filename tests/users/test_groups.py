"""The groups that migrations make, and the page of groups."""

from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command

from billing.authority import groups
from billing.authority.groups import READY_MADE
from tests.factories import AdministratorFactory, OperatorFactory
from tests.operators import client_of, operator_with, permission

pytestmark = pytest.mark.django_db

migration: Any = import_module("billing.migrations.0004_groups")
more: Any = import_module("billing.migrations.0006_more_for_groups")
programs: Any = import_module("billing.migrations.0012_administrators_and_programs")

VIEWER_AT_FIRST = {
    "users.view_user",
    "billing.view_transaction",
    "billing.view_balance",
    "billing.view_standarddescription",
}
VIEWER_THEN = {
    each.replace("reason", "standarddescription")
    for each in READY_MADE["Viewer"] - {"billing.view_batch"}
}


@pytest.fixture
def older_names() -> None:
    """Puts the permissions back to those of the time of these migrations."""
    Permission.objects.filter(codename="view_batch").delete()
    Permission.objects.filter(codename__endswith="_voucher").delete()
    for each in Permission.objects.filter(codename__endswith="_reason"):
        each.codename = each.codename.replace("reason", "standarddescription")
        each.save()
    ContentType.objects.filter(model="reason").update(model="standarddescription")
    ContentType.objects.clear_cache()


@pytest.mark.parametrize("name", READY_MADE)
def test_the_ready_made_groups_are_there_after_migrating(name: str) -> None:
    assert operator_with(group=name).get_all_permissions() == READY_MADE[name]


def test_each_group_may_do_what_the_one_before_it_may() -> None:
    viewer, billing_operator, administrator = READY_MADE.values()
    assert viewer < billing_operator < administrator
    assert not [each for each in viewer if ".view_" not in each]


def test_what_an_installation_changes_in_a_group_stays_as_it_is() -> None:
    viewer = Group.objects.get(name="Viewer")
    viewer.permissions.remove(permission("billing.view_plan"))
    viewer.permissions.add(permission("users.change_user"))
    call_command("migrate", verbosity=0)
    assert permissions_of(viewer) == (READY_MADE["Viewer"] - {"billing.view_plan"}) | {
        "users.change_user"
    }


def test_a_permission_that_is_new_in_the_table_is_granted_once() -> None:
    viewer = Group.objects.get(name="Viewer")
    table = {"Viewer": READY_MADE["Viewer"] | {"billing.view_apikey"}}
    groups.grant_defaults(table)
    assert permissions_of(viewer) == table["Viewer"]
    viewer.permissions.remove(permission("billing.view_apikey"))
    groups.grant_defaults(table)
    assert permissions_of(viewer) == READY_MADE["Viewer"]


def test_a_group_that_was_renamed_or_deleted_is_left_alone() -> None:
    Group.objects.filter(name="Viewer").update(name="Support")
    Group.objects.get(name="Billing operator").delete()
    table = {name: each | {"billing.view_apikey"} for name, each in READY_MADE.items()}
    groups.grant_defaults(table)
    assert {group.name for group in Group.objects.all()} == {"Support", "Administrator"}
    assert permissions_of(Group.objects.get(name="Support")) == READY_MADE["Viewer"]


def test_a_group_that_is_new_in_the_table_is_made() -> None:
    groups.grant_defaults({"Accountant": frozenset({"billing.view_transaction"})})
    assert permissions_of(Group.objects.get(name="Accountant")) == {"billing.view_transaction"}


def test_a_permission_that_does_not_exist_is_a_mistake_in_the_table() -> None:
    with pytest.raises(LookupError, match=r"There is no permission billing\.fly"):
        groups.grant_defaults({"Viewer": frozenset({"billing.fly"})})


def permissions_of(group: Group) -> set[str]:
    rows = group.permissions.values_list("content_type__app_label", "codename")
    return {f"{app_label}.{codename}" for app_label, codename in rows}


def test_their_permissions_are_the_ones_django_makes() -> None:
    """The migration makes permissions before Django does; they have to be the same."""
    for each in Permission.objects.filter(group__isnull=False).select_related("content_type"):
        model = each.content_type.model_class()
        assert model is not None
        action = each.codename.split("_")[0]
        assert each.name == f"Can {action} {model._meta.verbose_name_raw}"


def test_taking_the_migrations_back_and_forth_changes_nothing(older_names: None) -> None:
    # Granted later, without a migration.
    for name in ("users.merge_user", "users.forget_user"):
        Group.objects.get(name="Administrator").permissions.remove(permission(name))
    before = {group.name: set(group.permissions.all()) for group in Group.objects.all()}
    programs.forbid(apps, None)
    more.forbid(apps, None)
    migration.remove_groups(apps, None)
    assert not Group.objects.exists()
    migration.make_groups(apps, None)
    more.permit(apps, None)
    programs.permit(apps, None)
    assert {group.name: set(group.permissions.all()) for group in Group.objects.all()} == before


def test_it_makes_the_permissions_that_are_not_there_yet() -> None:
    Group.objects.all().delete()
    Permission.objects.all().delete()
    migration.make_groups(apps, None)
    assert operator_with(group="Viewer").get_all_permissions() == VIEWER_AT_FIRST
    more.permit(apps, None)
    assert operator_with(group="Viewer").get_all_permissions() == VIEWER_THEN


def test_an_own_right_of_a_group_stays_when_more_is_permitted(older_names: None) -> None:
    group = Group.objects.get(name="Viewer")
    group.permissions.add(permission("users.change_user"))
    more.permit(apps, None)
    more.forbid(apps, None)
    assert operator_with(group="Viewer").get_all_permissions() == {
        *VIEWER_AT_FIRST,
        "users.change_user",
    }


def test_a_group_of_the_same_name_stays_as_it_is() -> None:
    Group.objects.all().delete()
    own = Group.objects.create(name="Viewer")
    own.permissions.add(permission("users.view_user"))
    migration.make_groups(apps, None)
    assert [each.codename for each in own.permissions.all()] == ["view_user"]
    migration.remove_groups(apps, None)
    assert [group.name for group in Group.objects.all()] == ["Viewer"]


def test_taking_it_back_leaves_groups_that_somebody_is_in(older_names: None) -> None:
    operator_with(group="Administrator")
    programs.forbid(apps, None)
    more.forbid(apps, None)
    migration.remove_groups(apps, None)
    assert [group.name for group in Group.objects.all()] == ["Administrator"]


# --- The page -----------------------------------------------------------------------------------


def test_an_administrator_makes_a_group_of_what_they_may_do() -> None:
    client_of(operator_with(group="Administrator")).post(
        "/admin/auth/group/add/",
        {"name": "Support", "permissions": [permission("users.view_user").pk]},
    )
    made = Group.objects.get(name="Support")
    assert [each.codename for each in made.permissions.all()] == ["view_user"]


def test_nobody_puts_a_right_into_a_group_that_they_do_not_hold() -> None:
    own = Group.objects.create(name="Support")
    operator = operator_with("auth.view_group", "auth.change_group")
    operator.groups.add(own)
    answer = client_of(operator).post(
        f"/admin/auth/group/{own.pk}/change/",
        {"name": "Support", "permissions": [permission("billing.change_balance").pk]},
    )
    assert "permissions" in answer.context["adminform"].form.errors
    assert not own.permissions.exists()


@pytest.mark.parametrize("what", ["change", "delete"])
def test_a_group_with_more_rights_than_ones_own_is_out_of_reach(what: str) -> None:
    operator = operator_with("auth.view_group", "auth.change_group", "auth.delete_group")
    group = Group.objects.get(name="Billing operator")
    answer = client_of(operator).post(
        f"/admin/auth/group/{group.pk}/{what}/", {"name": "Mine", "post": "yes"}
    )
    assert answer.status_code == 403
    assert Group.objects.filter(name="Billing operator").exists()


def test_deleting_many_at_once_asks_for_each_of_them() -> None:
    operator = operator_with("auth.view_group", "auth.change_group", "auth.delete_group")
    chosen = {"_selected_action": list(Group.objects.values_list("pk", flat=True)), "post": "yes"}
    client_of(operator).post("/admin/auth/group/", chosen | {"action": "delete_selected"})
    assert Group.objects.count() == 3


def test_the_list_counts_operators() -> None:
    for _ in range(2):
        OperatorFactory().groups.add(Group.objects.get(name="Viewer"))
    answer = client_of(AdministratorFactory()).get("/admin/auth/group/")
    counts = {group.name: group.member_count for group in answer.context["cl"].result_list}
    assert counts == {"Administrator": 0, "Billing operator": 0, "Viewer": 2}
