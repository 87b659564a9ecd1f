"""Fills a fresh database with a history of one year, up to now.

Users have a hundred transactions each, except one with a tenth of all. All are refills of 10, so
that each row can be computed from its number. One in a hundred thousand is rare: it has a device, a
subtype and a description that few others have. Digests are not chained, because no list reads
them; what is posted afterwards is. Triggers are switched off meanwhile, and foreign keys and
indexes are put back afterwards.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from io import StringIO
from typing import Final

from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import GeneratedField
from django.utils import timezone

from tests.benchmarks.database import checkpoint
from users.models import User

PER_USER: Final = 100
PERIOD: Final = timedelta(days=365)
RARE_DEVICE: Final = "Rare tracker"
RARE_WORDS: Final = "Cheque 4711"
RARE_SUBTYPE: Final = "import"


@dataclass(frozen=True)
class Filled:
    transactions: int
    long: User  # has a tenth of all transactions
    short: User  # has about a hundred
    others: list[int]

    @property
    def of_long(self) -> int:
        return self.transactions // 10


def fill(transactions: int) -> Filled:
    long, short, pattern = User.objects.bulk_create(
        User(email=f"{name}@example.com", password="!") for name in ("long", "short", "reader")
    )
    # No multiple of 2 or 5, so that all of them get transactions.
    count = max(2, transactions // PER_USER // 10) * 10 + 1
    with connection.cursor() as cursor:
        cursor.execute(_copies_of_user(), [count, pattern.pk])
        others = [pattern.pk, *(found for (found,) in cursor.fetchall())]
    with transaction.atomic(), _unguarded(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL work_mem = '256MB'")
        cursor.execute("SET LOCAL maintenance_work_mem = '512MB'")
        cursor.execute(
            _FILL,
            {
                "long": long.pk,
                "short": short.pk,
                "others": others,
                "transactions": transactions,
                "each_short": max(3, transactions // PER_USER),
                "each_rare": min(100_000, transactions // 10) + 7,
                "begin": timezone.now() - PERIOD,
                "step": PERIOD / transactions,
                "rare_device": RARE_DEVICE,
                "rare_words": RARE_WORDS,
                "rare_subtype": RARE_SUBTYPE,
            },
        )
        cursor.execute(_CARRY_OVER)
    # A worker has kept the sums of the start page meanwhile.
    call_command("keep_sums", "--again", stdout=StringIO())
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    checkpoint()
    return Filled(transactions, long, short, others)


def _copies_of_user() -> str:
    quoted = connection.ops.quote_name
    columns = [
        field.column
        for field in User._meta.concrete_fields
        if not field.primary_key and not isinstance(field, GeneratedField)
    ]
    new = {"email": "'reader-' || place || '@example.com'", "first_name": "'Reader ' || place"}
    return (
        f"INSERT INTO users_user ({', '.join(map(quoted, columns))}) "
        f"SELECT {', '.join(new.get(column, quoted(column)) for column in columns)} "
        "FROM users_user, generate_series(2, %s) place WHERE id = %s RETURNING id"
    )


@contextmanager
def _unguarded() -> Iterator[None]:
    """Switches off what would be done for each row of the transactions and balances."""
    with connection.cursor() as cursor:
        cursor.execute(_FOREIGN_KEYS)
        keys = cursor.fetchall()
        cursor.execute(_INDEXES)
        indexes = cursor.fetchall()
        for name, _ in keys:
            cursor.execute(f"ALTER TABLE billing_transaction DROP CONSTRAINT {name}")
        for name, _ in indexes:
            cursor.execute(f"DROP INDEX {name}")
        for table in ("billing_balance", "billing_transaction"):
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    yield
    with connection.cursor() as cursor:
        for table in ("billing_balance", "billing_transaction"):
            cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        for _, definition in indexes:
            cursor.execute(definition)
        for name, definition in keys:
            cursor.execute(
                f"ALTER TABLE billing_transaction ADD CONSTRAINT {name} {definition} NOT VALID"
            )


_FOREIGN_KEYS: Final = """
    SELECT quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = 'billing_transaction'::regclass AND contype = 'f'
"""

# Those that no constraint needs.
_INDEXES: Final = """
    SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
    WHERE indrelid = 'billing_transaction'::regclass
        AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""

_FILL: Final = """
    INSERT INTO billing_transaction (
        user_id, number, type, subtype, description, device, amount, old_balance, new_balance,
        bonus_amount, old_bonus, new_bonus, refilled, bonus_refilled, created_at, channel,
        metadata, digest
    )
    SELECT user_id, number, 'payment',
        CASE WHEN is_rare THEN %(rare_subtype)s ELSE 'partner' END,
        CASE WHEN is_rare THEN %(rare_words)s ELSE 'Bank transfer' END,
        CASE WHEN is_rare THEN %(rare_device)s ELSE 'Tracker ' || place %% 1000 END,
        10, 10 * (number - 1), 10 * number, 0, 0, 0, 10 * number, 0,
        %(begin)s + place * %(step)s::interval, 'api', '{}', sha256('')
    FROM (
        SELECT place, user_id, place %% %(each_rare)s = 7 AS is_rare,
            row_number() OVER (PARTITION BY user_id ORDER BY place) AS number
        FROM (
            SELECT place, CASE
                WHEN place %% 10 = 0 THEN %(long)s
                WHEN place %% %(each_short)s = 1 THEN %(short)s
                ELSE (%(others)s::bigint[])[1 + place %% cardinality(%(others)s::bigint[])]
            END AS user_id
            FROM generate_series(0, %(transactions)s - 1) place
        ) of_whom
    ) numbered
    ORDER BY place
"""

_CARRY_OVER: Final = """
    UPDATE billing_balance b SET
        real = t.new_balance, refilled = t.refilled, last_number = t.number,
        last_digest = t.digest, last_at = t.created_at
    FROM billing_transaction t
    WHERE t.user_id = b.user_id AND b.last_number = 0 AND t.number = (
        SELECT max(number) FROM billing_transaction x WHERE x.user_id = b.user_id
    )
"""
