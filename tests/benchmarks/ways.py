"""The compared ways of adding 1.00 to a user's balance."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import psycopg
from django.db import connection, models, transaction
from django.utils import timezone

from billing import ledger
from billing.models import Channel
from billing.models.balances import money_field, total_field
from tests.benchmarks import pgledger

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


FLOORS: Final = {tables: _FLOOR.format(tables=tables) for tables in ("ruled", "plain")}
PLACE_OF_USER: Final = 2  # among the values


def floor_values(user_id: int) -> list[Any]:
    return [AMOUNT, AMOUNT, user_id, DESCRIPTION, AMOUNT, AMOUNT, Channel.API.value]


def by_ruled_floor(user_id: int) -> None:
    _execute(FLOORS["ruled"], floor_values(user_id))


def by_bare_floor(user_id: int) -> None:
    _execute(FLOORS["plain"], floor_values(user_id))


def by_prepared_floor(user_id: int) -> None:
    _execute_prepared(FLOORS["plain"], floor_values(user_id))


# An account that each user has for money from outside, because one for all would be a hot row.
_TRANSFER: Final = "SELECT * FROM pgledger_create_transfer(%s, %s, %s)"


def by_pgledger(user_id: int) -> None:
    _execute(_TRANSFER, [*pgledger.accounts[user_id], AMOUNT])


def by_prepared_pgledger(user_id: int) -> None:
    _execute_prepared(_TRANSFER, [*pgledger.accounts[user_id], AMOUNT])


def _execute(statement: str, values: list[Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        cursor.fetchall()


def _execute_prepared(statement: str, values: list[Any]) -> None:
    """Executes it on the driver's own cursor, without what Django adds."""
    connection.ensure_connection()
    with psycopg.Cursor(connection.connection) as cursor:
        cursor.execute(statement, values, prepare=True)
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


@dataclass(frozen=True)
class Way:
    """A way of posting: its name in the table, and the function that posts for a user."""

    name: str
    post: Callable[[int], None]


LEDGER: Final = Way("ledger", by_ledger)
BARE_FLOOR: Final = Way("bare floor", by_bare_floor)
PREPARED_FLOOR: Final = Way("bare floor, prepared", by_prepared_floor)
RULED_FLOOR: Final = Way("ruled floor", by_ruled_floor)
USUAL: Final = Way("usual Django way", by_usual_django)
BARE_USUAL: Final = Way("usual Django way on tables without rules", by_bare_django)
PGLEDGER: Final = Way("pgledger", by_pgledger)
PREPARED_PGLEDGER: Final = Way("pgledger, prepared", by_prepared_pgledger)

ALWAYS: Final = (LEDGER, BARE_FLOOR, PREPARED_FLOOR, RULED_FLOOR, USUAL, BARE_USUAL)
WITH_PGLEDGER: Final = (PGLEDGER, PREPARED_PGLEDGER)


def available() -> tuple[Way, ...]:
    return (*ALWAYS, *(WITH_PGLEDGER if pgledger.accounts else ()))
