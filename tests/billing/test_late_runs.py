"""A late run leaves the same as daily runs on time, for days on which the service could be used.

These are single cases, with the database and its clock. test_late_runs_of_any_history.py tries
random histories with runs on random days.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError, transaction

from billing import ledger
from billing.models import (
    Activation,
    ChargingRun,
    Plan,
    PlanTerms,
    Subscription,
    Transaction,
    WebhookEndpoint,
    WebhookEvent,
)
from billing.plans import charging, forecast, posting, subscriptions
from billing.plans.pricing import Cycle
from tests.billing.clock import movable_clock
from tests.billing.histories import BY_PANEL, execute, judge
from tests.factories import (
    PlanFactory,
    UserFactory,
    charge_price,
    pay_back,
    subscribed,
    user_with,
)
from users.models import User

pytestmark = pytest.mark.django_db

D = Decimal
DAY = timedelta(days=1)
Clock = Callable[..., None]


def moment(month: int, day: int, hour: int = 0, minute: int = 5, year: int = 2024) -> datetime:
    return datetime(year, month, day, hour, minute, tzinfo=UTC)


@pytest.fixture
def clock() -> Iterator[Clock]:
    """`clock(4, 6, 12)` sets the clock to 12:05 on 6 April 2024. It starts on 1 March at 00:05."""
    with movable_clock(moment(3, 1)) as put:
        yield lambda *when: put(moment(*when))


def run(clock: Clock, month: int, *days: int, year: int = 2024) -> list[ChargingRun]:
    runs = []
    for day in days:
        at = moment(month, day, year=year)
        clock(month, day, 0, 5, year)
        run = charging.open_run(at, ChargingRun.Start.COMMAND)
        for batch in run.batches.all():
            list(charging.charge_batch(batch))
        run.refresh_from_db()
        assert not run.failed
        runs.append(run)
    return runs


def run_at(month: int, day: int, hour: int = 0, minute: int = 5) -> None:
    """Runs charging as of this moment, without setting the clock."""
    run = charging.open_run(moment(month, day, hour, minute), ChargingRun.Start.COMMAND)
    for batch in run.batches.all():
        list(charging.charge_batch(batch))


def job(user: User, *when: int) -> None:
    """Does what the job after a refill or an activation does."""
    charging.resume(user.pk, moment(*when))


def refill(user: User, amount: int | str = 100) -> None:
    ledger.change_balance(user, amount=amount, description="A refill", **BY_PANEL)


def set_active(user: User, is_active: bool) -> None:
    User.objects.filter(pk=user.pk).update(is_active=is_active)


def posted(user: User) -> list[tuple[str, Decimal, str, str]]:
    rows = Transaction.objects.filter(user=user, type="main_charge").order_by("number")
    return [(t.subtype, t.amount, t.metadata["from"][5:], t.metadata["through"][5:]) for t in rows]


def days(user: User) -> list[str]:
    return [first for _, _, first, _ in posted(user)]


def now(subscription: Subscription) -> Subscription:
    return Subscription.objects.select_related("plan", "user").get(pk=subscription.pk)


def by_day(user: User, day: date = date(2024, 4, 1), **options: Any) -> Subscription:
    return subscribed(user, PlanFactory(price=30, cycle=Cycle.EVERY_DAY), day=day, **options)


# --- Users who are deactivated between runs -----------------------------------------------------


def test_days_of_deactivation_cost_nothing_however_late_the_run(clock: Clock) -> None:
    user = user_with(real=100)
    clock(4, 1, 10)
    by_day(user)
    run(clock, 4, *range(2, 7))
    clock(4, 6, 15)
    set_active(user, False)
    clock(4, 20, 9)
    set_active(user, True)
    run(clock, 4, 21)
    assert days(user) == ["04-01", "04-02", "04-03", "04-04", "04-05", "04-06", "04-20", "04-21"]


def test_who_is_deactivated_during_a_day_has_paid_for_it(clock: Clock) -> None:
    user = user_with(real=100)
    clock(4, 1, 10)
    subscription = by_day(user)
    clock(4, 4, 15)
    set_active(user, False)
    run(clock, 4, 10)
    assert days(user) == ["04-01", "04-02", "04-03", "04-04"]
    suspended = now(subscription)
    assert (suspended.status, suspended.status_since) == ("suspended", date(2024, 4, 5))
    assert suspended.suspension_reason == "user_deactivated"
    assert suspended.suspended_at == moment(4, 10)


def test_who_is_deactivated_before_the_run_of_a_day_does_not_pay_for_it(clock: Clock) -> None:
    user = user_with(real=100)
    clock(4, 1, 10)
    by_day(user)
    clock(4, 3, 0, 4)
    set_active(user, False)
    clock(4, 3, 0, 6)
    set_active(user, True)
    run(clock, 4, 4)
    # As if a run had suspended it at 00:05, and the job after the activation had resumed it.
    assert days(user) == ["04-01", "04-02", "04-03", "04-04"]
    assert Subscription.objects.get().status_since == date(2024, 4, 3)


def test_activations_are_noted_however_the_user_is_changed(clock: Clock) -> None:
    user = UserFactory()
    execute("UPDATE users_user SET is_active = false WHERE id = %s", [user.pk])
    user.refresh_from_db()
    user.first_name = "Grace"
    user.save()
    clock(3, 2)
    user.is_active = True
    user.save()
    noted = Activation.objects.filter(user=user).values_list("is_active", "at")
    assert list(noted) == [(False, moment(3, 1)), (True, moment(3, 2))]


def test_a_user_who_has_always_been_deactivated_owes_nothing(clock: Clock) -> None:
    user = user_with(real=100, is_active=False)
    subscription = by_day(user)
    assert now(subscription).suspension_reason == "user_deactivated"
    run(clock, 4, 20)
    assert days(user) == []
    clock(4, 22, 12)
    set_active(user, True)
    job(user, 4, 22, 12)
    assert days(user) == ["04-22"]


# --- Users who have no money between runs -------------------------------------------------------


@pytest.mark.parametrize("refilled", [(4, 2, 10), (4, 3, 10), (4, 15, 23)])
def test_nothing_is_owed_while_the_database_says_suspended(
    clock: Clock, refilled: tuple[int, int, int]
) -> None:
    """Neither a job nor a run came after the refill. The late run charges from its own day on."""
    user = user_with(real=1)
    clock(4, 1, 10)
    by_day(user)
    run(clock, 4, 2)
    clock(*refilled)
    refill(user)
    run(clock, 4, 20)
    assert days(user) == ["04-01", "04-20"]


def test_a_lower_price_while_the_database_says_suspended_counts_from_the_run_on(
    clock: Clock,
) -> None:
    user = user_with(real="1.50")
    clock(4, 1, 10)
    by_day(user)
    run(clock, 4, 2)
    clock(4, 6, 12)
    Plan.objects.update(price=3)
    run(clock, 4, 20)
    assert posted(user)[1:] == [("everyday", D("-0.1"), "04-20", "04-20")]


def test_what_could_be_used_while_nothing_ran_is_suspended_and_resumed_as_on_time(
    clock: Clock,
) -> None:
    WebhookEndpoint.objects.create(
        name="Platform",
        url="https://example.com/hook",
        events=["subscription.suspended", "subscription.resumed"],
    )
    user = user_with(real=2)
    clock(4, 1, 10)
    subscription = by_day(user)
    clock(4, 10, 16)
    refill(user, 3)
    [late] = run(clock, 4, 20)
    assert days(user) == ["04-01", "04-02", "04-10", "04-11", "04-12"]
    assert (late.charged, late.suspended, late.resumed, late.total) == (4, 2, 1, 4)
    suspended = now(subscription)
    assert suspended.status_since == date(2024, 4, 13)
    assert suspended.suspended_at == moment(4, 20)
    told = WebhookEvent.objects.order_by("id").values_list("type", "data")
    said = [
        (kind, it["subscription"]["status_since"], it["subscription"]["suspension_reason"])
        for kind, it in told
    ]
    assert said == [
        ("subscription.suspended", "2024-04-03", "no_money"),
        ("subscription.resumed", "2024-04-10", None),
        ("subscription.suspended", "2024-04-13", "no_money"),
    ]


def test_a_job_that_comes_days_after_its_refill_resumes_as_of_the_refill(clock: Clock) -> None:
    user = user_with(real=2)
    clock(4, 1, 10)
    by_day(user)
    clock(4, 10, 16)
    refill(user, 3)
    clock(4, 12, 12)
    job(user, 4, 12, 12)
    assert days(user) == ["04-01", "04-02", "04-10", "04-11", "04-12"]


def test_a_refill_on_the_day_that_it_was_missed_pays_that_day(clock: Clock) -> None:
    user = user_with(real=1)
    clock(4, 1, 10)
    by_day(user)
    clock(4, 2, 12)
    refill(user, 2)
    run(clock, 4, 20)
    assert days(user) == ["04-01", "04-02", "04-03"]


def test_money_that_is_spent_since_was_not_there(clock: Clock) -> None:
    user = user_with(real=3)
    clock(4, 1, 10)
    by_day(user)
    clock(4, 8, 12)
    ledger.change_balance(user, amount="-1.50", description="A correction", **BY_PANEL)
    run(clock, 4, 20)
    # The balance was 2.00 on 2 April, but only 0.50 of it is left. So it was suspended that day.
    assert days(user) == ["04-01"]
    assert ledger.balance(user).real == D("0.50")
    assert Subscription.objects.get().status_since == date(2024, 4, 2)


def test_missed_days_cost_what_they_cost_then(clock: Clock) -> None:
    user = user_with(real=100)
    clock(4, 1, 10)
    by_day(user)
    clock(4, 3, 12)
    Plan.objects.update(price=60)
    clock(4, 5, 0, 4)
    Plan.objects.update(price=90)
    run(clock, 4, 6)
    assert [amount for _, amount, _, _ in posted(user)] == [-1, -1, -1, -2, -3, -3]


def test_money_that_comes_before_the_run_of_a_day_has_nobody_charged_before_it(
    clock: Clock,
) -> None:
    user = user_with(real=100)
    clock(4, 1, 10)
    subscription = by_day(user)
    clock(4, 3, 0, 2)
    refill(user)
    clock(4, 3, 0, 3)
    Plan.objects.filter(pk=subscription.plan_id).update(price=60)
    clock(4, 5, 12)
    refill(user)
    run(clock, 4, 6)
    assert [(first, -amount) for _, amount, first, _ in posted(user)] == [
        *[("04-01", 1), ("04-02", 1)],
        *[("04-03", 2), ("04-04", 2), ("04-05", 2), ("04-06", 2)],
    ]


def test_what_plans_cost_is_noted_however_they_are_changed(clock: Clock) -> None:
    plan = PlanFactory(price=10)
    clock(3, 2)
    execute("UPDATE billing_plan SET proportional_charge = true WHERE id = %s", [plan.pk])
    plan.refresh_from_db()
    plan.name = "Another name"
    plan.save()
    clock(3, 3)
    plan.price = D(12)
    plan.save()
    noted = PlanTerms.objects.filter(plan=plan).values_list("price", "proportional_charge", "at")
    assert list(noted) == [
        (10, False, moment(3, 1)),
        (10, True, moment(3, 2)),
        (12, True, moment(3, 3)),
    ]


@pytest.mark.as_owner  # other roles may not even try
@pytest.mark.parametrize("table", ["billing_activation", "billing_planterms"])
@pytest.mark.parametrize("what", ["DELETE FROM {}", "UPDATE {} SET at = now()", "TRUNCATE {}"])
def test_moments_are_append_only(table: str, what: str) -> None:
    set_active(UserFactory(), False)
    PlanFactory()
    judge()
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        execute(what.format(table))


# --- Runs in parts ------------------------------------------------------------------------------


def test_a_late_run_may_be_done_in_parts(clock: Clock) -> None:
    """Running `--at` earlier days first leaves the same state as one run for the last day."""
    outcomes = []
    for parts in ([(4, 20)], [(4, 5), (4, 20)], [(4, 4), (4, 10), (4, 12), (4, 20)]):
        with ledger.dry_run():
            clock(3, 1)
            user = user_with(real=2)
            clock(4, 1, 10)
            by_day(user)
            clock(4, 10, 16)
            refill(user, 3)
            clock(4, 20, 0, 6)
            for month, day in parts:
                run_at(month, day)
            state = Subscription.objects.filter(user=user).values_list(
                "status", "status_since", "due_on", "charged_through"
            )
            outcomes.append((posted(user), list(state)))
    assert outcomes[1:] == outcomes[:1] * 2


def test_a_part_of_a_run_that_is_done_days_later_does_what_it_would_have_done(
    clock: Clock,
) -> None:
    user = user_with(real=1)
    clock(4, 1, 10)
    by_day(user)
    late = charging.open_run(moment(4, 2), ChargingRun.Start.SCHEDULE)
    clock(4, 4, 12)
    refill(user)
    clock(4, 5, 12)
    list(charging.charge_batch(late.batches.get()))
    assert Subscription.objects.get().status_since == date(2024, 4, 2)
    run(clock, 4, 6)
    assert days(user) == ["04-01", "04-04", "04-05", "04-06"]


def test_a_run_later_in_the_day_charges_as_the_one_at_five_past_midnight(clock: Clock) -> None:
    user = user_with(real=100)
    clock(4, 1, 10)
    by_day(user)
    clock(4, 2, 9)
    Plan.objects.update(price=60)
    clock(4, 2, 14)
    run_at(4, 2, 14)
    assert posted(user)[-1] == ("everyday", -1, "04-02", "04-02")


# --- Operators who act before the run of the day ------------------------------------------------


def change(subscription: Subscription, plan: Plan, day: date, **options: Any) -> Any:
    options = {"pay_back": False, "charge_now": False} | options
    return subscriptions.change_plan(subscription, plan, day=day, **BY_PANEL, **options)


@pytest.mark.parametrize("run_first", [True, False])
@pytest.mark.parametrize(
    ("cycle", "next_charge"), [(Cycle.MONTHLY, "05-01"), (Cycle.ANNUAL, "01-01")]
)
def test_after_paying_back_the_new_plan_is_charged_strictly_after_the_day_of_the_change(
    clock: Clock, run_first: bool, cycle: Cycle, next_charge: str
) -> None:
    user = user_with(real=1000)
    clock(4, 1, 10)
    subscription = by_day(user)
    run(clock, 4, *range(2, 10))
    if run_first:
        run(clock, 4, 10)
    clock(4, 10, 11)
    changed = change(
        now(subscription), PlanFactory(price=30, cycle=cycle), date(2024, 4, 10), pay_back=True
    )
    assert now(subscription).due_on.isoformat()[5:] == next_charge
    run(clock, 4, 10, 11, 30)
    assert posted(user)[9:] == [
        ("everyday", -1, "04-10", "04-10"),
        ("remainder", 1, "04-10", "04-10"),
    ]
    assert len(changed.posted) == (1 if run_first else 2)
    run(clock, 5, 1)
    run(clock, 1, 1, year=2025)
    assert days(user)[11] == next_charge


@pytest.mark.parametrize(
    ("cycle", "price", "through"),
    [(Cycle.ANNUAL, 120, "12-31"), (Cycle.MONTHLY, 30, "02-29"), (Cycle.EVERY_DAY, 29, "02-23")],
)
def test_no_day_is_free_after_a_plan_that_is_not_paid_ahead(
    clock: Clock, cycle: Cycle, price: int, through: str
) -> None:
    clock(2, 1)
    user = user_with(real=1000)
    plan = PlanFactory(price=1, cycle=Cycle.ACTIVE_DAY)
    subscription = subscribed(user, plan, day=date(2024, 2, 1))
    clock(2, 23, 12)
    new = PlanFactory(price=price, cycle=cycle)
    changed = change(subscription, new, date(2024, 2, 23)).subscription
    run(clock, 2, 24, 29)
    assert posted(user)[0][2:] == ("02-23", through)
    assert changed.plan_since == date(2024, 2, 23)


def test_a_plan_that_cannot_be_paid_from_the_day_of_the_change_on_waits_for_money(
    clock: Clock,
) -> None:
    clock(2, 1)
    user = user_with(real=10)
    plan = PlanFactory(price=1, cycle=Cycle.ACTIVE_DAY)
    subscription = subscribed(user, plan, day=date(2024, 2, 1))
    clock(2, 23, 12)
    annual = PlanFactory(price=120, cycle=Cycle.ANNUAL)
    changed, rows = change(subscription, annual, date(2024, 2, 23))
    assert (changed.status, changed.suspension_reason, rows) == ("suspended", "no_money", [])


def test_what_operators_do_first_charges_all_that_the_runs_would_have_charged(
    clock: Clock,
) -> None:
    """This includes the user's other subscriptions that were due before."""
    outcomes = []
    for runs in ([2, 3, 4], []):
        with ledger.dry_run():
            clock(3, 1)
            user = user_with(real=13)
            clock(4, 1, 10)
            first = by_day(user)
            by_day(user, device="8617")
            run(clock, 4, *runs)
            clock(4, 4, 13)
            subscribed(user, PlanFactory(price=4), day=date(2024, 4, 4), device="4711")
            change(now(first), PlanFactory(price=1), date(2024, 4, 4), charge_now=True)
            rows = Transaction.objects.filter(user=user).order_by("number")
            outcomes.append([(t.amount, t.channel, t.metadata.get("from")) for t in rows])
    assert outcomes[0] == outcomes[1]
    assert [channel for _, channel, _ in outcomes[0]] == (
        ["import", "panel", "panel"] + ["charging"] * 6 + ["panel", "panel"]
    )


