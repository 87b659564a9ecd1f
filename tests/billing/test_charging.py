"""The charging run: everything due is charged, exactly once, whenever and however often it runs."""

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any, Final

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from psycopg.errors import AdminShutdown

from billing import ledger
from billing.models import (
    Balance,
    ChargingBatch,
    ChargingFailure,
    ChargingRun,
    Plan,
    Subscription,
    Transaction,
    WebhookEndpoint,
    WebhookEvent,
)
from billing.plans import charging, posting, subscriptions
from billing.plans.charging import Done, Figures
from billing.plans.pricing import Cycle
from tests.billing.clock import database_clock_at, movable_clock
from tests.billing.histories import BY_PANEL, execute, judge
from tests.factories import PlanFactory, UserFactory, subscribed, user_with
from users.models import User

pytestmark = pytest.mark.django_db

D = Decimal
DAY = timedelta(days=1)
JANUARY_1 = date(2024, 1, 1)


def at(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 0, 5, tzinfo=UTC)


def run(day: date) -> ChargingRun:
    run = charging.open_run(at(day), ChargingRun.Start.COMMAND)
    for batch in run.batches.order_by("id"):
        for _ in charging.charge_batch(batch):
            pass
    run.refresh_from_db()
    assert run.finished_at is not None
    return run


def figures(run: ChargingRun | Figures) -> tuple[int, int, int, int, int, Decimal]:
    """Returns the run's charged, suspended, resumed, skipped, failed and total, in this order."""
    return (run.charged, run.suspended, run.resumed, run.skipped, run.failed, run.total)


def charges(user: User) -> list[Transaction]:
    return list(Transaction.objects.filter(user=user, type="main_charge").order_by("number"))


def periods(user: User) -> list[tuple[str, str, Decimal]]:
    return [(t.metadata["from"], t.metadata["through"], t.amount) for t in charges(user)]


def refill(user: User, amount: int | str) -> None:
    ledger.change_balance(user, amount=amount, description="A refill", **BY_PANEL)


# --- Any users, plans and money: one run charges the same as many -------------------------------


@dataclass
class Scenario:
    """Users with money, subscriptions and active days, and the days on which charging runs."""

    plans: Sequence[tuple[Cycle, Decimal, bool]]
    # For each user: real, bonus, is_active, and subscriptions as (plan, start, active days).
    users: Sequence[tuple[Decimal, Decimal, bool, list[tuple[int, int, list[int]]]]]
    runs_before: Sequence[int]
    last: int
    made: list[User] = field(default_factory=list)

    def make(self) -> None:
        plans = [
            PlanFactory(
                name=f"Plan {n}", cycle=cycle, price=price, proportional_charge=proportional
            )
            for n, (cycle, price, proportional) in enumerate(self.plans)
        ]
        for real, bonus, is_active, its in self.users:
            with database_clock_at(at(JANUARY_1)):
                user = user_with(real=real, bonus=bonus)
            self.made.append(user)
            for place, (plan, start, active_days) in enumerate(its):
                device = f"Device {place}" if place else ""
                started = JANUARY_1 + start * DAY
                subscribed(user, plans[plan % len(plans)], day=started, device=device)
                for n in active_days:
                    day = started + n * DAY
                    subscriptions.record_active_day(user, device=device, day=day, today=day)
            User.objects.filter(pk=user.pk).update(is_active=is_active)

    def run(self, days: Iterable[int]) -> None:
        for n in sorted(days):
            run(JANUARY_1 + n * DAY)

    def run_until_somebody_is_suspended(self, days: Iterable[int]) -> None:
        """Runs on these days. Once a subscription is suspended, runs on every day up to the last.

        A suspended subscription is only resumed by a run. The rest of its period costs less each
        day, so the balance may cover it on any day. If no run came on that day, the outcome would
        differ. Scenarios that suspend a subscription from the start are left to other tests.
        """
        assume(not Subscription.objects.filter(status="suspended").exists())
        ahead = deque(sorted(days))
        while ahead:
            n = ahead.popleft()
            run(JANUARY_1 + n * DAY)
            if ahead and Subscription.objects.filter(status="suspended").exists():
                assume(ahead[-1] - n < 100)  # more daily runs would take too long
                ahead = deque(range(n + 1, ahead[-1] + 1))

    def outcome(self) -> list[Any]:
        """Returns the transactions, subscriptions and charged days, without row IDs and times."""
        places = {
            pk: place
            for place, pk in enumerate(
                Subscription.objects.filter(user__in=self.made)
                .order_by("id")
                .values_list("id", flat=True)
            )
        }
        outcome: list[Any] = []
        for user in self.made:
            for row in Transaction.objects.filter(user=user).order_by("number"):
                about = {k: v for k, v in row.metadata.items() if k in {"from", "through"}}
                place = places.get(row.metadata.get("subscription"))
                outcome.append(
                    (row.number, row.type, row.subtype, row.description, row.device, row.amount,
                     row.bonus_amount, row.new_balance, row.new_bonus, row.channel, about, place)
                )  # fmt: skip
            outcome += Subscription.objects.filter(user=user).order_by("id").values_list(
                "device", "status", "status_since", "plan_since", "term", "charged_from",
                "charged_through", "paid", "charge_number", "due_on",
            )  # fmt: skip
            outcome += (
                user.subscriptions.filter(active_days__is_charged=True)
                .order_by("device", "active_days__day")
                .values_list("device", "active_days__day")
            )
        return outcome


