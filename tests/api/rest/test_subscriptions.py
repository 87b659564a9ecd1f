"""Programs start, change and cancel subscriptions as in the panel. Previews change nothing."""

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from billing import ledger
from billing.models import Plan, Subject, Subscription, Transaction
from billing.plans.pricing import Cycle
from tests.api.rest.programs import (
    Program,
    assert_problem,
    program_of_administrator,
    program_with,
)
from tests.conftest import Connections
from tests.factories import OperatorFactory, PlanFactory, UserFactory, subscribed, user_with
from tests.recorded import sentences_of
from users.models import User

TODAY = date(2026, 4, 10)


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.api.subscriptions.utc_today", lambda: TODAY)


@pytest.fixture
def plan(db: None) -> Plan:
    return PlanFactory(name="Basic", price="12.55", proportional_charge=True)


@pytest.fixture
def other(db: None) -> Plan:
    return PlanFactory(name="Business", price="30", proportional_charge=True)


def post(program: Program, user: User, path: str = "", **body: Any) -> Any:
    return program.post(f"/users/{user.pk}/subscriptions{path}", body)


def notes(user: User) -> list[str]:
    return sentences_of(Subject.USER, user.pk)


def test_a_subscription_starts_today_and_is_charged(program: Program, plan: Plan) -> None:
    user = user_with(real=20, bonus=100)
    response = post(program, user, plan_id=plan.pk, device="8617")
    assert response.status_code == 201, response.content
    answer = response.json()
    row = Subscription.objects.get()
    assert response["Location"] == f"/api/v1/users/{user.pk}/subscriptions/{row.pk}"
    assert answer["subscription"] == {
        "id": row.pk,
        "user_id": user.pk,
        "plan_id": plan.pk,
        "plan": "Basic",
        "device": "8617",
        "status": "active",
        "started_on": "2026-04-10",
        "plan_since": "2026-04-10",
        "status_since": "2026-04-10",
        "suspension_reason": None,
        "charged_from": "2026-04-10",
        "charged_through": "2026-04-30",
        "paid": "8.7850",
        "charge_number": 2,
        "next_charge": {"day": "2026-05-01", "amount": "12.5500"},
    }
    [posted] = answer["transactions"]
    assert (posted["number"], posted["amount"], posted["channel"]) == (2, "-8.7850", "api")
    assert posted["metadata"]["request_id"] == response["X-Request-Id"]
    assert posted["actor_id"] == program.owner.pk
    assert notes(user) == ["Subscribed device 8617 to plan Basic; 8.7850 charged."]
    read = program.get(response["Location"].removeprefix("/api/v1"))
    assert read.json() == answer["subscription"]


def test_without_money_it_waits_only_if_that_is_said(program: Program, plan: Plan) -> None:
    user = user_with(real=8)
    refused = post(program, user, plan_id=plan.pk)
    assert_problem(refused, 402, "insufficient_funds", needed="8.7850", available="8.0000")
    assert not Subscription.objects.exists()
    assert notes(user) == []
    response = post(program, user, plan_id=plan.pk, wait_for_money=True)
    answer = response.json()
    assert (response.status_code, answer["transactions"]) == (201, [])
    assert answer["subscription"]["status"] == "suspended"
    assert answer["subscription"]["next_charge"] == {"day": None, "amount": "8.7850"}
    assert notes(user) == [
        "Subscribed the user to plan Basic; nothing charged, suspended until there is money."
    ]


def test_what_cannot_be_started_is_refused(program: Program, plan: Plan) -> None:
    user = user_with(real=100)
    existing = subscribed(user, plan)
    number = ledger.balance(user).number
    assert_problem(
        post(program, user, plan_id=plan.pk),
        409,
        "subscription_exists",
        device="",
        plan="Basic",
        subscription=existing.pk,
    )
    retired = PlanFactory(name="Old", is_active=False)
    assert_problem(post(program, user, plan_id=retired.pk, device="1"), 422, "plan_retired")
    assert_problem(
        post(program, user, plan_id=2**62, device="1"), 422, "unknown_plan", plan_id=2**62
    )
    for body in (
        {},
        {"plan_id": str(plan.pk)},
        {"plan_id": 2**63},
        {"plan_id": 0},
        {"plan_id": True},
        {"plan_id": plan.pk, "device": None},
        {"plan_id": plan.pk, "device": "\0"},
        {"plan_id": plan.pk, "device": "x" * 101},
        {"plan_id": plan.pk, "wait_for_money": "yes"},
        {"plan_id": plan.pk, "day": "2026-04-01"},
    ):
        assert_problem(post(program, user, **body), 422, "invalid_request")
    deactivated = UserFactory(is_active=False)
    assert_problem(post(program, deactivated, plan_id=plan.pk), 409, "user_deactivated")
    assert_problem(post(program, OperatorFactory(), plan_id=plan.pk), 404, "unknown_user")
    assert Subscription.objects.count() == 1
    assert ledger.balance(user).number == number