def test_a_cancellation_charges_the_day_whose_run_has_not_come(clock: Clock) -> None:
    user = user_with(real=100)
    clock(4, 1, 10)
    subscription = subscribed(user, PlanFactory(price=10), day=date(2024, 4, 1))
    clock(5, 1, 10)
    subscriptions.cancel(subscription, day=date(2024, 5, 1), pay_back=True, **BY_PANEL)
    assert posted(user)[1:] == [
        ("monthly", -10, "05-01", "05-31"),
        ("remainder", 10, "05-01", "05-31"),
    ]


# --- Active days --------------------------------------------------------------------------------


def active(user: User, day: date, today: date) -> None:
    subscriptions.record_active_day(user, device="", day=day, today=today)


def test_a_second_active_day_does_not_put_the_charge_of_the_first_off(clock: Clock) -> None:
    clock(4, 1, 10)
    user = user_with(real=100)
    plan = PlanFactory(price=1, cycle=Cycle.ACTIVE_DAY)
    subscription = subscribed(user, plan, day=date(2024, 4, 1))
    for n in range(1, 6):
        clock(4, n, 12)
        active(user, date(2024, 4, n), date(2024, 4, n))
        assert now(subscription).due_on == date(2024, 4, 2)
    run(clock, 4, 5)
    assert days(user) == ["04-01", "04-02", "04-03", "04-04"]