amounts = st.one_of(
    st.sampled_from([D(0), D("0.5"), D(5), D(10), D(30), D(100), D(1000)]),
    st.decimals(min_value=0, max_value=60, places=4),
)
scenarios = st.builds(
    Scenario,
    plans=st.lists(
        st.tuples(
            st.sampled_from(Cycle),
            st.sampled_from([D(0), D("0.0007"), D("0.5"), D("3.1"), D("12.55"), D(30)]),
            st.booleans(),
        ),
        min_size=1,
        max_size=3,
    ),
    users=st.lists(
        st.tuples(
            amounts,
            amounts,
            st.sampled_from([True, True, True, False]),
            st.lists(
                st.tuples(
                    st.integers(0, 2),
                    st.integers(0, 45),
                    st.lists(st.integers(0, 50), max_size=6),
                ),
                min_size=1,
                max_size=3,
            ),
        ),
        min_size=1,
        max_size=2,
    ),
    runs_before=st.lists(st.integers(46, 430), max_size=4),
    last=st.sampled_from([46, 60, 61, 95, 130, 400]),
    made=st.builds(list),
)


def twice(scenario: Scenario, *ways: Callable[[], object]) -> list[list[Any]]:
    """Returns the outcome of the same scenario for each of these ways to run it."""
    outcomes = []
    for way in ways:
        scenario.made.clear()
        with ledger.dry_run():
            scenario.make()
            way()
            outcomes.append(scenario.outcome())
            judge()
    return outcomes


# On 27 March the remaining balance covers the rest of the month.
WITH_MONEY_FOR_LESS: Final = Scenario(
    plans=[(Cycle.MONTHLY, D(30), True)],
    users=[(D(60), D(0), True, [(0, 5, [])])],
    runs_before=[60],
    last=95,
)


@settings(max_examples=15)
@example(WITH_MONEY_FOR_LESS)
@given(scenarios)
def test_runs_before_and_a_run_now_equal_one_run_now(scenario: Scenario) -> None:
    before = {n for n in scenario.runs_before if n < scenario.last}
    at_once, one_by_one = twice(
        scenario,
        lambda: scenario.run([scenario.last]),
        lambda: scenario.run_until_somebody_is_suspended([*before, scenario.last]),
    )
    assert one_by_one == at_once


@settings(max_examples=5)
@given(scenarios)
def test_a_run_every_day_equals_one_that_catches_up(scenario: Scenario) -> None:
    last = min(scenario.last, 61)
    at_once, daily = twice(
        scenario,
        lambda: scenario.run([last]),
        lambda: scenario.run(range(46, last + 1)),
    )
    assert daily == at_once


@settings(max_examples=20)
@given(scenarios)
def test_any_run_keeps_the_rules_of_charging(scenario: Scenario) -> None:
    """A run takes no bonus, makes no balance negative and charges no day twice.

    It leaves no gap while a subscription is active. Running it again charges nothing.
    """
    last = JANUARY_1 + scenario.last * DAY
    with ledger.dry_run():
        scenario.make()
        before = set(Transaction.objects.values_list("pk", flat=True))
        balances = dict(Balance.objects.values_list("user", "real"))
        of_run = run(last)
        assert_the_rules(scenario.made, last)
        new = Transaction.objects.exclude(pk__in=before)
        assert (of_run.charged, of_run.total) == (len(new), -sum(row.amount for row in new))
        assert all(row.bonus_amount == 0 and row.new_balance >= 0 for row in new)
        for user in scenario.made:
            spent = sum(-row.amount for row in new if row.user_id == user.pk)
            assert ledger.balance(user).real == balances[user.pk] - spent
        again = run(last)
        assert figures(again) == (0, 0, 0, 0, 0, 0)
        assert again.due == 0
        assert Transaction.objects.exclude(pk__in=before).count() == len(new)
        judge()
        call_command("verify_ledger", verbosity=0)


