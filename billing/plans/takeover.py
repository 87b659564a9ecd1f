"""Takes over subscriptions that ran in another system. Pure: no clock, no queries."""

from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple

from billing.models import Subscription
from billing.money import ZERO
from billing.plans.due import ACTIVE, DAY, NO_MONEY, SUSPENDED, USER_DEACTIVATED
from billing.plans.pricing import Cycle, month_end


class Payment(NamedTuple):
    """The transaction that paid the present period: number, amount, and first paid day."""

    number: int
    amount: Decimal
    first: date


def paid_period(plan_cycle: str, started_on: date, paid_through: date) -> tuple[date, date]:
    """Returns the first and the last day of the period that is paid through `paid_through`."""
    first = paid_through
    if plan_cycle == Cycle.MONTHLY:
        first = paid_through.replace(day=1)
    elif plan_cycle == Cycle.ANNUAL:
        first = paid_through.replace(month=1, day=1)
    return min(max(first, started_on), paid_through), paid_through


def ends_with_its_period(plan_cycle: str, day: date) -> bool:
    """Returns whether a paid period that ends on `day` ends as periods of this cycle do here."""
    if plan_cycle == Cycle.MONTHLY:
        return day == month_end(day)
    return plan_cycle != Cycle.ANNUAL or (day.month, day.day) == (12, 31)


def take_over(
    subscription: Subscription,
    *,
    paid_through: date | None,
    payment: Payment | None,
    is_suspended: bool,
    is_user_active: bool,
    now: datetime,
) -> None:
    """Sets the state in which a subscription continues here, from the day of `now`.

    `subscription` has its plan and `started_on`. If it is paid through today or later, it is
    charged from the day after that; otherwise from today on, by the next run. Days before today are
    never charged. The next run retries a suspended subscription.
    """
    day = now.date()
    plan = subscription.plan
    subscription.plan_since = subscription.status_since = subscription.started_on
    subscription.due_on = day
    if paid_through is not None and paid_through >= day and plan.cycle != Cycle.ACTIVE_DAY:
        first, last = paid_period(plan.cycle, subscription.started_on, paid_through)
        subscription.charged_from = payment.first if payment else first
        subscription.charged_through = last
        subscription.charge_number = payment.number if payment else None
        subscription.paid = payment.amount if payment else ZERO
        subscription.due_on = last + DAY
    elif plan.cycle == Cycle.ACTIVE_DAY:
        subscription.plan_since = day  # only days reported here are charged here
        subscription.due_on = None
    subscription.status = ACTIVE
    if is_suspended or not is_user_active:
        subscription.status, subscription.status_since = SUSPENDED, day
        subscription.suspension_reason = NO_MONEY if is_user_active else USER_DEACTIVATED
        subscription.suspended_at = now
        subscription.due_on = day + DAY
