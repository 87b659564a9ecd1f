"""The compared ways of adding 1.00 to a user's balance."""

from collections.abc import Callable
from decimal import Decimal
from typing import Final

from django.db import connection, models, transaction
from django.utils import timezone

from billing import ledger
from billing.models import Channel
from billing.models.balances import money_field, total_field

AMOUNT: Final = Decimal("1.0000")
DESCRIPTION: Final = "Bank transfer"


def by_ledger(user_id: int) -> None:
    ledger.change_balance(
        user_id, amount=AMOUNT, description=DESCRIPTION, actor=None, channel=Channel.API
    )


# The minimum cost of writing the two rows: no lock, no check, no key, no digest. It returns the
# row, as the ledger does.
_FLOOR: Final = """
    WITH balance AS (
        UPDATE {tables}_balance SET
            real = real + %s, refilled = refilled + %s,
            last_number = last_number + 1, last_at = clock_timestamp()
        WHERE user_id = %s RETURNING *
    )
    INSERT INTO {tables}_transaction (
        user_id, number, type, subtype, description, amount, old_balance, new_balance,
        bonus_amount, old_bonus, new_bonus, refilled, bonus_refilled, created_at, channel,
        metadata, digest
    )
    SELECT
        user_id, last_number, 'payment', 'partner', %s, %s, real - %s, real,
        0, bonus, bonus, refilled, bonus_refilled, last_at, %s, '{{}}', ''
    FROM balance RETURNING *
"""


_FLOORS: Final = {tables: _FLOOR.format(tables=tables) for tables in ("ruled", "plain")}


def by_floor(user_id: int) -> None:
    _execute_floor(_FLOORS["ruled"], user_id)


def by_bare_floor(user_id: int) -> None:
    _execute_floor(_FLOORS["plain"], user_id)


def _execute_floor(statement: str, user_id: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            statement, [AMOUNT, AMOUNT, user_id, DESCRIPTION, AMOUNT, AMOUNT, Channel.API.value]
        )
        cursor.fetchall()


class BalanceColumns(models.Model):
    user_id = models.BigIntegerField(primary_key=True)
    real = money_field()
    bonus = money_field()
    refilled = total_field("all refills so far")
    bonus_refilled = total_field("all bonus refills so far")
    last_number = models.BigIntegerField()
    last_digest = models.BinaryField()
    last_at = models.DateTimeField(null=True)

    class Meta:
        abstract = True


class PlainBalance(BalanceColumns):
    class Meta:
        app_label = "benchmarks"
        managed = False
        db_table = "plain_balance"


class RuledBalance(BalanceColumns):
    class Meta:
        app_label = "benchmarks"
        managed = False
        db_table = "ruled_balance"


class TransactionColumns(models.Model):
    id = models.BigAutoField(primary_key=True)
    user_id = models.BigIntegerField()
    number = models.BigIntegerField()
    type = models.CharField(max_length=16)
    subtype = models.CharField(max_length=32)
    description = models.CharField(max_length=200)
    device = models.CharField(max_length=100, default="")
    amount = money_field()
    old_balance = money_field()
    new_balance = money_field()
    bonus_amount = money_field(default=0)
    old_bonus = money_field()
    new_bonus = money_field()
    refilled = total_field("all refills up to this one")
    bonus_refilled = total_field("all bonus refills up to this one")
    created_at = models.DateTimeField()
    actor_id = models.BigIntegerField(null=True)
    channel = models.CharField(max_length=10)
    idempotency_key = models.CharField(max_length=100, null=True)  # noqa: DJ001 - as the ledger's
    reverses = models.BigIntegerField(null=True)
    metadata = models.JSONField(default=dict)
    digest = models.BinaryField(default=b"")

    class Meta:
        abstract = True


class PlainTransaction(TransactionColumns):
    class Meta:
        app_label = "benchmarks"
        managed = False
        db_table = "plain_transaction"


class RuledTransaction(TransactionColumns):
    class Meta:
        app_label = "benchmarks"
        managed = False
        db_table = "ruled_transaction"


def by_usual_django(user_id: int) -> None:
    _change(RuledBalance, RuledTransaction, user_id)


def by_bare_django(user_id: int) -> None:
    _change(PlainBalance, PlainTransaction, user_id)


def _change(
    balances: type[BalanceColumns], transactions: type[TransactionColumns], user_id: int
) -> None:
    with transaction.atomic():
        balance = balances.objects.select_for_update().get(user_id=user_id)
        old_balance = balance.real
        balance.real += AMOUNT
        balance.refilled += AMOUNT
        balance.last_number += 1
        balance.last_at = timezone.now()
        balance.save()
        transactions.objects.create(
            user_id=user_id,
            number=balance.last_number,
            type="payment",
            subtype="partner",
            description=DESCRIPTION,
            amount=AMOUNT,
            old_balance=old_balance,
            new_balance=balance.real,
            old_bonus=balance.bonus,
            new_bonus=balance.bonus,
            refilled=balance.refilled,
            bonus_refilled=balance.bonus_refilled,
            created_at=balance.last_at,
            channel=Channel.API,
        )


WAYS: Final[dict[str, Callable[[int], None]]] = {
    "floor": by_floor,
    "bare floor": by_bare_floor,
    "ledger": by_ledger,
    "usual": by_usual_django,
    "bare usual": by_bare_django,
}