def assert_the_rules(users: Iterable[User], last: date) -> None:
    for user in users:
        days: dict[int, list[date]] = defaultdict(list)
        for row in charges(user):
            assert row.new_bonus == row.old_bonus
            day = date.fromisoformat(row.metadata["from"])
            while day <= date.fromisoformat(row.metadata["through"]):
                days[row.metadata["subscription"]].append(day)
                day += DAY
        for subscription in user.subscriptions.select_related("plan"):
            paid = days[subscription.pk]
            assert len(set(paid)) == len(paid)
            if subscription.status == "suspended":
                assert subscription.due_on == last + DAY
                assert not [day for day in paid if day >= subscription.status_since]
            elif not subscription.is_by_active_day:
                assert subscription.due_on > last
                assert subscription.charged_through == subscription.due_on - DAY
                if subscription.plan.price >= D("0.5"):  # high enough that every share is posted
                    since = subscription.status_since
                    length = (subscription.due_on - since).days
                    stretch = {since + n * DAY for n in range(length)}
                    assert {day for day in paid if day >= since} == stretch


# The second user is charged first, on 1 February, and the first user on 16 February.
WITH_MONEY_LATER: Final = Scenario(
    plans=[(Cycle.MONTHLY, D("0.5"), True)],
    users=[(D("0.5"), D(0), True, [(0, 15, [])]), (D(5), D(0), True, [(0, 0, [])])],
    runs_before=[],
    last=46,
)


@settings(max_examples=10)
@example(WITH_MONEY_LATER)
@given(scenarios)
def test_a_rehearsal_changes_nothing_and_says_what_the_run_then_does(scenario: Scenario) -> None:
    moment = at(JANUARY_1 + scenario.last * DAY)
    with ledger.dry_run():
        scenario.make()
        judge()
        before = everything()
        rehearsed = list(charging.dry_run(moment))
        assert everything() == before
        said = [row for done in rehearsed for row in done.posted]
        total = Figures()
        for done in rehearsed:
            total += done.figures
        known = set(Transaction.objects.values_list("pk", flat=True))
        assert figures(run(moment.date())) == figures(total)
        posted = Transaction.objects.exclude(pk__in=known)
        assert sorted(map(shown, said)) == sorted(map(shown, posted))  # by user and number


def everything() -> dict[str, Any]:
    tables = [m._meta.db_table for m in (Balance, Transaction, Subscription, ChargingRun,
              ChargingBatch, ChargingFailure, Plan, subscriptions.ActiveDay)]  # fmt: skip
    return {table: execute(f"SELECT * FROM {table} ORDER BY 1") for table in tables}


def shown(row: Transaction) -> tuple[Any, ...]:
    return (row.user_id, row.number, row.subtype, row.description, row.amount, row.new_balance)


# --- Single cases -------------------------------------------------------------------------------


def test_each_month_is_charged_on_its_first_day() -> None:
    user = user_with(real=100)
    subscribed(user, PlanFactory(price=10), day=date(2026, 1, 31))
    for day in (date(2026, 1, 31), date(2026, 2, 1), date(2026, 2, 2), date(2026, 2, 28)):
        run(day)
    run(date(2026, 3, 1))
    assert periods(user) == [
        ("2026-01-31", "2026-01-31", -10),
        ("2026-02-01", "2026-02-28", -10),
        ("2026-03-01", "2026-03-31", -10),
    ]


def test_missed_months_are_caught_up_each_for_itself() -> None:
    user = user_with(real=100)
    subscribed(user, PlanFactory(name="M", price=10), day=date(2026, 1, 1))
    of_run = run(date(2026, 4, 20))
    assert figures(of_run) == (3, 0, 0, 0, 0, 30)
    assert [row.description for row in charges(user)] == [
        "Plan M, January 2026",
        "Plan M, February 2026",
        "Plan M, March 2026",
        "Plan M, April 2026",
    ]


