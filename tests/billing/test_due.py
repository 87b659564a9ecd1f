"""`due.decide`, which decides in memory what falls due, keeps its rules for any user.

test_charging.py tests the same with the database, with fewer examples because they take longer.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from billing.models import Plan, Subscription
from billing.plans.due import Decision, Reported, decide, decisions, reported_in_time
from billing.plans.history import Activated, Moved, Past, Prices, Version
from billing.plans.pricing import Cycle, Terms
from billing.plans.schedule import end_of

D = Decimal
DAY = timedelta(days=1)
JANUARY_1 = date(2024, 1, 1)

days = st.integers(0, 120).map(lambda n: JANUARY_1 + n * DAY)
plans = st.builds(
    Plan,
    cycle=st.sampled_from(Cycle),
    price=st.one_of(
        st.sampled_from([D(0), D("0.0007"), D("0.5"), D("3.1"), D("12.55"), D(30)]),
        st.decimals(min_value=0, max_value=40, places=4),
    ),
    proportional_charge=st.booleans(),
)


@dataclass
class Customer:
    real: Decimal
    subscriptions: list[Subscription]
    active_days: Mapping[int, Sequence[date]]
    is_active: bool = True

    def settle(self, *stops: date) -> tuple[list[Decision], list[Any]]:
        """Settles up to each of these days in turn. Returns the decisions and the final states."""
        its = [copy(subscription) for subscription in self.subscriptions]
        # Suspended ones could be used until the last day, when a late run suspended them.
        for subscription in its:
            subscription.suspended_at = end_of(stops[-1])
        uncharged = {pk: list(of_one) for pk, of_one in self.active_days.items()}
        real, steps = self.real, []
        for through in stops:
            done = decisions(
                its,
                through=through,
                past=Past(real, is_active=self.is_active),
                active_days={pk: reported_in_time(days) for pk, days in uncharged.items()},
            )
            for step in done:
                if step.charge is not None:
                    real -= step.charge.amount
                    if step.subscription.is_by_active_day:
                        uncharged[step.subscription.pk].remove(step.charge.first)
            steps += done
        return steps, [state(subscription) for subscription in its]


state = attrgetter(
    "pk", "status", "status_since", "charged_from", "charged_through", "paid", "due_on",
    "suspension_reason",
)  # fmt: skip


@st.composite
def customers(draw: st.DrawFn) -> Customer:
    its, active_days = [], {}
    for pk in range(1, draw(st.integers(1, 4)) + 1):
        plan = draw(plans)
        since = draw(st.integers(0, 60).map(lambda n: JANUARY_1 + n * DAY))
        is_suspended = draw(st.booleans())
        due_on: date | None = since + DAY * draw(st.integers(0, 40))
        if plan.cycle == Cycle.ACTIVE_DAY:
            active_days[pk] = sorted(
                {since + n * DAY for n in draw(st.lists(st.integers(-5, 60), max_size=8))}
            )
            if not is_suspended:
                due_on = min((day + DAY for day in active_days[pk] if day >= since), default=None)
        its.append(
            Subscription(
                pk=pk,
                plan=plan,
                status="suspended" if is_suspended else "active",
                suspension_reason="no_money" if is_suspended else "",
                started_on=since,
                plan_since=since,
                status_since=since,
                paid=D(0),
                due_on=due_on,
            )
        )
    real = draw(st.decimals(min_value=0, max_value=200, places=4))
    return Customer(
        real, its, active_days, is_active=draw(st.sampled_from([True, True, True, False]))
    )


def charges(steps: Iterable[Decision]) -> list[tuple[int, Any]]:
    return [(step.subscription.pk, step.charge) for step in steps if step.charge is not None]


@settings(max_examples=60)
@given(customers(), st.lists(days, max_size=6), days)
def test_settling_up_to_one_day_and_then_up_to_a_later_one_is_doing_both_at_once(
    customer: Customer, stops: list[date], last: date
) -> None:
    before = sorted(stop for stop in stops if stop < last)
    at_once, left_at_once = customer.settle(last)
    one_by_one, left = customer.settle(*before, last)
    assert charges(one_by_one) == charges(at_once)
    assert [(s.outcome, s.day) for s in one_by_one] == [(s.outcome, s.day) for s in at_once]
    assert left == left_at_once
    assert customer.settle(last, last)[1] == left


@settings(max_examples=60)
@given(customers(), days)
def test_no_day_is_charged_twice_or_early_and_nobody_pays_what_is_not_there(
    customer: Customer, last: date
) -> None:
    steps, _ = customer.settle(last)
    assert [step.day for step in steps] == sorted(step.day for step in steps)
    spent = D(0)
    charged: set[tuple[int, date]] = set()
    for step in steps:
        assert step.day <= last
        if step.charge is None:
            continue
        assert customer.is_active
        first, through, amount = step.charge
        spent += amount
        assert amount >= 0
        assert spent <= customer.real
        is_by_active_day = step.subscription.is_by_active_day
        assert step.day == (first + DAY if is_by_active_day else first)
        covered = {
            (step.subscription.pk, first + n * DAY) for n in range((through - first).days + 1)
        }
        assert not covered & charged
        charged |= covered


@settings(max_examples=40)
@given(customers(), days)
def test_who_waits_is_tried_each_day_and_who_is_active_is_paid_up(
    customer: Customer, last: date
) -> None:
    _, left = customer.settle(last)
    for subscription, (_, status, since, _, charged_through, _, due_on, reason) in zip(
        customer.subscriptions, left, strict=True
    ):
        was_due = subscription.due_on is not None and subscription.due_on <= last
        if not was_due:
            assert (status, due_on) == (subscription.status, subscription.due_on)
        elif status == "suspended":
            assert due_on == last + DAY
            assert reason == ("no_money" if customer.is_active else "user_deactivated")
            assert since <= last
        elif subscription.plan.cycle == Cycle.ACTIVE_DAY:
            assert due_on is None or due_on > last
        else:
            assert due_on == charged_through + DAY > last


def test_an_attempt_to_resume_does_not_skip_what_an_active_subscription_owes() -> None:
    plan = Plan(pk=1, cycle=Cycle.MONTHLY, price=D(30))
    april = date(2024, 4, 1)
    subscription = Subscription(
        pk=1, plan=plan, status="active", started_on=april, plan_since=april, status_since=april,
        due_on=april,
    )  # fmt: skip
    steps = decisions(
        [subscription], through=date(2024, 5, 3), past=Past(D(100)), active_days={}, retry=True
    )
    assert [step.outcome for step in steps] == ["charged", "charged"]
    assert (subscription.status_since, subscription.due_on) == (april, date(2024, 6, 1))
    assert [tuple(charge) for _, charge in charges(steps)] == [
        (april, date(2024, 4, 30), 30),
        (date(2024, 5, 1), date(2024, 5, 31), 30),
    ]


def test_money_and_activation_wake_whoever_waits_and_nothing_else_does() -> None:
    at = [end_of(JANUARY_1 + n * DAY) for n in range(6)]
    past = Past(
        D(5),
        moved=[
            Moved(at[0], D(-1)),
            Moved(at[1], D(0)),
            Moved(at[2], D("0.0001")),
            Moved(at[5], D(1)),
        ],
        activated=[Activated(at[1], is_active=False), Activated(at[3], is_active=True)],
        until=at[4],
    )
    assert past.changes == [at[0], at[1], at[1], at[2], at[3]]
    assert past.retries == [at[2], at[3]]


def test_money_that_is_spent_since_was_not_there() -> None:
    at = [end_of(JANUARY_1 + n * DAY) for n in range(4)]
    moved = [Moved(at[1], D(-9)), Moved(at[2], D(20)), Moved(at[3], D(-3))]
    past = Past(D(18), moved=moved, until=at[2])
    assert [past.recorded.real(each) for each in at] == [1, 1, 18, 18]
    # `known` treats the change after `until` as always true, so the early balances are 3 lower.
    assert [past.known.real(each) for each in at] == [-2, -2, 18, 18]


def test_before_its_first_price_a_plan_cost_that_one() -> None:
    plan = Plan(pk=1, cycle=Cycle.MONTHLY, price=D(3))
    first, second, third = (Terms(Cycle.MONTHLY, D(n), True) for n in (1, 2, 3))
    at = [end_of(JANUARY_1 + n * DAY) for n in range(4)]
    prices = Prices({1: [Version(at[1], first), Version(at[2], second), Version(at[3], third)]})
    assert [prices.terms(plan, each) for each in at] == [first, first, second, plan.terms]


def test_a_day_that_is_reported_late_waits_for_the_run_that_knows_of_it() -> None:
    plan = Plan(pk=1, cycle=Cycle.ACTIVE_DAY, price=D(1))
    subscription = Subscription(
        pk=1, plan=plan, status="active", started_on=JANUARY_1, plan_since=JANUARY_1,
        status_since=JANUARY_1, due_on=JANUARY_1 + DAY,
    )  # fmt: skip
    known = {1: [Reported(JANUARY_1, JANUARY_1 + 3 * DAY)]}
    two_days_later = JANUARY_1 + 2 * DAY
    assert not decisions([subscription], through=two_days_later, past=Past(D(9)), active_days=known)
    assert subscription.due_on == JANUARY_1 + 3 * DAY


def test_a_day_that_is_reported_in_time_is_known_to_the_run_of_the_next_day() -> None:
    assert reported_in_time([JANUARY_1]) == [Reported(JANUARY_1, date(2024, 1, 2))]


def test_what_resumes_by_active_day_is_stored_once() -> None:
    plan = Plan(pk=1, cycle=Cycle.ACTIVE_DAY, price=D(1))
    subscription = Subscription(
        pk=1, plan=plan, status="suspended", started_on=JANUARY_1, plan_since=JANUARY_1,
        status_since=JANUARY_1, due_on=JANUARY_1 + DAY, suspension_reason="no_money",
    )  # fmt: skip
    [decision] = decide([subscription], through=JANUARY_1 + DAY, past=Past(D(9)), active_days={})
    assert decision is not None, "a second change of the status was announced"
    assert (decision.outcome, subscription.due_on) == ("resumed", None)
