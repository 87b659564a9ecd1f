"""Entries: the operations that can be posted, singly or as a batch.

Only their form is checked here: texts, numbers, JSON. The database function `billing_post` has the
rules of money.
"""

import json
import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final, TypedDict, Unpack, cast
from unicodedata import normalize

from billing.descriptions import DESCRIPTION_MAX_LENGTH
from billing.errors import InvalidAmount, InvalidEntry, InvalidExpiry
from billing.models import TransactionType
from billing.money import ZERO, Amount, NotMoney, to_money
from users.models import User
from users.texts import has_invisible, readable, storage_problem

# The ID of the request, in a transaction's metadata. Not part of the content that is compared when
# an idempotency key is repeated.
REQUEST_ID: Final = "request_id"
# Idempotency keys of the panel itself. A caller's key like these would be taken for a charge.
OWN_KEYS: Final = re.compile(r"subscription:.*|registration|redeemed_voucher:.*", re.DOTALL)
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

# By then the year 9000 has ended in every time zone.
END_OF_EXPIRIES: Final = datetime(9001, 1, 2, tzinfo=UTC)

LONGEST_TEXT: Final = (
    10_000  # above the length of a description, which the database refuses with its own code
)
MAX_WHOLE_NUMBER: Final = 2**63 - 1  # bigint
CODE: Final = re.compile(r"[a-z][a-z0-9_]*")
NULL_CHARACTER_IN_JSON: Final = re.compile(r"(?<!\\)(\\\\)*\\u0000")
# Stored for good, and read with each page of transactions.
MAX_METADATA: Final = 16_384  # characters, as the database writes JSON
EXPONENT_IN_JSON: Final = re.compile(r"[0-9]e[-+][0-9]")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One operation to post. The functions below whose names end in `_entry` make them.

    Amounts are signed, and added to the balances. For a service, `amount` is the whole (negative)
    cost, and the bonus balance pays first. For a reversal, `amount` is how much of the transaction
    it takes back (positive); zero: all that is left.
    """

    user_id: int
    type: TransactionType
    subtype: str
    description: str
    device: str = ""
    amount: Amount = ZERO
    bonus_amount: Amount = ZERO
    reverses: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None
    expected_number: int | None = None
    payment_date: date | None = None
    bonus_expires_at: datetime | None = None
    reason: str | None = None
    batch: int | None = None


class Options(TypedDict, total=False):
    """Optional fields of every entry. `billing.ledger` explains the keys and numbers.

    `reason` is the code of a reason, for changes and reversals only. `batch` is the ID of the batch
    with which it is posted.
    """

    device: str
    metadata: Mapping[str, Any]
    idempotency_key: str | None
    expected_number: int | None
    reason: str | None
    batch: int | None


# --- Making entries -----------------------------------------------------------------------------


def balance_change_entry(
    user: User | int,
    *,
    description: str,
    amount: Amount = ZERO,
    bonus_amount: Amount = ZERO,
    subtype: str = "partner",
    payment_date: date | None = None,
    bonus_expires_at: datetime | None = None,
    **options: Unpack[Options],
) -> Entry:
    """Adds both amounts; negative ones are taken. See `billing.ledger.change_balance`."""
    return Entry(
        user_id=user_id_of(user),
        type=TransactionType.PAYMENT,
        subtype=subtype,
        description=description,
        amount=amount,
        bonus_amount=bonus_amount,
        payment_date=payment_date,
        bonus_expires_at=bonus_expires_at,
        **options,
    )


def bonus_entry(
    user: User | int,
    *,
    description: str,
    amount: Amount,
    subtype: str = "register",
    bonus_expires_at: datetime | None = None,
    **options: Unpack[Options],
) -> Entry:
    """Adds `amount` (positive) to the bonus balance. See `billing.ledger.give_bonus`."""
    return Entry(
        user_id=user_id_of(user),
        type=TransactionType.BONUS_REFILL,
        subtype=subtype,
        description=description,
        bonus_amount=_positive(amount),
        bonus_expires_at=bonus_expires_at,
        **options,
    )


def service_entry(
    user: User | int,
    *,
    description: str,
    service: str,
    cost: Amount,
    **options: Unpack[Options],
) -> Entry:
    """Takes `cost` (positive) for the service with this code, from the bonus balance first."""
    return Entry(
        user_id=user_id_of(user),
        type=TransactionType.SERVICE,
        subtype=service,
        description=description,
        amount=-_positive(cost),
        **options,
    )


def subscription_entry(
    user: User | int,
    *,
    description: str,
    cycle: str,
    price: Amount,
    **options: Unpack[Options],
) -> Entry:
    """Takes `price` (positive) for a subscription, from the real balance only.

    `cycle` is the subtype of its billing cycle: monthly, everyday, activeday, every_year.
    """
    return Entry(
        user_id=user_id_of(user),
        type=TransactionType.SUBSCRIPTION,
        subtype=cycle,
        description=description,
        amount=-_positive(price),
        **options,
    )


def remainder_entry(
    user: User | int, *, description: str, amount: Amount, **options: Unpack[Options]
) -> Entry:
    """Pays back `amount` (positive): the unused rest of a subscription's period."""
    return Entry(
        user_id=user_id_of(user),
        type=TransactionType.SUBSCRIPTION,
        subtype="remainder",
        description=description,
        amount=_positive(amount),
        **options,
    )


