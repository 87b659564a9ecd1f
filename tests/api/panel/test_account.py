"""Sessions of the Panel API: how they begin, their permissions, and every way they end."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.hashers import MD5PasswordHasher
from django.utils import timezone

from billing.authority import LOGINS_PER_MINUTE
from billing.models import ApiSession
from tests.api.panel.client import Program
from tests.factories import PASSWORD, OperatorFactory, UserFactory
from tests.operators import operator_with, permission
from users.models import User

LOGIN = "clerk@example.com"


@pytest.fixture
def clerk(db: None) -> User:
    return OperatorFactory(email=LOGIN)


def log_in(login: str = LOGIN, password: str = PASSWORD) -> Any:
    return Program()("account/auth", login=login, password=password)


@pytest.fixture
def clock_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops the clock. Otherwise more logins would be allowed while the test uses them up."""
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)


def session_of(answer: Any) -> Program:
    program = Program()
    program.hash = answer["hash"]
    return program


# --- Logging in ---------------------------------------------------------------------------------


def test_a_login_opens_a_session_of_32_hexadecimal_digits(clerk: User) -> None:
    answer = log_in()
    assert set(answer.body) == {"success", "hash", "permissions"}
    assert len(answer["hash"]) == 32
    int(answer["hash"], 16)
    assert answer["permissions"] == {"base": ["get_dealer_info"]}
    assert session_of(answer)("account/get_permissions").code is None
    # The database does not contain the session's hash itself.
    assert answer["hash"] not in ApiSession.objects.get().hashed


def test_the_login_is_the_email_in_any_case(clerk: User) -> None:
    assert log_in("CLERK@Example.com").code is None


def test_a_form_and_an_address_will_do(clerk: User) -> None:
    given = {"login": LOGIN, "password": PASSWORD}
    assert Program().form("account/auth/", given).code is None
    assert Program().get("account/auth", given).code is None


@pytest.mark.parametrize(
    ("login", "password"),
    [
        (LOGIN, "wrong"),
        (LOGIN, ""),
        ("nobody@example.com", PASSWORD),
        ("", PASSWORD),
    ],
)
def test_any_login_that_fails_answers_the_same(clerk: User, login: str, password: str) -> None:
    answer = log_in(login, password)
    assert answer.status == 400
    assert answer.body == {
        "success": False,
        "status": {"code": 102, "description": "Wrong login or password"},
    }


def test_a_customer_with_a_password_is_no_operator(db: None) -> None:
    customer = UserFactory(email="customer@example.com")
    customer.set_password(PASSWORD)
    customer.save()
    assert log_in("customer@example.com").code == 102


def test_an_unknown_login_takes_the_time_of_a_known_one(
    clerk: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    encode = MD5PasswordHasher.encode

    def count(self: Any, password: str, salt: str) -> str:
        hashed.append(password)
        return str(encode(self, password, salt))

    monkeypatch.setattr(MD5PasswordHasher, "encode", count)
    log_in(password="wrong")
    known = len(hashed)
    log_in("nobody@example.com", "wrong")
    assert len(hashed) == 2 * known > 0
    UserFactory(email="customer@example.com").set_unusable_password()
    log_in("customer@example.com", "wrong")
    assert len(hashed) == 3 * known


def test_a_deactivated_operator_is_told_so_only_with_the_right_password(clerk: User) -> None:
    User.objects.update(is_active=False)
    refused = log_in()
    assert (refused.code, refused.status) == (11, 403)
    assert log_in(password="wrong").code == 102
    assert not ApiSession.objects.exists()


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({}, "login"),
        ({"login": LOGIN}, "password"),
        ({"login": 20410, "password": "x"}, "login"),
        ({"login": LOGIN, "password": True}, "password"),
        ({"login": "a\0b", "password": "x"}, "login"),
        ({"login": LOGIN, "password": "\ud800"}, "password"),
        ({"login": "x" * 300, "password": "x"}, "login"),
    ],
)
def test_login_and_password_are_texts(clerk: User, given: Any, wrong: str) -> None:
    answer = Program()("account/auth", **given)
    assert (answer.code, answer.status) == (7, 400)
    assert wrong in answer.wrong


