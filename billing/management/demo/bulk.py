"""A bulk way into the ledger, past its posting function: for demo data and benchmarks only.

`billing.ledger` stamps each transaction with the time at which it is posted, as it must, so a
history cannot be posted there. This module writes one as COPY rows that it completes itself:
numbers, old and new balances, running sums and digests. It is the one exception to "only the
ledger writes", and it weakens nothing:

- Constraints, foreign keys and the guard of the balances hold as always.
- The guard that looks at each new transaction (`follows`) does too, up to GUARDED_MAX rows. Of a
  longer load, it sees none: it is off until the end, and foreign keys are checked then. Both are
  part of the database transaction, so they are back after it, committed or not, and nobody else
  gets to the table meanwhile. `manage.py verify_ledger` checks what the guard would have checked.
- Only users without any transaction can be given a history.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Final

import pgtrigger
from django.db import connection, transaction

from billing.management.demo.story import Operation
from billing.models import Transaction
from billing.money import DECIMALS

GUARDED_MAX: Final = 50_000

COLUMNS: Final = (
    "id, user_id, number, type, subtype, description, device, "
    "amount, old_balance, new_balance, bonus_amount, old_bonus, new_bonus, "
    "refilled, bonus_refilled, created_at, actor_id, channel, idempotency_key, reverses, "
    "metadata, digest"
)


def load(operations: Iterable[Operation], *, expected: int) -> int:
    """Writes the operations, in their order, which must be that of time; says how many.

    `expected` is about how many there are. All or nothing: it is one database transaction, or a
    part of the caller's.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        # Whoever posts locks a balance row, and waits here until this is through.
        cursor.execute("LOCK TABLE billing_balance IN EXCLUSIVE MODE")
        cursor.execute("SELECT nextval('billing_transaction_id_seq')")
        first_id = next_id = cursor.fetchone()[0]
        with _checked_row_by_row(expected <= GUARDED_MAX):
            copying = cursor.copy(f"COPY billing_transaction ({COLUMNS}) FROM STDIN")
            with connection.wrap_database_errors, copying as copy:
                for row in _rows(operations, first_id):
                    copy.write_row(row)
                    next_id += 1
            cursor.execute("SELECT setval('billing_transaction_id_seq', %s, false)", [next_id])
            cursor.execute(_LEAVE_BALANCES, [first_id])
    return int(next_id - first_id)


# What a balance must be is what the user's last transaction left.
_LEAVE_BALANCES: Final = """
    UPDATE billing_balance SET
        real = last.new_balance, bonus = last.new_bonus,
        refilled = last.refilled, bonus_refilled = last.bonus_refilled,
        last_number = last.number, last_digest = last.digest, last_at = last.created_at
    FROM billing_balance x CROSS JOIN LATERAL (
        SELECT * FROM billing_transaction t
        WHERE t.user_id = x.user_id ORDER BY number DESC LIMIT 1
    ) last
    WHERE billing_balance.user_id = x.user_id AND last.id >= %s
"""


class _Chain:
    """Where a user's transactions stand, in units and as text."""

    __slots__ = (
        "bonus", "bonus_refilled", "bonus_refilled_text", "bonus_text", "digest", "number",
        "real", "real_text", "refilled", "refilled_text",
    )  # fmt: skip

    def __init__(self) -> None:
        self.number = self.real = self.bonus = self.refilled = self.bonus_refilled = 0
        self.real_text = self.bonus_text = self.refilled_text = self.bonus_refilled_text = _ZERO
        self.digest = ""


def _rows(operations: Iterable[Operation], first_id: int) -> Iterator[list[str | None]]:
    """The operations as rows of COLUMNS, each in PostgreSQL's text form.

    Most of the time of a load is spent here; so it is one function, and makes no text twice.
    """
    encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode
    chains: dict[int, _Chain] = {}
    for row_id, operation in enumerate(operations, start=first_id):
        (user_id, at, kind, subtype, description, device, amount, bonus_amount,
         actor_id, channel, idempotency_key, reverses, metadata) = operation  # fmt: skip
        chain = chains.get(user_id)
        if chain is None:
            chain = chains[user_id] = _Chain()
        chain.number += 1
        old_balance, old_bonus = chain.real_text, chain.bonus_text
        amount_text = bonus_amount_text = _ZERO
        if amount:
            amount_text = _text(amount)
            chain.real += amount
            chain.real_text = _text(chain.real)
            if amount > 0:
                chain.refilled += amount
                chain.refilled_text = _text(chain.refilled)
        if bonus_amount:
            bonus_amount_text = _text(bonus_amount)
            chain.bonus += bonus_amount
            chain.bonus_text = _text(chain.bonus)
            if bonus_amount > 0:
                chain.bonus_refilled += bonus_amount
                chain.bonus_refilled_text = _text(chain.bonus_refilled)
        row = [
            str(row_id), str(user_id), str(chain.number), kind.value, subtype, description, device,
            amount_text, old_balance, chain.real_text,
            bonus_amount_text, old_bonus, chain.bonus_text,
            chain.refilled_text, chain.bonus_refilled_text,
            f"{at.isoformat(timespec='microseconds')[:26]}Z",
            None if actor_id is None else str(actor_id), channel.value, idempotency_key,
            None if reverses is None else str(reverses), metadata,
        ]  # fmt: skip
        # The same canonical form as the database's billing_digest, described in docs/ledger.md.
        chain.digest = sha256(encode([chain.digest, *row]).encode()).hexdigest()
        row.append(f"\\x{chain.digest}")
        yield row


_ZERO: Final = "0.0000"


def _text(units: int) -> str:
    """An amount as NUMERIC(19,4) writes it: -12500 units are -1.2500."""
    digits = f"{units:05}" if units >= 0 else f"{units:06}"
    return f"{digits[:-DECIMALS]}.{digits[-DECIMALS:]}"


@contextmanager
def _checked_row_by_row(wanted: bool) -> Iterator[None]:  # noqa: FBT001 - reads as a sentence
    """Unless wanted, foreign keys are checked at the end, all at once, and `follows` not at all."""
    if wanted:
        yield
        return
    [(_, guard)] = pgtrigger.registered("billing.Transaction:follows")
    with connection.cursor() as cursor:
        cursor.execute(_FOREIGN_KEYS)
        foreign_keys = cursor.fetchall()
        guard.disable(Transaction)
        for name, _ in foreign_keys:
            cursor.execute(f'ALTER TABLE billing_transaction DROP CONSTRAINT "{name}"')
        yield
        for name, definition in foreign_keys:
            cursor.execute(f'ALTER TABLE billing_transaction ADD CONSTRAINT "{name}" {definition}')
        guard.enable(Transaction)


_FOREIGN_KEYS: Final = """
    SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = 'billing_transaction'::regclass AND contype = 'f'
"""