def reversal_entry(
    user: User | int,
    *,
    description: str,
    number: int,
    amount: Amount | None = None,
    **options: Unpack[Options],
) -> Entry:
    """Reverses the user's transaction `number`, or a part of it. See `billing.ledger.reverse`."""
    # The database sets the subtype: the type of the reversed transaction.
    return Entry(
        user_id=user_id_of(user),
        type=TransactionType.REVERSAL,
        subtype="reversal",
        description=description,
        amount=ZERO if amount is None else _positive(amount),
        reverses=number,
        **options,
    )


def user_id_of(user: User | int) -> int:
    return user if isinstance(user, int) else user.pk


# --- Checking shapes ----------------------------------------------------------------------------


def callers_key(key: str | None) -> str | None:
    """Returns the key if callers may use it. Raises InvalidEntry for the panel's own keys."""
    if key is not None and OWN_KEYS.fullmatch(key):
        raise InvalidEntry(field="idempotency_key", reason="keys like this are the panel's own")
    return key


def shorten_description(text: str) -> str:
    """Returns a generated description, made readable and cut to the longest allowed length.

    Names in it may be older than the rule that all characters are visible.
    """
    text = readable(text)
    is_short = len(text) <= DESCRIPTION_MAX_LENGTH
    return text if is_short else f"{text[: DESCRIPTION_MAX_LENGTH - 1]}…"


def _positive(value: Amount) -> Decimal:
    amount = checked_amount("amount", value)
    if amount <= 0:
        raise InvalidAmount(field="amount", reason="wrong_sign", value=str(amount))
    return amount


def checked_amount(name: str, value: Amount) -> Decimal:
    """Returns an amount of money with four decimals. Raises InvalidAmount."""
    if value is ZERO:
        return ZERO  # usually one of the two amounts
    try:
        return to_money(value)
    except NotMoney as problem:
        # Python refuses to print an int of thousands of digits, but prints a Decimal.
        shown = Decimal(value) if type(value) is int else value
        raise InvalidAmount(field=name, reason=problem.reason, value=str(shown)[:40]) from None


def checked_device(value: object) -> str:
    """Returns the name of a device: up to 100 visible characters. Raises InvalidEntry.

    Normalises Unicode, so that "é" as one or as two characters names the same device.
    """
    # An invisible character, pasted along, would make it another device.
    name = checked_text("device", normalize("NFC", value) if isinstance(value, str) else value, 100)
    return name.strip()


def checked_text(name: str, value: object, max_length: int, *, is_stored: bool = False) -> str:
    """Returns `value` if it is visible text. Stored text (`is_stored`) may predate that rule."""
    if not isinstance(value, str):
        raise InvalidEntry(field=name, reason="it must be a text")
    if value.isascii() and value.isprintable() and len(value) <= max_length:
        return value  # the usual case: none of the following checks can fail
    if problem := storage_problem(value):
        raise InvalidEntry(field=name, reason=f"it {problem}")
    if has_invisible(value) and not is_stored:
        raise InvalidEntry(field=name, reason="it contains invisible characters")
    if len(value) > max_length:
        raise InvalidEntry(field=name, reason=f"it has more than {max_length} characters")
    return value


