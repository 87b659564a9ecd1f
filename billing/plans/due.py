"""What falls due of a user's subscriptions up to a day. Pure: no clock, no queries.

`decide` goes through everything that falls due, in order, and decides about each charge. Both
operators' actions (`plans.subscriptions`) and runs (`plans.charging`) use it, so a subscription
costs the same in either case and at any time. It changes subscriptions in memory only; the caller
posts the charges and stores the subscriptions.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple

from billing.models import Plan, Subscription
from billing.money import ZERO
from billing.plans.history import FOREVER, Past, Prices
from billing.plans.pricing import Charge, Terms, charge_on, next_period
from billing.plans.schedule import INSTANT, end_of, run_of, start_of

DAY: Final = timedelta(days=1)
NEVER: Final = datetime.min.replace(tzinfo=UTC)

ACTIVE: Final = Subscription.Status.ACTIVE
SUSPENDED: Final = Subscription.Status.SUSPENDED
CANCELLED: Final = Subscription.Status.CANCELLED
NO_MONEY: Final = Subscription.SuspensionReason.NO_MONEY
USER_DEACTIVATED: Final = Subscription.SuspensionReason.USER_DEACTIVATED


@dataclass(slots=True)
class Decision:
    """The decision about one subscription on one day: charged, suspended, resumed or unchanged.

    `charge` is what has to be posted, if anything. `day` is the day on which it was due.
    """

    subscription: Subscription
    outcome: Literal["charged", "suspended", "resumed", "skipped"]
    day: date
    charge: Charge | None = None


class Reported(NamedTuple):
    """An active day that is not charged yet, and the day of the first run that knows of it."""

    day: date
    due_on: date


def reported_in_time(days: Iterable[date]) -> list[Reported]:
    """Returns these days as if they were known to the run of the next day."""
    return [Reported(day, day + DAY) for day in days]


def decide(
    subscriptions: Iterable[Subscription],
    *,
    through: date,
    past: Past,
    active_days: Mapping[int, Sequence[Reported]],
    prices: Prices | None = None,
    retry: bool = False,
    resumes: bool = True,
) -> Iterator[Decision | None]:
    """Decides everything that falls due for one user up to `through`, as if it were done on time.

    Changes only the given subscriptions, in memory, and `past.spent`. "On time" means: a run at
    00:05 of each day, and a retry of suspended subscriptions soon after each refill and each
    activation of the user. Each of these attempts uses the money, the prices and the user's status
    of its moment (`past`, `prices`). It charges the oldest subscription first; on the same day,
    active ones before suspended ones. Money that was there then but has been spent since does not
    count.

    A subscription whose stored status is suspended could not be used and owes nothing. It is
    retried once, at the end, if `resumes`; with `retry`, also if it was already tried on `through`.

    `active_days` holds the days not charged yet, in order, by subscription ID. If a subscription
    was added after `through`, the present state decides.

    Yields None before it decides again about a subscription whose last decision changed its status:
    a caller that stores every status stores that one now.
    """
    return CatchUp(
        subscriptions,
        through=through,
        past=past,
        active_days=active_days,
        prices=prices or Prices(),
    ).decisions(retry=retry, resumes=resumes)


def decisions(subscriptions: Iterable[Subscription], **options: Any) -> list[Decision]:
    """Returns the decisions of `decide` as a list. Takes the same options."""
    return [each for each in decide(subscriptions, **options) if each is not None]


class _Course:
    """A subscription during the decision, with what determines when it is due."""

    def __init__(
        self, subscription: Subscription, days: Sequence[Reported], past: Past, until: datetime
    ) -> None:
        self.subscription = subscription
        self.days = list(days)
        made = subscription.added_at
        self.is_added_later = made is not None and made > until
        self.account = past.known if self.is_added_later else past.recorded
        self.made = None if self.is_added_later else made
        # A refill from this moment on leads to a retry.
        self._retried_from = FOREVER
        # Since when it is suspended in the database. (A late run may have suspended it as of an
        # earlier day; until the run came it could be used.)
        self._suspended_since: datetime | None = None
        if subscription.status == SUSPENDED and subscription.due_on is not None:
            self._retried_from = start_of(subscription.due_on)
            since = None if self.is_added_later else subscription.suspended_at
            self._suspended_since = since or NEVER

    @property
    def is_suspended(self) -> bool:
        return self.subscription.status == SUSPENDED

    @property
    def is_suspended_in_database(self) -> bool:
        return self._suspended_since is not None

    def is_tried_at(self, moment: datetime) -> bool:
        return self._suspended_since is None or moment <= self._suspended_since

    def is_retried_at(self, moment: datetime) -> bool:
        return self.is_suspended and self._retried_from <= moment and self.is_tried_at(moment)

    def goes_on_from(self, moment: datetime) -> None:
        """Notes that a decision changes its status at `moment`."""
        self._suspended_since = None
        self._retried_from = moment + INSTANT

    def wait_for_active_day(self) -> None:
        accrues_from = self.subscription.accrues_from
        self.days = [each for each in self.days if each.day >= accrues_from]
        self.subscription.due_on = min((each.due_on for each in self.days), default=None)


class CatchUp:
    """The attempts to charge a user's subscriptions that should have been made, in order."""

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
        self.courses = [
            _Course(subscription, active_days.get(subscription.pk, ()), past, self.until)
            for subscription in subscriptions
            if subscription.status != CANCELLED
        ]
        self.changed: set[int] = set()  # IDs whose new status is not stored yet

    def decisions(self, *, retry: bool, resumes: bool) -> Iterator[Decision | None]:
        yield from self._missed_attempts(retry=retry)
        # Now the rest: what is due today, and what is retried only now.
        courses = [
            course
            for course in self.courses
            if resumes or not course.is_suspended_in_database or not course.is_suspended
        ]
        for course in courses:
            due_on = course.subscription.due_on
            if course.is_suspended and due_on is not None and (retry or due_on <= self.through):
                course.subscription.due_on = self.through
        yield from self._attempt(self.through, self.until, courses)

    def _missed_attempts(self, *, retry: bool) -> Iterator[Decision | None]:
        """Makes the attempts of runs, refills and activations, in the order of their moments.

        Leaves out the last one if nothing has changed since: that one is made now.
        """
        retries = deque(self.past.retries)
        is_on_time = self.has_not_changed_since(run_of(self.through))
        while True:
            day = self._next_run()
            run = None if day is None else run_of(day)
            while (
                retries and (run is None or retries[0] < run) and not self._retried_at(retries[0])
            ):
                retries.popleft()
            if retries and (run is None or retries[0] < run):
                moment = retries.popleft()
                if retry and moment.date() == self.through and self.has_not_changed_since(moment):
                    return
                for course in self._retried_at(moment):
                    course.subscription.due_on = moment.date()
                yield from self._attempt(moment.date(), moment, self._tried_at(moment))
            elif day is None or run is None or (day == self.through and is_on_time):
                return
            else:
                yield from self._attempt(day, run, self._tried_at(run))

    def has_not_changed_since(self, moment: datetime) -> bool:
        """Returns whether nothing that a charge depends on has changed since `moment`."""
        plans = [course.subscription.plan for course in self.courses]
        changes = self.past.changes + [at for plan in plans for at in self.prices.changes(plan)]
        return not any(moment < at <= self.until for at in changes)

    def _next_run(self) -> date | None:
        """Returns the next day that a run should have looked at."""
        days = [
            due_on
            for course in self.courses
            if (due_on := course.subscription.due_on) is not None
            and due_on <= self.through
            and course.is_tried_at(run_of(due_on))
        ]
        return min(days, default=None)

    def _tried_at(self, moment: datetime) -> list[_Course]:
        return [course for course in self.courses if course.is_tried_at(moment)]

    def _retried_at(self, moment: datetime) -> list[_Course]:
        return [course for course in self.courses if course.is_retried_at(moment)]

    def _attempt(
        self, day: date, moment: datetime, courses: Iterable[_Course]
    ) -> Iterator[Decision | None]:
        """Decides about those of these that are due by `day`, with the money of `moment`."""
        queue: list[tuple[date, bool, int, _Course]] = []

        def enqueue(course: _Course) -> None:
            due_on = course.subscription.due_on
            if due_on is not None and due_on <= day:
                heapq.heappush(queue, (due_on, course.is_suspended, course.subscription.pk, course))

        for course in courses:
            enqueue(course)
        while queue:
            due_on, _, _, course = heapq.heappop(queue)
            subscription = course.subscription
            if subscription.pk in self.changed:
                self.changed.clear()
                yield None
            status = subscription.status
            conditions = self._conditions(course, moment)
            if subscription.is_by_active_day:
                decision = _decide_by_active_day(course, due_on, day, conditions)
            else:
                decision = _decide(subscription, due_on, conditions)
            if decision is not None and decision.charge is not None:
                self.past.spent += decision.charge.amount
            if subscription.status != status:
                self.changed.add(subscription.pk)
                course.goes_on_from(moment)
            if decision is not None:
                yield decision
            enqueue(course)

    def _conditions(self, course: _Course, moment: datetime) -> "_Conditions":
        when = moment if course.made is None else max(moment, course.made)
        account = course.account
        return _Conditions(
            account.real(when) - self.past.spent if account.is_active(when) else None,
            self.prices.terms(
                course.subscription.plan, when, until=self.until if course.is_added_later else None
            ),
        )


