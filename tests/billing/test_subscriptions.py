"""Starting, changing and cancelling subscriptions: the transactions and the refusals of each."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from billing import errors, ledger
from billing.models import ActiveDay, Plan, Subscription, Transaction, UserDefaults
from billing.plans import charging, due, forecast, subscriptions
from billing.plans.pricing import Cycle, Terms, charge_on
from billing.plans.subscriptions import Changed
from tests.billing.histories import BY_PANEL, judge
from tests.factories import PlanFactory, UserFactory, subscribed, user_with
from users.models import User

pytestmark = pytest.mark.django_db

D = Decimal
DAY = timedelta(days=1)
APRIL_10 = date(2026, 4, 10)


def run(day: date) -> None:
    """Does the charging run of a day."""
    at = datetime(day.year, day.month, day.day, 0, 5, tzinfo=UTC)
    for batch in charging.open_run(at, "command").batches.all():
        for done in charging.charge_batch(batch):
            assert not done.figures.failed


def runs(first: date, last: date) -> None:
    for n in range((last - first).days + 1):
        run(first + n * DAY)


def posted(user: User) -> list[tuple[str, Decimal, str, str]]:
    """Returns the subscription transactions of a user: subtype, amount, first and last day."""
    rows = Transaction.objects.filter(user=user, type="main_charge").order_by("number")
    return [(t.subtype, t.amount, t.metadata["from"][5:], t.metadata["through"][5:]) for t in rows]


def now(subscription: Subscription) -> Subscription:
    return Subscription.objects.select_related("plan", "user").get(pk=subscription.pk)


def change(subscription: Subscription, plan: Plan, day: date, **options: Any) -> Changed:
    options = {"pay_back": False, "charge_now": False} | options
    return subscriptions.change_plan(subscription, plan, day=day, **BY_PANEL, **options)


def cancel(subscription: Subscription, day: date, **options: Any) -> Changed:
    return subscriptions.cancel(subscription, day=day, **BY_PANEL, **options)


def active(user: User, day: date, *, device: str = "", today: date | None = None) -> ActiveDay:
    return subscriptions.record_active_day(user, device=device, day=day, today=today or day)


# --- Starting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cycle", "proportional", "charge"),
    [
        (Cycle.MONTHLY, False, ("monthly", D("-12.5500"), "04-10", "04-30")),
        (Cycle.MONTHLY, True, ("monthly", D("-8.7850"), "04-10", "04-30")),
        (Cycle.EVERY_DAY, False, ("everyday", D("-0.4183"), "04-10", "04-10")),
        (Cycle.EVERY_DAY, True, ("everyday", D("-0.4183"), "04-10", "04-10")),
        (Cycle.ANNUAL, False, ("every_year", D("-12.5500"), "04-10", "12-31")),
        (Cycle.ANNUAL, True, ("every_year", D("-9.1460"), "04-10", "12-31")),
        (Cycle.ACTIVE_DAY, False, None),
    ],
)
def test_a_subscription_is_charged_at_once_as_its_cycle_says(
    cycle: Cycle, proportional: bool, charge: Any
) -> None:
    user = user_with(real=100, bonus=100)
    plan = PlanFactory(price="12.55", cycle=cycle, proportional_charge=proportional)
    changed = subscriptions.start(user, plan, day=APRIL_10, **BY_PANEL)
    assert posted(user) == ([charge] if charge else [])
    assert [row.amount for row in changed.posted] == ([charge[1]] if charge else [])
    subscription = now(changed.subscription)
    assert (subscription.status, subscription.started_on) == ("active", APRIL_10)
    if charge:
        assert subscription.due_on == subscription.charged_through + DAY
        assert (subscription.paid, subscription.charge_number) == (-charge[1], 2)
    else:
        assert (subscription.due_on, subscription.charged_through) == (None, None)
    assert ledger.balance(user).bonus == 100


def test_annual_from_november_costs_what_the_design_says() -> None:
    user = user_with(real=120)
    plan = PlanFactory(price=120, cycle=Cycle.ANNUAL, proportional_charge=True)
    subscribed(user, plan, day=date(2026, 11, 22))
    assert posted(user) == [("every_year", D("-13.1507"), "11-22", "12-31")]


def test_the_bonus_never_pays_a_subscription() -> None:
    user = user_with(real="10.00", bonus="100.00")
    with pytest.raises(errors.InsufficientFunds) as refusal:
        subscriptions.start(user, PlanFactory(price="12.55"), day=APRIL_10, **BY_PANEL)
    assert refusal.value.data | {"entry": 1} == {
        "entry": 1,
        "balance": "real",
        "needed": "12.5500",
        "available": "10.0000",
    }
    assert not Subscription.objects.filter(user=user).exists()
    assert ledger.balance(user) == (10, 100, 1)


def test_who_may_wait_for_money_is_suspended_and_charged_nothing() -> None:
    user = user_with(real=10)
    plan = PlanFactory(price="12.55")
    changed = subscriptions.start(user, plan, day=APRIL_10, wait_for_money=True, **BY_PANEL)
    subscription = now(changed.subscription)
    assert not changed.posted
    assert (subscription.status, subscription.status_since) == ("suspended", APRIL_10)
    assert (subscription.charged_through, subscription.paid) == (None, 0)
    assert subscription.due_on == APRIL_10 + DAY


def test_a_charge_describes_what_it_is_for() -> None:
    user = user_with(real=100)
    plan = PlanFactory(name="Business", price=10)
    subscription = subscribed(user, plan, day=APRIL_10, device="8617")
    row = Transaction.objects.get(user=user, number=2)
    assert row.description == "Plan Business, 10–30 April 2026, device 8617"
    assert (row.type, row.device) == ("main_charge", "8617")
    assert row.metadata == {
        "subscription": subscription.pk,
        "plan": plan.pk,
        "from": "2026-04-10",
        "through": "2026-04-30",
    }
    assert row.idempotency_key == f"subscription:{subscription.pk}:1:2026-04-10"


def test_the_longest_names_still_make_a_description() -> None:
    user = user_with(real=100)
    plan = PlanFactory(name="P" * 60, cycle=Cycle.ACTIVE_DAY)
    subscribed(user, plan, day=APRIL_10, device="D" * 100)
    active(user, APRIL_10, device="D" * 100)
    run(APRIL_10 + DAY)
    annual = PlanFactory(name="Q" * 60, cycle=Cycle.ANNUAL)
    changed = change(
        Subscription.objects.get(user=user), annual, APRIL_10 + DAY, charge_now=True
    ).subscription
    change(changed, plan, APRIL_10 + 2 * DAY, pay_back=True)
    words = list(
        Transaction.objects.filter(user=user, type="main_charge")
        .order_by("number")
        .values_list("description", flat=True)
    )
    assert len(words) == 3
    assert all(len(description) <= 200 for description in words)
    assert words[0].startswith(f"Plan {'P' * 60}, active on 10 April 2026, device DDD")


def test_a_retired_plan_is_refused_also_if_the_caller_has_not_noticed() -> None:
    user, plan = user_with(real=100), PlanFactory(name="Old")
    Plan.objects.filter(pk=plan.pk).update(is_active=False)
    with pytest.raises(errors.PlanRetired) as refusal:
        subscriptions.start(user, plan, day=APRIL_10, **BY_PANEL)
    assert refusal.value.data == {"plan": "Old"}


def test_the_price_is_that_of_now_not_that_which_the_caller_knows() -> None:
    user, plan = user_with(real=100), PlanFactory(price=10)
    Plan.objects.filter(pk=plan.pk).update(price=20)
    subscriptions.start(user, plan, day=APRIL_10, **BY_PANEL)
    assert posted(user)[0][1] == -20


def test_a_deactivated_user_is_refused_or_waits() -> None:
    user = user_with(real=100)
    User.objects.filter(pk=user.pk).update(is_active=False)
    with pytest.raises(errors.UserDeactivated):
        subscriptions.start(user, PlanFactory(), day=APRIL_10, **BY_PANEL)
    waiting, posted = subscriptions.start(
        user, PlanFactory(), day=APRIL_10, wait_for_money=True, **BY_PANEL
    )
    assert (waiting.status, waiting.due_on, posted) == ("suspended", APRIL_10 + DAY, [])
    assert ledger.balance(user).real == 100


def test_a_device_has_one_live_subscription_and_so_has_the_account() -> None:
    user, plan = user_with(real=100), PlanFactory(name="First")
    for device in ("", "8617"):
        first = subscribed(user, plan, day=APRIL_10, device=device)
        with pytest.raises(errors.SubscriptionExists) as refusal:
            subscribed(user, PlanFactory(), day=APRIL_10, device=f" {device} ")
        assert refusal.value.data == {"device": device, "plan": "First", "subscription": first.pk}
        with pytest.raises(IntegrityError), transaction.atomic():
            Subscription.objects.create(
                user=user,
                plan=plan,
                device=device,
                started_on=APRIL_10,
                plan_since=APRIL_10,
                status_since=APRIL_10,
            )
    subscribed(user, plan, day=APRIL_10, device="4711")
    assert len(posted(user)) == 3


def test_after_a_cancellation_there_can_be_another() -> None:
    user, plan = user_with(real=100), PlanFactory()
    for _ in range(2):
        cancel(subscribed(user, plan, day=APRIL_10, device="8617"), APRIL_10)
    assert [charge[1] for charge in posted(user)] == [-10, -10]


def test_a_free_plan_posts_nothing_and_is_paid_all_the_same() -> None:
    user = UserFactory()
    subscription = subscribed(user, PlanFactory(price=0), day=APRIL_10)
    assert (subscription.status, subscription.charged_through) == ("active", date(2026, 4, 30))
    assert ledger.balance(user).number == 0


# --- Changing the plan --------------------------------------------------------------------------


def test_without_either_the_new_plan_begins_after_what_was_paid() -> None:
    user = user_with(real=100)
    subscription = subscribed(user, PlanFactory(price=30), day=date(2026, 4, 1))
    changed = change(subscription, PlanFactory(price=10), APRIL_10)
    assert not changed.posted
    assert (changed.subscription.due_on, changed.subscription.term) == (date(2026, 5, 1), 2)
    runs(APRIL_10, date(2026, 5, 2))
    assert posted(user) == [
        ("monthly", -30, "04-01", "04-30"),
        ("monthly", -10, "05-01", "05-31"),
    ]


def test_with_charge_now_the_new_plan_is_paid_on_top() -> None:
    user = user_with(real=100)
    subscription = subscribed(user, PlanFactory(price=30), day=date(2026, 4, 1))
    change(subscription, PlanFactory(price=10), APRIL_10, charge_now=True)
    runs(APRIL_10, date(2026, 5, 2))
    assert posted(user) == [
        ("monthly", -30, "04-01", "04-30"),
        ("monthly", -10, "04-10", "04-30"),
        ("monthly", -10, "05-01", "05-31"),
    ]


def test_with_pay_back_the_new_plan_begins_on_its_next_regular_day() -> None:
    user = user_with(real=100)
    subscription = subscribed(user, PlanFactory(name="Old", price=30), day=date(2026, 4, 1))
    changed = change(subscription, PlanFactory(price=10), APRIL_10, pay_back=True).subscription
    paid = (changed.charged_from, changed.charged_through, changed.paid)
    assert paid == (date(2026, 4, 1), date(2026, 4, 9), 9)
    runs(APRIL_10, date(2026, 5, 2))
    assert posted(user) == [
        ("monthly", -30, "04-01", "04-30"),
        ("remainder", 21, "04-10", "04-30"),
        ("monthly", -10, "05-01", "05-31"),
    ]
    row = Transaction.objects.get(user=user, number=3)
    assert row.description == "Remainder of plan Old, 10–30 April 2026"


def test_with_both_the_new_plan_takes_over_on_the_day() -> None:
    user = user_with(real=30)
    subscription = subscribed(user, PlanFactory(price=30), day=date(2026, 4, 1))
    annual = PlanFactory(price=20, cycle=Cycle.ANNUAL)
    change(subscription, annual, APRIL_10, pay_back=True, charge_now=True)
    assert posted(user) == [
        ("monthly", -30, "04-01", "04-30"),
        ("remainder", 21, "04-10", "04-30"),
        ("every_year", -20, "04-10", "12-31"),
    ]


def test_a_change_that_cannot_be_paid_changes_nothing() -> None:
    user = user_with(real=30)
    subscription = subscribed(user, PlanFactory(price=30), day=date(2026, 4, 1))
    before = Subscription.objects.values().get()
    with pytest.raises(errors.InsufficientFunds) as refusal:
        change(subscription, PlanFactory(price=22), APRIL_10, pay_back=True, charge_now=True)
    assert (refusal.value.data["needed"], refusal.value.data["available"]) == ("22.0000", "21.0000")
    assert Subscription.objects.values().get() == before
    assert ledger.balance(user) == (0, 0, 2)


@dataclass
class Change:
    """A user starts with the cycle `old` and changes to `new` on day `offset`.

    With `back_again`, the user changes back on the same day.
    """

    old: Cycle
    new: Cycle
    first: date
    offset: int
    proportional: bool
    pay_back: bool
    charge_now: bool
    back_again: bool
    run_before: bool
    active: list[int]
    run: list[int]

    def happen(self) -> dict[date, int]:
        """Returns how often each day is paid for in the end."""
        user = user_with(real=10_000)
        cycles = (self.old, self.new, self.old)
        plans = [
            PlanFactory(cycle=cycle, proportional_charge=self.proportional) for cycle in cycles
        ]
        subscription = subscribed(user, plans[0], day=self.first)
        for n in sorted({*self.active, *self.run, self.offset, self.offset + 33}):
            day = self.first + n * DAY
            if n == self.offset + 33 or (n in self.run if n != self.offset else self.run_before):
                run(day)
            if n == self.offset:
                for plan in plans[1 : 2 + self.back_again]:
                    change(
                        subscription, plan, day, pay_back=self.pay_back, charge_now=self.charge_now
                    )
            if n in self.active:
                active(user, day)
        return days_paid(user)


def days_paid(user: User) -> dict[date, int]:
    paid: dict[date, int] = {}
    for row in Transaction.objects.filter(user=user, type="main_charge").order_by("number"):
        once = -1 if row.subtype == "remainder" else 1
        assert row.amount * once < 0
        day = date.fromisoformat(row.metadata["from"])
        while day <= date.fromisoformat(row.metadata["through"]):
            paid[day] = paid.get(day, 0) + once
            assert paid[day] >= 0
            day += DAY
    return paid


cycles = st.sampled_from(Cycle)


@settings(max_examples=60)
@given(
    st.builds(
        Change,
        old=cycles,
        new=cycles,
        first=st.dates(date(2024, 1, 1), date(2025, 3, 31)),
        offset=st.integers(0, 40),
        active=st.lists(st.integers(0, 45), max_size=6),
        run=st.lists(st.integers(0, 60), max_size=6),
    )
)
def test_changes_of_plan_pay_each_day_once_unless_more_is_asked_for(it: Change) -> None:
    """This holds for any two cycles, whether or not the day's run comes before the change."""
    with ledger.dry_run():
        paid = it.happen()
        judge()
    if it.pay_back or not it.charge_now:
        assert max(paid.values(), default=0) <= 1
    # Each day before the change is paid for; under a plan by active day, each active day.
    used = it.active if it.old == Cycle.ACTIVE_DAY else range(it.offset)
    assert all(paid.get(it.first + n * DAY) for n in used if n < it.offset)


