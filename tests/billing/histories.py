"""Ready-made histories, and the means to tamper with them."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, connection, transaction

from billing import ledger
from billing.models import Balance, Channel, Grant, GrantUse, Transaction
from tests.factories import OperatorFactory, charge_cost, charge_price, pay_back, user_with
from tests.roles import as_owner
from users.models import User

LEDGER_TABLES = tuple(model._meta.db_table for model in (Transaction, Balance, Grant, GrantUse))
BY_PANEL: dict[str, Any] = {"actor": None, "channel": Channel.PANEL}


def execute(sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []


def user_with_history(**fields: Any) -> User:
    """Makes a user with seven transactions, at least one of each type.

    1 refill 100 and 20 bonus; 2 gift 5; 3 service 30 (bonus 25, real 5); 4 subscription 12.55;
    5 remainder 2.55; 6 reversal of 3; 7 service 1 (bonus).
    """
    user = user_with(real=100, bonus=20, **fields)
    operator = OperatorFactory()
    ledger.give_bonus(user, amount=5, description="Welcome gift", **BY_PANEL)
    charge_cost(
        user,
        service="outgoing_sms",
        cost=30,
        description="100 messages",
        device="Truck 7",
        metadata={"messages": 100},
        idempotency_key="messages-1",
        actor=operator,
        channel=Channel.API,
    )
    charge_price(
        user,
        cycle="monthly",
        price="12.55",
        description="November 2026",
        actor=None,
        channel=Channel.CHARGING,
    )
    pay_back(user, amount="2.55", description="Change of plan", **BY_PANEL)
    ledger.reverse(user, number=3, description="Messages were not sent", **BY_PANEL)
    charge_cost(user, service="traffic", cost=1, description="Traffic of today", **BY_PANEL)
    return user


def judge() -> None:
    """Runs now the checks that the database runs at commit."""
    execute("SET CONSTRAINTS ALL IMMEDIATE")
    execute("SET CONSTRAINTS ALL DEFERRED")


@contextmanager
def guards_down() -> Iterator[None]:
    """Removes the triggers and constraints of the ledger's tables, as their owner can.

    Afterwards it puts them back, except for constraints that the changed rows violate. Use it in
    tests that are rolled back: the rollback restores those too.
    """
    judge()  # checks the changes made so far
    put_back = []
    for table in LEDGER_TABLES:
        execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        for name, definition in execute(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE conrelid = %s::regclass AND contype IN ('c', 'f', 'u')",
            [table],
        ):
            execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
            put_back.append(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
        for name, definition in execute(
            "SELECT indexrelid::regclass, pg_get_indexdef(indexrelid) FROM pg_index "
            "WHERE indrelid = %s::regclass AND indisunique AND NOT indisprimary",
            [table],
        ):
            execute(f"DROP INDEX {name}")
            put_back.append(definition)
    yield
    for statement in put_back:
        with suppress(DatabaseError), transaction.atomic():
            execute(statement)
    for table in LEDGER_TABLES:
        execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")


def tamper(sql: str, **parameters: Any) -> None:
    """Executes `sql` with the guards down. In it, `digest_of(row)` is the row's right digest."""
    with as_owner():
        _tamper(sql, parameters)


def _tamper(sql: str, parameters: dict[str, Any]) -> None:
    execute(
        """CREATE OR REPLACE FUNCTION pg_temp.digest_of(t billing_transaction) RETURNS bytea
        LANGUAGE sql AS $$
            SELECT billing_digest(t, coalesce((SELECT digest FROM billing_transaction x
                WHERE x.user_id = t.user_id AND x.number = t.number - 1), ''), (
                SELECT jsonb_agg(jsonb_build_array(u.grant_number::text, u.amount::text)
                    ORDER BY u.line) FROM billing_grantuse u
                WHERE u.user_id = t.user_id AND u.number = t.number))
        $$"""
    )
    with guards_down():
        execute(sql.replace("digest_of(", "pg_temp.digest_of("), parameters)


def posted_ahead(by: timedelta, user: User | None = None) -> User:
    """Returns a user whose last transaction was posted when the clock was ahead by `by`."""
    user = user or user_with(real=100)
    tamper(
        "UPDATE billing_transaction SET created_at = created_at + %(by)s "
        "WHERE user_id = %(user)s AND number = %(last)s; "
        "UPDATE billing_transaction t SET digest = digest_of(t) "
        "WHERE user_id = %(user)s AND number = %(last)s; "
        "UPDATE billing_balance b SET last_at = t.created_at, last_digest = t.digest "
        "FROM billing_transaction t "
        "WHERE t.user_id = b.user_id AND b.user_id = %(user)s AND t.number = %(last)s",
        by=by,
        user=user.pk,
        last=ledger.balance(user).number,
    )
    judge()
    return user
