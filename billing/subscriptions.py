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
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple

from django.db import connection, transaction
from django.db.models import Count
from django.db.models.functions import Greatest

from billing import ledger
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
from billing.money import ZERO
from billing.pricing import Charge, charge_on, format_period, next_period, remainder
from users.models import User

DAY: Final = timedelta(days=1)
# Devices report late, but not for ever.
ACTIVE_DAYS_BACK: Final = 31

ACTIVE: Final = Subscription.Status.ACTIVE
SUSPENDED: Final = Subscription.Status.SUSPENDED
CANCELLED: Final = Subscription.Status.CANCELLED


class Changed(NamedTuple):
    """A subscription after an operation, and what was posted for it, in order."""

    subscription: Subscription
    posted: Sequence[Transaction]


# --- What can happen to a subscription ----------------------------------------------------------


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
    ledger.hold([user.pk])
    plan = _offered(plan)
    device = ledger.checked_device(device)
    can_pay = User.objects.filter(pk=user.pk, is_active=True).exists()
    if not can_pay and not wait_for_money:
        raise UserDeactivated(user_id=user.pk)
    existing = Subscription.objects.live().filter(user=user, device=device).first()
    if existing is not None:
        raise SubscriptionExists(device=device, plan=existing.plan.name, subscription=existing.pk)
    subscription = Subscription.objects.create(
        user=user, plan=plan, device=device, started_on=day, plan_since=day, status_since=day
    )
    posted: list[Transaction] = []
    if can_pay:
        try:
            posted = _charge(subscription, day, actor=actor, channel=channel)
        except InsufficientFunds:
            if not wait_for_money:
                raise
            can_pay = False
    if not can_pay:
        await_money(subscription, day)
    store([subscription])
    return Changed(subscription, posted)


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

    The days before `day` are charged first, under the old plan. With `pay_back`, what was paid for
    `day` and later is returned. With `charge_now` the new plan is charged from `day` on, and a
    suspended subscription resumes; otherwise from the day after what has been paid or, where
    nothing is left of that, from its next regular day. (By active day, every day is regular.)

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
    put_on_plan(
        subscription, plan, day, charge_now=charge_now, active_days=_uncharged(subscription)
    )
    if charge_now:
        posted += _charge(subscription, day, actor=actor, channel=channel)
    subscription.save(update_fields=["plan", "term", "plan_since"])
    store([subscription])
    return Changed(subscription, posted)


@transaction.atomic
def cancel(
    subscription: Subscription,
    *,
    day: date,
    actor: User | None,
    channel: Channel,
    pay_back: bool = False,
) -> Changed:
    """Ends a subscription on `day`. The days before are charged, as far as the money goes.

    With `pay_back`, what was paid for `day` and later is returned. Raises SubscriptionCancelled
    if it has ended already.
    """
    subscription, posted = _brought_up(subscription, day, actor=actor, channel=channel)
    if pay_back:
        posted += _pay_back(subscription, day, actor=actor, channel=channel)
    if subscription.is_by_active_day and subscription.status == ACTIVE:
        # For this subscription `day` is over now, and is charged like one that is.
        posted += _settled(subscription, day + DAY, actor=actor, channel=channel)
    end(subscription, day)
    store([subscription])
    return Changed(subscription, posted)


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


def settle(
    subscriptions: Iterable[Subscription],
    *,
    through: date,
    real: Decimal,
    active_days: Mapping[int, Sequence[date]],
    can_pay: bool = True,
    refilled_on: date | None = None,
    retry: bool = False,
    one_change_each: bool = False,
) -> list[Step]:
    """Everything that falls due for one user up to `through`, day by day, the oldest first.

    Pure: it changes the given subscriptions in memory only. `real` is the user's real balance,
    which pays for what comes first; on the same day, what is active before what is suspended.
    `active_days` are the days not charged yet, in order, by subscription. Someone who cannot pay
    (`can_pay`: a deactivated user) is charged nothing and owes nothing.

    Who is suspended, and was refilled after the last day on which that was tried (`refilled_on` is
    the last day on which the balance went up), is tried on `through` and no earlier day: nothing is
    owed for them. With `retry` everybody suspended is, also where it was tried on that day already.

    Settling up to one day and then up to a later one comes to the same as doing both at once. With
    `one_change_each` it ends where a subscription whose status has changed falls due once more.
    """
    queue: list[tuple[date, bool, int, Subscription, list[date]]] = []

    def enqueue(day: date | None, subscription: Subscription, days: list[date]) -> None:
        if day is not None and day <= through:
            is_suspended = subscription.status == SUSPENDED
            heapq.heappush(queue, (day, is_suspended, subscription.pk, subscription, days))

    for subscription in subscriptions:
        if subscription.status == SUSPENDED and subscription.due_on is not None:
            was_refilled = refilled_on is not None and subscription.due_on <= refilled_on
            if retry or (was_refilled and subscription.due_on <= through):
                subscription.due_on = through
        days = list(active_days.get(subscription.pk, ()))
        enqueue(subscription.due_on, subscription, days)
    steps: list[Step] = []
    changed: set[int] = set()
    while queue:
        day, _, _, subscription, days = heapq.heappop(queue)
        if one_change_each and subscription.pk in changed:
            break
        status = subscription.status
        if subscription.is_by_active_day:
            step = _step_by_active_day(subscription, day, days, real if can_pay else None)
        else:
            step = _step(subscription, day, real if can_pay else None)
        if step is not None:
            steps.append(step)
            if step.charge is not None:
                real -= step.charge.amount
        if subscription.status != status:
            changed.add(subscription.pk)
        enqueue(subscription.due_on, subscription, days)
    return steps


