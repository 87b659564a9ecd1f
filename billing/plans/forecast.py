"""The next charge of a subscription, and what is paid ahead and can be paid back. Reads only."""

from datetime import date
from decimal import Decimal
from typing import NamedTuple

from django.db.models import Count, Sum
from django.db.models.fields.json import KeyTextTransform

from billing.models import Plan, Subscription, Transaction
from billing.money import ZERO
from billing.plans.due import ACTIVE, CANCELLED, DAY, SUSPENDED
from billing.plans.pricing import Charge, charge_on, remainder
from users.models import User


class Upcoming(NamedTuple):
    """The next charge of a subscription.

    `day` is None if it depends on the device being active, or on money.
    """

    day: date | None
    amount: Decimal


def upcoming(subscription: Subscription, today: date) -> Upcoming | None:
    """Returns the next charge if nothing changes; None for a cancelled subscription."""
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
    """The unused rest of one charge: its number, its plan, and the coming days with their share of
    the amount."""

    number: int
    plan: Plan
    rest: Charge


def paid_ahead(subscription: Subscription, day: date) -> list[PaidAhead]:
    """Returns what was paid for `day` and later, over all periods and plans of a subscription.

    Leaves out what was already paid back, reversed or refunded: after a refund of a part, the rest
    of the amount counts as paid for the same days.
    """
    of_user = Transaction.objects.filter(user=subscription.user_id)
    mine = of_user.filter(type="main_charge", metadata__subscription=subscription.pk).alias(
        through=KeyTextTransform("through", "metadata")
    )
    rows = list(mine.filter(through__gte=f"{day}").order_by("number"))
    numbers = [row.number for row in rows]
    taken_back = dict(
        of_user.filter(reverses__in=numbers)
        .order_by()
        .values_list("reverses")
        .annotate(amount=Sum("amount"))
    )
    net = {row.number: row.amount + taken_back.get(row.number, ZERO) for row in rows}
    rows = [row for row in rows if net[row.number]]
    plans = Plan.objects.in_bulk({row.metadata.get("plan") for row in rows})
    left = []
    for row in rows:
        if row.subtype == "remainder":
            continue
        first, last = _days_of(row)
        amount = -net[row.number]
        for other in rows:
            if other.subtype == "remainder" and _returns(other, row):
                last = min(last, _days_of(other)[0] - DAY)
                amount -= net[other.number]
        if last >= day:
            rest = Charge(max(first, day), last, remainder(Charge(first, last, amount), day))
            plan = plans.get(row.metadata.get("plan"), subscription.plan)
            left.append(PaidAhead(row.number, plan, rest))
    return left


def _days_of(row: Transaction) -> tuple[date, date]:
    return date.fromisoformat(row.metadata["from"]), date.fromisoformat(row.metadata["through"])


def _returns(paid_back: Transaction, charge: Transaction) -> bool:
    """Returns whether a remainder belongs to this charge, which old remainders do not name."""
    if "charge" in paid_back.metadata:
        return bool(paid_back.metadata["charge"] == charge.number)
    return (
        paid_back.number > charge.number
        and paid_back.metadata.get("plan") == charge.metadata.get("plan")
        and _days_of(paid_back)[1] == _days_of(charge)[1]
    )


class ToResume(NamedTuple):
    """How many subscriptions of a user are suspended, and what resuming them all costs."""

    subscriptions: int
    amount: Decimal


def needed_to_resume(user: User, today: date) -> ToResume:
    """Returns what all suspended subscriptions of `user` would be charged if they resumed today."""
    suspended = Subscription.objects.filter(user=user, status=SUSPENDED)
    counts = dict(suspended.order_by().values_list("plan").annotate(Count("pk")))
    plans = Plan.objects.filter(pk__in=counts)
    amounts = [counts[plan.pk] * charge_on(today, plan.terms).amount for plan in plans]
    return ToResume(sum(counts.values()), sum(amounts, ZERO))