def test_days_reported_late_are_charged_when_the_run_on_time_would_have_known_of_them(
    clock: Clock,
) -> None:
    """On 3 April there was no money for 2 April. It was reported on the 5th, when there was."""
    outcomes = []
    for runs in (range(2, 9), [8]):
        with ledger.dry_run():
            clock(4, 1, 10)
            user = UserFactory()
            plan = PlanFactory(price=1, cycle=Cycle.ACTIVE_DAY)
            subscribed(user, plan, day=date(2024, 4, 1))
            run(clock, 4, *[n for n in runs if n < 5])
            clock(4, 4, 9)
            refill(user)
            clock(4, 5, 12)
            active(user, date(2024, 4, 2), date(2024, 4, 5))
            run(clock, 4, *[n for n in runs if n > 5])
            outcomes.append((days(user), Subscription.objects.get(user=user).status_since))
    assert outcomes == [(["04-02"], date(2024, 4, 1))] * 2


# --- Paying back --------------------------------------------------------------------------------


def test_a_change_of_plan_charges_a_day_that_was_reported_after_the_run_of_today(
    clock: Clock,
) -> None:
    user = user_with(real=100)
    clock(4, 1, 10)
    plan = PlanFactory(price=1, cycle=Cycle.ACTIVE_DAY)
    subscription = subscribed(user, plan, day=date(2024, 4, 1))
    clock(4, 10, 12)
    reported = {"device": "", "day": date(2024, 4, 9), "today": date(2024, 4, 10)}
    subscriptions.record_active_day(user, **reported)
    changed = subscriptions.change_plan(
        now(subscription),
        PlanFactory(price=30),
        day=date(2024, 4, 10),
        pay_back=False,
        charge_now=True,
        **BY_PANEL,
    )
    assert posted(user) == [
        ("activeday", -1, "04-09", "04-09"),
        ("monthly", -30, "04-10", "04-30"),
    ]
    assert [row.amount for row in changed.posted] == [-1, -30]


