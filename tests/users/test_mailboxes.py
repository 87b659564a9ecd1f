"""Each mailbox has one user, in all spellings of its address and for all writers."""

from importlib import import_module
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from tests.api.rest.programs import Program, assert_problem, program_of_administrator
from tests.factories import PASSWORD, AdministratorFactory, OperatorFactory, UserFactory
from tests.operators import client_of, operator_with
from users.addresses import validate_address
from users.models import User

pytestmark = pytest.mark.django_db

LIST = "/admin/users/user/"
UNSEEN = [
    "\u200b",
    "\u00ad",
    "\ufeff",
    "\u2060",
    "\u3164",
    "\u115f",
    "\ufe0f",
    "\U000e0041",
]
TWINS = [
    ("ada@bücher.example", "ada@xn--bcher-kva.example"),
    ("ada@xn--bcher-kva.example", "ADA@BÜCHER.example"),
    ("ada@bu\u0308cher.example", "ada@bücher.example"),
    ("ada@bücher.example", "ada@bücher\u3002example"),
    ("ada@пример.рф", "ada@xn--e1afmkfd.xn--p1ai"),
    ("ada@example.org", "Ada@Example.ORG"),
    ("ada@example.org", "ada@ｅxample.org"),
    ('"ada"@example.org', "ada@example.org"),
]
every_twin = pytest.mark.parametrize(("first", "second"), TWINS)


def form(email: str, **fields: str) -> dict[str, str]:
    return {"email": email, "legal_type": "individual", "is_active": "on"} | fields


def of_old(*emails: str) -> list[User]:
    """Creates users who share a mailbox, as a database from before the rule may have them."""
    migration = import_module("users.migrations.0004_one_mailbox").SQL / "0004_one_mailbox.sql"
    numbering = migration.read_text().split("CREATE FUNCTION")[0]
    with connection.cursor() as cursor:
        cursor.execute(
            "ALTER TABLE users_user DISABLE TRIGGER users_one_mailbox; "
            "ALTER TABLE users_user DROP CONSTRAINT user_email_is_one_mailbox"
        )
        users = [UserFactory() for _ in emails]
        for user, email in zip(users, emails, strict=True):
            cursor.execute("UPDATE users_user SET email = %s WHERE id = %s", [email, user.pk])
        cursor.execute(numbering)
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(
            "ALTER TABLE users_user ADD CONSTRAINT user_email_is_one_mailbox UNIQUE "
            "(email_identity, email_twin); ALTER TABLE users_user ENABLE TRIGGER users_one_mailbox"
        )
    return [User.objects.get(pk=user.pk) for user in users]


@pytest.fixture
def rest() -> Program:
    return program_of_administrator()


# --- New addresses ------------------------------------------------------------------------------


@every_twin
def test_a_second_spelling_is_refused_by_the_panel(first: str, second: str) -> None:
    UserFactory(email=first)
    answer = client_of(AdministratorFactory()).post(f"{LIST}add/", form(second))
    # The form itself refuses a full stop that is not ASCII.
    assert answer.context["adminform"].form.errors["email"][0] in {
        "Another user has this e-mail address.",
        "Enter a valid email address." if "\u3002" in second else "",
    }


@every_twin
def test_a_second_spelling_is_refused_by_rest(rest: Program, first: str, second: str) -> None:
    UserFactory(email=first)
    assert_problem(rest.post("/users", {"email": second}), 409, "email_taken")
    other = UserFactory()
    assert_problem(rest.patch(f"/users/{other.pk}", {"email": second}), 409, "email_taken")