def _step(subscription: Subscription, day: date, real: Decimal | None) -> Step:
    """What becomes of a subscription due on `day`, with so much money; None: none at all."""
    paid_through = subscription.charged_through
    if real is not None and paid_through is not None and day <= paid_through:
        # Suspended by a run that was told to look ahead of these days, which are paid.
        outcome = _resume(subscription, day)
        subscription.due_on = paid_through + DAY
        return Step(subscription, outcome, day)
    charge = charge_on(day, subscription.plan.terms)
    if real is None or charge.amount > real:
        return _unpaid(subscription, day)
    outcome = _resume(subscription, day)
    _mark_paid(subscription, charge)
    return Step(subscription, outcome, day, charge)


def _step_by_active_day(
    subscription: Subscription, day: date, days: list[date], real: Decimal | None
) -> Step | None:
    """The same where each active day is paid afterwards. `days`, those to pay, gets shorter."""
    plan = subscription.plan
    if subscription.status == SUSPENDED:
        # Nothing is owed. It resumes as soon as a day could be paid.
        if real is None or plan.price > real:
            return _unpaid(subscription, day)
        outcome = _resume(subscription, day)
        _wait_for_active_day(subscription, days)
        return Step(subscription, outcome, day)
    _wait_for_active_day(subscription, days)
    if subscription.due_on is None or subscription.due_on > day:
        return None
    charge = charge_on(days[0], plan.terms)
    if real is None or charge.amount > real:
        return _unpaid(subscription, day)
    del days[0]
    _mark_paid(subscription, charge)
    _wait_for_active_day(subscription, days)
    return Step(subscription, "charged", day, charge)


def _unpaid(subscription: Subscription, day: date) -> Step:
    if subscription.status == SUSPENDED:
        subscription.due_on = day + DAY
        return Step(subscription, "skipped", day)
    _suspend(subscription, day)
    return Step(subscription, "suspended", day)


def _suspend(subscription: Subscription, day: date) -> None:
    subscription.status, subscription.status_since = SUSPENDED, day
    subscription.due_on = day + DAY


def _resume(subscription: Subscription, day: date) -> Literal["charged", "resumed"]:
    if subscription.status == ACTIVE:
        return "charged"
    subscription.status, subscription.status_since = ACTIVE, day
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
    subscription: Subscription, day: date, active_days: Sequence[date] = ()
) -> list[Step]:
    """What an active subscription costs at once, when it starts or its plan changes on `day`."""
    if subscription.is_by_active_day:
        _wait_for_active_day(subscription, list(active_days))
        return []
    charge = charge_on(day, subscription.plan.terms)
    _mark_paid(subscription, charge)
    return [Step(subscription, "charged", day, charge)]


def await_money(subscription: Subscription, day: date) -> None:
    """Suspends a subscription of which the very first charge could not be paid."""
    _forget_paid(subscription)
    _suspend(subscription, day)


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
    active_days: Sequence[date] = (),
) -> None:
    """Changes the plan from `day` on; `charge_at_once` has to follow if it is charged now."""
    is_due = subscription.due_on is not None and subscription.due_on <= day
    paid = subscription.paid_period
    subscription.plan = plan
    subscription.term += 1
    if charge_now:
        subscription.plan_since = day
        if subscription.status == SUSPENDED:
            subscription.status, subscription.status_since = ACTIVE, day
        return
    if paid is not None and paid.last >= day:
        subscription.plan_since = paid.last + DAY
    elif is_due or subscription.is_by_active_day:
        subscription.plan_since = day
    else:
        subscription.plan_since = next_period(day, plan.cycle)
    if subscription.status == SUSPENDED:
        subscription.due_on = day + DAY
    elif subscription.is_by_active_day:
        _wait_for_active_day(subscription, list(active_days))
    else:
        subscription.due_on = subscription.plan_since


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
    subscription.due_on = None


def _forget_paid(subscription: Subscription) -> None:
    subscription.charged_from = subscription.charged_through = subscription.charge_number = None
    subscription.paid = ZERO


def _wait_for_active_day(subscription: Subscription, days: list[date]) -> None:
    while days and days[0] < subscription.accrues_from:
        del days[0]  # of a time that nothing is owed for
    subscription.due_on = days[0] + DAY if days else None