def test_the_days_of_a_month_add_up_to_its_price() -> None:
    user = user_with(real=100)
    subscribed(user, PlanFactory(price=30, cycle=Cycle.EVERY_DAY), day=date(2026, 1, 1))
    run(date(2026, 1, 31))
    amounts = [amount for *_, amount in periods(user)]
    assert amounts[:2] == [D("-0.9677"), D("-0.9678")]
    assert (len(amounts), sum(amounts)) == (31, -30)


def test_a_year_is_charged_on_its_first_day() -> None:
    user = user_with(real=1000)
    plan = PlanFactory(price=120, cycle=Cycle.ANNUAL, proportional_charge=True)
    subscribed(user, plan, day=date(2026, 11, 22))
    run(date(2026, 12, 31))
    run(date(2027, 1, 1))
    assert periods(user) == [
        ("2026-11-22", "2026-12-31", D("-13.1507")),
        ("2027-01-01", "2027-12-31", -120),
    ]


def test_the_oldest_is_charged_first_and_then_whoever_was_there_first() -> None:
    user = user_with(real=100)
    monthly = subscribed(user, PlanFactory(price=10), day=date(2026, 1, 31))
    daily = subscribed(
        user, PlanFactory(price=31, cycle=Cycle.EVERY_DAY), day=date(2026, 1, 31), device="8617"
    )
    run(date(2026, 2, 2))
    order = [(t.metadata["subscription"], t.metadata["from"][5:]) for t in charges(user)][2:]
    assert order == [(monthly.pk, "02-01"), (daily.pk, "02-01"), (daily.pk, "02-02")]


def test_without_money_a_subscription_waits_and_resumes_as_of_the_day_of_money() -> None:
    user = user_with(real=10, bonus=100)
    plan = PlanFactory(price=10, proportional_charge=True)
    subscription = subscribed(user, plan, day=date(2026, 3, 1))
    assert figures(run(date(2026, 4, 1))) == (0, 1, 0, 0, 0, 0)
    subscription.refresh_from_db()
    assert (subscription.status, subscription.status_since) == ("suspended", date(2026, 4, 1))
    for day in range(2, 16):
        assert figures(run(date(2026, 4, day))) == (0, 0, 0, 1, 0, 0)
    refill(user, 100)
    assert figures(run(date(2026, 4, 16))) == (1, 0, 1, 0, 0, 5)
    assert periods(user)[1:] == [("2026-04-16", "2026-04-30", -5)]
    subscription.refresh_from_db()
    assert (subscription.status, subscription.status_since) == ("active", date(2026, 4, 16))
    assert ledger.balance(user)[:2] == (95, 100)


def test_a_missed_stretch_is_settled_day_by_day_with_the_money_of_now() -> None:
    """The subscription is dated after the run, so the present balance decides."""
    user = user_with(real=10)
    subscribed(user, PlanFactory(price=10), day=date(2026, 3, 1))
    refill(user, 15)
    assert figures(run(date(2026, 5, 10))) == (1, 1, 0, 0, 0, 10)
    assert periods(user)[1:] == [("2026-04-01", "2026-04-30", -10)]


def test_who_was_suspended_and_refilled_meanwhile_owes_nothing_for_days_without_runs() -> None:
    with database_clock_at(datetime(2026, 5, 1, tzinfo=UTC)):
        user = user_with(real=1)
        plan = PlanFactory(price=31, cycle=Cycle.EVERY_DAY)
        daily = subscribed(user, plan, day=date(2026, 5, 1))
    run(date(2026, 5, 2))
    assert now(daily).status == "suspended"
    with database_clock_at(datetime(2026, 5, 15, 23, tzinfo=UTC)):
        refill(user, 10)
    with database_clock_at(datetime(2026, 5, 16, tzinfo=UTC)):
        ledger.change_balance(user, amount=-1, description="A correction", **BY_PANEL)
    # In between there was neither a run nor the job that follows a refill.
    assert figures(run(date(2026, 5, 17))) == (1, 0, 1, 0, 0, 1)
    assert [first for first, *_ in periods(user)] == ["2026-05-01", "2026-05-17"]
    assert now(daily).status_since == date(2026, 5, 17)


@pytest.mark.parametrize("resumed_first", [True, False])
def test_it_makes_no_difference_whether_the_run_or_the_refill_s_own_job_comes_first(
    *, resumed_first: bool
) -> None:
    with movable_clock(datetime(2025, 11, 1, tzinfo=UTC)) as clock:
        user = user_with(real=10)
        subscription = subscribed(user, PlanFactory(price="12.55"), day=date(2025, 11, 1))
        clock(at(date(2025, 11, 22)))
        run(date(2025, 11, 22))
        clock(datetime(2025, 11, 23, 9, tzinfo=UTC))
        refill(user, 100)
        clock(at(date(2025, 12, 5)))
        if resumed_first:
            charging.resume(user.pk, at(date(2025, 12, 5)))
        run(date(2025, 12, 5))
    assert periods(user) == [("2025-12-05", "2025-12-31", D("-12.55"))]
    assert now(subscription).status_since == date(2025, 12, 5)


