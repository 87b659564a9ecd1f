"""Starting, changing, cancelling and paying for subscriptions.

`settle` is the heart: what falls due up to a day, in order, and what becomes of it. Operators'
actions here and the runs (`billing.charging`) both go through it, so a subscription costs the
same whoever looks at it, and whenever.

Common to all that write:

- They hold the user's balance meanwhile, so that nobody else changes the user's money or
  subscriptions; and are one database transaction, or a part of the caller's.
- Days are UTC days, and arguments: nothing here reads a clock.
- `actor` and `channel` are as in `billing.ledger`. Refusals are BillingErrors; nothing has changed
  then.
"""

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple

from django.db import connection, transaction
from django.db.models import Count, Min
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Greatest

from billing import ledger, moments
from billing.counters import counts_refusals
from billing.errors import (
    IdempotencyConflict,
    InsufficientFunds,
    InvalidDay,
    PlanRetired,
    SamePlan,
    SubscriptionCancelled,
    SubscriptionExists,
    UserDeactivated,
)
from billing.models import ActiveDay, Channel, Plan, Subscription, Transaction, UserDefaults
from billing.moments import FOREVER, Past, Prices
from billing.money import ZERO
from billing.pricing import Charge, Terms, charge_on, format_period, next_period, remainder
from billing.reports import RUN_TIME
from users.models import User

DAY: Final = timedelta(days=1)
INSTANT: Final = timedelta(microseconds=1)
NEVER: Final = datetime.min.replace(tzinfo=UTC)
# Devices report late, but not for ever.
ACTIVE_DAYS_BACK: Final = 31

ACTIVE: Final = Subscription.Status.ACTIVE
SUSPENDED: Final = Subscription.Status.SUSPENDED
CANCELLED: Final = Subscription.Status.CANCELLED
NO_MONEY: Final = Subscription.SuspensionReason.NO_MONEY
USER_DEACTIVATED: Final = Subscription.SuspensionReason.USER_DEACTIVATED


class Changed(NamedTuple):
    """A subscription after an operation, and what was posted for it, in order."""

    subscription: Subscription
    posted: Sequence[Transaction]


# --- What can happen to a subscription ----------------------------------------------------------


@counts_refusals
@transaction.atomic
def start(
    user: User,
    plan: Plan,
    *,
    day: date,
    actor: User | None,
    channel: Channel,
    device: str = "",
    wait_for_money: bool = False,
) -> Changed:
    """Subscribes `user`, or one device of the user's, to `plan` from `day` on, and charges it.

    Raises InsufficientFunds if the first charge cannot be paid, and UserDeactivated; with
    `wait_for_money` the subscription is suspended instead, until it can be paid and the user is
    active. Raises PlanRetired and SubscriptionExists.
    """
    _bring_up_user(user.pk, day)
    plan = _offered(plan)
    device = ledger.checked_device(device)
    is_active = User.objects.filter(pk=user.pk, is_active=True).exists()
    if not is_active and not wait_for_money:
        raise UserDeactivated(user_id=user.pk)
    existing = Subscription.objects.live().filter(user=user, device=device).first()
    if existing is not None:
        raise SubscriptionExists(device=device, plan=existing.plan.name, subscription=existing.pk)
    subscription = Subscription.objects.create(
        user=user, plan=plan, device=device, started_on=day, plan_since=day, status_since=day
    )
    if wait_for_money:
        posted = _charge_or_wait(
            subscription, day, is_active=is_active, actor=actor, channel=channel
        )
    else:
        posted = _charge(subscription, day, actor=actor, channel=channel)
    store([subscription])
    return Changed(subscription, posted)


@counts_refusals
@transaction.atomic
def change_plan(
    subscription: Subscription,
    plan: Plan,
    *,
    day: date,
    pay_back: bool,
    charge_now: bool,
    actor: User | None,
    channel: Channel,
) -> Changed:
    """Puts a subscription on another plan from `day` on.

    What the runs up to `day` charge is charged first, under the old plan, whether or not they have
    come. With `pay_back`, what was paid for `day` and later is returned. With `charge_now` the new
    plan is charged from `day` on, and a suspended subscription resumes. Otherwise it is charged
    from the day after what has been paid ahead or, with `pay_back`, from its next regular day after
    `day`. (By active day, every day is regular, and charged when it is over.) Where nothing was
    paid ahead and nothing is to be paid back, it is charged from `day` on all the same, and waits,
    suspended, if that cannot be paid.

    Raises InsufficientFunds if all this together cannot be paid; nothing has changed then. Raises
    SamePlan, PlanRetired, SubscriptionCancelled and, to charge now, UserDeactivated.
    """
    subscription, posted = _brought_up(subscription, day, actor=actor, channel=channel)
    plan = _offered(plan)
    if plan.pk == subscription.plan_id:
        raise SamePlan(plan=plan.name)
    if pay_back:
        posted += _pay_back(subscription, day, actor=actor, channel=channel)
    if charge_now and not subscription.user.is_active:
        raise UserDeactivated(user_id=subscription.user_id)
    subscription.plan = plan  # whose active days are looked for
    is_charged = put_on_plan(
        subscription,
        plan,
        day,
        charge_now=charge_now,
        pay_back=pay_back,
        active_days=_uncharged(subscription, day),
    )
    if charge_now:
        posted += _charge(subscription, day, actor=actor, channel=channel)
    elif is_charged:
        is_active = subscription.user.is_active
        posted += _charge_or_wait(
            subscription, day, is_active=is_active, actor=actor, channel=channel
        )
    subscription.save(update_fields=["plan", "term", "plan_since"])
    store([subscription])
    return Changed(subscription, posted)


