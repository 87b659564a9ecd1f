"""Reads and locks the balances of users, now or as of a moment."""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from django.db import connection, transaction

from billing.errors import BalanceMoved, DuplicateUser, ForgottenUser
from billing.ledger.entries import MAX_WHOLE_NUMBER, user_id_of, whole_number
from billing.models import Balance, Transaction
from billing.money import ZERO
from users import database
from users.models import User

_COLUMNS: Final = "real, bonus, last_number"
_LOCK: Final = f"SELECT user_id, {_COLUMNS} FROM billing_hold(%s::bigint[], %s)"  # noqa: S608


class Balances(NamedTuple):
    """A user's two balances at a moment, and the number of the last transaction at that time."""

    real: Decimal
    bonus: Decimal
    number: int


def balance(user: User | int) -> Balances:
    """Returns the balances as they are now."""
    row = Balance.objects.get(pk=user_id_of(user))
    return Balances(row.real, row.bonus, row.last_number)


def balance_at(user: User | int, moment: datetime) -> Balances:
    """Returns the balances at `moment`, including transactions of that very moment."""
    number = Transaction.objects.number_at(user_id_of(user), moment)
    if not number:
        return Balances(ZERO, ZERO, 0)
    row = Transaction.objects.get(user=user_id_of(user), number=number)
    return Balances(row.new_balance, row.new_bonus, number)


def lock_balances(users: Iterable[int], *, skip_locked: bool = False) -> dict[int, Balances]:
    """Locks the balances of these users until the end of the database transaction.

    While a balance is locked, nobody else changes the user's money or subscriptions. Locks are
    taken in the order of user IDs. With `skip_locked`, balances locked by somebody else are left
    out; otherwise the function waits for them. Returns the balances by user ID.
    """
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("A lock lasts no longer than its transaction.")
    possible = [user_id for user_id in users if abs(user_id) <= MAX_WHOLE_NUMBER]
    if skip_locked or len(possible) != 1 or not database.takes_turns():
        return _lock(possible, skip_locked=skip_locked)
    # A balance that is free, or already locked by the caller, needs no waiting for a turn.
    if free := _lock(possible, skip_locked=True):
        return free
    with database.hold_turn(possible):
        return _lock(possible, skip_locked=False)


def _lock(user_ids: list[int], *, skip_locked: bool) -> dict[int, Balances]:
    with connection.cursor() as cursor:
        cursor.execute(_LOCK, [user_ids, skip_locked])
        return {user_id: Balances(*balances) for user_id, *balances in cursor.fetchall()}


def refuse_if_moved(locked: Balances, expected_number: int | None) -> None:
    """Raises BalanceMoved as posting does. For free services, which post nothing."""
    expected = whole_number("expected_number", expected_number)
    if expected is not None and expected != locked.number:
        raise BalanceMoved(
            number=locked.number,
            expected_number=expected,
            balance=str(locked.real),
            bonus=str(locked.bonus),
        )


def refuse_closed(user_id: int) -> None:
    """Raises DuplicateUser or ForgottenUser as posting does. For what posts nothing."""
    closed = User.objects.filter(pk=user_id).values_list("duplicate_of", "forgotten_at").first()
    duplicate_of, forgotten_at = closed or (None, None)
    if duplicate_of is not None:
        raise DuplicateUser(user_id=user_id, duplicate_of=duplicate_of)
    if forgotten_at is not None:
        raise ForgottenUser(user_id=user_id)