def test_who_was_suspended_and_never_had_money_owes_nothing() -> None:
    free = subscribed(UserFactory(), PlanFactory(price=10), day=date(2026, 5, 1))
    assert free.status == "suspended"
    Plan.objects.update(price=0)
    assert figures(run(date(2026, 5, 20))) == (0, 0, 1, 0, 0, 0)
    assert ledger.balance(free.user).number == 0


@pytest.mark.parametrize("cycle", Cycle)
def test_a_resumption_after_days_without_runs_is_of_its_own_day(cycle: Cycle) -> None:
    user = UserFactory()
    plan = PlanFactory(price=31, cycle=cycle, proportional_charge=True)
    subscription = subscribed(user, plan, day=date(2026, 5, 1))
    if cycle == Cycle.ACTIVE_DAY:
        Subscription.objects.update(
            status="suspended",
            suspension_reason="no_money",
            status_since=date(2026, 5, 1),
            due_on=date(2026, 5, 2),
        )
        day = date(2026, 5, 10)  # while the subscription is suspended
        subscriptions.record_active_day(user, device="", day=day, today=day)
    refill(user, 1000)
    charging.resume(user.pk, at(date(2026, 5, 20)))
    resumed = now(subscription)
    assert (resumed.status, resumed.status_since) == ("active", date(2026, 5, 20))
    first = [] if cycle == Cycle.ACTIVE_DAY else ["2026-05-20"]
    assert [first for first, *_ in periods(user)] == first


def test_programs_are_told_of_each_suspension_that_a_run_catches_up_with() -> None:
    WebhookEndpoint.objects.create(
        name="Platform",
        url="https://example.com/hook",
        events=["subscription.suspended", "subscription.resumed"],
    )
    user = user_with(real=50)
    plan = PlanFactory(price=30, proportional_charge=True)
    subscription = subscribed(user, plan, day=date(2026, 10, 1))
    # 20.00 is left: too little for all of November, but enough from the 11th on.
    assert figures(run(date(2026, 11, 20))) == (1, 1, 1, 0, 0, 20)
    told = WebhookEvent.objects.order_by("id").values_list("type", "data")
    said = [(kind, data["subscription"]["status_since"]) for kind, data in told]
    assert said == [
        ("subscription.suspended", "2026-11-01"),
        ("subscription.resumed", "2026-11-11"),
    ]
    assert now(subscription).charged_through == date(2026, 11, 30)


def test_who_waits_does_not_overtake_who_has_paid_so_far() -> None:
    user = user_with(real=10)
    plan = PlanFactory(price=10)
    waits = subscribed(user, plan, day=date(2026, 3, 1), device="waits")
    Subscription.objects.filter(pk=waits.pk).update(
        status="suspended",
        suspension_reason="no_money",
        due_on=date(2026, 4, 1),
        status_since=date(2026, 3, 31),
    )
    refill(user, 10)
    paid = subscribed(user, plan, day=date(2026, 3, 1), device="paid")
    refill(user, 10)
    run(date(2026, 4, 1))
    assert charges(user)[-1].device == "paid"
    assert {s.device: s.status for s in (now(waits), now(paid))} == {
        "waits": "suspended",
        "paid": "active",
    }


def now(subscription: Subscription) -> Subscription:
    return Subscription.objects.get(pk=subscription.pk)


def test_a_price_change_counts_from_the_next_charge_on() -> None:
    user = user_with(real=100)
    plan = PlanFactory(price=10)
    subscribed(user, plan, day=date(2026, 1, 1))
    Plan.objects.update(price=20)
    run(date(2026, 1, 31))
    run(date(2026, 2, 1))
    assert [amount for *_, amount in periods(user)] == [-10, -20]


def test_a_retired_plan_goes_on_for_who_has_it() -> None:
    user = user_with(real=100)
    subscribed(user, PlanFactory(price=10), day=date(2026, 1, 1))
    Plan.objects.update(is_active=False)
    run(date(2026, 2, 1))
    assert len(periods(user)) == 2