@counts_refusals
@transaction.atomic
def cancel(
    subscription: Subscription,
    *,
    day: date,
    actor: User | None,
    channel: Channel,
    pay_back: bool = False,
) -> Changed:
    """Ends a subscription on `day`. What the runs up to then charge is charged first, as far as the
    money goes, whether or not they have come.

    With `pay_back`, what was paid for `day` and later is returned. Raises SubscriptionCancelled
    if it has ended already.
    """
    subscription, posted = _brought_up(subscription, day, actor=actor, channel=channel)
    if pay_back:
        posted += _pay_back(subscription, day, actor=actor, channel=channel)
    if subscription.is_by_active_day and subscription.status == ACTIVE:
        # For this subscription `day` is over now, and is charged like one that is.
        posted += _settled_now(subscription, day + DAY, actor=actor, channel=channel)
    end(subscription, day)
    store([subscription])
    return Changed(subscription, posted)


@counts_refusals
@transaction.atomic
def record_active_day(user: User, *, device: str, day: date, today: date) -> ActiveDay:
    """Notes that a device was active on `day`; doing so again changes nothing.

    It counts for the device's own subscription or, if it has none, for the account's, and is
    charged after the day if that is charged by active day. Raises InvalidDay for days to come and
    for days too long ago.
    """
    if not today - ACTIVE_DAYS_BACK * DAY <= day <= today:
        raise InvalidDay(day=f"{day}", first=f"{today - ACTIVE_DAYS_BACK * DAY}", last=f"{today}")
    ledger.hold([user.pk])
    device = ledger.checked_device(device)
    subscription = (
        Subscription.objects.live()
        .filter(user=user, device__in={device, ""})
        .select_related("plan")
        .order_by("-device")
        .first()
    )
    active_day, _ = ActiveDay.objects.get_or_create(
        user=user, device=device, day=day, defaults={"subscription": subscription}
    )
    if active_day.subscription_id is None and subscription is not None:
        active_day.subscription = subscription
        active_day.save(update_fields=["subscription"])
    if subscription is None or active_day.subscription_id != subscription.pk:
        return active_day
    if ActiveDay.objects.filter(subscription=subscription, day=day, is_charged=True).exists():
        # Of an account, any device makes the day an active one; it is charged once.
        active_day.is_charged = True
        active_day.save(update_fields=["is_charged"])
    elif await_charge_of(subscription, day):
        store([subscription])
    return active_day


@counts_refusals
@transaction.atomic
def welcome(user: User, *, day: date, actor: User | None, channel: Channel) -> None:
    """Gives a user who has just registered what the defaults for new users say, once."""
    defaults = UserDefaults.objects.select_related("plan").first()
    if defaults is None:
        return
    if defaults.bonus:
        with suppress(IdempotencyConflict):  # given already, when it was another amount
            ledger.give_bonus(
                user,
                amount=defaults.bonus,
                description="Gift on registration",
                subtype="register",
                idempotency_key="registration",
                actor=actor,
                channel=channel,
            )
    if defaults.plan is not None:
        with suppress(SubscriptionExists, PlanRetired):
            start(user, defaults.plan, day=day, actor=actor, channel=channel, wait_for_money=True)


class Upcoming(NamedTuple):
    """The next charge of a subscription. `day` None: once it is active on a day, or can be paid."""

    day: date | None
    amount: Decimal


def upcoming(subscription: Subscription, today: date) -> Upcoming | None:
    """When a subscription will be charged next and how much, if all stays as it is."""
    plan = subscription.plan
    if subscription.status == CANCELLED:
        return None
    if subscription.is_by_active_day:
        return Upcoming(subscription.due_on if subscription.status == ACTIVE else None, plan.price)
    if subscription.status == SUSPENDED:
        return Upcoming(None, charge_on(today, plan.terms).amount)
    assert subscription.due_on is not None  # noqa: S101 - only by active day it can be
    return Upcoming(subscription.due_on, charge_on(subscription.due_on, plan.terms).amount)


class PaidAhead(NamedTuple):
    """The days of one charge that are still to come, what is left of it for them, and its plan."""

    number: int
    plan: Plan
    rest: Charge