def test_all_plans_that_were_paid_for_today_and_later_are_paid_back(clock: Clock) -> None:
    user = user_with(real=200)
    clock(4, 1, 10)
    subscription = subscribed(user, PlanFactory(name="A", price=30), day=date(2024, 4, 1))
    clock(4, 11, 10)
    change(subscription, PlanFactory(name="B", price=60), date(2024, 4, 11), charge_now=True)
    clock(4, 16, 10)
    ahead = forecast.paid_ahead(now(subscription), date(2024, 4, 16))
    assert [(each.number, each.plan.name, each.rest.amount) for each in ahead] == [
        (2, "A", 15),
        (3, "B", 45),
    ]
    cancelled = subscriptions.cancel(
        now(subscription), day=date(2024, 4, 16), pay_back=True, **BY_PANEL
    )
    assert [(row.amount, row.metadata["charge"]) for row in cancelled.posted] == [(15, 2), (45, 3)]
    assert [row.description for row in cancelled.posted] == [
        "Remainder of plan A, 16–30 April 2024",
        "Remainder of plan B, 16–30 April 2024",
    ]
    assert not forecast.paid_ahead(now(subscription), date(2024, 4, 16))


def test_a_remainder_that_does_not_say_of_which_charge_is_of_the_one_whose_days_it_ends(
    clock: Clock,
) -> None:
    """Older remainders do not name their charge."""
    user = user_with(real=200)
    clock(4, 1, 10)
    first, second = PlanFactory(name="A", price=30), PlanFactory(name="B", price=60)
    subscription = subscribed(user, first, day=date(2024, 4, 1))
    clock(4, 11, 10)
    change(subscription, second, date(2024, 4, 11), charge_now=True)

    def unnamed(amount: int, plan: Plan, month: int, last: int) -> None:
        days = {"from": f"2024-{month:02}-16", "through": f"2024-{month:02}-{last}"}
        said = {"subscription": subscription.pk, "plan": plan.pk} | days
        pay_back(user, amount=amount, description="Paid back", metadata=said, **BY_PANEL)

    def left() -> list[tuple[int, Decimal]]:
        ahead = forecast.paid_ahead(now(subscription), date(2024, 4, 12))
        return [(each.number, each.rest.amount) for each in ahead]

    assert left() == [(2, 19), (3, 57)]
    # A remainder with another plan or another last day belongs to no charge.
    unnamed(1, PlanFactory(name="C"), 4, 30)
    unnamed(1, first, 5, 31)
    assert left() == [(2, 19), (3, 57)]
    unnamed(15, first, 4, 30)
    assert left() == [(2, 4), (3, 57)]
    unnamed(45, second, 4, 30)
    assert left() == [(2, 4), (3, 12)]
    # A remainder only belongs to a charge before it.
    said = {"subscription": subscription.pk, "plan": first.pk}
    said |= {"from": "2024-04-12", "through": "2024-04-30"}
    later = charge_price(
        user, cycle="monthly", price=19, description="Again", metadata=said, **BY_PANEL
    )
    assert left() == [(2, 4), (3, 12), (later.number, 19)]