@pytest.mark.parametrize("cycle", Cycle)
def test_free_plans_post_nothing_and_go_on(cycle: Cycle) -> None:
    user = UserFactory()
    subscription = subscribed(user, PlanFactory(price=0, cycle=cycle), day=date(2026, 1, 1))
    subscriptions.record_active_day(user, device="", day=date(2026, 1, 1), today=date(2026, 1, 1))
    assert figures(run(date(2027, 1, 1))) == (0, 0, 0, 0, 0, 0)
    assert ledger.balance(user).number == 0
    assert now(subscription).status == "active"
    assert now(subscription).charged_through is not None


def test_days_whose_share_rounds_to_nothing_are_not_posted() -> None:
    user = user_with(real=1)
    subscribed(user, PlanFactory(price="0.0007", cycle=Cycle.EVERY_DAY), day=date(2026, 2, 1))
    run(date(2026, 2, 28))
    assert [amount for *_, amount in periods(user)] == [D("-0.0001")] * 7


def test_a_deactivated_user_is_charged_nothing_and_owes_nothing() -> None:
    user = user_with(real=100)
    subscription = subscribed(user, PlanFactory(price=10), day=date(2026, 1, 1))
    User.objects.filter(pk=user.pk).update(is_active=False)
    assert figures(run(date(2026, 2, 1))) == (0, 1, 0, 0, 0, 0)
    assert figures(run(date(2026, 3, 15))) == (0, 0, 0, 1, 0, 0)
    User.objects.filter(pk=user.pk).update(is_active=True)
    assert figures(run(date(2026, 3, 16))) == (1, 0, 1, 0, 0, 10)
    assert periods(user)[1:] == [("2026-03-16", "2026-03-31", -10)]
    assert now(subscription).status == "active"


def test_a_refill_lets_a_subscription_resume_at_once() -> None:
    user = user_with(real=0)
    subscription = subscribed(user, PlanFactory(price=10), day=date(2026, 1, 1))
    run(date(2026, 1, 5))
    assert figures(charging.resume(user.pk, at(date(2026, 1, 5)))) == (0, 0, 0, 1, 0, 0)
    refill(user, 10)
    assert figures(charging.resume(user.pk, at(date(2026, 1, 5)))) == (1, 0, 1, 0, 0, 10)
    assert figures(charging.resume(user.pk, at(date(2026, 1, 5)))) == (0, 0, 0, 0, 0, 0)
    assert periods(user) == [("2026-01-05", "2026-01-31", -10)]
    assert now(subscription).status == "active"


def test_who_is_suspended_today_and_refills_today_is_not_charged_twice() -> None:
    user = user_with(real=10)
    subscribed(user, PlanFactory(price=10, cycle=Cycle.MONTHLY), day=date(2026, 1, 31))
    run(date(2026, 2, 1))
    refill(user, 100)
    for _ in range(2):
        charging.resume(user.pk, at(date(2026, 2, 1)))
        run(date(2026, 2, 1))
    assert periods(user)[1:] == [("2026-02-01", "2026-02-28", -10)]


@pytest.mark.parametrize("cycle", [Cycle.MONTHLY, Cycle.EVERY_DAY, Cycle.ANNUAL])
@pytest.mark.parametrize("by_refill", [True, False])
def test_who_was_suspended_ahead_of_time_resumes_without_paying_a_paid_day_again(
    cycle: str, by_refill: bool
) -> None:
    """A run for a later day suspends the subscription for lack of money. Then the user refills."""
    user = user_with(real=31)
    subscription = subscribed(user, PlanFactory(price=31, cycle=cycle), day=date(2026, 12, 1))
    run(date(2027, 1, 1))
    assert now(subscription).status == "suspended"
    refill(user, 100)
    if by_refill:
        charging.resume(user.pk, at(date(2026, 12, 22)))
        resumed = now(subscription)
        assert (resumed.status, resumed.due_on) == ("active", date(2027, 1, 1))
        assert ledger.balance(user).real == 100
        run(date(2026, 12, 23))
    else:
        Subscription.objects.update(due_on=date(2026, 12, 22))  # as after a change of plan
        assert figures(run(date(2026, 12, 23))) == (0, 0, 1, 0, 0, 0)
    assert ledger.balance(user).real == 100
    assert run(date(2027, 1, 1)).charged == 1
    paid = [(first, last) for first, last, _ in periods(user)]
    assert all(last < first for (_, last), (first, _) in pairwise(paid))
    assert paid[-1][0] == "2027-01-01"


