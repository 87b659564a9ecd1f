"""What was done to a subscription, in a sentence: for the user's history, and for who did it."""

from collections.abc import Iterable

from billing.models import Plan, Subscription, Transaction
from billing.money import ZERO, format_money


def subscribed(subscription: Subscription, posted: Iterable[Transaction]) -> str:
    """ "Subscribed device 8617 to plan Business; 12.55 charged." """
    device = subscription.device
    who = f"device {device}" if device else "the user"
    return f"Subscribed {who} to plan {subscription.plan}; {_ending(subscription, posted)}"


def changed_plan(subscription: Subscription, old: Plan, posted: Iterable[Transaction]) -> str:
    whose = f"of device {subscription.device} " if subscription.device else ""
    ending = _ending(subscription, posted)
    return f"Changed the plan {whose}from {old} to {subscription.plan}; {ending}"


def cancelled(subscription: Subscription, posted: Iterable[Transaction]) -> str:
    device = subscription.device
    which = f"the subscription of device {device}" if device else "the user's own pricing plan"
    return f"Cancelled {which}, plan {subscription.plan}; {_ending(subscription, posted)}"


def _ending(subscription: Subscription, posted: Iterable[Transaction]) -> str:
    """ "3.35 paid back, 8.7850 charged." Without what was charged first for others of the user."""
    mine = (row for row in posted if row.metadata.get("subscription") == subscription.pk)
    amounts = [row.amount for row in mine]
    paid_back = sum((each for each in amounts if each > 0), ZERO)
    charged = -sum((each for each in amounts if each < 0), ZERO)
    parts = [f"{format_money(paid_back)} paid back"] if paid_back else []
    parts += [f"{format_money(charged)} charged"] if charged else []
    parts = parts or ["nothing charged"]
    if subscription.status == Subscription.Status.SUSPENDED:
        parts.append(f"suspended {subscription.suspended_until}")
    return f"{', '.join(parts)}."