def test_a_remainder_that_says_of_which_charge_is_of_no_other(clock: Clock) -> None:
    user = user_with(real=200)
    clock(4, 1, 10)
    plan = PlanFactory(price=30)
    subscription = subscribed(user, plan, day=date(2024, 4, 1))
    said = {"subscription": subscription.pk, "plan": plan.pk}
    said |= {"from": "2024-04-11", "through": "2024-04-30"}
    words = {"description": "By hand", **BY_PANEL}
    later = charge_price(user, cycle="monthly", price=20, metadata=said, **words)
    named = {"metadata": said | {"from": "2024-04-21", "charge": later.number}}
    pay_back(user, amount=10, **named, **words)
    ahead = forecast.paid_ahead(now(subscription), date(2024, 4, 12))
    assert [(each.number, each.rest.amount) for each in ahead] == [(2, 19), (later.number, 9)]


@pytest.mark.parametrize(
    ("hour", "minute", "due"), [(0, 4, 12), (0, 5, 12), (0, 6, 13), (23, 59, 13)]
)
def test_a_day_is_known_to_the_first_run_after_its_report(
    clock: Clock, hour: int, minute: int, due: int
) -> None:
    user = user_with(real=10)
    clock(4, 1)
    plan = PlanFactory(price=1, cycle=Cycle.ACTIVE_DAY)
    subscription = subscribed(user, plan, day=date(2024, 4, 1))
    clock(4, 12, hour, minute)
    subscriptions.record_active_day(user, device="", day=date(2024, 4, 10), today=date(2024, 4, 12))
    days = posting.unpaid_active_days([now(subscription)], moment(4, 20))
    assert [tuple(each) for each in days[subscription.pk]] == [
        (date(2024, 4, 10), date(2024, 4, due))
    ]