def test_the_day_of_a_run_is_that_of_utc() -> None:
    user = user_with(real=100)
    subscribed(user, PlanFactory(price=10), day=date(2026, 1, 1))
    assert charging.count_due(datetime.fromisoformat("2026-02-01T00:30:00+02:00")) == 0
    assert charging.count_due(datetime.fromisoformat("2026-01-31T22:30:00-02:00")) == 1


def test_a_run_of_nothing_is_finished_at_once() -> None:
    of_run = charging.open_run(at(date(2026, 1, 1)), ChargingRun.Start.SCHEDULE)
    of_run.refresh_from_db()
    assert of_run.finished_at is not None
    assert (of_run.due, of_run.batches.count()) == (0, 0)


def test_a_run_is_divided_among_users_and_finished_with_its_last_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(charging, "USERS_PER_BATCH", 2)
    monkeypatch.setattr(charging, "USERS_AT_ONCE", 1)
    users = [user_with(real=100) for _ in range(5)]
    for user in users:
        for device in ("", "8617"):
            subscribed(user, PlanFactory(price=10), day=date(2026, 1, 1), device=device)
    of_run = charging.open_run(at(date(2026, 2, 1)), ChargingRun.Start.SCHEDULE)
    batches = list(of_run.batches.order_by("id"))
    assert [(b.first_user_id, b.last_user_id) for b in batches] == [
        (users[0].pk, users[1].pk),
        (users[2].pk, users[3].pk),
        (users[4].pk, users[4].pk),
    ]
    assert of_run.due == 10
    for batch in reversed(batches):
        of_run.refresh_from_db()
        assert of_run.finished_at is None
        done = Done()
        for each in charging.charge_batch(batch):
            done += each
        assert done.due == 2 * (1 + batch.last_user_id - batch.first_user_id)
    of_run.refresh_from_db()
    assert of_run.finished_at is not None
    assert figures(of_run) == (10, 0, 0, 0, 0, 100)
    ended = of_run.finished_at
    ended_in_part = list(of_run.batches.values_list("finished_at", flat=True))
    # A worker does this if it was killed before it could mark its job as done.
    for batch in batches:
        list(charging.charge_batch(batch))
    of_run.refresh_from_db()
    assert of_run.finished_at == ended
    assert list(of_run.batches.values_list("finished_at", flat=True)) == ended_in_part
    assert figures(of_run) == (10, 0, 0, 0, 0, 100)


# --- Trouble ------------------------------------------------------------------------------------


@pytest.fixture
def three_users() -> list[User]:
    """Makes three users who each owe 10 for the month that is due on 1 February."""
    users = [user_with(real=100) for _ in range(3)]
    plan = PlanFactory(price=10)
    for user in users:
        subscribed(user, plan, day=date(2026, 1, 1))
    return users