def test_a_remainder_of_a_charge_that_was_reversed_is_nothing() -> None:
    user = user_with(real=100)
    subscription = subscribed(user, PlanFactory(price=30), day=date(2026, 4, 1))
    ledger.reverse(user, number=2, description="Charged in error", **BY_PANEL)
    changed = change(subscription, PlanFactory(price=10), APRIL_10, pay_back=True)
    assert not changed.posted
    assert changed.subscription.charged_through == APRIL_10 - DAY
    assert not cancel(changed.subscription, APRIL_10, pay_back=True).posted
    assert ledger.balance(user).real == 100


def test_nothing_is_paid_back_twice() -> None:
    user = user_with(real=100)
    subscription = subscribed(user, PlanFactory(price=30), day=date(2026, 4, 1))
    change(subscription, PlanFactory(), APRIL_10, pay_back=True)
    assert not change(subscription, PlanFactory(), APRIL_10, pay_back=True).posted
    assert not cancel(subscription, APRIL_10 + DAY, pay_back=True).posted


def test_a_charge_is_not_given_back_twice_by_a_remainder_and_a_reversal() -> None:
    user = user_with(real=100)
    subscription = subscribed(user, PlanFactory(price=30), day=date(2026, 4, 1))
    said = {"number": 2, "description": "Charged in error", **BY_PANEL}
    [remainder] = cancel(subscription, APRIL_10, pay_back=True).posted
    with pytest.raises(
        errors.AlreadyPaidBack, match=r"21\.00 .* number 2 .* by number 3"
    ) as refused:
        ledger.reverse(user, **said)
    assert refused.value.data == {"number": 2, "amount": "21.0000", "paid_back_by": 3}
    assert ledger.balance(user) == (91, 0, 3)

    with ledger.dry_run():  # deliberately
        assert ledger.reverse(user, **said, although_paid_back=True).amount == 30
    ledger.reverse(user, number=remainder.number, description="Paid in error", **BY_PANEL)
    reversal = ledger.reverse(user, **said, idempotency_key="k")
    assert ledger.reverse(user, **said, idempotency_key="k").number == reversal.number
    assert ledger.balance(user).real == 100