def paid_ahead(subscription: Subscription, day: date) -> list[PaidAhead]:
    """What was paid for `day` and later, over all periods and plans of a subscription, and was not
    given back yet: neither paid back nor, by reversing the charge, reversed."""
    of_user = Transaction.objects.filter(user=subscription.user_id)
    mine = of_user.filter(type="main_charge", metadata__subscription=subscription.pk).alias(
        through=KeyTextTransform("through", "metadata")
    )
    rows = list(mine.filter(through__gte=f"{day}").order_by("number"))
    numbers = [row.number for row in rows]
    reversed_ones = set(of_user.filter(reverses__in=numbers).values_list("reverses", flat=True))
    rows = [row for row in rows if row.number not in reversed_ones]
    plans = Plan.objects.in_bulk({row.metadata.get("plan") for row in rows})
    left = []
    for row in rows:
        if row.subtype == "remainder":
            continue
        first, last = _days_of(row)
        amount = -row.amount
        for other in rows:
            if other.subtype == "remainder" and _returns(other, row):
                last = min(last, _days_of(other)[0] - DAY)
                amount -= other.amount
        if last >= day:
            rest = Charge(max(first, day), last, remainder(Charge(first, last, amount), day))
            plan = plans.get(row.metadata.get("plan"), subscription.plan)
            left.append(PaidAhead(row.number, plan, rest))
    return left


def _days_of(row: Transaction) -> tuple[date, date]:
    return date.fromisoformat(row.metadata["from"]), date.fromisoformat(row.metadata["through"])


def _returns(paid_back: Transaction, charge: Transaction) -> bool:
    """Whether a remainder is one of this charge. Not every one says of which it is."""
    if "charge" in paid_back.metadata:
        return bool(paid_back.metadata["charge"] == charge.number)
    return (
        paid_back.number > charge.number
        and paid_back.metadata.get("plan") == charge.metadata.get("plan")
        and _days_of(paid_back)[1] == _days_of(charge)[1]
    )


class ToResume(NamedTuple):
    """How many subscriptions of a user are suspended, and what they need together."""

    subscriptions: int
    amount: Decimal


def needed_to_resume(user: User, today: date) -> ToResume:
    """What all suspended subscriptions of `user` would be charged if they resumed today."""
    suspended = Subscription.objects.filter(user=user, status=SUSPENDED)
    counts = dict(suspended.order_by().values_list("plan").annotate(Count("pk")))
    plans = Plan.objects.filter(pk__in=counts)
    amounts = [counts[plan.pk] * charge_on(today, plan.terms).amount for plan in plans]
    return ToResume(sum(counts.values()), sum(amounts, ZERO))


# --- What falls due -----------------------------------------------------------------------------


@dataclass(slots=True)
class Step:
    """What became of one subscription on one day: it was paid, suspended, resumed, or is as it was.

    `charge` is what has to be posted for it, if anything. `day` is that on which it was due.
    """

    subscription: Subscription
    outcome: Literal["charged", "suspended", "resumed", "skipped"]
    day: date
    charge: Charge | None = None


class Reported(NamedTuple):
    """A day of activity that is not charged yet, and the day whose run is the first to know it."""

    day: date
    due_on: date


def reported_in_time(days: Iterable[date]) -> list[Reported]:
    """Days known by the run of the day after them."""
    return [Reported(day, day + DAY) for day in days]


def run_of(day: date) -> datetime:
    """The moment at which the run of a day is due."""
    return datetime.combine(day, RUN_TIME)


def end_of(day: date) -> datetime:
    return datetime.combine(day + DAY, time(tzinfo=UTC)) - timedelta(microseconds=1)


def settle(
    subscriptions: Iterable[Subscription],
    *,
    through: date,
    past: Past,
    active_days: Mapping[int, Sequence[Reported]],
    prices: Prices | None = None,
    retry: bool = False,
    resumes: bool = True,
) -> Iterator[Step | None]:
    """Everything that falls due for one user up to `through`, as it would have been done on time.

    Pure: it changes the given subscriptions in memory only, and `past.spent`. On time, there is a
    run at 00:05 of each day, and something is tried soon after each refill and each activation of
    a user who has something suspended. Each of them finds the money, the prices and the user as
    they were at its moment (`past`, `prices`), and charges the oldest first; on the same day, what
    is active before what is suspended. Money that was there but is spent since was not there.

    A subscription that the database says is suspended could not be used, and owes nothing: it is
    tried once, at the end, unless not `resumes`. With `retry` that is also done where it was
    tried on `through` already.

    `active_days` are the days not charged yet, in order, by subscription. A subscription that was
    added after `through` was told to look at a time before it was there; it goes by what is known
    now.

    Yields None where a subscription whose status has changed goes on to change again: whoever
    keeps each status has to store it then.
    """
    return Settling(
        subscriptions,
        through=through,
        past=past,
        active_days=active_days,
        prices=prices or Prices(),
    ).steps(retry=retry, resumes=resumes)


def settled(subscriptions: Iterable[Subscription], **options: Any) -> list[Step]:
    """The steps of `settle`."""
    return [step for step in settle(subscriptions, **options) if step is not None]


