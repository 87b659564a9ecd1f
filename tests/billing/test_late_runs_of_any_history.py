"""Late and missing runs leave the same as a run on each day (G12), for any history of a user.

`Late` and `OnTime` are models of a user in memory. Both live through the same year. `Late` is
charged by `due.CatchUp` whenever a run, a job or an operator comes. `OnTime` is written
independently and as plainly as possible: it makes a run at 00:05 of each day and an attempt after
each refill and activation, each with the money, the prices and the user's status of that moment.
`OnTime` takes one thing from `Late`: a subscription that is suspended for `Late` cannot be used,
so `OnTime` does not try to charge it before the next run or job of `Late`.

At the end, some histories go through the database, with its clock moved. Single cases are in
test_late_runs.py.
"""

import heapq
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import count
from operator import attrgetter
from typing import Any

import pytest

from billing import ledger
from billing.errors import SamePlan
from billing.models import ChargingFailure, ChargingRun, Plan, Subscription, Transaction
from billing.plans import charging, subscriptions
from billing.plans.due import (
    ACTIVE,
    SUSPENDED,
    CatchUp,
    Decision,
    Reported,
    await_charge_of,
    await_money,
    cut_short,
    end,
    put_on_plan,
    reported_in_time,
)
from billing.plans.history import Activated, Moved, Past, Prices, Version
from billing.plans.pricing import Charge, Cycle, charge_on, remainder
from billing.plans.schedule import end_of, run_of
from tests.billing.clock import movable_clock
from tests.billing.histories import BY_PANEL, judge
from tests.factories import PlanFactory, UserFactory, subscribed
from users.models import User

D = Decimal
ZERO = D(0)
DAY = timedelta(days=1)
FIRST, LAST = date(2024, 1, 1), date(2024, 12, 31)
USERS = 400
BY_ACTIVE_DAY = Cycle.ACTIVE_DAY


