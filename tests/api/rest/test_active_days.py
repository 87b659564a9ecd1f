"""Programs record and list active days of devices."""

from datetime import date, timedelta
from typing import Any

import pytest

from billing.models import ActiveDay
from billing.plans.pricing import Cycle
from tests.api.rest.programs import Program, assert_problem, program_with
from tests.factories import OperatorFactory, PlanFactory, subscribed, user_with
from users.models import User

TODAY = date(2026, 4, 10)


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.api.active_days.utc_today", lambda: TODAY)


def put(program: Program, user: User, **body: Any) -> Any:
    return program.call("PUT", f"/users/{user.pk}/active-days", body)


def test_a_day_is_recorded_once_and_told_alike(program: Program) -> None:
    user = user_with(real=10)
    plan = PlanFactory(cycle=Cycle.ACTIVE_DAY, price="0.5")
    subscription = subscribed(user, plan, device="8617")
    for _ in range(2):
        response = put(program, user, device="8617", day="2026-04-09")
        assert response.status_code == 200
        assert response.json() == {
            "device": "8617",
            "day": "2026-04-09",
            "subscription_id": subscription.pk,
            "is_charged": False,
        }
    assert ActiveDay.objects.count() == 1
    subscription.refresh_from_db()
    assert subscription.due_on == TODAY


@pytest.mark.parametrize("day", [TODAY + timedelta(days=1), TODAY - timedelta(days=32)])
def test_days_to_come_or_long_ago_are_refused(program: Program, day: date) -> None:
    refused = put(program, user_with(), device="1", day=f"{day}")
    assert_problem(refused, 422, "invalid_day", day=f"{day}", first="2026-03-10", last="2026-04-10")
    assert not ActiveDay.objects.exists()


def test_what_is_no_day_or_device_is_refused(program: Program) -> None:
    user = user_with()
    for body in (
        {"device": "1"},
        {"day": f"{TODAY}"},
        {"device": "1", "day": "2026-04-31"},
        {"device": "1", "day": "2026-04-09T00:00:00Z"},
        {"device": "1", "day": 1775779200},
        {"device": "1", "day": None},
        {"device": 1, "day": f"{TODAY}"},
        {"device": "\0", "day": f"{TODAY}"},
        {"device": "x" * 101, "day": f"{TODAY}"},
        {"device": "1", "day": f"{TODAY}", "times": 2},
    ):
        assert_problem(put(program, user, **body), 422, "invalid_request")
    unseen = put(program, user, device="a\u200bb", day=f"{TODAY}")
    assert_problem(unseen, 422, "invalid_entry", field="device")
    refused = put(program, OperatorFactory(), device="1", day=f"{TODAY}")
    assert_problem(refused, 404, "unknown_user")
    assert not ActiveDay.objects.exists()


def test_the_days_of_a_device_are_listed_newest_first(program: Program) -> None:
    user = user_with()
    for day in range(1, 8):
        put(program, user, device="8617", day=f"2026-04-0{day}")
    put(program, user, device="8618", day="2026-04-05")

    def listed(query: str) -> tuple[list[int], str | None]:
        response = program.get(f"/users/{user.pk}/active-days?device=8617{query}")
        page = response.json()
        days = [date.fromisoformat(row["day"]).day for row in page["active_days"]]
        return days, page["next_cursor"]

    assert listed("") == ([7, 6, 5, 4, 3, 2, 1], None)
    assert listed("&from=2026-04-03&to=2026-04-05") == ([5, 4, 3], None)
    days, cursor = listed("&limit=4")
    assert days == [7, 6, 5, 4]
    assert listed(f"&limit=4&cursor={cursor}") == ([3, 2, 1], None)
    for query in ("", "?device=8617&from=yesterday", "?device=8617&cursor=x", "?device=%00"):
        response = program.get(f"/users/{user.pk}/active-days{query}")
        assert_problem(response, 422, "invalid_request")


def test_a_device_is_found_however_its_letters_are_put_together(program: Program) -> None:
    user = user_with(real=10)
    program.post(
        f"/users/{user.pk}/subscriptions", {"plan_id": PlanFactory().pk, "device": "Caf\u00e9"}
    )
    put(program, user, device="Cafe\u0301", day=f"{TODAY}")
    name = "%20Cafe%CC%81"
    for call, of in (
        ("active-days", "active_days"),
        ("subscriptions", "subscriptions"),
        ("transactions", "transactions"),
    ):
        response = program.get(f"/users/{user.pk}/{call}?device={name}")
        assert len(response.json()[of]) == 1, call
        unseen = program.get(f"/users/{user.pk}/{call}?device=a%E2%80%8Bb")
        assert_problem(unseen, 422, "invalid_entry", field="device")


def test_recording_takes_the_right_to_change_subscriptions(db: None) -> None:
    user = user_with()
    viewer = program_with("billing.view_subscription")
    refused = put(viewer, user, device="1", day=f"{TODAY}")
    assert_problem(refused, 403, "forbidden", permission="billing.change_subscription")
    assert viewer.get(f"/users/{user.pk}/active-days?device=1").status_code == 200
    changer = program_with("billing.change_subscription")
    assert put(changer, user, device="1", day=f"{TODAY}").status_code == 200
