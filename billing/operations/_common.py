"""Helpers of all operations."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from django.db import transaction

from billing import events, ledger
from billing.models import Channel, Event, Plan, Subject, Subscription, Transaction
from billing.money import ZERO
from billing.plans.subscriptions import Changed
from users.models import User


def one_transaction(*, dry_run: bool) -> AbstractContextManager[Any]:
    """Returns a context for one database transaction; a dry run is rolled back at its end."""
    return ledger.dry_run() if dry_run else transaction.atomic()


def one_posting(*, dry_run: bool) -> AbstractContextManager[Any]:
    """Returns the same for one call of the ledger, which is a database transaction by itself."""
    return ledger.dry_run() if dry_run else nullcontext()


def subscription_data(subscription: Subscription, posted: Iterable[Transaction]) -> dict[str, Any]:
    """Returns the data of an event about a subscription and its posted transactions.

    Leaves out charges of the user's other subscriptions.
    """
    mine = [row for row in posted if row.metadata.get("subscription") == subscription.pk]
    return {
        "subscription": subscription.pk,
        "device": subscription.device,
        "plan": plan_data(subscription.plan),
        "status": subscription.status,
        "suspension_reason": subscription.suspension_reason,
        "charged": str(-sum((row.amount for row in mine if row.amount < 0), ZERO)),
        "paid_back": str(sum((row.amount for row in mine if row.amount > 0), ZERO)),
        "transactions": [row.number for row in mine],
    }


def plan_data(plan: Plan) -> dict[str, Any]:
    """Returns a plan's ID and present name, which may change later."""
    return {"id": plan.pk, "name": plan.name}


def record_subscription(
    action: str,
    changed: Changed,
    old_plan: Plan | None = None,
    *,
    actor: User | None,
    channel: Channel,
) -> Event:
    """Records an operation on a subscription in the history of its user."""
    subscription, posted = changed
    data = subscription_data(subscription, posted)
    if old_plan is not None:
        data["old_plan"] = plan_data(old_plan)
    return events.record(
        Subject.USER, subscription.user_id, action, actor=actor, channel=channel, **data
    )