def test_the_list_shows_the_newest_first_and_can_be_filtered(program: Program, plan: Plan) -> None:
    user = user_with(real=15)
    devices = [subscribed(user, plan, device=f"D{n}") for n in range(3)]  # money for one
    ended = program.post(
        f"/users/{user.pk}/subscriptions/{devices[2].pk}/cancel", {"pay_back": False}
    )
    assert ended.status_code == 200
    subscribed(user_with(real=50), plan)

    def found(query: str) -> list[str]:
        response = program.get(f"/users/{user.pk}/subscriptions{query}")
        return [row["device"] for row in response.json()["subscriptions"]]

    assert found("") == ["D2", "D1", "D0"]
    assert found("?status=live") == ["D1", "D0"]
    assert found("?status=active") == ["D0"]
    assert found("?status=suspended") == ["D1"]
    assert found("?status=cancelled&device=D2") == ["D2"]
    assert found("?device=D") == []
    page = program.get(f"/users/{user.pk}/subscriptions?limit=2").json()
    assert [row["device"] for row in page["subscriptions"]] == ["D2", "D1"]
    assert page["subscriptions"][0]["next_charge"] is None
    page = program.get(f"/users/{user.pk}/subscriptions?cursor={page['next_cursor']}").json()
    assert [row["device"] for row in page["subscriptions"]] == ["D0"]
    assert page["next_cursor"] is None
    response = program.get(f"/users/{user.pk}/subscriptions?status=ended")
    assert_problem(response, 422, "invalid_request")
    assert_problem(program.get("/users/0/subscriptions"), 422, "invalid_request")


def test_another_user_s_subscription_is_none(program: Program, plan: Plan, other: Plan) -> None:
    theirs = subscribed(user_with(real=50), plan)
    user = user_with(real=50)
    change = {"plan_id": other.pk, "pay_back": True, "charge_now": True}
    for key in (theirs.pk, 2**62):
        path = f"/users/{user.pk}/subscriptions/{key}"
        for response in (
            program.get(path),
            program.post(f"{path}/change-plan", change),
            program.post(f"{path}/change-plan/preview", change),
            program.post(f"{path}/cancel", {"pay_back": True}),
            program.post(f"{path}/cancel/preview", {"pay_back": True}),
        ):
            assert_problem(response, 404, "unknown_subscription", subscription_id=key)
    theirs.refresh_from_db()
    assert theirs.status == "active"


# --- Changing the plan --------------------------------------------------------------------------


def test_a_plan_is_changed_with_the_rest_paid_back(
    program: Program, plan: Plan, other: Plan
) -> None:
    user = user_with(real=50)
    row = subscribed(user, plan, device="8617")  # since 1 April: 12.55
    response = post(
        program,
        user,
        f"/{row.pk}/change-plan",
        plan_id=other.pk,
        pay_back=True,
        charge_now=True,
    )
    answer = response.json()
    assert response.status_code == 200, answer
    amounts = [(t["subtype"], t["amount"]) for t in answer["transactions"]]
    assert amounts == [("remainder", "8.7850"), ("monthly", "-21.0000")]
    assert answer["subscription"]["plan"] == "Business"
    assert answer["subscription"]["charge_number"] == 4
    assert notes(user) == [
        "Changed the plan of device 8617 from Basic to Business; 8.7850 paid back, 21.00 charged."
    ]
    again = post(
        program, user, f"/{row.pk}/change-plan", plan_id=other.pk, pay_back=True, charge_now=True
    )
    assert_problem(again, 409, "same_plan", plan="Business")
    assert len(notes(user)) == 1


@pytest.mark.parametrize("pay_back", [True, False])
@pytest.mark.parametrize("charge_now", [True, False])
def test_a_preview_of_a_change_says_what_it_comes_to_and_does_nothing(
    program: Program, plan: Plan, other: Plan, pay_back: bool, charge_now: bool
) -> None:
    user = user_with(real=50)
    row = subscribed(user, plan)
    body = {"plan_id": other.pk, "pay_back": pay_back, "charge_now": charge_now}
    path = f"/{row.pk}/change-plan"
    before = program.get(f"/users/{user.pk}/subscriptions/{row.pk}").json()
    preview = post(program, user, f"{path}/preview", **body)
    assert preview.status_code == 200
    assert program.get(f"/users/{user.pk}/subscriptions/{row.pk}").json() == before
    assert Transaction.objects.filter(user=user).count() == 2
    assert notes(user) == []
    done = post(program, user, path, **body).json()
    previewed = preview.json()
    assert previewed["subscription"] == done["subscription"]
    assert len(previewed["transactions"]) == len(done["transactions"]) == pay_back + charge_now
    for shown, posted in zip(previewed["transactions"], done["transactions"], strict=True):
        assert shown == {name: posted[name] for name in shown}
        assert not {"id", "digest", "created_at"} & shown.keys()


