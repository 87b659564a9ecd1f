"""Setting the real balance below which programs are told: the default, and one user's."""

from collections.abc import Callable
from typing import Any

from billing import events, ledger, thresholds
from billing.models import Channel, LowBalanceThreshold, Subject
from billing.money import Amount
from billing.operations._common import one_transaction
from billing.operations.customers import customer_id
from billing.thresholds import Change, Threshold
from users.models import User


def set_default(
    amount: Amount | None, *, actor: User | None, channel: Channel, dry_run: bool = False
) -> Change:
    """Sets the threshold for all users without their own; None: programs are never told."""
    with one_transaction(dry_run=dry_run):
        change = thresholds.set_default(amount)
        if change.before != change.after:
            row = LowBalanceThreshold.objects.get(user=None)
            events.record(
                Subject.LOW_BALANCE,
                row.pk,
                "default_low_balance_changed",
                actor=actor,
                channel=channel,
                **_figures(change),
            )
        return change


def set_own(
    user_id: int,
    amount: Amount | None,
    *,
    actor: User | None,
    channel: Channel,
    if_unchanged: Callable[[], None] | None = None,
    dry_run: bool = False,
) -> Change:
    """Sets a customer's own threshold; None: never told. Raises UnknownUser, InvalidAmount."""
    with one_transaction(dry_run=dry_run):
        _lock(user_id, if_unchanged)
        return _recorded(user_id, thresholds.set_own(user_id, amount), actor, channel)


def unset_own(
    user_id: int,
    *,
    actor: User | None,
    channel: Channel,
    if_unchanged: Callable[[], None] | None = None,
    dry_run: bool = False,
) -> Change:
    """Puts a customer back on the default. Raises UnknownUser."""
    with one_transaction(dry_run=dry_run):
        _lock(user_id, if_unchanged)
        return _recorded(user_id, thresholds.unset_own(user_id), actor, channel)


def _lock(user_id: int, if_unchanged: Callable[[], None] | None) -> None:
    customer_id(user_id)
    ledger.lock_balances([user_id])
    if if_unchanged is not None:
        if_unchanged()


def _recorded(user_id: int, change: Change, actor: User | None, channel: Channel) -> Change:
    if change.before != change.after:
        events.record(
            Subject.USER,
            user_id,
            "low_balance_changed",
            actor=actor,
            channel=channel,
            **_figures(change),
        )
    return change


def _figures(change: Change) -> dict[str, Any]:
    return {"before": _figure(change.before), "after": _figure(change.after)}


def _figure(threshold: Threshold) -> dict[str, Any]:
    amount = threshold.amount
    return {"amount": None if amount is None else str(amount), "is_own": threshold.is_own}