class _Line:
    """A subscription while it is settled, with what it takes to know when it is due."""

    def __init__(
        self, subscription: Subscription, days: Sequence[Reported], past: Past, until: datetime
    ) -> None:
        self.subscription = subscription
        self.days = list(days)
        made = subscription.made_at
        self.is_told_ahead = made is not None and made > until
        self.account = past.known if self.is_told_ahead else past.recorded
        self.made = None if self.is_told_ahead else made
        # A refill from then on has it tried again.
        self._wakes_from = FOREVER
        # Of one that is suspended in the database, the moment from which it is. (A late run has
        # suspended it as of an earlier day; in between it could be used.)
        self._held_since: datetime | None = None
        if subscription.status == SUSPENDED and subscription.due_on is not None:
            self._wakes_from = datetime.combine(subscription.due_on, time(tzinfo=UTC))
            since = None if self.is_told_ahead else subscription.suspended_at
            self._held_since = since or NEVER

    @property
    def is_suspended(self) -> bool:
        return self.subscription.status == SUSPENDED

    @property
    def is_held(self) -> bool:
        return self._held_since is not None

    def looks_at(self, moment: datetime) -> bool:
        return self._held_since is None or moment <= self._held_since

    def wakes_at(self, moment: datetime) -> bool:
        return self.is_suspended and self._wakes_from <= moment and self.looks_at(moment)

    def goes_on_from(self, moment: datetime) -> None:
        """Its status is another one from `moment` on, by what is settled here."""
        self._held_since = None
        self._wakes_from = moment + INSTANT

    def wait_for_active_day(self) -> None:
        accrues_from = self.subscription.accrues_from
        self.days = [each for each in self.days if each.day >= accrues_from]
        self.subscription.due_on = min((each.due_on for each in self.days), default=None)


class Settling:
    """The subscriptions of a user while they are settled, one attempt after another."""

    def __init__(
        self,
        subscriptions: Iterable[Subscription],
        *,
        through: date,
        past: Past,
        active_days: Mapping[int, Sequence[Reported]],
        prices: Prices,
    ) -> None:
        self.through, self.until = through, end_of(through)
        self.past, self.prices = past, prices
        self.lines = [
            _Line(subscription, active_days.get(subscription.pk, ()), past, self.until)
            for subscription in subscriptions
            if subscription.status != CANCELLED
        ]
        self.changed: set[int] = set()  # whose new status is not stored yet

    def steps(self, *, retry: bool, resumes: bool) -> Iterator[Step | None]:
        yield from self._what_was_missed(retry=retry)
        # What is left is done now: what is due today, and what only now is tried again.
        lines = [
            line for line in self.lines if resumes or not line.is_held or not line.is_suspended
        ]
        for line in lines:
            due_on = line.subscription.due_on
            if line.is_suspended and due_on is not None and (retry or due_on <= self.through):
                line.subscription.due_on = self.through
        yield from self._attempt(self.through, self.until, lines)

    def _what_was_missed(self, *, retry: bool) -> Iterator[Step | None]:
        """Runs, and attempts after refills and activations, in the order of their moments.

        Without the last one, if nothing has changed since: it is the one that is made now.
        """
        wakes = deque(self.past.wakes)
        is_on_time = self.has_not_changed_since(run_of(self.through))
        while True:
            day = self._next_run()
            run = None if day is None else run_of(day)
            while wakes and (run is None or wakes[0] < run) and not self._wakes(wakes[0]):
                wakes.popleft()
            if wakes and (run is None or wakes[0] < run):
                moment = wakes.popleft()
                if retry and moment.date() == self.through and self.has_not_changed_since(moment):
                    return
                for line in self._wakes(moment):
                    line.subscription.due_on = moment.date()
                yield from self._attempt(moment.date(), moment, self._looking_at(moment))
            elif day is None or run is None or (day == self.through and is_on_time):
                return
            else:
                yield from self._attempt(day, run, self._looking_at(run))

    def has_not_changed_since(self, moment: datetime) -> bool:
        """Whether nothing that decides about a charge is another thing than it was at `moment`."""
        plans = [line.subscription.plan for line in self.lines]
        changes = self.past.changes + [at for plan in plans for at in self.prices.changes(plan)]
        return not any(moment < at <= self.until for at in changes)

    def _next_run(self) -> date | None:
        """The next day that a run should have looked at."""
        days = [
            due_on
            for line in self.lines
            if (due_on := line.subscription.due_on) is not None
            and due_on <= self.through
            and line.looks_at(run_of(due_on))
        ]
        return min(days, default=None)

    def _looking_at(self, moment: datetime) -> list[_Line]:
        return [line for line in self.lines if line.looks_at(moment)]

    def _wakes(self, moment: datetime) -> list[_Line]:
        return [line for line in self.lines if line.wakes_at(moment)]

    def _attempt(
        self, day: date, moment: datetime, lines: Iterable[_Line]
    ) -> Iterator[Step | None]:
        """Whatever of these is due on `day` or before, with what there was at `moment`."""
        queue: list[tuple[date, bool, int, _Line]] = []

        def enqueue(line: _Line) -> None:
            due_on = line.subscription.due_on
            if due_on is not None and due_on <= day:
                heapq.heappush(queue, (due_on, line.is_suspended, line.subscription.pk, line))

        for line in lines:
            enqueue(line)
        while queue:
            due_on, _, _, line = heapq.heappop(queue)
            subscription = line.subscription
            if subscription.pk in self.changed:
                self.changed.clear()
                yield None
            status = subscription.status
            conditions = self._conditions(line, moment)
            if subscription.is_by_active_day:
                step = _step_by_active_day(line, due_on, day, conditions)
            else:
                step = _step(subscription, due_on, conditions)
            if step is not None and step.charge is not None:
                self.past.spent += step.charge.amount
            if subscription.status != status:
                self.changed.add(subscription.pk)
                line.goes_on_from(moment)
            if step is not None:
                yield step
            enqueue(line)

    def _conditions(self, line: _Line, moment: datetime) -> "_Conditions":
        when = moment if line.made is None else max(moment, line.made)
        account = line.account
        return _Conditions(
            account.real(when) - self.past.spent if account.is_active(when) else None,
            self.prices.terms(
                line.subscription.plan, when, until=self.until if line.is_told_ahead else None
            ),
        )


