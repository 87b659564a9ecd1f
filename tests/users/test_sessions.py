"""How long an operator stays logged in."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from tests.factories import PASSWORD, AdministratorFactory, OperatorFactory
from tests.operators import permission

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
PAGE = "/admin/my-time-zone/"


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`at(minutes)` sets the clock to this many minutes after noon."""

    def set_clock(minutes: float) -> None:
        moment = NOON + timedelta(minutes=minutes)
        monkeypatch.setattr(timezone, "now", lambda: moment)

    set_clock(0)
    return set_clock


@pytest.fixture
def client(at: Any) -> Client:
    client = Client()
    client.force_login(OperatorFactory())
    assert client.get(PAGE).status_code == 200
    return client


def messages_on(answer: Any) -> str:
    return " ".join(map(str, answer.context["messages"]))


def test_a_session_ends_after_an_hour_without_a_request(client: Client, at: Any) -> None:
    at(59.9)
    assert client.get(PAGE).status_code == 200
    at(59.9 + 59.9)
    assert client.get(PAGE).status_code == 200
    at(59.9 + 59.9 + 60)
    answer = client.get(PAGE, follow=True)
    assert answer.redirect_chain == [(f"/admin/login/?next={PAGE}", 302)]
    assert messages_on(answer) == (
        "You were logged out because you were inactive for 60 minutes. Please log in again."
    )


def test_a_session_ends_after_twelve_hours_whatever_is_asked_for(client: Client, at: Any) -> None:
    for minutes in range(0, 12 * 60, 30):
        at(minutes)
        assert client.get(PAGE).status_code == 200, minutes
    at(12 * 60)
    assert "A login lasts 12 hours" in messages_on(client.get(PAGE, follow=True))
    assert client.get(PAGE).status_code == 302


def test_both_ends_are_settings(client: Client, at: Any, settings: Any) -> None:
    settings.SESSION_HOURS, settings.SESSION_IDLE_MINUTES = 2, 0
    at(119)
    assert client.get(PAGE).status_code == 200
    at(120)
    assert client.get(PAGE).status_code == 302


def test_a_session_from_before_there_were_ends_begins_with_its_next_request(
    client: Client, at: Any
) -> None:
    session = client.session
    del session["begun"], session["seen"]
    session.save()
    at(11 * 60)
    assert client.get(PAGE).status_code == 200
    at(11 * 60 + 61)
    assert client.get(PAGE).status_code == 302


# --- One's own password -------------------------------------------------------------------------


@pytest.mark.parametrize("factory", [OperatorFactory, AdministratorFactory])
def test_nobody_sets_their_own_password_without_the_old_one(factory: Any) -> None:
    operator = factory()
    operator.user_permissions.add(permission("users.change_operator"))
    operator.user_permissions.add(permission("users.view_operator"))
    client = Client()
    client.force_login(operator)
    new = {"password1": "another long password", "password2": "another long password"}
    for path in (
        f"/admin/users/operator/{operator.pk}/password/",
        f"/admin/users/operator/0{operator.pk}/password/",
    ):
        for answer in (client.get(path), client.post(path, new)):
            assert (answer.status_code, answer["Location"]) == (302, "/admin/password_change/")
    operator.refresh_from_db()
    assert operator.check_password(PASSWORD)
    new = {"new_password1": "another long one", "new_password2": "another long one"}
    changed = client.post("/admin/password_change/", {"old_password": "wrong"} | new)
    assert changed.status_code == 200
    operator.refresh_from_db()
    assert operator.check_password(PASSWORD)