@dataclass
class Event:
    at: datetime
    what: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class World:
    """A user with money, subscriptions and transactions, and the operations on them."""

    plans: list[Plan]
    real: Decimal = ZERO
    is_active: bool = True
    subscriptions: dict[int, Subscription] = field(default_factory=dict)
    uncharged: dict[int, dict[date, datetime]] = field(default_factory=dict)
    paid: dict[int, list[tuple[int, Charge]]] = field(default_factory=dict)
    rows: list[tuple[int, str, Decimal, date, date]] = field(default_factory=list)
    refused: int = 0

    @property
    def live(self) -> list[Subscription]:
        return [each for each in self.subscriptions.values() if each.is_live]

    def bring_up(self, at: datetime) -> None:
        raise NotImplementedError

    def post(self, pk: int, subtype: str, amount: Decimal, first: date, last: date) -> None:
        if amount:
            self.real += amount
            self.rows.append((pk, subtype, amount, first, last))
            assert self.real >= 0, "nobody pays what is not there"

    def charge(self, subscription: Subscription, charge: Charge) -> None:
        self.post(subscription.pk, subscription.plan.cycle, -charge.amount, charge[0], charge[1])
        if subscription.is_by_active_day:
            del self.uncharged[subscription.pk][charge.first]
        if charge.amount:
            self.paid[subscription.pk].append((len(self.rows), charge))
            if subscription.charged_from == charge.first:
                subscription.charge_number = len(self.rows)

    def mark_paid(self, subscription: Subscription, charge: Charge) -> None:
        if not subscription.is_by_active_day:
            subscription.due_on = charge.last + DAY
        elif subscription.charged_through and subscription.charged_through > charge.last:
            return
        subscription.charged_from, subscription.charged_through, subscription.paid = charge
        subscription.charge_number = None

    def charge_or_wait(self, subscription: Subscription, at: datetime) -> None:
        day = at.date()
        if subscription.is_by_active_day and self.is_active:
            self.await_activity(subscription)
            return
        charge = charge_on(day, subscription.plan.terms)
        if not self.is_active:
            await_money(subscription, day, "user_deactivated")  # type: ignore[arg-type]
        elif charge.amount > self.real:
            await_money(subscription, day, "no_money")  # type: ignore[arg-type]
        else:
            self.mark_paid(subscription, charge)
            self.charge(subscription, charge)

    def await_activity(self, subscription: Subscription) -> None:
        days = self.uncharged[subscription.pk]
        due = [day + DAY for day in days if day >= subscription.accrues_from]
        subscription.due_on = min(due, default=None)

    def charge_active_days(self, subscription: Subscription, before: date) -> None:
        """Charges the reported active days before the day `before` at once."""
        if not subscription.is_by_active_day or subscription.status != ACTIVE:
            return
        for day in sorted(self.uncharged[subscription.pk]):
            if subscription.accrues_from <= day < before and subscription.status == ACTIVE:
                charge = charge_on(day, subscription.plan.terms)
                if self.is_active and charge.amount <= self.real:
                    self.mark_paid(subscription, charge)
                    self.charge(subscription, charge)
                else:
                    self.suspend(subscription, day + DAY)
        if subscription.status == ACTIVE:
            self.await_activity(subscription)

    def suspend(self, subscription: Subscription, day: date) -> None:
        subscription.status, subscription.status_since = SUSPENDED, day
        subscription.suspension_reason = "no_money" if self.is_active else "user_deactivated"
        subscription.due_on = day + DAY

    def pay_back(self, subscription: Subscription, day: date) -> None:
        of_row = D(0)
        left = []
        for number, paid in self.paid[subscription.pk]:
            if paid.last < day:
                left.append((number, paid))
                continue
            amount = remainder(paid, day)
            self.post(subscription.pk, "remainder", amount, max(day, paid.first), paid.last)
            if number == subscription.charge_number:
                of_row = amount
            if paid.first < day:
                left.append((number, Charge(paid.first, day - DAY, paid.amount - amount)))
        self.paid[subscription.pk] = left
        period = subscription.paid_period
        if period is not None and period.last >= day:
            cut_short(subscription, day, of_row)

    # --- Operations ---------------------------------------------------------------------------

    def start(self, at: datetime, pk: int, plan: int) -> None:
        self.bring_up(at)
        day = at.date()
        subscription = Subscription(
            pk=pk, plan=self.plans[plan], status=ACTIVE, started_on=day, plan_since=day,
            status_since=day, created_at=at, paid=D(0),
        )  # fmt: skip
        self.subscriptions[pk] = subscription
        self.uncharged[pk], self.paid[pk] = {}, []
        self.charge_or_wait(subscription, at)
        self.note_status(subscription, at)

    def change(self, at: datetime, pk: int, plan: int, pay_back: bool, charge_now: bool) -> None:
        subscription = self.subscriptions.get(pk)
        if subscription is None or not subscription.is_live:
            return
        self.bring_up(at)
        day, new = at.date(), self.plans[plan]
        if new is subscription.plan:
            return
        ahead = [paid for _, paid in self.paid[pk] if paid.last >= day] if pay_back else []
        there = self.real + sum((remainder(paid, day) for paid in ahead), D(0))
        self.charge_active_days(subscription, day)
        needed = D(0) if new.cycle == BY_ACTIVE_DAY else charge_on(day, new.terms).amount
        if charge_now and (not self.is_active or needed > there):
            self.note_status(subscription, at)
            self.refused += 1
            return
        if pay_back:
            self.pay_back(subscription, day)
        is_charged = put_on_plan(
            subscription,
            new,
            day,
            charge_now=charge_now,
            pay_back=pay_back,
            active_days=reported_in_time(self.uncharged[pk]),
        )
        if is_charged:
            self.charge_or_wait(subscription, at)
        self.note_status(subscription, at)

    def cancel(self, at: datetime, pk: int, pay_back: bool) -> None:
        subscription = self.subscriptions.get(pk)
        if subscription is None or not subscription.is_live:
            return
        self.bring_up(at)
        self.charge_active_days(subscription, at.date())
        if pay_back:
            self.pay_back(subscription, at.date())
        self.charge_active_days(subscription, at.date() + DAY)
        end(subscription, at.date())
        self.note_status(subscription, at)

    def active_day(self, at: datetime, pk: int, back: int) -> None:
        subscription, day = self.subscriptions.get(pk), at.date() - back * DAY
        if subscription is None or not subscription.is_live or (pk, day) in self.known_days:
            return
        self.known_days.add((pk, day))
        self.uncharged[pk][day] = at
        await_charge_of(subscription, day)

    known_days: set[tuple[int, date]] = field(default_factory=set)

    def note_status(self, subscription: Subscription, at: datetime) -> None:
        pass

    def outcome(self) -> list[Any]:
        return [self.rows, self.real, list(map(state, self.subscriptions.values()))]


state = attrgetter(
    "pk", "status", "status_since", "suspension_reason", "plan_since", "term", "charged_from",
    "charged_through", "paid", "charge_number",
)  # fmt: skip