class _Conditions(NamedTuple):
    """What decides about a charge: the money that is there (None: the user is deactivated), and
    what the plan asks for."""

    real: Decimal | None
    terms: Terms

    def pay(self, amount: Decimal) -> bool:
        return self.real is not None and amount <= self.real

    @property
    def reason(self) -> "Subscription.SuspensionReason":
        return USER_DEACTIVATED if self.real is None else NO_MONEY


def _step(subscription: Subscription, day: date, conditions: _Conditions) -> Step:
    """What becomes of a subscription that is due on `day`."""
    paid_through = subscription.charged_through
    if conditions.real is not None and paid_through is not None and day <= paid_through:
        # Suspended by a run that was told to look ahead of these days, which are paid.
        outcome = _resume(subscription, day)
        subscription.due_on = paid_through + DAY
        return Step(subscription, outcome, day)
    charge = charge_on(day, conditions.terms)
    if not conditions.pay(charge.amount):
        return _unpaid(subscription, day, conditions.reason)
    outcome = _resume(subscription, day)
    _mark_paid(subscription, charge)
    return Step(subscription, outcome, day, charge)


def _step_by_active_day(
    line: _Line, due_on: date, run_day: date, conditions: _Conditions
) -> Step | None:
    """The same where each active day is paid afterwards, by a run that knows of it."""
    subscription = line.subscription
    if subscription.status == SUSPENDED:
        # Nothing is owed. It resumes as soon as a day could be paid.
        if not conditions.pay(conditions.terms.price):
            return _unpaid(subscription, due_on, conditions.reason)
        outcome = _resume(subscription, due_on)
        line.wait_for_active_day()
        return Step(subscription, outcome, due_on)
    line.wait_for_active_day()
    known = [each for each in line.days if each.due_on <= run_day]
    if not known:
        return None
    first = known[0]
    charge = charge_on(first.day, conditions.terms)
    if not conditions.pay(charge.amount):
        return _unpaid(subscription, first.due_on, conditions.reason)
    line.days.remove(first)
    _mark_paid(subscription, charge)
    line.wait_for_active_day()
    return Step(subscription, "charged", first.due_on, charge)


def _unpaid(subscription: Subscription, day: date, reason: "Subscription.SuspensionReason") -> Step:
    if subscription.status == SUSPENDED:
        subscription.due_on = day + DAY
        subscription.suspension_reason = reason
        return Step(subscription, "skipped", day)
    _suspend(subscription, day, reason)
    return Step(subscription, "suspended", day)


def _suspend(
    subscription: Subscription, day: date, reason: "Subscription.SuspensionReason"
) -> None:
    subscription.status, subscription.status_since = SUSPENDED, day
    subscription.suspension_reason = reason
    subscription.due_on = day + DAY


def _resume(subscription: Subscription, day: date) -> Literal["charged", "resumed"]:
    if subscription.status == ACTIVE:
        return "charged"
    subscription.status, subscription.status_since = ACTIVE, day
    subscription.suspension_reason = ""
    return "resumed"


def _mark_paid(subscription: Subscription, charge: Charge) -> None:
    if subscription.is_by_active_day:
        if subscription.charged_through is not None and subscription.charged_through > charge.last:
            return  # a day reported late
    else:
        subscription.due_on = charge.last + DAY
    subscription.charged_from, subscription.charged_through, subscription.paid = charge
    subscription.charge_number = None  # until it is posted


def charge_at_once(
    subscription: Subscription, day: date, active_days: Sequence[Reported] = ()
) -> list[Step]:
    """What an active subscription costs at once, when it starts or its plan changes on `day`."""
    if subscription.is_by_active_day:
        _wait_for_active_day(subscription, active_days)
        return []
    charge = charge_on(day, subscription.plan.terms)
    _mark_paid(subscription, charge)
    return [Step(subscription, "charged", day, charge)]


def await_money(
    subscription: Subscription, day: date, reason: "Subscription.SuspensionReason"
) -> None:
    """Suspends a subscription of which the very first charge could not be paid."""
    _forget_paid(subscription)
    _suspend(subscription, day, reason)


