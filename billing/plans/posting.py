"""Posts what falls due: `due` decides, this posts the charges and stores the subscriptions.

The caller has locked the users' balances, in the same database transaction.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from django.db import connection
from django.db.models import Min
from django.db.models.functions import Greatest

from billing import ledger
from billing.models import ActiveDay, Channel, Plan, Subscription, Transaction
from billing.plans import due, history
from billing.plans.due import DAY, Decision, Reported
from billing.plans.pricing import Charge, format_period
from billing.plans.schedule import end_of, run_of, start_of
from users.models import User


def unpaid_active_days(
    subscriptions: Iterable[Subscription], until: datetime | None = None
) -> dict[int, list[Reported]]:
    """Returns the active days that can still be charged, each with the first run that knows of it.

    By subscription ID, for `due.decide`. A day reported after `until` counts as reported in time.
    """
    by_active_day = [s.pk for s in subscriptions if s.is_by_active_day]
    first_report: dict[tuple[int, date], datetime] = {}
    if by_active_day:
        # Days before the present plan, or before a suspension, are never charged.
        accrues_from = Greatest("subscription__plan_since", "subscription__status_since")
        rows = ActiveDay.objects.filter(
            subscription__in=by_active_day, is_charged=False, day__gte=accrues_from
        )
        # Several devices can report the same day for the account's plan.
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


def charge_due(
    subscriptions: Sequence[Subscription],
    *,
    through: date,
    real: Mapping[int, Decimal],
    retry: bool = False,
    resumes: bool = True,
    actor: User | None,
    channel: Channel,
    in_full: bool = True,
) -> tuple[list[Decision], list[Transaction]]:
    """Decides, posts and stores what falls due up to `through`, for users with locked balances.

    `subscriptions` are sorted by user; `real` has the users' real balances by ID. The other
    arguments are those of `due.decide` and `post`. Returns the decisions and what was posted (see
    `post`). Stores each change of a status before the next one of the same subscription, so that
    programs are told of each.
    """
    if not subscriptions:
        return [], []
    until = end_of(through)
    active_days = unpaid_active_days(subscriptions, until)
    of_users = {
        user_id: list(its) for user_id, its in groupby(subscriptions, key=attrgetter("user_id"))
    }
    # From the start of the day: a refill may come before the run of that day.
    since = {
        user_id: start_of(
            min((each.due_on for each in its if each.due_on is not None), default=through)
        )
        for user_id, its in of_users.items()
    }
    pasts = history.pasts(real, since, until)
    prices = history.prices({each.plan_id: each.plan for each in subscriptions}.values())
    going_on = [
        due.decide(
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
    decisions: list[Decision] = []
    posted: list[Transaction] = []
    while going_on:
        together: list[Decision] = []
        interrupted = []
        for of_user in going_on:
            for decision in of_user:
                if decision is None:
                    interrupted.append(of_user)
                    break
                together.append(decision)
        posted += post(together, actor=actor, channel=channel, in_full=in_full)
        store(subscriptions)
        decisions += together
        going_on = interrupted
    return decisions, posted


def post(
    decisions: Iterable[Decision], *, actor: User | None, channel: Channel, in_full: bool = True
) -> list[Transaction]:
    """Posts the charges of these decisions, of any users: all or none. Free periods are not posted.

    Returns the transactions; an empty list if not `in_full`, which is faster. Raises
    InsufficientFunds if a balance is lower than `due.decide` assumed.
    """
    paid = [(each.subscription, each.charge) for each in decisions if each.charge is not None]
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
    """Returns the charge of a period. Its idempotency key names the period: it is posted once."""
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
    """Returns the payback of the rest of a period that transaction `charge_number` paid."""
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


def continued_entry(subscription: Subscription, plan: Plan, rest: Charge) -> ledger.Entry:
    """Returns the charge of days that another user had paid, to whom this was paid back."""
    first, last, amount = rest
    return ledger.subscription_entry(
        subscription.user_id,
        cycle=plan.cycle,
        price=amount,
        description=_described(
            f"Plan {plan.name}, {format_period(first, last)}, continued", subscription
        ),
        device=subscription.device,
        metadata=_about(subscription, plan, first, last),
    )


def store(subscriptions: Sequence[Subscription]) -> None:
    """Stores the paid periods and statuses of subscriptions, in one statement."""
    if not subscriptions:
        return
    columns = zip(*map(_STORED, subscriptions), strict=True)
    with connection.cursor() as cursor:
        cursor.execute(_STORE, [_as_array(column) for column in columns])


def _as_array(values: Iterable[object]) -> str:
    """Returns a PostgreSQL array of numbers, days or codes as text. Fast: runs write very many."""
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
    """Returns the metadata of a subscription's transaction: subscription, plan and days."""
    return {
        "subscription": subscription.pk,
        "plan": plan.pk,
        "from": f"{first}",
        "through": f"{last}",
    }
