"""Moving money to another user: a payment that was posted for the wrong one, or everything."""

from collections.abc import Sequence
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from billing.counters import counts_refusals
from billing.errors import (
    AlreadyReversed,
    InsufficientFunds,
    InvalidExpiry,
    NotMovable,
    SameUser,
    UnknownTransaction,
)
from billing.ledger.balances import balance, lock_balances
from billing.ledger.entries import Options, balance_change_entry, reversal_entry
from billing.ledger.posting import expire_grants, left_of, post, post_batch
from billing.models import Channel, Grant, Transaction, TransactionType
from billing.money import ZERO
from users.models import User

# In the metadata of both transactions: the user and the number of the other one.
MOVED_TO: Final = "moved_to"
MOVED_FROM: Final = "moved_from"

MOVABLE: Final = (TransactionType.PAYMENT, TransactionType.BONUS_REFILL)


class MovedPayment(NamedTuple):
    """The transaction that took the payment back, and the one that posted it for the right user."""

    reversal: Transaction
    payment: Transaction


@counts_refusals
@transaction.atomic
def move(
    user_id: int,
    *,
    number: int,
    to_user_id: int,
    description: str,
    expected_number: int | None = None,
    actor: User | None,
    channel: Channel,
) -> MovedPayment:
    """Takes a payment back from one user and posts it for another: both, or neither.

    What earlier refunds took back is not moved. The day of the payment and the expiry of a gift
    stay as they were, and its reason. Both transactions name each other in their metadata.

    Raises NotMovable for anything but a payment, AlreadyReversed if nothing is left of it,
    SameUser, UnknownTransaction, InsufficientFunds if the money has been spent, and BalanceMoved.
    """
    if user_id == to_user_id:
        raise SameUser(user_id=user_id)
    lock_balances([user_id, to_user_id])
    while True:
        # What has expired is posted first, so that the number of the payment is known.
        expire_grants([user_id, to_user_id])
        named = balance(to_user_id).number + 1
        with transaction.atomic():
            moved = _moved(
                user_id,
                number=number,
                to={"user_id": to_user_id, "number": named},
                description=description,
                expected_number=expected_number,
                actor=actor,
                channel=channel,
            )
            if moved.payment.number == named:
                return moved
            transaction.set_rollback(True)  # a gift expired at this very moment


def _moved(
    user_id: int,
    *,
    number: int,
    to: dict[str, int],
    description: str,
    expected_number: int | None,
    actor: User | None,
    channel: Channel,
) -> MovedPayment:
    original = Transaction.objects.filter(user=user_id, number=number).first()
    if original is None:
        raise UnknownTransaction(number=number)
    if original.type not in MOVABLE:
        raise NotMovable(number=number)
    if not any(left_of(original)):
        last = Transaction.objects.filter(user=user_id, reverses=number).latest("number")
        raise AlreadyReversed(number=number, reversed_by=last.number)
    options: Options = {
        "metadata": {MOVED_TO: to},
        "expected_number": expected_number,
    }
    taken = reversal_entry(user_id, number=number, description=description, **options)
    reversal = post(taken, actor=actor, channel=channel)
    grant = Grant.objects.filter(user=user_id, number=number).first()
    given = balance_change_entry(
        to["user_id"],
        amount=-reversal.amount,
        bonus_amount=-reversal.bonus_amount,
        description=original.description,
        payment_date=original.payment_date
        or timezone.localdate(original.created_at, ZoneInfo(settings.TIME_ZONE)),
        bonus_expires_at=grant.expires_at if grant and reversal.bonus_amount < 0 else None,
        metadata={MOVED_FROM: {"user_id": user_id, "number": reversal.number}},
        # A reason that is no longer used cannot be given again.
        reason=original.reason_id if original.reason and original.reason.is_active else None,
    )
    return MovedPayment(reversal, post(given, actor=actor, channel=channel))


def is_movable(row: Transaction) -> bool:
    """True for a payment of which something is left."""
    return row.type in MOVABLE and any(left_of(row))


# --- All of it ----------------------------------------------------------------------------------


class MovedPart(NamedTuple):
    """The transaction that took a part of a user's money, and the one that gave it to another."""

    taken: Transaction
    given: Transaction


@transaction.atomic
def move_all(
    user_id: int,
    to_user_id: int,
    *,
    descriptions: tuple[str, str],
    actor: User | None,
    channel: Channel,
) -> list[MovedPart]:
    """Moves all money of one user to another: the real balance, then gift by gift.

    Each gift stays a gift with its own expiry. Both transactions of a part name each other in their
    metadata; the two `descriptions` are theirs. What has expired is posted first.
    """
    lock_balances([user_id, to_user_id])
    tried: Sequence[Grant] | None = None
    while True:
        expire_grants([user_id, to_user_id])
        grants = list(
            Grant.objects.filter(user=user_id, is_open=True).order_by(
                F("expires_at").asc(nulls_last=True), "number"
            )
        )
        try:
            with transaction.atomic():
                moved = _moved_all(
                    user_id,
                    to_user_id,
                    grants,
                    descriptions=descriptions,
                    actor=actor,
                    channel=channel,
                )
                if moved is not None:
                    return moved
                transaction.set_rollback(True)  # a gift expired at this very moment
        except (InsufficientFunds, InvalidExpiry):
            if grants == tried:
                raise
        tried = grants


def _moved_all(
    user_id: int,
    to_user_id: int,
    grants: Sequence[Grant],
    *,
    descriptions: tuple[str, str],
    actor: User | None,
    channel: Channel,
) -> list[MovedPart] | None:
    """Posts all parts. Returns None if the numbers are others than the transactions name."""
    own, others = balance(user_id), balance(to_user_id)
    parts = [(ZERO, grant.remaining, grant.expires_at) for grant in grants]
    if own.real:
        parts.insert(0, (own.real, ZERO, None))
    taken, given = [], []
    for place, (real, bonus, expires_at) in enumerate(parts, start=1):
        here = {"user_id": user_id, "number": own.number + place}
        there = {"user_id": to_user_id, "number": others.number + place}
        taken.append(
            balance_change_entry(
                user_id,
                amount=-real,
                bonus_amount=-bonus,
                description=descriptions[0],
                metadata={MOVED_TO: there},
            )
        )
        given.append(
            balance_change_entry(
                to_user_id,
                amount=real,
                bonus_amount=bonus,
                bonus_expires_at=expires_at,
                description=descriptions[1],
                metadata={MOVED_FROM: here},
            )
        )
    results = post_batch([*taken, *given], actor=actor, channel=channel) if parts else []
    posted = [result.transaction for result in results if result.transaction is not None]
    halves = zip(posted[: len(parts)], posted[len(parts) :], strict=True)
    moved = [MovedPart(*half) for half in halves]
    is_as_named = all(
        (each.taken.number, each.given.number) == (own.number + place, others.number + place)
        for place, each in enumerate(moved, start=1)
    )
    return moved if is_as_named else None