def await_charge_of(subscription: Subscription, active_day: date) -> bool:
    """Whether a new active day makes the subscription due earlier than it was."""
    if (
        not subscription.is_by_active_day
        or subscription.status != ACTIVE
        or active_day < subscription.accrues_from
    ):
        return False
    due_on = active_day + DAY
    if subscription.due_on is not None and subscription.due_on <= due_on:
        return False
    subscription.due_on = due_on
    return True


def put_on_plan(
    subscription: Subscription,
    plan: Plan,
    day: date,
    *,
    charge_now: bool,
    pay_back: bool = False,
    active_days: Sequence[Reported] = (),
) -> bool:
    """Changes the plan from `day` on. Whether `charge_at_once` has to follow.

    It does if the plan is charged now; and if there is nothing else that `day` is paid by: nothing
    was paid ahead, and nothing was paid back, which would put the new plan off.
    """
    paid = subscription.paid_period
    subscription.plan = plan
    subscription.term += 1
    if charge_now:
        subscription.plan_since = day
        if subscription.status == SUSPENDED:
            _resume(subscription, day)
        return True
    if paid is not None and paid.last >= day:
        subscription.plan_since = paid.last + DAY
    elif pay_back and not subscription.is_by_active_day:
        subscription.plan_since = next_period(day, plan.cycle)
    else:
        subscription.plan_since = day
    if subscription.status == SUSPENDED:
        subscription.due_on = day + DAY
        return False
    if subscription.is_by_active_day:
        _wait_for_active_day(subscription, active_days)
        return False
    subscription.due_on = subscription.plan_since
    return subscription.plan_since == day


def cut_short(subscription: Subscription, day: date, amount: Decimal) -> None:
    """What was paid for ends before `day`, of a period reaching there; `amount` is returned."""
    assert subscription.charged_from is not None  # noqa: S101 - there is such a period
    if day <= subscription.charged_from:
        _forget_paid(subscription)
    else:
        subscription.charged_through = day - DAY
        subscription.paid -= amount


def end(subscription: Subscription, day: date) -> None:
    subscription.status, subscription.status_since = CANCELLED, day
    subscription.suspension_reason = ""
    subscription.due_on = None


def _forget_paid(subscription: Subscription) -> None:
    subscription.charged_from = subscription.charged_through = subscription.charge_number = None
    subscription.paid = ZERO


def _wait_for_active_day(subscription: Subscription, days: Sequence[Reported]) -> None:
    accrues_from = subscription.accrues_from
    subscription.due_on = min(
        (each.due_on for each in days if each.day >= accrues_from), default=None
    )


def unpaid_active_days(
    subscriptions: Iterable[Subscription], until: datetime | None = None
) -> dict[int, list[Reported]]:
    """For `settle`: the days that can still be charged, and the first run to know of each.

    What was reported after `until` counts as reported in time.
    """
    by_active_day = [s.pk for s in subscriptions if s.is_by_active_day]
    first_report: dict[tuple[int, date], datetime] = {}
    if by_active_day:
        # What was before the present plan, or a suspension, is never charged any more.
        accrues_from = Greatest("subscription__plan_since", "subscription__status_since")
        rows = ActiveDay.objects.filter(
            subscription__in=by_active_day, is_charged=False, day__gte=accrues_from
        )
        # An account's day can be reported by several of its devices.
        for subscription_id, day, reported_at in (
            rows.order_by("subscription", "day")
            .values_list("subscription", "day")
            .annotate(Min("reported_at"))
        ):
            first_report[subscription_id, day] = reported_at
    days: dict[int, list[Reported]] = defaultdict(list)
    for (subscription_id, day), reported_at in first_report.items():
        due_on = day + DAY
        if until is not None and reported_at <= until:
            reported_on = reported_at.astimezone(UTC).date()
            is_before_run = reported_at <= run_of(reported_on)
            due_on = max(due_on, reported_on if is_before_run else reported_on + DAY)
        days[subscription_id].append(Reported(day, due_on))
    return days


def bring_up(
    due: Sequence[Subscription],
    *,
    through: date,
    real: Mapping[int, Decimal],
    retry: bool = False,
    resumes: bool = True,
    actor: User | None,
    channel: Channel,
    in_full: bool = True,
) -> tuple[list[Step], list[Transaction]]:
    """Settles, posts and stores what falls due up to `through`, of users whose balances are held.

    `due` are in the order of their users; `real` is what these have, by user. The other arguments
    are as for `settle`, and the transactions that it answers are as from `post`. Each change of a
    status is stored before the next one of the same subscription, so that programs are told of
    each.
    """
    if not due:
        return [], []
    until = end_of(through)
    active_days = unpaid_active_days(due, until)
    of_users = {user_id: list(its) for user_id, its in groupby(due, key=attrgetter("user_id"))}
    # On a day, somebody may be refilled before the run that is due on it.
    since = {
        user_id: datetime.combine(
            min((each.due_on for each in its if each.due_on is not None), default=through),
            time(tzinfo=UTC),
        )
        for user_id, its in of_users.items()
    }
    pasts = moments.pasts(real, since, until)
    prices = moments.prices({each.plan_id: each.plan for each in due}.values())
    going_on = [
        settle(
            its,
            through=through,
            past=pasts[user_id],
            active_days=active_days,
            prices=prices,
            retry=retry,
            resumes=resumes,
        )
        for user_id, its in of_users.items()
    ]
    steps: list[Step] = []
    posted: list[Transaction] = []
    while going_on:
        in_turn: list[Step] = []
        interrupted = []
        for settling in going_on:
            for step in settling:
                if step is None:
                    interrupted.append(settling)
                    break
                in_turn.append(step)
        posted += post(in_turn, actor=actor, channel=channel, in_full=in_full)
        store(due)
        steps += in_turn
        going_on = interrupted
    return steps, posted