def test_what_was_paid_under_an_earlier_plan_is_paid_back_in_its_name() -> None:
    user = user_with(real=100)
    subscription = subscribed(user, PlanFactory(name="First", price=30), day=date(2026, 4, 1))
    change(subscription, PlanFactory(name="Second"), APRIL_10)
    [row] = cancel(subscription, date(2026, 4, 16), pay_back=True).posted
    assert (row.amount, row.description) == (15, "Remainder of plan First, 16–30 April 2026")
    assert row.metadata["plan"] == Plan.objects.get(name="First").pk


def test_a_change_first_charges_the_days_that_no_run_has_charged() -> None:
    user = user_with(real=100)
    plan = PlanFactory(price=30, cycle=Cycle.EVERY_DAY)
    subscription = subscribed(user, plan, day=date(2026, 4, 1))
    change(subscription, PlanFactory(price=5), date(2026, 4, 4), charge_now=True)
    assert posted(user) == [
        ("everyday", -1, "04-01", "04-01"),
        ("everyday", -1, "04-02", "04-02"),
        ("everyday", -1, "04-03", "04-03"),
        ("everyday", -1, "04-04", "04-04"),  # the same as if its run had come first
        ("monthly", -5, "04-04", "04-30"),
    ]


def test_what_is_charged_first_for_the_user_s_other_subscriptions_is_not_the_change_s() -> None:
    user = user_with(real=100)
    plan = PlanFactory(price=30, cycle=Cycle.EVERY_DAY)
    subscription = subscribed(user, plan, day=date(2026, 4, 1))
    other = subscribed(user, plan, device="8617", day=date(2026, 4, 1))
    changed = change(subscription, PlanFactory(price=5), date(2026, 4, 2), charge_now=True)
    assert [(row.subtype, row.amount) for row in changed.posted] == [
        ("everyday", -1),
        ("monthly", -5),
    ]
    assert Subscription.objects.get(pk=other.pk).charged_through == date(2026, 4, 2)


