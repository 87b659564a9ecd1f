"""Balance changes, service charges and reversals. Their transactions are their records."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, Unpack
from zoneinfo import ZoneInfo

from django.conf import settings
from django.utils import timezone

from billing import ledger
from billing.errors import InvalidEntry, InvalidPaymentDate, UnknownTransaction
from billing.ledger import Options
from billing.models import Channel, Transaction
from billing.money import ZERO, Amount
from billing.operations import reasons
from billing.operations._common import one_posting, one_transaction
from billing.operations.customers import customer_id, unknown_user_first
from billing.plans import services
from users.models import User


def change_balance(
    user_id: int,
    *,
    description: str = "",
    amount: Amount = ZERO,
    bonus_amount: Amount = ZERO,
    payment_date: date | None = None,
    bonus_expires_at: date | datetime | None = None,
    actor: User | None,
    channel: Channel,
    dry_run: bool = False,
    **options: Unpack[Options],
) -> Transaction:
    """See `billing.ledger.change_balance`. Raises UnknownUser also for an operator's account.

    A day as `bonus_expires_at` is the last day of the bonus, in the installation's time zone. The
    option `reason` describes a change without a description, and may say for how long a bonus
    lasts. Raises UnknownReason, ReasonRefused if the change does not fit it, and ReasonRequired.
    """
    with unknown_user_first(user_id):
        refuse_future_payment(payment_date)
        reason = options.get("reason")
        reasons.refuse_none(reason, channel)
        said = reasons.terms_of_repeat(
            reasons.terms(
                reasons.by_code(reason),
                description=description,
                bonus_amount=bonus_amount,
                bonus_expires_at=bonus_expires_at,
            ),
            user_id,
            options.get("idempotency_key"),
            is_said=bonus_expires_at is not None,
        )
        with one_posting(dry_run=dry_run):
            return ledger.change_balance(
                user_id,
                amount=amount,
                bonus_amount=bonus_amount,
                payment_date=payment_date,
                bonus_expires_at=said.bonus_expires_at,
                description=said.description,
                actor=actor,
                channel=channel,
                customers_only=True,
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
    amount: Amount | None = None,
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
            amount=amount,
            description=description,
            although_paid_back=although_paid_back,
            actor=actor,
            channel=channel,
            **options,
        )


def refund(
    user_id: int,
    *,
    number: int,
    description: str,
    amount: Amount | None = None,
    quantity: Amount | None = None,
    although_paid_back: bool = False,
    seen_paid_back: Sequence[int] | None = None,
    actor: User | None,
    channel: Channel,
    dry_run: bool = False,
    **options: Unpack[Options],
) -> Transaction:
    """Takes back a part of a transaction: an amount, or for a service a quantity of units.

    Like `reverse` otherwise. Raises InvalidEntry unless exactly one of both is given.
    """
    if (amount is None) == (quantity is None):
        raise InvalidEntry(field="amount", reason="give an amount or a quantity")
    customer_id(user_id)
    with one_transaction(dry_run=dry_run):
        if quantity is not None:
            charge = Transaction.objects.filter(user=user_id, number=number).first()
            if charge is None:
                raise UnknownTransaction(number=number)
            amount = services.cost_of_part(charge, quantity)
        return reverse(
            user_id,
            number=number,
            amount=amount,
            description=description,
            although_paid_back=although_paid_back,
            seen_paid_back=seen_paid_back,
            actor=actor,
            channel=channel,
            **options,
        )


def move(
    user_id: int,
    *,
    number: int,
    to_user_id: int,
    description: str,
    expected_number: int | None = None,
    actor: User | None,
    channel: Channel,
    dry_run: bool = False,
) -> ledger.MovedPayment:
    """See `billing.ledger.move`. Raises UnknownUser, also for an operator's account."""
    customer_id(user_id)
    customer_id(to_user_id)
    with one_transaction(dry_run=dry_run):
        return ledger.move(
            user_id,
            number=number,
            to_user_id=to_user_id,
            description=description,
            expected_number=expected_number,
            actor=actor,
            channel=channel,
        )


def refuse_future_payment(payment_date: date | None) -> None:
    """Raises InvalidPaymentDate for a day after today in the installation's time zone."""
    if payment_date is not None and payment_date > timezone.localdate(
        timezone=ZoneInfo(settings.TIME_ZONE)
    ):
        raise InvalidPaymentDate(payment_date=payment_date.isoformat())