class _Conditions(NamedTuple):
    """The user's money at that moment (None: the user is deactivated) and the plan's terms."""

    real: Decimal | None
    terms: Terms

    def pay(self, amount: Decimal) -> bool:
        return self.real is not None and amount <= self.real

    @property
    def reason(self) -> "Subscription.SuspensionReason":
        return USER_DEACTIVATED if self.real is None else NO_MONEY


def _decide(subscription: Subscription, day: date, conditions: _Conditions) -> Decision:
    """Decides about a subscription that is due on `day`."""
    paid_through = subscription.charged_through
    if conditions.real is not None and paid_through is not None and day <= paid_through:
        # A run that was told to charge ahead suspended it, although these days are paid.
        outcome = _resume(subscription, day)
        subscription.due_on = paid_through + DAY
        return Decision(subscription, outcome, day)
    charge = charge_on(day, conditions.terms)
    if not conditions.pay(charge.amount):
        return _unpaid(subscription, day, conditions.reason)
    outcome = _resume(subscription, day)
    _mark_paid(subscription, charge)
    return Decision(subscription, outcome, day, charge)


def _decide_by_active_day(
    course: _Course, due_on: date, run_day: date, conditions: _Conditions
) -> Decision | None:
    """Decides about a plan by active day: a run charges each day that it knows of."""
    subscription = course.subscription
    if subscription.status == SUSPENDED:
        # Nothing is owed. It resumes when there is money for a day.
        if not conditions.pay(conditions.terms.price):
            return _unpaid(subscription, due_on, conditions.reason)
        outcome = _resume(subscription, due_on)
        course.wait_for_active_day()
        return Decision(subscription, outcome, due_on)
    course.wait_for_active_day()
    known = [each for each in course.days if each.due_on <= run_day]
    if not known:
        return None
    first = known[0]
    charge = charge_on(first.day, conditions.terms)
    if not conditions.pay(charge.amount):
        return _unpaid(subscription, first.due_on, conditions.reason)
    course.days.remove(first)
    _mark_paid(subscription, charge)
    course.wait_for_active_day()
    return Decision(subscription, "charged", first.due_on, charge)