def post(
    steps: Iterable[Step], *, actor: User | None, channel: Channel, in_full: bool = True
) -> list[Transaction]:
    """Posts the charges of these steps, of any users, whole or not at all; free periods are not.

    Answers what was posted; not `in_full`, which is faster, nothing. Raises InsufficientFunds if a
    balance has less than `settle` was told.
    """
    paid = [(s.subscription, s.charge) for s in steps if s.charge is not None]
    _mark_days_charged(paid)
    paid = [(subscription, charge) for subscription, charge in paid if charge.amount]
    if not paid:
        return []
    entries = [charge_entry(subscription, charge) for subscription, charge in paid]
    posted: list[Transaction] = []
    if in_full:
        results = ledger.post_batch(entries, actor=actor, channel=channel)
        posted = [result.transaction for result in results if result.transaction is not None]
        numbers = [row.number for row in posted]
    else:
        numbers = ledger.post_for_numbers(entries, actor=actor, channel=channel)
    for (subscription, charge), number in zip(paid, numbers, strict=True):
        if subscription.charged_from == charge.first:
            subscription.charge_number = number
    return posted


def charge_entry(subscription: Subscription, charge: Charge) -> ledger.Entry:
    """The charge of one period, which its idempotency key names: it can be posted once only."""
    plan = subscription.plan
    first, last, amount = charge
    active = "active on " if subscription.is_by_active_day else ""
    return ledger.subscription_entry(
        subscription.user_id,
        cycle=plan.cycle,
        price=amount,
        description=_described(
            f"Plan {plan.name}, {active}{format_period(first, last)}", subscription
        ),
        device=subscription.device,
        metadata=_about(subscription, plan, first, last),
        idempotency_key=f"subscription:{subscription.pk}:{subscription.term}:{first}",
    )


def remainder_entry(
    subscription: Subscription, plan: Plan, rest: Charge, charge_number: int | None = None
) -> ledger.Entry:
    """What is paid back of a period that was paid for under `plan`, by that transaction."""
    first, last, amount = rest
    return ledger.remainder_entry(
        subscription.user_id,
        amount=amount,
        description=_described(
            f"Remainder of plan {plan.name}, {format_period(first, last)}", subscription
        ),
        device=subscription.device,
        metadata=_about(subscription, plan, first, last)
        | ({"charge": charge_number} if charge_number is not None else {}),
    )


def store(subscriptions: Sequence[Subscription]) -> None:
    """Writes how far these subscriptions are paid, and their status, in one statement."""
    if not subscriptions:
        return
    columns = zip(*map(_STORED, subscriptions), strict=True)
    with connection.cursor() as cursor:
        cursor.execute(_STORE, [_as_array(column) for column in columns])


def _as_array(values: Iterable[object]) -> str:
    """A PostgreSQL array of numbers, days or codes. A run writes very many of them."""
    texts = ["NULL" if value is None else str(value) or '""' for value in values]
    return "{" + ",".join(texts) + "}"


_STORED_FIELDS: Final = {
    "id": "bigint",
    "status": "text",
    "status_since": "date",
    "suspension_reason": "text",
    "charged_from": "date",
    "charged_through": "date",
    "paid": "numeric",
    "charge_number": "bigint",
    "due_on": "date",
}
_STORED: Final = attrgetter(*_STORED_FIELDS)
_STORE: Final = (
    f"UPDATE billing_subscription SET "  # noqa: S608 - made of the names above
    f"{', '.join(f'{name} = changed.{name}' for name in _STORED_FIELDS if name != 'id')}, "
    "suspended_at = CASE"
    " WHEN changed.status <> 'suspended' THEN NULL"
    " WHEN billing_subscription.status = 'suspended' THEN billing_subscription.suspended_at"
    " ELSE billing_clock() END "
    f"FROM unnest({', '.join(f'%s::{type_name}[]' for type_name in _STORED_FIELDS.values())}) "
    f"AS changed ({', '.join(_STORED_FIELDS)}) WHERE billing_subscription.id = changed.id"
)


# --- How it is done -----------------------------------------------------------------------------


def _offered(plan: Plan) -> Plan:
    """The plan as it is now, held, so that it cannot be retired or changed meanwhile."""
    rows = Plan.objects.raw("SELECT * FROM billing_plan WHERE id = %s FOR SHARE", [plan.pk])
    held = next(iter(rows), None)
    if held is None or not held.is_active:  # one that nobody has may be deleted meanwhile
        raise PlanRetired(plan=plan.name)
    return held