def test_a_change_is_refused_whole(program: Program, plan: Plan, other: Plan) -> None:
    user = user_with(real=13)
    row = subscribed(user, plan)
    change = {"plan_id": other.pk, "pay_back": True, "charge_now": True}
    for path in (f"/{row.pk}/change-plan", f"/{row.pk}/change-plan/preview"):
        response = post(program, user, path, **change)
        assert_problem(response, 402, "insufficient_funds", needed="21.0000", available="9.2350")
        retired = PlanFactory(is_active=False)
        response = post(program, user, path, **change | {"plan_id": retired.pk})
        assert_problem(response, 422, "plan_retired")
        response = post(program, user, path, **change | {"plan_id": 2**62})
        assert_problem(response, 422, "unknown_plan")
        for body in ({}, {"plan_id": other.pk}, change | {"pay_back": 1}, change | {"x": 1}):
            assert_problem(post(program, user, path, **body), 422, "invalid_request")
    row.refresh_from_db()
    assert row.plan == plan
    assert ledger.balance(user).number == 2
    assert notes(user) == []


# --- Cancelling ---------------------------------------------------------------------------------


def test_cancelling_ends_today_and_pays_back_if_that_is_said(program: Program, plan: Plan) -> None:
    user = user_with(real=50)
    row = subscribed(user, plan)
    preview = post(program, user, f"/{row.pk}/cancel/preview", pay_back=True).json()
    row.refresh_from_db()
    assert row.status == "active"
    answer = post(program, user, f"/{row.pk}/cancel", pay_back=True).json()
    assert answer["subscription"] == preview["subscription"]
    assert answer["subscription"]["status"] == "cancelled"
    assert answer["subscription"]["next_charge"] is None
    [posted] = answer["transactions"]
    assert posted["amount"] == preview["transactions"][0]["amount"] == "8.7850"
    assert notes(user) == ["Cancelled the user's own pricing plan, plan Basic; 8.7850 paid back."]
    for path in (f"/{row.pk}/cancel", f"/{row.pk}/cancel/preview"):
        assert_problem(
            post(program, user, path, pay_back=True), 409, "subscription_cancelled", day=f"{TODAY}"
        )
    change = {"plan_id": PlanFactory().pk, "pay_back": True, "charge_now": True}
    assert_problem(
        post(program, user, f"/{row.pk}/change-plan", **change), 409, "subscription_cancelled"
    )
    assert_problem(post(program, user, f"/{row.pk}/cancel"), 422, "invalid_request")


def test_a_preview_of_a_start_does_nothing(program: Program, plan: Plan) -> None:
    user = user_with(real=20)
    preview = post(program, user, "/preview", plan_id=plan.pk).json()
    assert not Subscription.objects.exists()
    assert ledger.balance(user).number == 1
    done = post(program, user, plan_id=plan.pk).json()
    assert preview["subscription"] == done["subscription"] | {"id": None}
    [shown], [posted] = preview["transactions"], done["transactions"]
    assert (shown["amount"], shown["number"]) == (posted["amount"], posted["number"])
    assert_problem(post(program, user, "/preview", plan_id=plan.pk), 409, "subscription_exists")


def test_rights_are_those_of_the_panel_s_pages(plan: Plan, other: Plan) -> None:
    user = user_with(real=100)
    viewer = program_with("billing.view_subscription")
    adder = program_with("billing.add_subscription")
    changer = program_with("billing.change_subscription")
    for program, may in ((viewer, False), (changer, False), (adder, True)):
        response = post(program, user, plan_id=plan.pk)
        assert response.status_code == (201 if may else 403)
    row = Subscription.objects.get()
    change = {"plan_id": other.pk, "pay_back": False, "charge_now": False}
    for program, may in ((viewer, False), (adder, False), (changer, True)):
        response = post(program, user, f"/{row.pk}/change-plan/preview", **change)
        assert response.status_code == (200 if may else 403)
        response = post(program, user, f"/{row.pk}/cancel", pay_back=False)
        assert response.status_code == (200 if may else 403)
    for program, may in ((adder, False), (changer, False), (viewer, True)):
        response = program.get(f"/users/{user.pk}/subscriptions")
        assert response.status_code == (200 if may else 403)


# --- At once ------------------------------------------------------------------------------------


def test_of_many_who_change_the_plan_at_once_one_does(connections: Connections) -> None:
    plan, other = PlanFactory(price="30"), PlanFactory(price="60")
    user = user_with(real=1000)
    row = subscribed(user, plan)
    program = program_of_administrator()
    body = {"plan_id": other.pk, "pay_back": True, "charge_now": True}
    outcomes = connections(
        6, lambda _: post(program, user, f"/{row.pk}/change-plan", **body).status_code
    )
    assert sorted(outcome.result for outcome in outcomes) == [200] + [409] * 5
    assert ledger.balance(user).number == 4
    assert len(notes(user)) == 1


def test_of_many_who_start_one_at_once_one_does(connections: Connections) -> None:
    plan = PlanFactory(price="30", cycle=Cycle.ANNUAL)
    user = user_with(real=1000)
    program = program_of_administrator()
    outcomes = connections(6, lambda _: post(program, user, plan_id=plan.pk).status_code)
    assert sorted(outcome.result for outcome in outcomes) == [201] + [409] * 5
    assert ledger.balance(user).real == Decimal(970)