def test_all_periods_that_were_paid_for_today_and_later_are_paid_back(clock: Clock) -> None:
    user = user_with(real=200)
    clock(4, 1, 10)
    subscription = subscribed(user, PlanFactory(price=30), day=date(2024, 4, 1))
    clock(4, 20, 9)
    run_at(5, 1)
    subscriptions.cancel(now(subscription), day=date(2024, 4, 20), pay_back=True, **BY_PANEL)
    assert posted(user)[2:] == [
        ("remainder", 11, "04-20", "04-30"),
        ("remainder", 30, "05-01", "05-31"),
    ]


def test_what_was_paid_back_or_reversed_is_not_paid_back_again(clock: Clock) -> None:
    user = user_with(real=200)
    clock(4, 1, 10)
    subscription = subscribed(user, PlanFactory(price=30), day=date(2024, 4, 1))
    clock(4, 11, 10)
    second = PlanFactory(price=60)
    change(subscription, second, date(2024, 4, 11), charge_now=True)
    clock(4, 16, 10)
    change(
        now(subscription), PlanFactory(price=3), date(2024, 4, 16), pay_back=True, charge_now=True
    )
    assert [amount for _, amount, _, _ in posted(user)] == [-30, -60, 15, 45, -3]
    # The remainder of charge 2 is reversed, so its days can be paid back again. Charge 6 is
    # reversed as a whole, so nothing of it can be paid back.
    ledger.reverse(user, number=4, description="Paid back in error", **BY_PANEL)
    ledger.reverse(user, number=6, description="Charged in error", **BY_PANEL)
    ahead = forecast.paid_ahead(now(subscription), date(2024, 4, 21))
    assert [(each.number, each.rest.amount) for each in ahead] == [(2, 10)]