@pytest.mark.parametrize("charge_now", [True, False])
def test_a_change_first_charges_the_active_day_before_it(charge_now: bool) -> None:
    """Then nothing is paid ahead, so the new plan is charged today even without `charge_now`."""
    user = user_with(real=100)
    subscription = subscribed(user, PlanFactory(cycle=Cycle.ACTIVE_DAY, price=1), day=APRIL_10)
    active(user, APRIL_10)
    changed = change(subscription, PlanFactory(price=5), APRIL_10 + DAY, charge_now=charge_now)
    assert posted(user)[0] == ("activeday", -1, "04-10", "04-10")
    assert changed.subscription.due_on == date(2026, 5, 1)
    assert posted(user)[1:] == [("monthly", -5, "04-11", "04-30")]


def test_a_day_of_a_change_between_plans_by_active_day_is_charged_by_the_new_one() -> None:
    user = user_with(real=100)
    subscription = subscribed(user, PlanFactory(cycle=Cycle.ACTIVE_DAY, price=1), day=APRIL_10)
    active(user, APRIL_10 + DAY)
    change(subscription, PlanFactory(cycle=Cycle.ACTIVE_DAY, price=3), APRIL_10 + DAY)
    run(APRIL_10 + 2 * DAY)
    assert posted(user) == [("activeday", -3, "04-11", "04-11")]