def first_run_to_know(day: date, reported: datetime) -> date:
    known_on = reported.date() if reported <= run_of(reported.date()) else reported.date() + DAY
    return max(day + DAY, known_on)


@dataclass
class Late(World):
    """A user charged by `due.CatchUp`, whenever a run, a job or an operator comes."""

    moved: list[Moved] = field(default_factory=list)
    activated: list[Activated] = field(default_factory=list)
    versions: dict[int, list[Version]] = field(default_factory=dict)
    # Suspensions as the database stores them: subscription, first and last moment.
    held: list[tuple[int, datetime, datetime]] = field(default_factory=list)
    # The moments of runs and jobs. A late run with the effect of a run on time counts as on time.
    came: set[datetime] = field(default_factory=set)

    def copy(self) -> "Late":
        new = copy(self)
        new.subscriptions = {pk: copy(each) for pk, each in self.subscriptions.items()}
        new.uncharged = {pk: dict(each) for pk, each in self.uncharged.items()}
        new.paid = {pk: list(each) for pk, each in self.paid.items()}
        new.rows, new.held, new.came = list(self.rows), list(self.held), set(self.came)
        return new

    def bring_up(self, at: datetime) -> None:
        self.settle(at, resumes=False)

    def settle(self, at: datetime, *, retry: bool = False, resumes: bool = True) -> None:
        day = at.date()
        due = [
            each
            for each in self.live
            if (each.due_on is not None and each.due_on <= day)
            or (retry and each.status == SUSPENDED)
        ]
        settling = CatchUp(
            due,
            through=day,
            past=Past(
                self.real,
                is_active=self.is_active,
                moved=self.moved,
                activated=self.activated,
                until=end_of(day),
            ),
            active_days={
                each.pk: [
                    Reported(active, first_run_to_know(active, reported))
                    for active, reported in sorted(self.uncharged[each.pk].items())
                    if active >= each.accrues_from
                ]
                for each in due
                if each.is_by_active_day
            },
            prices=Prices(self.versions),
        )
        if resumes:
            is_on_time = settling.has_not_changed_since(run_of(day)) and not retry
            self.came.add(run_of(day) if is_on_time and at >= run_of(day) else at)
        posted: list[Decision] = []

        def store() -> None:
            for step in posted:
                if step.charge is not None:
                    self.charge(step.subscription, step.charge)
            posted.clear()
            for each in due:
                self.note_status(each, at)

        for step in settling.decisions(retry=retry, resumes=resumes):
            if step is None:
                store()
            else:
                posted.append(step)
        store()

    def note_status(self, subscription: Subscription, at: datetime) -> None:
        since = subscription.suspended_at
        if subscription.status == SUSPENDED:
            subscription.suspended_at = since or at
        elif since is not None:
            subscription.suspended_at = None
            self.held.append((subscription.pk, since, at))

    def happens(self, event: Event, *, has_workers: bool) -> None:
        wakes = False
        match event.what:
            case "money":
                amount = event.options["amount"]
                if amount < 0:
                    # Takes no more than would be left with charges on time.
                    on_time = self.copy()
                    on_time.bring_up(event.at)
                    amount = max(amount, -on_time.real)
                    event.options["amount"] = amount
                self.real += amount
                if amount:
                    self.moved.append(Moved(event.at, amount))
                wakes = amount > 0
            case "activity":
                wakes = not self.is_active
                self.is_active = not self.is_active
                self.activated.append(Activated(event.at, self.is_active))
            case "price":
                plan = self.plans[event.options["plan"]]
                plan.price = event.options["price"]
                plan.proportional_charge = event.options["proportional"]
                self.versions[plan.pk].append(Version(event.at, plan.terms))
            case operation:
                getattr(self, operation)(event.at, **event.options)
        if wakes and has_workers and any(each.status == SUSPENDED for each in self.live):
            self.settle(event.at, retry=True)