def trouble_with(user: User, problem: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every charge of this user raise `problem`."""
    charge_entry = posting.charge_entry

    def fails(subscription: Subscription, *rest: Any) -> ledger.Entry:
        if subscription.user_id == user.pk:
            raise problem
        return charge_entry(subscription, *rest)

    monkeypatch.setattr(posting, "charge_entry", fails)


@pytest.mark.parametrize(
    ("problem", "said"),
    [(RuntimeError("out of order"), "out of order"), (KeyError(), "KeyError")],
)
def test_one_user_s_trouble_does_not_stop_the_others(
    three_users: list[User],
    problem: Exception,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    second = three_users[1]
    with monkeypatch.context() as patched:
        trouble_with(second, problem, patched)
        of_run = run(date(2026, 2, 1))
    assert figures(of_run) == (2, 0, 0, 0, 1, 20)
    failure = ChargingFailure.objects.get()
    assert (failure.run, failure.user, failure.problem) == (of_run, second, said)
    one_by_one = f"Users {three_users[0].pk} to {three_users[2].pk} are charged one by one."
    assert caplog.messages == [one_by_one, f"User {second.pk} could not be charged."]
    assert [len(periods(user)) for user in three_users] == [2, 1, 2]
    assert now(second.subscriptions.get()).due_on == date(2026, 2, 1)
    # The next run tries again.
    assert figures(run(date(2026, 2, 2))) == (1, 0, 0, 0, 0, 10)
    assert periods(second)[1:] == [("2026-02-01", "2026-02-28", -10)]


def test_who_is_charged_alone_anyway_is_not_said_to_be_one_of_many(
    three_users: list[User], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(charging, "USERS_AT_ONCE", 1)
    trouble_with(three_users[1], RuntimeError("out of order"), monkeypatch)
    assert figures(run(date(2026, 2, 1))) == (2, 0, 0, 0, 1, 20)
    assert caplog.messages == [f"User {three_users[1].pk} could not be charged."]


def test_trouble_in_the_database_does_not_stop_the_others_either(three_users: list[User]) -> None:
    """The posting function refuses the charge: its idempotency key is already used."""
    second = three_users[1]
    ledger.change_balance(
        second,
        amount=1,
        description="By somebody's program",
        idempotency_key=f"subscription:{second.subscriptions.get().pk}:1:2026-02-01",
        **BY_PANEL,
    )
    assert figures(run(date(2026, 2, 1))) == (2, 0, 0, 0, 1, 20)
    assert "idempotency key" in ChargingFailure.objects.get().problem


def test_a_rehearsal_counts_trouble_and_notes_nothing(
    three_users: list[User], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    trouble_with(three_users[1], RuntimeError("out of order"), monkeypatch)
    done = Done()
    for each in charging.dry_run(at(date(2026, 2, 1))):
        done += each
    assert figures(done.figures) == (2, 0, 0, 0, 1, 20)
    assert not ChargingFailure.objects.exists()
    assert not ChargingRun.objects.exists()


def test_a_killed_run_is_taken_up_where_it_was(
    three_users: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run killed while it charges a user posts nothing for this user (see test_charge_due)."""
    monkeypatch.setattr(charging, "USERS_AT_ONCE", 1)
    of_run = charging.open_run(at(date(2026, 2, 1)), ChargingRun.Start.COMMAND)
    batch = of_run.batches.get()
    with monkeypatch.context() as patched:
        trouble_with(three_users[1], KeyboardInterrupt(), patched)  # type: ignore[arg-type]
        with pytest.raises(KeyboardInterrupt):
            list(charging.charge_batch(batch))
    of_run.refresh_from_db()
    assert figures(of_run) == (1, 0, 0, 0, 0, 10)
    assert of_run.finished_at is None
    list(charging.charge_batch(batch))
    of_run.refresh_from_db()
    assert figures(of_run) == (3, 0, 0, 0, 0, 30)
    assert of_run.finished_at is not None
    assert [len(periods(user)) for user in three_users] == [2, 2, 2]


@pytest.mark.parametrize("answers", [[False, False], [True, False]], ids=["at once", "one by one"])
def test_a_lost_connection_stops_the_run_and_is_nobody_s_failure(
    three_users: list[User], answers: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_run = charging.open_run(at(date(2026, 2, 1)), ChargingRun.Start.COMMAND)
    trouble_with(three_users[0], OperationalError("server closed the connection"), monkeypatch)
    monkeypatch.setattr(connection, "is_usable", iter(answers).__next__)
    with pytest.raises(OperationalError, match="server closed"):
        list(charging.charge_batch(of_run.batches.get()))
    of_run.refresh_from_db()
    assert figures(of_run) == (0, 0, 0, 0, 0, 0)
    assert of_run.finished_at is None
    assert not ChargingFailure.objects.exists()


def test_what_was_charged_before_the_connection_was_lost_is_told(
    three_users: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_run = charging.open_run(at(date(2026, 2, 1)), ChargingRun.Start.COMMAND)
    trouble_with(three_users[1], OperationalError("server closed the connection"), monkeypatch)
    monkeypatch.setattr(connection, "is_usable", iter([True, False]).__next__)
    told = Done()
    with pytest.raises(OperationalError, match="server closed"):  # noqa: PT012 - raised mid-loop
        for done in charging.charge_batch(of_run.batches.get()):
            told += done
    of_run.refresh_from_db()
    assert figures(told.figures) == figures(of_run) == (1, 0, 0, 0, 0, 10)


def test_a_cut_connection_is_nobody_s_failure_even_if_there_is_another_by_then(
    three_users: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the failure, the check may get a working connection, for example from a pool."""
    of_run = charging.open_run(at(date(2026, 2, 1)), ChargingRun.Start.COMMAND)
    problem = OperationalError("terminating connection due to administrator command")
    problem.__cause__ = AdminShutdown()
    trouble_with(three_users[0], problem, monkeypatch)
    with pytest.raises(OperationalError, match="terminating"):
        list(charging.charge_batch(of_run.batches.get()))
    of_run.refresh_from_db()
    assert figures(of_run) == (0, 0, 0, 0, 0, 0)
    assert of_run.finished_at is None
    assert not ChargingFailure.objects.exists()