@every_twin
def test_a_second_spelling_is_refused_by_the_database(first: str, second: str) -> None:
    UserFactory(email=first)
    other = UserFactory()
    for write in (
        lambda: User.objects.bulk_create([User(email=second)]),
        lambda: User.objects.filter(pk=other.pk).update(email=second),
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            write()


@pytest.mark.parametrize("unseen", UNSEEN, ids=lambda each: f"{ord(each):x}")
@pytest.mark.parametrize("email", ["twin@exa{}mple.org", "tw{}in@example.org", "{}a@example.org"])
def test_nothing_unseen_is_in_an_address(rest: Program, email: str, unseen: str) -> None:
    email = email.format(unseen)
    answer = client_of(AdministratorFactory()).post(f"{LIST}add/", form(email))
    assert "email" in answer.context["adminform"].form.errors
    assert_problem(rest.post("/users", {"email": email}), 422, "invalid_request")
    with pytest.raises(ValidationError):
        User.objects.create_user(email)
    with pytest.raises(ValidationError):
        User(email=email).save()
    with pytest.raises(CommandError):
        call_command("createsuperuser", interactive=False, email=email)
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.bulk_create([User(email=email)])
    assert not User.objects.with_mailbox(email).exists()


@pytest.mark.parametrize(
    "email",
    ["ada@example.org", "o'hara+x@a-b.example", "ada@panel.test", "ada@localhost", "ada@corp.local",
     "ada@bücher.example", "a.b@xn--bcher-kva.example", '"a..b"@example.org', "ada@[127.0.0.1]"],
)  # fmt: skip
def test_addresses_of_today_are_taken(email: str) -> None:
    validate_address(email)
    assert User.objects.create_user(email).email == email


@pytest.mark.parametrize("email", ["", "ada", "ada@", "@example.org", "a b@example.org", "a@-b.org",
                                   "a@b..org", "a@xn--a.example"])  # fmt: skip
def test_what_is_no_address_is_refused(email: str) -> None:
    with pytest.raises(ValidationError):
        validate_address(email)


def test_an_address_stays_as_it_was_written(rest: Program) -> None:
    shown = rest.post("/users", {"email": "Ada@xn--bcher-kva.example"}).json()
    assert shown["email"] == "Ada@xn--bcher-kva.example"
    assert rest.patch(f"/users/{shown['id']}", {"email": "ada@bücher.example"}).status_code == 200


@given(st.text("abcüßéж中αø", min_size=1, max_size=12))
def test_a_domain_is_the_same_in_letters_and_in_its_code(label: str) -> None:
    code = label.encode("punycode").decode()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT users_from_punycode(%s), users_email_identity(%s) = users_email_identity(%s)",
            [code, f"a@{label}.example", f"a@xn--{code}.example" if not label.isascii() else "a@b"],
        )
        decoded, is_same = cursor.fetchone()
    assert decoded == label
    assert is_same or label.isascii()


@given(st.text(max_size=70).filter(lambda text: "\0" not in text))
def test_any_text_has_an_identity_and_keeps_it(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH once AS (SELECT users_email_identity(%s) AS said) "
            "SELECT said, users_email_identity(said), users_from_punycode(%s) FROM once",
            [f"a@xn--{text}", text.lower()],
        )
        assert cursor.fetchone()[0] is not None


# --- Twins of old -------------------------------------------------------------------------------

OLD = ("twin@example.org", "twin@exam\u200bple.org", "twin@exam\u00adple.org")


def test_twins_of_old_stay_and_no_further_one_is_let_in(rest: Program) -> None:
    first, second, third = of_old(*OLD)
    assert [user.email for user in (first, second, third)] == list(OLD)
    for email in ("twin@example.org", "Twin@EXAMPLE.org"):
        assert_problem(rest.post("/users", {"email": email}), 409, "email_taken")
    # Also not after the oldest has got another address, because the others still have this one.
    assert rest.patch(f"/users/{first.pk}", {"email": "other@example.org"}).status_code == 200
    assert_problem(rest.post("/users", {"email": "twin@example.org"}), 409, "email_taken")
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.bulk_create([User(email="twin@example.org")])
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.filter(pk=first.pk).update(email="twin@example.org")


def test_a_twin_cannot_take_its_number_along() -> None:
    _, second, _ = of_old(*OLD)
    UserFactory(email="ada@example.org")
    User.objects.filter(pk=second.pk).update(email_twin=7)
    second.refresh_from_db()
    assert second.email_twin == 1
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.filter(pk=second.pk).update(email="ada@example.org")
    User.objects.filter(pk=second.pk).update(email="free@example.org")
    second.refresh_from_db()
    assert second.email_twin == 0