def _bring_up_user(user_id: int, day: date) -> tuple[dict[int, Subscription], list[Transaction]]:
    """Charges what the runs up to `day` charge, of the user whose balance is held from now on.

    It is the system that charges, whoever comes first: operators' actions and runs leave the same.
    What is suspended is left to runs. Answers the subscriptions that were looked at.
    """
    real = {pk: balance.real for pk, balance in ledger.hold([user_id]).items()}
    rows = Subscription.objects.select_related("plan").filter(user=user_id, due_on__lte=day)
    due = list(rows.order_by("id"))
    _, posted = bring_up(
        due, through=day, real=real, resumes=False, actor=None, channel=Channel.CHARGING
    )
    return {subscription.pk: subscription for subscription in due}, posted


def _brought_up(
    subscription: Subscription, day: date, *, actor: User | None, channel: Channel
) -> tuple[Subscription, list[Transaction]]:
    """The subscription as the runs up to `day` leave it, its user's balance held."""
    _, rows = _bring_up_user(subscription.user_id, day)
    posted = [row for row in rows if row.metadata.get("subscription") == subscription.pk]
    subscription = Subscription.objects.select_related("plan", "user").get(pk=subscription.pk)
    if not subscription.is_live:
        raise SubscriptionCancelled(day=f"{subscription.status_since}")
    if subscription.is_by_active_day and subscription.status == ACTIVE:
        # Days that were reported late enough to be left to the next run.
        posted += _settled_now(subscription, day, actor=actor, channel=channel)
    return subscription, posted


def _uncharged(subscription: Subscription, day: date) -> list[Reported]:
    return unpaid_active_days([subscription], end_of(day)).get(subscription.pk, [])


def _settled_now(
    subscription: Subscription, through: date, *, actor: User | None, channel: Channel
) -> list[Transaction]:
    """Charges the active days before `through`, with what is there now."""
    user = User.objects.get(pk=subscription.user_id)
    active_days = unpaid_active_days([subscription])
    # What was reported after the run of today is due now, too, and not first tomorrow.
    _wait_for_active_day(subscription, active_days.get(subscription.pk, ()))
    steps = settled(
        [subscription],
        through=through,
        past=Past(ledger.balance(user).real, is_active=user.is_active),
        active_days=active_days,
    )
    posted = post(steps, actor=actor, channel=channel)
    store([subscription])
    return posted


def _charge_or_wait(
    subscription: Subscription,
    day: date,
    *,
    is_active: bool,
    actor: User | None,
    channel: Channel,
) -> list[Transaction]:
    """Charges a subscription at once or, if that cannot be paid, suspends it."""
    if not is_active:
        await_money(subscription, day, USER_DEACTIVATED)
        return []
    try:
        return _charge(subscription, day, actor=actor, channel=channel)
    except InsufficientFunds:
        await_money(subscription, day, NO_MONEY)
        return []


def _charge(
    subscription: Subscription, day: date, *, actor: User | None, channel: Channel
) -> list[Transaction]:
    steps = charge_at_once(subscription, day, _uncharged(subscription, day))
    return post(steps, actor=actor, channel=channel)


def _pay_back(
    subscription: Subscription, day: date, *, actor: User | None, channel: Channel
) -> list[Transaction]:
    """Returns everything that was paid for `day` and later, each charge by a transaction of its
    own, which names it."""
    left = paid_ahead(subscription, day)
    paid = subscription.paid_period
    if paid is not None and paid.last >= day:
        of_row = [each.rest.amount for each in left if each.number == subscription.charge_number]
        cut_short(subscription, day, sum(of_row, ZERO))
    entries = [
        remainder_entry(subscription, each.plan, each.rest, each.number)
        for each in left
        if each.rest.amount
    ]
    if not entries:
        return []
    results = ledger.post_batch(entries, actor=actor, channel=channel)
    return [result.transaction for result in results if result.transaction is not None]


def _mark_days_charged(paid: Iterable[tuple[Subscription, Charge]]) -> None:
    days = [(s.pk, charge.first) for s, charge in paid if s.is_by_active_day]
    if days:
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE billing_activeday SET is_charged = true "
                "FROM unnest(%s::bigint[], %s::date[]) AS charged (subscription_id, day) "
                "WHERE billing_activeday.subscription_id = charged.subscription_id "
                "AND billing_activeday.day = charged.day AND NOT is_charged",
                [list(column) for column in zip(*days, strict=True)],
            )


def _described(words: str, subscription: Subscription) -> str:
    device = subscription.device
    return ledger.shorten_description(f"{words}, device {device}" if device else words)


def _about(subscription: Subscription, plan: Plan, first: date, last: date) -> dict[str, Any]:
    """What a transaction's metadata says of the subscription it is for."""
    return {
        "subscription": subscription.pk,
        "plan": plan.pk,
        "from": f"{first}",
        "through": f"{last}",
    }
