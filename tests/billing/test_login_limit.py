"""How often a login may fail, in the panel and in the Panel API."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client, RequestFactory
from django.utils import timezone

from billing.authority import LOGINS_PER_MINUTE, LOGINS_PER_MINUTE_FROM_ANYWHERE
from tests.api.panel.client import Program
from tests.factories import PASSWORD, OperatorFactory
from users.models import User
from users.networks import client_network

pytestmark = pytest.mark.django_db

LOGIN = "clerk@example.com"
HERE, ELSEWHERE = "192.0.2.1", "198.51.100.7"
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
FAILED = ["Please enter the e-mail address and password of an active operator."]
WAIT = ["Too many failed logins with this address from here. Try again in 6 seconds."]
LET_IN: list[str] = []


@pytest.fixture
def clerk() -> User:
    return OperatorFactory(email=LOGIN)


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    it_is(NOON, monkeypatch)


def it_is(moment: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timezone, "now", lambda: moment)


def at_the_panel(
    login: str = LOGIN, password: str = PASSWORD, *, client: Client | None = None, at: str = HERE
) -> list[str]:
    """Returns the errors that the login page shows, or an empty list after a login."""
    client = client or Client()
    answer = client.post("/admin/login/", {"username": login, "password": password}, REMOTE_ADDR=at)
    if "_auth_user_id" in client.session:
        return LET_IN
    return list(answer.context["form"].non_field_errors())


def by_program(password: str = PASSWORD, *, at: str = HERE) -> Any:
    given = json.dumps({"login": LOGIN, "password": password})
    return Program().post("account/auth", given, REMOTE_ADDR=at).code


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


def test_nobody_is_kept_out_by_who_fails_elsewhere(clerk: User) -> None:
    for _ in range(LOGINS_PER_MINUTE):
        assert at_the_panel(password="wrong", at=ELSEWHERE) == FAILED
    assert at_the_panel(at=ELSEWHERE) == WAIT
    assert by_program(at=ELSEWHERE) == 15
    assert at_the_panel() == LET_IN
    assert by_program() is None


def test_guessing_from_many_addresses_is_slowed_down(clerk: User) -> None:
    for number in range(LOGINS_PER_MINUTE_FROM_ANYWHERE):
        way = by_program if number % 2 else at_the_panel
        assert way(password="wrong", at=f"198.51.100.{number}") in (FAILED, 102)
    assert by_program("wrong", at="203.0.113.9") == 15
    assert at_the_panel("another@example.com", "wrong", at="203.0.113.9") == FAILED


def test_guessing_from_many_addresses_keeps_nobody_out_who_has_been_here_before(
    clerk: User,
) -> None:
    browser = Client()
    assert at_the_panel(client=browser) == LET_IN
    assert by_program(at="192.0.2.77") is None
    browser.post("/admin/logout/")
    for number in range(LOGINS_PER_MINUTE_FROM_ANYWHERE - 2):  # the two logins above count too
        assert by_program("wrong", at=f"198.51.100.{number}") == 102
    assert at_the_panel(at="203.0.113.9") != LET_IN
    assert by_program(at="192.0.2.77") is None  # this address is known
    assert at_the_panel() == LET_IN  # so is this one
    assert at_the_panel(client=browser, at="203.0.113.9") == LET_IN  # the browser is known


def test_a_known_browser_is_let_through_from_the_address_of_who_fails(clerk: User) -> None:
    browser = Client()
    assert at_the_panel(client=browser) == LET_IN
    browser.post("/admin/logout/")
    for _ in range(LOGINS_PER_MINUTE):
        at_the_panel(password="wrong")
    assert at_the_panel() == WAIT
    assert at_the_panel(client=browser) == LET_IN


def test_a_known_browser_is_no_way_to_guess_faster(clerk: User) -> None:
    browser = Client()
    assert at_the_panel(client=browser) == LET_IN
    browser.post("/admin/logout/")
    for number in range(LOGINS_PER_MINUTE):
        at = f"198.51.100.{number}"
        assert at_the_panel(password="wrong", client=browser, at=at) == FAILED
    assert at_the_panel(client=browser) == WAIT


@pytest.mark.parametrize("change", ["another password", "forged", "of somebody else"])
def test_a_browser_is_known_by_a_cookie_that_is_true(clerk: User, change: str) -> None:
    browser = Client()
    assert at_the_panel(client=browser) == LET_IN
    browser.post("/admin/logout/")
    if change == "another password":
        clerk.set_password(PASSWORD + "!")
        clerk.save()
    elif change == "forged":
        browser.cookies["known_browser"] = browser.cookies["known_browser"].value[:-1] + "x"
    else:
        OperatorFactory(email="other@example.com")
        browser = Client()
        assert at_the_panel("other@example.com", client=browser) == LET_IN
        browser.post("/admin/logout/")
    for _ in range(LOGINS_PER_MINUTE):
        at_the_panel(password="wrong")
    assert at_the_panel(client=browser) == WAIT


def test_operators_who_share_a_browser_are_all_known(clerk: User) -> None:
    OperatorFactory(email="other@example.com")
    browser = Client()
    for login in (LOGIN, "other@example.com"):
        assert at_the_panel(login, client=browser) == LET_IN
        browser.post("/admin/logout/")
    for _ in range(LOGINS_PER_MINUTE):
        at_the_panel(password="wrong")
        at_the_panel("other@example.com", "wrong")
    assert at_the_panel() == at_the_panel("other@example.com") == WAIT
    assert at_the_panel(client=browser) == LET_IN
    browser.post("/admin/logout/")
    assert at_the_panel("other@example.com", client=browser) == LET_IN


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        (0, "", "10.0.0.1"),
        (0, "203.0.113.9", "10.0.0.1"),
        (1, "203.0.113.9", "203.0.113.9"),
        (1, "1.2.3.4, 203.0.113.9", "203.0.113.9"),
        (2, "1.2.3.4, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        (2, "203.0.113.9", "10.0.0.1"),
        (1, "", "10.0.0.1"),
        (1, "::ffff:203.0.113.9", "203.0.113.9"),
        (1, "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        (1, "nonsense", "nonsense"),
    ],
)
def test_the_address_is_what_the_outermost_proxy_saw(
    settings: Any, proxies: int, forwarded: str, address: str
) -> None:
    settings.PROXIES = proxies
    headers = {"x-forwarded-for": forwarded} if forwarded else {}
    request = RequestFactory().get("/", REMOTE_ADDR="10.0.0.1", headers=headers)
    assert client_network(request) == address