def test_days_recorded_before_the_plan_went_by_them_count_from_the_change_on() -> None:
    user = user_with(real=100)
    subscription = subscribed(user, PlanFactory(price=30), day=date(2026, 4, 1))
    active(user, APRIL_10 - DAY)
    active(user, APRIL_10)
    plan = PlanFactory(cycle=Cycle.ACTIVE_DAY, price=1)
    changed = change(subscription, plan, APRIL_10, pay_back=True)
    assert changed.subscription.due_on == APRIL_10 + DAY
    run(APRIL_10 + DAY)
    assert posted(user)[2:] == [("activeday", -1, "04-10", "04-10")]


def test_a_suspended_subscription_resumes_with_charge_now_and_waits_without() -> None:
    user = user_with(real=10)
    subscription = subscribed(user, PlanFactory(price=30), day=APRIL_10)
    changed = change(subscription, PlanFactory(price=20), APRIL_10 + DAY).subscription
    assert (changed.status, changed.due_on) == ("suspended", APRIL_10 + 2 * DAY)
    changed = change(changed, PlanFactory(price=5), APRIL_10 + DAY, charge_now=True).subscription
    assert (changed.status, changed.status_since) == ("active", APRIL_10 + DAY)
    assert posted(user) == [("monthly", -5, "04-11", "04-30")]


def test_changes_that_make_no_sense_are_refused() -> None:
    user = user_with(real=100)
    plan = PlanFactory()
    subscription = subscribed(user, plan, day=APRIL_10)
    with pytest.raises(errors.SamePlan):
        change(subscription, plan, APRIL_10)
    with pytest.raises(errors.PlanRetired):
        change(subscription, PlanFactory(is_active=False), APRIL_10)
    User.objects.update(is_active=False)
    with pytest.raises(errors.UserDeactivated):
        change(subscription, PlanFactory(), APRIL_10, charge_now=True, pay_back=True)
    assert not change(subscription, PlanFactory(), APRIL_10).posted
    cancel(subscription, APRIL_10)
    with pytest.raises(errors.SubscriptionCancelled) as refusal:
        change(subscription, PlanFactory(), APRIL_10)
    assert refusal.value.data == {"day": "2026-04-10"}
    assert len(posted(user)) == 1


