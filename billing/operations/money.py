"""Balance changes, service charges and reversals. Their transactions are their records."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

from billing import ledger
from billing.ledger import Entry, Options, Posted
from billing.models import Channel, Transaction
from billing.money import ZERO, Amount
from billing.operations._common import one_posting, one_transaction
from billing.operations.customers import customer_id
from billing.plans import services
from users.models import User


def change_balance(
    user_id: int,
    *,
    description: str,
    amount: Amount = ZERO,
    bonus_amount: Amount = ZERO,
    actor: User | None,
    channel: Channel,
    dry_run: bool = False,
    **options: Unpack[Options],
) -> Transaction:
    """See `billing.ledger.change_balance`. Raises UnknownUser also for an operator's account."""
    customer_id(user_id)
    with one_posting(dry_run=dry_run):
        return ledger.change_balance(
            user_id,
            amount=amount,
            bonus_amount=bonus_amount,
            description=description,
            actor=actor,
            channel=channel,
            **options,
        )


def charge_service(
    user_id: int,
    *,
    service: str,
    quantity: Amount,
    device: str = "",
    description: str = "",
    metadata: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    expected_number: int | None = None,
    actor: User | None,
    channel: Channel,
    dry_run: bool = False,
) -> Transaction:
    """See `billing.plans.services.charge_service`. Raises UnknownUser also for an operator."""
    customer_id(user_id)
    with one_posting(dry_run=dry_run):
        return services.charge_service(
            user_id,
            service=service,
            quantity=quantity,
            device=device,
            description=description,
            metadata=metadata,
            idempotency_key=idempotency_key,
            expected_number=expected_number,
            actor=actor,
            channel=channel,
        )


def reverse(
    user_id: int,
    *,
    number: int,
    description: str,
    although_paid_back: bool = False,
    seen_paid_back: Sequence[int] | None = None,
    actor: User | None,
    channel: Channel,
    dry_run: bool = False,
    **options: Unpack[Options],
) -> Transaction:
    """See `billing.ledger.reverse`. Raises UnknownUser also for an operator's account.

    `seen_paid_back` has the numbers of the paybacks that the caller has seen. If these are still
    all of them, the transaction is reversed although something was paid back.
    """
    customer_id(user_id)
    with one_transaction(dry_run=dry_run):
        if seen_paid_back is not None:
            ledger.lock_balances([user_id])  # so that nobody pays back before it is posted
            paid_back = [row.number for row in ledger.paid_back_of_number(user_id, number)]
            although_paid_back = list(seen_paid_back) == paid_back
        return ledger.reverse(
            user_id,
            number=number,
            description=description,
            although_paid_back=although_paid_back,
            actor=actor,
            channel=channel,
            **options,
        )


def post_batch(
    entries: Iterable[Entry],
    *,
    actor: User | None,
    channel: Channel,
    skip_refused: bool = False,
    dry_run: bool = False,
) -> list[Posted]:
    """See `billing.ledger.post_batch`."""
    with one_posting(dry_run=dry_run):
        return ledger.post_batch(entries, actor=actor, channel=channel, skip_refused=skip_refused)