def test_guessing_is_slowed_down_per_login(clerk: User, clock_stands: None) -> None:
    for _ in range(LOGINS_PER_MINUTE):
        assert log_in(password="wrong").code == 102
    for login in (LOGIN, LOGIN.upper()):
        refused = log_in(login)  # the right password would not help now
        assert (refused.code, refused.status) == (15, 429)
        assert 1 <= int(refused.response["Retry-After"]) <= 60
        assert refused["status"]["description"] == "Too many requests"
    assert log_in("nobody@example.com", "wrong").code == 102


def test_another_way_of_writing_a_login_begins_no_new_count(
    clerk: User, clock_stands: None
) -> None:
    User.objects.filter(pk=clerk.pk).update(email="admin@example.com")
    written = "adm\u00adin@example.com"  # with an invisible hyphen
    assert User.objects.with_email(written).get() == clerk
    for _ in range(LOGINS_PER_MINUTE):
        assert log_in("admin@example.com", "wrong").code == 102
    assert log_in(written, "wrong").code == 15


def test_logging_in_often_is_no_guessing(clerk: User) -> None:
    for _ in range(2 * LOGINS_PER_MINUTE):
        assert log_in().code is None


# --- The hash -----------------------------------------------------------------------------------


def test_the_hash_may_come_in_header_body_or_address(program: Program) -> None:
    session_hash, program.hash = program.hash, ""
    ways = [
        program.post("user/list", "{}", HTTP_AUTHORIZATION=f"NVX {session_hash}"),
        program.post("user/list", "{}", HTTP_AUTHORIZATION=f"nvx   {session_hash} "),
        program("user/list", hash=session_hash),
        program.form("user/list", {"hash": session_hash}),
        program.get("user/list", {"hash": session_hash}),
        program.post(f"user/list?hash={session_hash}", "{}"),
        # A header with another scheme may come from a proxy.
        program.post(
            "user/list", json.dumps({"hash": session_hash}), HTTP_AUTHORIZATION="Basic eDp5"
        ),
    ]
    assert [answer.code for answer in ways] == [None] * len(ways)


@pytest.mark.parametrize(
    "session_hash",
    ["", "x", "g" * 32, "A" * 32, "a" * 31, "a" * 33, "٣" * 32, "a" * 32 + "\n", "NVX " + "a" * 32],
)
def test_what_is_no_hash_is_a_wrong_hash(program: Program, session_hash: str) -> None:
    program.hash = ""
    answer = program("user/list", hash=session_hash)
    assert (answer.code, answer.status) == (3, 400)


def test_no_hash_is_a_wrong_hash(db: None) -> None:
    assert Program()("user/list").code == 3
    assert Program().post("user/list", "{}", HTTP_AUTHORIZATION="NVX").code == 3


def test_a_hash_of_no_session_is_of_one_that_ended(db: None) -> None:
    answer = Program()("user/list", hash="0123456789abcdef" * 2)
    assert (answer.code, answer.status) == (4, 400)


@pytest.mark.parametrize("value", [None, 5, [], {}, True, "\0" * 32])
def test_a_hash_of_another_type_is_no_500(program: Program, value: Any) -> None:
    program.hash = ""
    assert program("user/list", hash=value).code in {3, 7}


# --- How a session ends -------------------------------------------------------------------------


def test_logout_ends_the_session_at_once_and_for_ever(program: Program) -> None:
    assert program("account/logout").body == {"success": True}
    for path in ("account/logout", "user/list", "account/get_permissions"):
        assert program(path).code == 4


def test_logout_ends_one_session_only(administrator: User, program: Program) -> None:
    other = Program(administrator)
    program("account/logout")
    assert other("user/list").code is None