def test_a_plan_that_was_deleted_meanwhile_is_refused_like_a_retired_one() -> None:
    user = user_with(real=100)
    subscription = subscribed(user, PlanFactory(), day=APRIL_10)
    plan = PlanFactory(name="Gone")
    Plan.objects.filter(pk=plan.pk).delete()
    with pytest.raises(errors.PlanRetired):
        subscriptions.start(user, plan, day=APRIL_10, device="8617", **BY_PANEL)
    with pytest.raises(errors.PlanRetired):
        change(subscription, plan, APRIL_10)


# --- Cancelling ---------------------------------------------------------------------------------


def test_a_cancelled_subscription_is_never_charged_again() -> None:
    user = user_with(real=100)
    subscription = subscribed(user, PlanFactory(price=30), day=date(2026, 4, 1))
    cancelled = cancel(subscription, APRIL_10).subscription
    assert (cancelled.status, cancelled.status_since) == ("cancelled", APRIL_10)
    assert not cancelled.is_live
    runs(APRIL_10, date(2026, 5, 2))
    assert len(posted(user)) == 1
    with pytest.raises(errors.SubscriptionCancelled):
        cancel(cancelled, APRIL_10)


def test_a_cancellation_pays_back_what_is_left_if_asked_to() -> None:
    user = user_with(real=100)
    subscription = subscribed(user, PlanFactory(price=30), day=date(2026, 4, 1), device="8617")
    [row] = cancel(subscription, APRIL_10, pay_back=True).posted
    assert (row.subtype, row.amount, row.device) == ("remainder", 21, "8617")


def test_a_cancellation_charges_the_active_days_that_are_outstanding() -> None:
    user = user_with(real=100)
    subscription = subscribed(user, PlanFactory(cycle=Cycle.ACTIVE_DAY, price=1), day=APRIL_10)
    for n in range(3):
        active(user, APRIL_10 + n * DAY)
    cancel(subscription, APRIL_10 + 2 * DAY, pay_back=True)
    assert posted(user) == [("activeday", -1, f"04-{day}", f"04-{day}") for day in (10, 11, 12)]
    assert not ActiveDay.objects.filter(is_charged=False).exists()


def test_a_cancellation_charges_outstanding_days_as_far_as_the_money_goes() -> None:
    user = user_with(real=1, bonus=10)
    subscription = subscribed(user, PlanFactory(cycle=Cycle.ACTIVE_DAY, price=1), day=APRIL_10)
    active(user, APRIL_10)
    active(user, APRIL_10 + DAY)
    assert cancel(subscription, APRIL_10 + DAY).subscription.status == "cancelled"
    assert posted(user) == [("activeday", -1, "04-10", "04-10")]
    assert ledger.balance(user)[:2] == (0, 10)


# --- Active days --------------------------------------------------------------------------------


def by_active_day(user: User, price: str = "0.50", **options: Any) -> Subscription:
    plan = PlanFactory(cycle=Cycle.ACTIVE_DAY, price=price, name=f"Active {price}")
    return subscribed(user, plan, **{"day": date(2026, 4, 6)} | options)


def test_three_active_days_of_a_week_cost_three_times_the_price() -> None:
    user = user_with(real=10)
    by_active_day(user)
    for n in range(8):
        run(date(2026, 4, 6) + n * DAY)
        if n in (0, 2, 6):
            for _ in range(3):
                active(user, date(2026, 4, 6) + n * DAY)
    assert posted(user) == [
        ("activeday", D("-0.5000"), f"04-{day}", f"04-{day}") for day in ("06", "08", "12")
    ]
    first = Transaction.objects.get(user=user, number=2)
    assert first.description == "Plan Active 0.50, active on 6 April 2026"


def test_a_day_is_charged_after_it_is_over() -> None:
    user = user_with(real=10)
    by_active_day(user)
    active(user, APRIL_10)
    run(APRIL_10)
    assert not posted(user)
    run(APRIL_10 + DAY)
    assert len(posted(user)) == 1


def test_an_active_day_makes_a_subscription_due_only_if_that_is_earlier() -> None:
    user = user_with(real=10)
    subscription = by_active_day(user)
    active(user, APRIL_10)
    for later in (APRIL_10, APRIL_10 + DAY):
        assert not due.await_charge_of(now(subscription), later)
    subscription = now(subscription)
    assert due.await_charge_of(subscription, APRIL_10 - DAY)
    assert subscription.due_on == APRIL_10