def whole_number(name: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidEntry(field=name, reason="it must be a whole number")
    if abs(value) > MAX_WHOLE_NUMBER:
        raise InvalidEntry(field=name, reason="it is too large a number")
    return value


_as_strict_json: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def json_object(name: str, value: object) -> Mapping[str, Any]:
    """Returns `value` if jsonb can store it: no NaN, null characters or half surrogates."""
    if value == {}:
        return cast(Mapping[str, Any], value)  # the usual case
    try:
        written = _as_strict_json(value)
        written.encode()
    except (TypeError, ValueError, RecursionError):
        written = ""
    if not written.startswith("{") or NULL_CHARACTER_IN_JSON.search(written):
        raise InvalidEntry(field=name, reason="it must be a JSON object")
    if _is_longer(written, MAX_METADATA):
        raise InvalidEntry(field=name, reason=f"it has more than {MAX_METADATA:,} characters")
    return cast(Mapping[str, Any], value)


def _is_longer(written: str, limit: int) -> bool:
    """Returns whether JSON is longer than `limit`. The database writes 1e308 with 309 digits."""
    if len(written) <= limit and EXPONENT_IN_JSON.search(written):
        spelt_out = json.loads(written, parse_float=lambda number: f"{Decimal(number):f}")
        written = _as_strict_json(spelt_out)
    return len(written) > limit


def _with_request(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns metadata with the ID of the present request."""
    if REQUEST_ID in metadata:
        raise InvalidEntry(field="metadata", reason=f"“{REQUEST_ID}” in it is the panel's own")
    current = request_id.get()
    return metadata if current is None else {**metadata, REQUEST_ID: current}


def as_json(entry: Entry) -> dict[str, Any]:
    """Returns the entry as `billing_post` takes it. Checks its form only, no rules of money."""
    if entry.idempotency_key == "":
        raise InvalidEntry(field="idempotency_key", reason="it is empty")
    if not CODE.fullmatch(checked_text("subtype", entry.subtype, 32)):
        raise InvalidEntry(field="subtype", reason="it must be a code like outgoing_sms")
    return {
        "user_id": whole_number("user_id", entry.user_id),
        "type": entry.type,
        "subtype": entry.subtype,
        # The database refuses descriptions that are too long or too short, with its own code.
        "description": checked_text("description", entry.description, LONGEST_TEXT),
        "amount": str(checked_amount("amount", entry.amount)),
    } | _further(entry)


def _further(entry: Entry) -> dict[str, Any]:
    """Returns the fields that not every entry has. `billing_post` knows what they usually are."""
    found: dict[str, Any] = {}
    if entry.device != "":
        # The name of a subscription's device may be older than the rules for names.
        found["device"] = checked_text(
            "device", entry.device, 100, is_stored=entry.type == TransactionType.SUBSCRIPTION
        )
    if entry.bonus_amount is not ZERO:
        found["bonus_amount"] = str(checked_amount("bonus_amount", entry.bonus_amount))
    if entry.reverses is not None:
        found["reverses"] = whole_number("reverses", entry.reverses)
    if metadata := _with_request(json_object("metadata", entry.metadata)):
        found["metadata"] = metadata
    if entry.idempotency_key is not None:
        found["idempotency_key"] = checked_text("idempotency_key", entry.idempotency_key, 100)
    if entry.expected_number is not None:
        found["expected_number"] = whole_number("expected_number", entry.expected_number)
    if entry.reason is not None:
        found["reason"] = checked_text("reason", entry.reason, 32)
    if entry.batch is not None:
        found["batch"] = entry.batch
    if entry.payment_date is not None:
        found["payment_date"] = entry.payment_date.isoformat()
    if entry.bonus_expires_at is not None:
        found["bonus_expires_at"] = checked_expiry(entry.bonus_expires_at).isoformat()
    return found


def checked_expiry(expires_at: datetime) -> datetime:
    """Returns it in UTC. Raises InvalidExpiry for a time that not every time zone could show."""
    if expires_at >= END_OF_EXPIRIES:
        raise InvalidExpiry(reason="too_far")
    return expires_at.astimezone(UTC)