@dataclass
class OnTime(World):
    """A user charged on time, by the plainest rules: only the present state decides."""

    late: Late | None = None

    def bring_up(self, at: datetime) -> None:
        """Does nothing: the run of the day has already come."""

    def is_tried(self, subscription: Subscription, at: datetime) -> bool:
        assert self.late is not None
        if subscription.status != SUSPENDED or at in self.late.came:
            return True
        return not any(
            pk == subscription.pk and since < at <= until for pk, since, until in self.late.held
        )

    def attempt(self, at: datetime, *, retry: bool = False) -> None:
        day = at.date()
        its = [each for each in self.live if self.is_tried(each, at)]
        if retry:
            suspended = [each for each in its if each.status == SUSPENDED]
            if not suspended:
                return
            for each in suspended:
                each.due_on = day
        queue: list[tuple[date, bool, int]] = []

        def enqueue(each: Subscription) -> None:
            due_on = self.due_on(each)
            if due_on is not None and due_on <= day:
                heapq.heappush(queue, (due_on, each.status == SUSPENDED, each.pk))

        for each in its:
            if each.status == SUSPENDED and each.due_on is not None and each.due_on < day:
                each.due_on = day  # nothing is owed for the days between
            enqueue(each)
        while queue:
            _, _, pk = heapq.heappop(queue)
            self.try_to_charge(self.subscriptions[pk], day)
            enqueue(self.subscriptions[pk])

    def due_on(self, each: Subscription) -> date | None:
        if not each.is_by_active_day or each.status == SUSPENDED:
            return each.due_on
        days = self.uncharged[each.pk].items()
        known = [first_run_to_know(*it) for it in days if it[0] >= each.accrues_from]
        return min(known, default=None)

    def try_to_charge(self, each: Subscription, day: date) -> None:
        charge = charge_on(day, each.plan.terms)
        if each.is_by_active_day and each.status == ACTIVE:
            days = self.uncharged[each.pk]
            known = [
                active
                for active, reported in days.items()
                if active >= each.accrues_from and first_run_to_know(active, reported) <= day
            ]
            charge = charge_on(min(known), each.plan.terms)
        if not self.is_active or charge.amount > self.real:
            if each.status == SUSPENDED:
                each.due_on = day + DAY
                each.suspension_reason = "no_money" if self.is_active else "user_deactivated"
            else:
                self.suspend(each, day)
            return
        resumes = each.status == SUSPENDED
        if resumes:
            each.status, each.status_since, each.suspension_reason = ACTIVE, day, ""
        if each.is_by_active_day and resumes:
            return
        self.mark_paid(each, charge)
        self.charge(each, charge)

    def happens(self, event: Event) -> None:
        match event.what:
            case "money":
                self.real += event.options["amount"]
                assert self.real >= 0
                if event.options["amount"] > 0:
                    self.attempt(event.at, retry=True)
            case "activity":
                self.is_active = not self.is_active
                if self.is_active:
                    self.attempt(event.at, retry=True)
            case "price":
                plan = self.plans[event.options["plan"]]
                plan.price = event.options["price"]
                plan.proportional_charge = event.options["proportional"]
            case operation:
                getattr(self, operation)(event.at, **event.options)


# --- Histories ----------------------------------------------------------------------------------