def test_an_old_address_can_be_read_found_and_kept_while_the_rest_is_changed(rest: Program) -> None:
    _, second, _ = of_old(*OLD)
    shown = rest.get(f"/users/{second.pk}").json()
    assert shown["email"] == OLD[1]
    changed = rest.patch(f"/users/{second.pk}", {"email": OLD[1], "city": "Berlin"})
    assert changed.status_code == 200
    panel = client_of(operator_with(group="Administrator"))
    answer = panel.post(f"{LIST}{second.pk}/change/", form(OLD[1], city="Rome"))
    assert answer.status_code == 302
    second.refresh_from_db()
    assert (second.city, second.email) == ("Rome", OLD[1])
    second.is_active = False
    second.save()


def test_each_twin_of_old_logs_in_with_its_own_spelling(client: Client) -> None:
    operators = of_old(*OLD)
    for operator in operators:
        operator.is_staff = True
        operator.set_password(PASSWORD)
        operator.save()
    for operator in operators:
        assert User.objects.get_by_natural_key(operator.email) == operator
        assert User.objects.get_by_natural_key(operator.email.upper()) == operator
        assert client.login(username=operator.email, password=PASSWORD)
    assert not User.objects.with_email("twin@exam\ufeffple.org").exists()


def test_an_operator_logs_in_with_any_spelling(client: Client) -> None:
    operator = OperatorFactory(email="ada@bücher.example")
    for login in ("ada@bücher.example", "ADA@xn--bcher-kva.example", "ada@bu\u0308cher.example"):
        assert User.objects.get_by_natural_key(login) == operator
        assert client.login(username=login, password=PASSWORD)


def test_twins_of_old_are_listed_by_a_command_and_on_the_start_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    panel = client_of(operator_with(group="Viewer"))
    assert "more than one user" not in panel.get("/admin/").content.decode()
    users = of_old(*OLD)
    UserFactory()
    call_command("list_twins")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"twin@example.org: user {user.pk}" for user in users
    ]
    assert "\\u200b" in lines[1]
    page = panel.get("/admin/").content.decode()
    assert "1 mailbox has more than one user" in page
    found = panel.get(f"{LIST}?q=twin@example.org").context["cl"].result_list
    assert set(found) == set(users)


def test_the_migration_reports_twins(capsys: pytest.CaptureFixture[str]) -> None:
    report: Any = import_module("users.migrations.0004_one_mailbox").report_twins
    report(None, connection.schema_editor())
    assert capsys.readouterr().out == ""
    ids = ", ".join(str(user.pk) for user in of_old(*OLD))
    report(None, connection.schema_editor())
    assert f"twin@example.org: users {ids}" in capsys.readouterr().out


# --- Other texts --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["\u200b", "\u3164", "\u115f\u1160", "\u00a0", "A\u00adda"])
@pytest.mark.parametrize("field", ["first_name", "city", "phone", "tin", "comment"])
def test_nothing_unseen_is_in_a_users_texts(rest: Program, field: str, name: str) -> None:
    fields = {"email": "new@example.org", field: name}
    refused = assert_problem(rest.post("/users", fields), 422, "invalid_request")
    assert [each["field"] for each in refused["errors"]] == [field]
    with pytest.raises(ValidationError):
        User(**fields).save()
    if name != "\u00a0":  # a form strips it
        answer = client_of(AdministratorFactory()).post(f"{LIST}add/", form(**fields))
        assert field in answer.context["adminform"].form.errors


def test_an_old_name_stays_while_the_rest_is_changed(rest: Program) -> None:
    user = UserFactory()
    User.objects.filter(pk=user.pk).update(first_name="A\u200bda")
    assert rest.patch(f"/users/{user.pk}", {"city": "Rome"}).status_code == 200
    assert rest.patch(f"/users/{user.pk}", {"last_name": "L\u200b"}).status_code == 422
    user = User.objects.get(pk=user.pk)
    assert (user.first_name, user.city) == ("A\u200bda", "Rome")