def unpaid_active_days(subscriptions: Iterable[Subscription]) -> dict[int, list[date]]:
    """For `settle`: the days that can still be charged."""
    by_active_day = [s.pk for s in subscriptions if s.is_by_active_day]
    days: dict[int, list[date]] = defaultdict(list)
    if by_active_day:
        # What was before the present plan, or a suspension, is never charged any more.
        accrues_from = Greatest("subscription__plan_since", "subscription__status_since")
        rows = ActiveDay.objects.filter(
            subscription__in=by_active_day, is_charged=False, day__gte=accrues_from
        )
        for subscription_id, day in (
            rows.order_by("subscription", "day").values_list("subscription", "day").distinct()
        ):
            days[subscription_id].append(day)
    return days


def bring_up(
    due: Sequence[Subscription],
    *,
    through: date,
    real: Mapping[int, Decimal],
    cannot_pay: Container[int] = (),
    refilled_on: Mapping[int, date] | None = None,
    retry: bool = False,
    actor: User | None,
    channel: Channel,
    in_full: bool = True,
) -> tuple[list[Step], list[Transaction]]:
    """Settles, posts and stores what falls due up to `through`, of users whose balances are held.

    `due` are in the order of their users; what else is given by user is as for `settle`, and the
    transactions that it answers are as from `post`. Each change of a status is stored before the
    next one of the same subscription, so that programs are told of each.
    """
    left = dict(real)
    steps: list[Step] = []
    posted: list[Transaction] = []
    while due:
        active_days = unpaid_active_days(due)
        in_turn: list[Step] = []
        for user_id, of_user in groupby(due, key=attrgetter("user_id")):
            in_turn += settle(
                of_user,
                through=through,
                real=left[user_id],
                active_days=active_days,
                can_pay=user_id not in cannot_pay,
                refilled_on=refilled_on.get(user_id) if refilled_on else None,
                retry=retry,
                one_change_each=True,
            )
        posted += post(in_turn, actor=actor, channel=channel, in_full=in_full)
        store(due)
        for step in in_turn:
            if step.charge is not None:
                left[step.subscription.user_id] -= step.charge.amount
        steps += in_turn
        due = [each for each in due if each.due_on is not None and each.due_on <= through]
        refilled_on, retry = None, False  # they are about who was suspended at the beginning
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
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


_STORED_FIELDS: Final = {
    "id": "bigint",
    "status": "text",
    "status_since": "date",
    "charged_from": "date",
    "charged_through": "date",
    "paid": "numeric",
    "charge_number": "bigint",
    "due_on": "date",
}
_STORED: Final = attrgetter(*_STORED_FIELDS)
_STORE: Final = (
    f"UPDATE billing_subscription SET "  # noqa: S608 - made of the names above
    f"{', '.join(f'{name} = changed.{name}' for name in _STORED_FIELDS if name != 'id')} "
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


def _brought_up(
    subscription: Subscription, day: date, *, actor: User | None, channel: Channel
) -> tuple[Subscription, list[Transaction]]:
    """The subscription as it is now, its user's balance held, all days before `day` charged."""
    ledger.hold([subscription.user_id])
    subscription = Subscription.objects.select_related("plan", "user").get(pk=subscription.pk)
    if not subscription.is_live:
        raise SubscriptionCancelled(day=f"{subscription.status_since}")
    if subscription.status == SUSPENDED:
        return subscription, []  # nothing is owed
    # An active day falls due on the day after it, any other day on itself or before.
    through = day if subscription.is_by_active_day else day - DAY
    return subscription, _settled(subscription, through, actor=actor, channel=channel)


def _uncharged(subscription: Subscription) -> list[date]:
    return unpaid_active_days([subscription]).get(subscription.pk, [])


def _settled(
    subscription: Subscription, through: date, *, actor: User | None, channel: Channel
) -> list[Transaction]:
    user = subscription.user
    _, posted = bring_up(
        [subscription],
        through=through,
        real={user.pk: ledger.balance(user).real},
        cannot_pay=() if user.is_active else {user.pk},
        actor=actor,
        channel=channel,
    )
    return posted


def _charge(
    subscription: Subscription, day: date, *, actor: User | None, channel: Channel
) -> list[Transaction]:
    steps = charge_at_once(subscription, day, _uncharged(subscription))
    return post(steps, actor=actor, channel=channel)


def _pay_back(
    subscription: Subscription, day: date, *, actor: User | None, channel: Channel
) -> list[Transaction]:
    """Returns what was paid for `day` and later, unless that charge was reversed already."""
    paid = subscription.paid_period
    if paid is None or paid.last < day:
        return []
    amount = remainder(paid, day)
    plan = subscription.plan
    rows = Transaction.objects.filter(user=subscription.user_id)
    if charged := rows.filter(number=subscription.charge_number or 0).first():
        if rows.filter(reverses=charged.number).exists():
            amount = ZERO
        # A plan that was changed without charging at once is not the one that was paid for.
        plan = Plan.objects.filter(pk=charged.metadata.get("plan")).first() or plan
    rest = Charge(max(day, paid.first), paid.last, amount)
    number = subscription.charge_number
    cut_short(subscription, day, amount)
    if not amount:
        return []
    entry = remainder_entry(subscription, plan, rest, number)
    results = ledger.post_batch([entry], actor=actor, channel=channel)
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
