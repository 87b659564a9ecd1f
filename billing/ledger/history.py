"""Writes transactions that happened before: of another system, or of the demo data.

`posting` stamps each transaction with the moment at which it is posted, so it cannot take in a
history. This module copies one into the table and computes itself what the database function would
have: numbers, old and new balances, running sums and digests. It needs the rights of the tables'
owner. Nothing is weakened:

- Constraints, foreign keys and the guard of the balances hold as always.
- Up to CHECKED_MAX rows, the guards that check each new transaction hold too. A longer load
  switches them off, and checks foreign keys and what each type allows at the end. All this belongs
  to the database transaction: the guards are back when it ends, and until then nobody else can
  write to the table. `manage.py verify_ledger` checks what else the guards would have checked.
- Only users without transactions can be given a history.
- Sums kept for the start page (`turnovers`) begin again before its first transaction.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from hashlib import sha256
from itertools import count
from typing import Any, Final, NamedTuple

from django.db import IntegrityError, connection, transaction

from billing.ledger import turnovers
from billing.models import Channel, TransactionType
from billing.money import DECIMALS

CHECKED_MAX: Final = 50_000
GUARDS: Final = ("transactions_follow_each_other", "transactions_move_their_balance")

COLUMNS: Final = (
    "id, user_id, number, type, subtype, description, device, "
    "amount, old_balance, new_balance, bonus_amount, old_bonus, new_bonus, "
    "refilled, bonus_refilled, created_at, actor_id, channel, idempotency_key, reverses, "
    "metadata, digest, payment_date, form, batch_id"
)


class PastTransaction(NamedTuple):
    """One operation on one user's two balances, as it happened.

    Amounts are whole numbers of the ledger's smallest unit, 1/10,000: adding them up is exact, and
    fast. `metadata` is a JSON object in the form that `as_jsonb` writes.
    """

    user_id: int
    at: datetime
    type: TransactionType
    subtype: str
    description: str
    device: str = ""
    amount: int = 0
    bonus_amount: int = 0
    actor_id: int | None = None
    channel: Channel = Channel.IMPORT
    idempotency_key: str | None = None
    reverses: int | None = None
    metadata: str = "{}"
    payment_date: date | None = None


def units_of(amount: Decimal) -> int:
    """Returns an amount of money in units of 1/10,000."""
    return int(amount.scaleb(DECIMALS))


def load_history(
    transactions: Iterable[PastTransaction],
    *,
    expected: int,
    batch: int | None = None,
    is_always_checked: bool = False,
) -> int:
    """Writes transactions in the order given, which must be that of time for each user.

    `batch` is the ID of their batch. `expected` is about how many there are. Above CHECKED_MAX the
    whole ledger is locked until the end, unless `is_always_checked`. All or nothing: one database
    transaction, or a part of the caller's, who has created or locked the users. Returns the number
    of transactions.
    """
    chains: dict[int, _Chain] = {}
    written = 0
    with transaction.atomic(), connection.cursor() as cursor:
        ids: Iterator[int]
        if is_checked := is_always_checked or expected <= CHECKED_MAX:
            transactions = list(transactions)
            ids = iter(_reserve_ids(cursor, len(transactions)))
        else:
            # Everybody who posts locks a balance row, and waits here until this is through.
            cursor.execute("LOCK TABLE billing_balance IN EXCLUSIVE MODE")
            [first_id] = _reserve_ids(cursor, 1)
            ids = count(first_id)
        with _checks(row_by_row=is_checked):
            copying = cursor.copy(f"COPY billing_transaction ({COLUMNS}) FROM STDIN")
            with connection.wrap_database_errors, copying as copy:
                for row in _rows(transactions, ids, chains, batch):
                    copy.write_row(row)
                    written += 1
            if not is_checked:
                next_id = first_id + written
                cursor.execute("SELECT setval('billing_transaction_id_seq', %s, false)", [next_id])
                cursor.execute(_NOT_ALLOWED, [list(chains)])
                if wrong := cursor.fetchone():
                    raise IntegrityError(_NOT_ALLOWED_SENTENCE.format(*wrong))
            cursor.execute(_LEAVE_BALANCES, _last_of(chains))
            cursor.execute(_BEGIN_GRANTS, [list(chains)])
        if chains:
            cursor.execute(_FIRST_MOMENT, [list(chains)])
            turnovers.sum_up_again_from(cursor.fetchone()[0])
    return written


def _reserve_ids(cursor: Any, number: int) -> list[int]:
    cursor.execute(
        "SELECT nextval('billing_transaction_id_seq') FROM generate_series(1, %s)", [number]
    )
    return [row[0] for row in cursor.fetchall()]


_NOT_ALLOWED: Final = """
    SELECT t.number, t.user_id FROM billing_transaction t
    WHERE t.user_id = ANY (%s) AND NOT billing_type_allows(
        t.type, t.subtype, t.channel, t.amount, t.bonus_amount,
        t.new_balance, t.new_bonus, t.reverses
    ) LIMIT 1