def test_a_day_that_is_reported_late_is_charged_by_the_next_run_once() -> None:
    user = user_with(real=10)
    subscription = by_active_day(user)
    active(user, APRIL_10)
    run(APRIL_10 + DAY)
    for _ in range(2):
        active(user, APRIL_10 - DAY, today=APRIL_10 + 3 * DAY)
        run(APRIL_10 + 3 * DAY)
    assert [charge[2] for charge in posted(user)] == ["04-10", "04-09"]
    # `charged_through` does not go back.
    assert now(subscription).charged_through == APRIL_10
    assert now(subscription).charge_number == 2


@pytest.mark.parametrize("offset", [-32, -400, 1, 2])
def test_days_to_come_and_days_too_long_ago_are_refused(offset: int) -> None:
    user = user_with(real=10)
    by_active_day(user)
    with pytest.raises(errors.InvalidDay) as refusal:
        active(user, APRIL_10 + offset * DAY, today=APRIL_10)
    assert refusal.value.data["first"] == "2026-03-10"
    assert refusal.value.data["last"] == "2026-04-10"
    assert not ActiveDay.objects.exists()
    active(user, APRIL_10 - 31 * DAY, today=APRIL_10)


def test_a_day_before_the_subscription_is_kept_and_not_charged() -> None:
    user = user_with(real=10)
    by_active_day(user, day=APRIL_10)
    active(user, APRIL_10 - DAY, today=APRIL_10)
    run(APRIL_10 + DAY)
    assert not posted(user)
    assert ActiveDay.objects.filter(is_charged=False).count() == 1


def test_two_devices_of_one_account_make_one_active_day() -> None:
    user = user_with(real=10)
    by_active_day(user)
    active(user, APRIL_10, device="8617")
    active(user, APRIL_10, device="4711")
    run(APRIL_10 + DAY)
    active(user, APRIL_10, device="0815", today=APRIL_10 + DAY)  # reported late
    run(APRIL_10 + 2 * DAY)
    assert len(posted(user)) == 1
    assert ActiveDay.objects.filter(is_charged=True).count() == 3


def test_a_device_s_own_subscription_comes_before_the_account_s() -> None:
    user = user_with(real=10)
    account = by_active_day(user)
    own = by_active_day(user, price="0.20", device="8617")
    assert active(user, APRIL_10, device=" 8617 ").subscription == own
    assert active(user, APRIL_10, device="4711").subscription == account
    run(APRIL_10 + DAY)
    assert sorted(charge[1] for charge in posted(user)) == [D("-0.5000"), D("-0.2000")]


def test_a_day_without_any_subscription_is_kept_and_counts_for_one_that_covers_it() -> None:
    user = user_with(real=10)
    assert active(user, APRIL_10, device="8617").subscription is None
    subscription = by_active_day(user, day=APRIL_10, device="8617")
    assert active(user, APRIL_10, device="8617").subscription == subscription
    run(APRIL_10 + DAY)
    assert len(posted(user)) == 1


def test_nothing_is_owed_for_activity_while_suspended() -> None:
    user = user_with(real="0.30")
    subscription = by_active_day(user)
    active(user, date(2026, 4, 6))
    run(date(2026, 4, 7))
    assert now(subscription).status == "suspended"
    for n in range(3):
        active(user, date(2026, 4, 7) + n * DAY)
    runs(date(2026, 4, 8), APRIL_10)
    ledger.change_balance(user, amount=10, description="Refill", **BY_PANEL)
    run(APRIL_10 + DAY)
    assert (now(subscription).status, posted(user)) == ("active", [])
    active(user, APRIL_10 + DAY)
    active(user, APRIL_10, today=APRIL_10 + DAY)  # reported late, for a day of the suspension
    run(APRIL_10 + 2 * DAY)
    assert [charge[2] for charge in posted(user)] == ["04-11"]


# --- New users ----------------------------------------------------------------------------------


def test_new_users_get_nothing_unless_it_is_set() -> None:
    for _ in range(2):
        user = UserFactory()
        subscriptions.welcome(user, day=APRIL_10, **BY_PANEL)
        assert ledger.balance(user) == (0, 0, 0)
        assert not user.subscriptions.exists()
        UserDefaults.objects.get_or_create(id=1)


def test_new_users_get_what_is_set_once() -> None:
    plan = PlanFactory(price=0)
    defaults = UserDefaults.objects.create(id=1, bonus=5, plan=plan)
    user = UserFactory()
    for bonus in (5, 5, 7):
        defaults.bonus = bonus
        defaults.save()
        subscriptions.welcome(user, day=APRIL_10, **BY_PANEL)
    row = Transaction.objects.get(user=user)
    assert (row.type, row.subtype, row.bonus_amount) == ("bonus_charge", "register", 5)
    assert user.subscriptions.get().plan == plan


