"""The real balance below which programs are told: a user's own threshold, or the default.

A trigger on transactions creates the webhook event (`billing_tell_of_transactions.sql`). Setting a
user's own threshold locks the user's balance, so each posting uses the old or the new one. Setting
the default locks nothing: postings at that moment may use either.
"""

from decimal import Decimal
from typing import NamedTuple

from django.db import transaction

from billing import ledger
from billing.errors import InvalidAmount
from billing.models import LowBalanceThreshold
from billing.money import Amount, format_money


class Threshold(NamedTuple):
    """A threshold: programs are told below `amount`. None: never."""

    amount: Decimal | None
    is_own: bool

    def __str__(self) -> str:
        return "never" if self.amount is None else f"below {format_money(self.amount)}"

    @property
    def in_words(self) -> str:
        return str(self) if self.is_own else f"{self}, by default"


class Change(NamedTuple):
    before: Threshold
    after: Threshold


def default_threshold() -> Threshold:
    row = LowBalanceThreshold.objects.filter(user=None).first()
    return Threshold(row.amount if row else None, is_own=False)


def of(user_id: int) -> Threshold:
    """Returns the threshold that counts for a user."""
    row = LowBalanceThreshold.objects.filter(user=user_id).first()
    return Threshold(row.amount, is_own=True) if row else default_threshold()


@transaction.atomic
def set_default(amount: Amount | None) -> Change:
    """None: never. Raises InvalidAmount for a value that is not an amount, or is negative."""
    checked = None if amount is None else _checked(amount)
    row, _ = LowBalanceThreshold.objects.get_or_create(user=None)
    LowBalanceThreshold.objects.select_for_update().get(pk=row.pk)  # one change after the other
    before = default_threshold()
    LowBalanceThreshold.objects.filter(pk=row.pk).update(amount=checked)
    return Change(before, default_threshold())


@transaction.atomic
def set_own(user_id: int, amount: Amount | None) -> Change:
    """None: never. Raises InvalidAmount for a value that is not an amount, or is negative."""
    checked = None if amount is None else _checked(amount)
    ledger.lock_balances([user_id])
    before = of(user_id)
    LowBalanceThreshold.objects.update_or_create(user_id=user_id, defaults={"amount": checked})
    return Change(before, of(user_id))


@transaction.atomic
def unset_own(user_id: int) -> Change:
    """Deletes a user's own threshold, so that the default counts."""
    ledger.lock_balances([user_id])
    before = of(user_id)
    LowBalanceThreshold.objects.filter(user=user_id).delete()
    return Change(before, of(user_id))


def _checked(value: Amount) -> Decimal:
    amount = ledger.checked_amount("amount", value)
    if amount < 0:
        raise InvalidAmount(field="amount", reason="wrong_sign", value=str(amount))
    return amount