"""
_NOT_ALLOWED_SENTENCE: Final = (
    "Transaction {} of user {} violates a_transaction_does_what_its_type_allows."
)


# A balance is what the user's last transaction left.
_LEAVE_BALANCES: Final = """
    UPDATE billing_balance SET
        real = last.real, bonus = last.bonus,
        refilled = last.refilled, bonus_refilled = last.bonus_refilled,
        last_number = last.number, last_digest = last.digest, last_at = last.at,
        grants_since = last.number
    FROM unnest(
        %s::bigint[], %s::bigint[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[],
        %s::bytea[], %s::timestamptz[]
    ) AS last (user_id, number, real, bonus, refilled, bonus_refilled, digest, at)
    WHERE billing_balance.user_id = last.user_id
"""


# Other systems do not say which gift a charge used, so what is left of all is one grant.
_BEGIN_GRANTS: Final = """
    INSERT INTO billing_grant (user_id, number, amount, remaining, uses)
    SELECT user_id, last_number, bonus, bonus, 0 FROM billing_balance
    WHERE bonus > 0 AND user_id = ANY (%s)
"""


_FIRST_MOMENT: Final = """
    SELECT min(created_at) FROM billing_transaction WHERE user_id = ANY (%s) AND number = 1
"""


class _Chain:
    """How far a user's transactions have come, in units and as text."""

    __slots__ = (
        "at", "bonus", "bonus_refilled", "bonus_refilled_text", "bonus_text", "digest", "number",
        "real", "real_text", "refilled", "refilled_text",
    )  # fmt: skip

    def __init__(self) -> None:
        self.number = self.real = self.bonus = self.refilled = self.bonus_refilled = 0
        self.real_text = self.bonus_text = self.refilled_text = self.bonus_refilled_text = _ZERO
        self.digest = self.at = ""


def _last_of(chains: Mapping[int, _Chain]) -> list[list[Any]]:
    """Returns the parameters of _LEAVE_BALANCES: one list for each of its columns."""
    ends = chains.values()
    return [
        list(chains),
        [each.number for each in ends],
        [each.real_text for each in ends],
        [each.bonus_text for each in ends],
        [each.refilled_text for each in ends],
        [each.bonus_refilled_text for each in ends],
        [bytes.fromhex(each.digest) for each in ends],
        [each.at for each in ends],
    ]


def _rows(
    transactions: Iterable[PastTransaction],
    ids: Iterator[int],
    chains: dict[int, _Chain],
    batch: int | None,
) -> Iterator[list[str | None]]:
    """Yields the transactions as rows of COLUMNS, each value in PostgreSQL's text form.

    Most of the time of a load is spent here, so it is one function and makes no text twice.
    """
    encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode
    batch_text = None if batch is None else str(batch)
    for past in transactions:
        (user_id, at, kind, subtype, description, device, amount, bonus_amount,
         actor_id, channel, idempotency_key, reverses, metadata, payment_date) = past  # fmt: skip
        chain = chains.get(user_id)
        if chain is None:
            chain = chains[user_id] = _Chain()
        chain.number += 1
        chain.at = f"{at.isoformat(timespec='microseconds')[:26]}Z"
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
            str(next(ids)), str(user_id), str(chain.number), kind.value, subtype, description,
            device, amount_text, old_balance, chain.real_text,
            bonus_amount_text, old_bonus, chain.bonus_text,
            chain.refilled_text, chain.bonus_refilled_text, chain.at,
            None if actor_id is None else str(actor_id), channel.value, idempotency_key,
            None if reverses is None else str(reverses), metadata,
        ]  # fmt: skip
        # The canonical form of docs/ledger.md, as the database's billing_digest makes it.
        said = [chain.digest, *row]
        day = None if payment_date is None else f"{payment_date}"
        further = {} if batch_text is None else {"batch": batch_text}
        if day is not None:
            further["payment_date"] = day
        if further:
            said.append(as_jsonb(further))
        chain.digest = sha256(encode(said).encode()).hexdigest()
        row += [f"\\x{chain.digest}", day, "2" if further else "1", batch_text]
        yield row


_ZERO: Final = "0.0000"


def _text(units: int) -> str:
    """Returns an amount as NUMERIC(19,4) writes it: -12500 units are -1.2500."""
    digits = f"{units:05}" if units >= 0 else f"{units:06}"
    return f"{digits[:-DECIMALS]}.{digits[-DECIMALS:]}"


def as_jsonb(value: Mapping[str, Any]) -> str:
    """Returns a JSON object in the very text that PostgreSQL makes of a `jsonb`, as digests need.

    Values may be texts, whole numbers, booleans, None, lists and objects of these.
    """
    return _encode(_in_order(value))


_encode: Final = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


def _in_order(value: Any) -> Any:
    """Sorts keys as `jsonb` does: shorter ones (in bytes) first."""
    if isinstance(value, list):
        return [_in_order(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
    return {key: _in_order(value[key]) for key in keys}


@contextmanager
def _checks(*, row_by_row: bool) -> Iterator[None]:
    """Unless `row_by_row`, checks foreign keys all at once at the end, and skips the guards."""
    if row_by_row:
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute(_FOREIGN_KEYS)
        foreign_keys = cursor.fetchall()
        for guard in GUARDS:
            cursor.execute(f"ALTER TABLE billing_transaction DISABLE TRIGGER {guard}")
        for name, _ in foreign_keys:
            cursor.execute(f'ALTER TABLE billing_transaction DROP CONSTRAINT "{name}"')
        yield
        for name, definition in foreign_keys:
            cursor.execute(f'ALTER TABLE billing_transaction ADD CONSTRAINT "{name}" {definition}')
        for guard in GUARDS:
            cursor.execute(f"ALTER TABLE billing_transaction ENABLE TRIGGER {guard}")


_FOREIGN_KEYS: Final = """
    SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = 'billing_transaction'::regclass AND contype = 'f'
"""