def test_a_new_user_without_money_waits_for_the_first_refill() -> None:
    UserDefaults.objects.create(id=1, bonus=50, plan=PlanFactory(price=10))
    user = UserFactory()
    subscriptions.welcome(user, day=APRIL_10, **BY_PANEL)
    assert user.subscriptions.get().status == "suspended"
    assert ledger.balance(user) == (0, 50, 1)


def test_a_retired_plan_and_a_deactivated_user_keep_nobody_from_registering() -> None:
    UserDefaults.objects.create(id=1, bonus=5, plan=PlanFactory(is_active=False))
    user = UserFactory()
    subscriptions.welcome(user, day=APRIL_10, **BY_PANEL)
    assert ledger.balance(user).bonus == 5
    Plan.objects.update(is_active=True)
    inactive = UserFactory(is_active=False)
    subscriptions.welcome(inactive, day=APRIL_10, **BY_PANEL)
    assert inactive.subscriptions.get().status == "suspended", "it goes on with the user"
    assert not user.subscriptions.exists()


# --- Forecasts ----------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.builds(
        PlanFactory.build,
        cycle=cycles,
        proportional_charge=st.booleans(),
        price=st.sampled_from([D(0), D("0.0007"), D("12.55"), D(30)]),
    ),
    st.dates(date(2026, 1, 1), date(2027, 2, 1)),
    st.integers(0, 35),
    st.sampled_from(["none", "change", "pay_back", "charge_now"]),
    st.booleans(),
)
def test_what_is_said_to_come_next_is_what_the_run_then_charges(
    plan: Plan, first: date, later: int, happens: str, is_active: bool
) -> None:
    with ledger.dry_run():
        user = user_with(real=10_000)
        plan.save()
        subscription = subscribed(user, plan, day=first)
        today = first + later * DAY
        run(today)
        if happens != "none":
            change(
                subscription,
                PlanFactory(price=20, proportional_charge=plan.proportional_charge),
                today,
                pay_back=happens == "pay_back",
                charge_now=happens == "charge_now",
            )
        if is_active:
            active(user, today)
        before = len(posted(user))
        coming = forecast.upcoming(now(subscription), today)
        assert coming is not None
        if coming.day is None:
            assert now(subscription).is_by_active_day
            run(today + 40 * DAY)
            expected = []
        else:
            assert coming.day > today
            run(coming.day - DAY)
            assert len(posted(user)) == before
            run(coming.day)
            expected = [coming.amount] if coming.amount else []
        assert [-amount for _, amount, *_ in posted(user)[before:]] == expected


def test_what_comes_next_by_active_day_depends_on_the_device() -> None:
    plan = PlanFactory(price=D("0.5"), cycle=Cycle.ACTIVE_DAY)
    subscription = subscribed(user_with(real=100), plan, day=APRIL_10)
    assert forecast.upcoming(subscription, APRIL_10) == (None, D("0.5"))
    active(subscription.user, APRIL_10)
    subscription.refresh_from_db()
    assert forecast.upcoming(subscription, APRIL_10) == (APRIL_10 + DAY, D("0.5"))


def test_nothing_comes_next_for_what_is_cancelled() -> None:
    subscription = subscribed(user_with(real=100), PlanFactory(price=30), day=APRIL_10)
    assert forecast.upcoming(subscription, APRIL_10) is not None
    assert forecast.upcoming(cancel(subscription, APRIL_10).subscription, APRIL_10) is None


def test_what_comes_next_for_who_waits_is_what_it_would_cost_today() -> None:
    user = user_with(real=1)
    plan = PlanFactory(price="12.55", proportional_charge=True)
    subscription = subscribed(user, plan, day=date(2026, 4, 1))
    assert forecast.upcoming(now(subscription), APRIL_10) == (None, D("8.7850"))
    assert charge_on(APRIL_10, Terms("monthly", D("12.55"), True)).amount == D("8.7850")
    cancel(subscription, APRIL_10)
    assert forecast.upcoming(now(subscription), APRIL_10) is None


def test_what_it_takes_to_resume_is_what_all_suspended_ones_cost_today() -> None:
    user = user_with(real=10)
    thrifty = PlanFactory(price="30", proportional_charge=True)
    subscribed(user, PlanFactory(price="10"), day=date(2026, 4, 1))  # paid, so not counted
    for device in ("Truck 1", "Truck 2"):
        subscribed(user, thrifty, device=device, day=date(2026, 4, 1))
    subscribed(user, PlanFactory(price="7"), device="Truck 3", day=date(2026, 4, 1))
    subscribed(user_with(), thrifty, day=date(2026, 4, 1))  # another user's
    assert forecast.needed_to_resume(user, date(2026, 4, 16)) == (3, 2 * 15 + 7)
    assert forecast.needed_to_resume(UserFactory(), date(2026, 4, 16)) == (0, 0)
