"""How often a login may fail, at the panel's door and the Panel API's."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from billing.access import LOGINS_PER_MINUTE
from tests.api.panel.client import Program
from tests.factories import PASSWORD, OperatorFactory
from users.models import User

pytestmark = pytest.mark.django_db

LOGIN = "clerk@example.com"
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
FAILED = ["Please enter the e-mail address and password of an active operator."]
WAIT = ["Too many logins with this address have failed. Try again in 6 seconds."]
LET_IN: list[str] = []


@pytest.fixture
def clerk() -> User:
    return OperatorFactory(email=LOGIN)


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    it_is(NOON, monkeypatch)


def it_is(moment: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timezone, "now", lambda: moment)


def at_the_panel(login: str = LOGIN, password: str = PASSWORD) -> list[str]:
    """What the page says; nothing where the door opens."""
    client = Client()
    answer = client.post("/admin/login/", {"username": login, "password": password})
    if "_auth_user_id" in client.session:
        return LET_IN
    return list(answer.context["form"].non_field_errors())


def by_program(password: str = PASSWORD) -> Any:
    return Program()("account/auth", login=LOGIN, password=password).code


def test_guessing_at_the_panel_is_slowed_down_and_the_right_password_waits_too(
    clerk: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(LOGINS_PER_MINUTE):
        assert at_the_panel(password="wrong") == FAILED
    assert at_the_panel() == at_the_panel(LOGIN.upper()) == WAIT
    OperatorFactory(email="another@example.com")
    assert at_the_panel("another@example.com") == LET_IN

    it_is(NOON + timedelta(seconds=6), monkeypatch)
    assert at_the_panel() == LET_IN


def test_both_doors_have_one_count(clerk: User) -> None:
    for _ in range(LOGINS_PER_MINUTE // 2):
        assert at_the_panel(password="wrong") == FAILED
        assert by_program("wrong") == 102
    assert at_the_panel() == WAIT
    assert by_program() == 15


def test_the_right_password_within_the_limit_begins_the_count_anew(clerk: User) -> None:
    for _ in range(3):
        for _ in range(LOGINS_PER_MINUTE - 1):
            assert at_the_panel(password="wrong") == FAILED
        assert at_the_panel() == LET_IN


def test_who_has_no_account_waits_as_long_so_that_nobody_is_told_who_has_one() -> None:
    for _ in range(LOGINS_PER_MINUTE):
        assert at_the_panel("nobody@example.com", "wrong") == FAILED
    assert at_the_panel("nobody@example.com", "wrong") == WAIT


def test_what_is_not_filled_in_is_no_attempt(clerk: User) -> None:
    for _ in range(2 * LOGINS_PER_MINUTE):
        at_the_panel(password="")
    assert at_the_panel() == LET_IN