def _unpaid(
    subscription: Subscription, day: date, reason: "Subscription.SuspensionReason"
) -> Decision:
    if subscription.status == SUSPENDED:
        subscription.due_on = day + DAY
        subscription.suspension_reason = reason
        return Decision(subscription, "skipped", day)
    _suspend(subscription, day, reason)
    return Decision(subscription, "suspended", day)


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
) -> list[Decision]:
    """Charges an active subscription at once, when it starts or its plan changes on `day`."""
    if subscription.is_by_active_day:
        wait_for_active_day(subscription, active_days)
        return []
    charge = charge_on(day, subscription.plan.terms)
    _mark_paid(subscription, charge)
    return [Decision(subscription, "charged", day, charge)]


def await_money(
    subscription: Subscription, day: date, reason: "Subscription.SuspensionReason"
) -> None:
    """Suspends a subscription whose very first charge cannot be paid."""
    _forget_paid(subscription)
    _suspend(subscription, day, reason)


def await_charge_of(subscription: Subscription, active_day: date) -> bool:
    """Makes the subscription due for a new active day. Returns whether that changed `due_on`."""
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
    """Changes the plan from `day` on. Returns whether `charge_at_once` has to follow.

    It has to if `charge_now`; and also if nothing was paid ahead for `day`, unless something was
    paid back, which postpones the first charge of the new plan.
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
        wait_for_active_day(subscription, active_days)
        return False
    subscription.due_on = subscription.plan_since
    return subscription.plan_since == day


def cut_short(subscription: Subscription, day: date, amount: Decimal) -> None:
    """Ends the paid period before `day`, a day in it; `amount` of it is paid back."""
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


def wait_for_active_day(subscription: Subscription, days: Sequence[Reported]) -> None:
    accrues_from = subscription.accrues_from
    subscription.due_on = min(
        (each.due_on for each in days if each.day >= accrues_from), default=None
    )