def test_a_session_ends_after_24_hours(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = ApiSession.objects.get().created_at

    def at(moment: datetime) -> int | None:
        monkeypatch.setattr(timezone, "now", lambda: moment)
        return program("user/list").code

    assert at(opened + timedelta(hours=24, seconds=-1)) is None
    assert at(opened + timedelta(hours=24)) == 4


def test_a_session_ends_with_its_operator(program: Program) -> None:
    User.objects.update(is_active=False)
    assert program("user/list").code == 4
    User.objects.update(is_active=True, is_staff=False)
    assert program("user/list").code == 4


def test_a_session_ends_with_its_password(clerk: User, program: Program) -> None:
    sessions = [session_of(log_in()), session_of(log_in())]
    clerk.first_name = "Cleo"
    clerk.save()  # with the same password
    assert [each("account/get_permissions").code for each in sessions] == [None, None]
    clerk.set_password("another, because somebody knew it")
    clerk.save()
    assert [each("account/get_permissions").code for each in sessions] == [4, 4]
    assert program("account/get_permissions").code is None  # another operator's session


# --- Size of a request --------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_not_read_before_it_is_known_who_sends_it(
    program: Program,
) -> None:
    refused = program("user/list", filter="x" * 256 * 1024)
    assert (refused.status, refused.code) == (413, 5)


# --- How often ----------------------------------------------------------------------------------


def test_calls_of_a_session_are_limited(
    program: Program, settings: Any, monkeypatch: pytest.MonkeyPatch, administrator: User
) -> None:
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    ApiSession.objects.update(expires_at=now + timedelta(hours=1))
    monkeypatch.setattr(timezone, "now", lambda: now)
    settings.API_REQUESTS_PER_MINUTE = 3
    assert [program("user/list").code for _ in range(3)] == [None] * 3
    refused = program("user/list")
    assert (refused.code, refused.status) == (15, 429)
    assert refused.response["Retry-After"] == "20"
    assert Program(administrator)("user/list").code == 15  # their sessions share a limit
    other = Program(operator_with("users.view_user"))
    assert other("user/list").code is None  # each operator has a limit
    monkeypatch.setattr(timezone, "now", lambda: now + timedelta(seconds=20))
    assert program("user/list").code is None


def test_a_limit_of_zero_is_none(program: Program, settings: Any) -> None:
    settings.API_REQUESTS_PER_MINUTE = 0
    assert {program("user/list").code for _ in range(20)} == {None}


# --- Permissions of a session -------------------------------------------------------------------


def test_permissions_say_what_the_operator_may(db: None) -> None:
    clerk = operator_with("users.view_user", "users.change_user", "billing.change_balance")
    program = Program(clerk)
    assert program("account/get_permissions")["permissions"] == {
        "base": ["get_dealer_info"],
        "users": ["read", "update"],
        "transactions": ["create"],
    }
    clerk.user_permissions.add(permission("billing.view_plan"))
    assert program("account/get_permissions")["permissions"]["tariffs"] == ["read"]


def test_an_administrator_is_granted_all_that_works_and_nothing_else(program: Program) -> None:
    granted = program("account/get_permissions")["permissions"]
    assert granted == {
        "base": ["get_dealer_info"],
        "users": ["create", "read", "update"],
        "trackers": ["read"],
        "tariffs": ["read"],
        "transactions": ["create", "read"],
    }
    calls = {
        "base": {"get_dealer_info": ["dealer/get_info"]},
        "users": {
            "create": ["user/create"],
            "read": ["user/list", "user/read", "user/export"],
            "update": ["user/update"],
        },
        "trackers": {"read": ["tracker/list", "tracker/read"]},
        "tariffs": {"read": ["tariff/list", "tariff/read", "tariff/defaults/read"]},
        "transactions": {
            "create": ["user/transaction/change_balance"],
            "read": ["user/transaction/list"],
        },
    }
    for category, actions in granted.items():
        for action in actions:
            for path in calls[category][action]:
                answer = program(path)  # parameters may be missing
                assert answer.status == 200 or answer.code == 7, path