class Life:
    """The events of one user's year, generated from a seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = self.rng = random.Random(seed)
        self.moments: set[datetime] = set()
        self.plans = [self._terms() for _ in range(rng.randint(1, 4))]
        devices = range(1, rng.randint(1, 3) + 1)
        starts = sorted(self._at(0, 60, at_work=True) for _ in devices)
        events = [
            Event(at, "start", {"pk": pk, "plan": self._plan()})
            for pk, at in zip(devices, starts, strict=True)
        ]
        rich = rng.choice([3, 20, 100, 1000])
        events.append(Event(self._at(0, 1), "money", {"amount": self._amount(rich)}))
        for _ in range(rng.randint(0, 12)):
            amount = self._amount(rich) * rng.choice([1, 1, 1, -1])
            events.append(Event(self._at(), "money", {"amount": amount}))
        events += [Event(self._at(), "activity") for _ in range(rng.choice([0, 0, 1, 2, 5]))]
        for _ in range(rng.choice([0, 0, 1, 3])):
            _, price, proportional = self._terms()
            options = {"plan": self._plan(), "price": price, "proportional": proportional}
            events.append(Event(self._at(), "price", options))
        for pk in devices:
            for _ in range(rng.choice([0, 0, 1, 2, 4])):
                options = {
                    "pk": pk,
                    "plan": self._plan(),
                    "pay_back": rng.random() < 0.5,
                    "charge_now": rng.random() < 0.5,
                }
                events.append(Event(self._at(at_work=True), "change", options))
            if rng.random() < 0.3:
                options = {"pk": pk, "pay_back": rng.random() < 0.5}
                events.append(Event(self._at(at_work=True), "cancel", options))
            for _ in range(rng.choice([0, 10, 60])):
                back = rng.choice([0, 0, 0, 0, 1, 2, 9])
                events.append(Event(self._at(), "active_day", {"pk": pk, "back": back}))
        self.events = sorted(events, key=attrgetter("at"))

    def _terms(self) -> tuple[Cycle, Decimal, bool]:
        price = self.rng.choice([D(0), D("0.5"), D(3), D("12.55"), D(30), D(120)])
        return self.rng.choice(list(Cycle)), price, self.rng.random() < 0.5

    def _plan(self) -> int:
        return self.rng.randrange(len(self.plans))

    def _amount(self, rich: int) -> Decimal:
        return D(self.rng.randint(1, rich * 100)) / 100

    def _at(self, first: int = 0, last: int = 365, *, at_work: bool = False) -> datetime:
        """Returns a moment that no other event has, quite often close to the time of the run.

        With `at_work`, as for operators' actions, it is after the run of the day was due.
        """
        while True:
            minutes = self.rng.choice([self.rng.randrange(24 * 60), self.rng.randrange(12)])
            if at_work:
                minutes = max(minutes, 6)
            day = FIRST + self.rng.randint(first, last) * DAY
            at = datetime.combine(day, time(tzinfo=UTC)) + timedelta(
                minutes=minutes, seconds=self.rng.randrange(1, 59)
            )
            if at not in self.moments:
                self.moments.add(at)
                return at

    def runs(self) -> list[datetime]:
        """Returns when runs come: on time, later in the day, or not at all for days or months."""
        rng = self.rng
        share = rng.choice([0.01, 0.05, 0.3, 0.7, 0.95, 1])
        runs = []
        for n in range(366):
            day = FIRST + n * DAY
            if rng.random() < share or day == LAST:
                is_late = share < 1 and rng.random() < 0.3
                late = timedelta(minutes=rng.randrange(1, 24 * 60 - 6), seconds=30)
                runs.append(run_of(day) + (late if is_late else timedelta()))
        return runs

    def make_plans(self) -> list[Plan]:
        return [
            Plan(pk=n, name=f"{n}", cycle=cycle, price=price, proportional_charge=proportional)
            for n, (cycle, price, proportional) in enumerate(self.plans)
        ]


def live(life: Life, *, has_workers: bool, runs: Sequence[datetime]) -> tuple[Late, OnTime]:
    plans = life.make_plans()
    begin = datetime.combine(FIRST, time(tzinfo=UTC))
    late = Late(plans, versions={plan.pk: [Version(begin, plan.terms)] for plan in plans})
    for at, event in in_order(life.events, runs):
        if event is None:
            late.settle(at)
        else:
            late.happens(event, has_workers=has_workers)
    for each in late.live:
        if each.suspended_at is not None:
            late.held.append((each.pk, each.suspended_at, run_of(LAST + DAY)))
    on_time = OnTime(life.make_plans(), late=late)
    every_day = {run_of(FIRST + n * DAY) for n in range(366)}
    for at, event in in_order(life.events, sorted(every_day | late_runs(late, runs))):
        if event is None:
            on_time.attempt(at)
        else:
            on_time.happens(event)
    return late, on_time


def late_runs(late: Late, runs: Iterable[datetime]) -> set[datetime]:
    """Returns `runs` without the late ones that did the same as a run on time."""
    return {at for at in runs if at in late.came}


def in_order(
    events: Iterable[Event], runs: Iterable[datetime]
) -> list[tuple[datetime, Event | None]]:
    both: list[tuple[datetime, Event | None]] = [(event.at, event) for event in events]
    return sorted([*both, *((at, None) for at in runs)], key=lambda each: each[0])


PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_any_thinning_of_daily_runs_leaves_what_daily_runs_leave(part: int) -> None:
    for seed in range(part, USERS, PARTS):
        life = Life(seed)
        late, on_time = live(life, has_workers=seed % 10 > 0, runs=life.runs())
        assert late.outcome() == on_time.outcome(), f"user {seed}"


def test_the_histories_are_of_all_kinds() -> None:
    """Otherwise the test above would prove little."""
    seen: dict[str, int] = {}
    for seed in range(0, USERS, 4):
        life = Life(seed)
        late, _ = live(life, has_workers=True, runs=life.runs())
        for _, subtype, _, _, _ in late.rows:
            seen[subtype] = seen.get(subtype, 0) + 1
        for each in late.subscriptions.values():
            seen[each.status] = seen.get(each.status, 0) + 1
        seen["resumed"] = seen.get("resumed", 0) + len(late.held)
    assert min(seen[kind] for kind in (*Cycle, "remainder", "resumed")) > 20
    assert min(seen[status] for status in ("active", "suspended", "cancelled")) > 20


# --- Through the database -----------------------------------------------------------------------


class InDatabase:
    """The same user in the database, charged by runs and jobs, and changed by operators."""

    def __init__(self, life: Life) -> None:
        self.user = UserFactory()
        self.plans = [
            PlanFactory(cycle=cycle, price=price, proportional_charge=proportional)
            for cycle, price, proportional in life.plans
        ]
        self.subscriptions: dict[int, Subscription] = {}
        self.days: set[tuple[int, date]] = set()

    def live(self, pk: int) -> Subscription | None:
        mine = Subscription.objects.live().filter(pk=self.subscriptions[pk].pk)
        return mine.first() if pk in self.subscriptions else None

    def run(self, at: datetime) -> None:
        for batch in charging.open_run(at, ChargingRun.Start.COMMAND).batches.all():
            list(charging.charge_batch(batch))
        assert not ChargingFailure.objects.exists()

    def happens(self, event: Event) -> None:
        day, its = event.at.date(), event.options
        match event.what:
            case "money" if its["amount"]:
                ledger.change_balance(
                    self.user, amount=its["amount"], description="A change", **BY_PANEL
                )
                self.resume(event.at, its["amount"] > 0)
            case "activity":
                is_active = not User.objects.get(pk=self.user.pk).is_active
                User.objects.filter(pk=self.user.pk).update(is_active=is_active)
                self.resume(event.at, is_active)
            case "price":
                Plan.objects.filter(pk=self.plans[its["plan"]].pk).update(
                    price=its["price"], proportional_charge=its["proportional"]
                )
            case "start":
                plan, device = self.plans[its["plan"]], f"{its['pk']}"
                self.subscriptions[its["pk"]] = subscribed(self.user, plan, day=day, device=device)
            case "change" if its["pk"] in self.subscriptions and (live := self.live(its["pk"])):
                with suppress(SamePlan):
                    subscriptions.change_plan(
                        live,
                        self.plans[its["plan"]],
                        day=day,
                        pay_back=its["pay_back"],
                        charge_now=its["charge_now"],
                        **BY_PANEL,
                    )
            case "cancel" if its["pk"] in self.subscriptions and (live := self.live(its["pk"])):
                subscriptions.cancel(live, day=day, pay_back=its["pay_back"], **BY_PANEL)
            case "active_day" if its["pk"] in self.subscriptions and self.live(its["pk"]):
                active, device = day - its["back"] * DAY, f"{its['pk']}"
                subscriptions.record_active_day(self.user, device=device, day=active, today=day)

    def resume(self, at: datetime, is_tried: bool) -> None:
        """Does the job that the database's triggers queue."""
        if is_tried and self.user.subscriptions.filter(status=SUSPENDED).exists():
            charging.resume(self.user.pk, at)

    def rows(self) -> list[tuple[int, str, Decimal, date, date]]:
        pks = {each.pk: pk for pk, each in self.subscriptions.items()}
        return [
            (
                pks[row.metadata["subscription"]],
                row.subtype,
                row.amount,
                date.fromisoformat(row.metadata["from"]),
                date.fromisoformat(row.metadata["through"]),
            )
            for row in Transaction.objects.filter(user=self.user, type="main_charge").order_by(
                "number"
            )
        ]


def seeds_for_the_database(number: int) -> Iterator[int]:
    """Yields seeds of histories of medium length without refused changes.

    The database rolls back a refused change as a whole; `Late` keeps the charges made for it.
    """
    for seed in count(1000):
        life = Life(seed)
        late, _ = live(life, has_workers=True, runs=life.runs())
        if not late.refused and 10 < len(late.rows) < 120 and len(life.runs()) < 130:
            yield seed
            number -= 1
            if not number:
                return


@pytest.mark.django_db
def test_the_database_keeps_all_that_this_takes() -> None:
    for seed in seeds_for_the_database(5):
        life = Life(seed)
        runs = life.runs()
        late, _ = live(life, has_workers=True, runs=runs)
        with (
            ledger.dry_run(),
            movable_clock(datetime.combine(FIRST, time(tzinfo=UTC))) as clock,
        ):
            real = InDatabase(life)
            for at, event in in_order(life.events, runs):
                clock(at)
                if event is None:
                    real.run(at)
                else:
                    real.happens(event)
            assert real.rows() == late.rows, f"user {seed}"
            judge()
