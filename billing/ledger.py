"""The only writer of balances and transactions.

Panel, API, charging run and commands all post through these functions, which say what happens in
the business's words. Whatever they are asked is one call of the database function `billing_post`
(`billing/sql/`), which locks, checks, splits amounts by the debit order and writes.

Common to all of them:

- `actor` is the operator who caused the change, None the system itself; `channel` is the way it
  came in. Both are named every time.
- `idempotency_key`: the same key with the same content returns the first transaction, marked
  `replayed`, and changes nothing; with other content it raises IdempotencyConflict. Who asks and
  by which channel is not content: whoever repeats a call gets its transaction.
- `expected_number`: the number of the user's last transaction that the caller knows of. If there
  is a later one, BalanceMoved is raised.
- What is posted for a request (`for_request`) keeps the request's ID in its metadata.
- Refusals are BillingErrors (`billing/errors.py`). Nothing has changed then, and a surrounding
  `atomic` block goes on.

Charges of subscriptions, and what is paid back of them, are entries of a batch: a run posts many
at once.

A transaction, once written, is never updated or deleted. To correct one, `reverse` it, or post
the difference.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cache
from operator import itemgetter
from typing import Any, Final, Literal, NamedTuple, cast
from unicodedata import normalize

from django.db import DatabaseError, connection, transaction

from billing import counters
from billing.counters import counts_refusals
from billing.errors import (
    AlreadyPaidBack,
    BalanceMoved,
    BillingError,
    FreeOfCharge,
    IdempotencyConflict,
    InvalidAmount,
    InvalidDescription,
    InvalidEntry,
    InvalidQuantity,
    NoPlan,
    ServiceNotAvailable,
    ServiceRetired,
    SubscriptionSuspended,
    UnknownService,
    UnknownUser,
    refusal_from,
)
from billing.models import (
    Balance,
    Channel,
    Service,
    ServicePrice,
    Subscription,
    Transaction,
    TransactionType,
)
from billing.money import ZERO, Amount, NotMoney, to_money
from billing.pricing import format_quantity, service_cost, to_quantity
from users import database
from users.models import User
from users.texts import has_unseen, readable, unstorable

REFUSED_SQLSTATE: Final = "BL001"

# In the metadata of a transaction: the request that brought it. No part of what a key stands for.
REQUEST_ID: Final = "request_id"
# Idempotency keys that the panel makes itself: a caller's like these would stand in for a charge.
OWN_KEYS: Final = re.compile(r"subscription:.*|registration", re.DOTALL)
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

DESCRIPTION_MIN_LENGTH: Final = 5
DESCRIPTION_MAX_LENGTH: Final = 200
MAX_WHOLE_NUMBER: Final = 2**63 - 1  # of the database's bigint
CODE: Final = re.compile(r"[a-z][a-z0-9_]*")
NULL_CHARACTER_IN_JSON: Final = re.compile(r"(?<!\\)(\\\\)*\\u0000")
# Kept for ever, and read with each page of transactions.
MAX_METADATA: Final = 16_384  # characters, as the database writes them
EXPONENT_IN_JSON: Final = re.compile(r"[0-9]e[-+][0-9]")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One operation to be posted. Made by the functions below whose names end in `_entry`.

    Amounts are signed: what is added to the balance. For a service, `amount` is the whole
    (negative) cost, and the bonus balance pays first; a reversal has no amounts of its own.
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


class Result(NamedTuple):
    """What became of one entry of a batch: the transaction, or why there is none."""

    outcome: Literal["posted", "replayed", "refused"]
    transaction: Transaction | None
    refusal: BillingError | None


_BALANCES: Final = ("real", "bonus", "last_number")


class Balances(NamedTuple):
    """What a user had at some moment, and the number of the last transaction by then."""

    real: Decimal
    bonus: Decimal
    number: int


# --- What can happen to a user's money ----------------------------------------------------------


@counts_refusals
def change_balance(
    user: User | int,
    *,
    amount: Amount = ZERO,
    bonus_amount: Amount = ZERO,
    description: str,
    actor: User | None,
    channel: Channel,
    subtype: str = "partner",
    **options: Any,
) -> Transaction:
    """Adds to (or, negative, takes from) both balances as given, in one transaction.

    Raises InsufficientFunds if either balance would become negative, NothingToChange if both
    amounts are zero. `subtype` is `partner` for a change by hand or API, `import` for an import.
    """
    return _post_one(
        balance_change_entry(
            user,
            amount=amount,
            bonus_amount=bonus_amount,
            description=description,
            subtype=subtype,
            **options,
        ),
        actor=actor,
        channel=channel,
    )


@counts_refusals
def give_bonus(
    user: User | int,
    *,
    amount: Amount,
    description: str,
    actor: User | None,
    channel: Channel,
    subtype: str = "register",
    **options: Any,
) -> Transaction:
    """Gives `amount` to the bonus balance; `subtype` says on which occasion."""
    return _post_one(
        bonus_entry(user, amount=amount, description=description, subtype=subtype, **options),
        actor=actor,
        channel=channel,
    )


@counts_refusals
def charge_service(
    user: User | int,
    *,
    service: str,
    quantity: Amount,
    device: str = "",
    description: str = "",
    metadata: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    actor: User | None,
    channel: Channel,
    **options: Any,
) -> Transaction:
    """Takes what the use of a service costs under the plan: from the bonus first, then the balance.

    `service` is its code; `quantity` is positive, with up to six decimals. The price is that of
    the device's own subscription or, if it has none, of the user's own plan. The description is
    made up from these, unless one is given. The price paid is noted in the metadata ("pricing"),
    so a repeated key finds the first transaction also when prices have changed since.

    Raises InsufficientFunds, and takes nothing, if both balances together do not suffice; and
    InvalidQuantity, UnknownService, NoPlan, ServiceNotAvailable, ServiceRetired and
    SubscriptionSuspended. Raises FreeOfCharge for what costs nothing: it counts as paid, there is
    nothing to post, and the key stays free. `expected_number` is honoured then, too.
    """
    said = _Said(
        service=service,
        device=checked_device(device),
        quantity=format_quantity(units := _quantity(quantity)),
        metadata=_own_metadata(metadata),
        description=_text("description", description, 10_000).strip(" "),
    )
    with transaction.atomic():
        # Alone with the user: meanwhile no run suspends the subscription, and nobody uses the key.
        held = hold([_user_id(user)])
        if earlier := _charged_before(user, idempotency_key, said):
            counters.replayed(channel)
            return earlier
        price = price_of(user, service=service, device=said.device)
        cost = _cost(price, units)
        description = said.description or describe_service(price, units, said.device)
        if not cost:
            # Nothing is posted, so nothing below would refuse a description.
            if not DESCRIPTION_MIN_LENGTH <= len(description) <= DESCRIPTION_MAX_LENGTH:
                raise InvalidDescription
            _refuse_if_moved(held[_user_id(user)], options.get("expected_number"))
            raise FreeOfCharge(
                service=service,
                quantity=format_quantity(units),
                unit=price.unit,
                device=said.device,
                plan_id=price.plan_id,
                plan=price.plan,
                unit_price=str(price.price),
                description=description,
            )
        entry = service_entry(
            user,
            service=service,
            cost=cost,
            device=said.device,
            description=description,
            metadata={**said.metadata, PRICING: explain_cost(price, units)},
            idempotency_key=idempotency_key,
            **options,
        )
        return _post_one(entry, actor=actor, channel=channel)


def _refuse_if_moved(held: Balances, expected_number: int | None) -> None:
    """As `billing_post` does, for what never reaches it."""
    expected = _whole_number("expected_number", expected_number)
    if expected is not None and expected != held.number:
        raise BalanceMoved(
            number=held.number,
            expected_number=expected,
            balance=str(held.real),
            bonus=str(held.bonus),
        )


@counts_refusals
def reverse(
    user: User | int,
    *,
    number: int,
    description: str,
    actor: User | None,
    channel: Channel,
    although_paid_back: bool = False,
    **options: Any,
) -> Transaction:
    """Takes the user's transaction `number` back: the same amounts with the opposite signs.

    Raises AlreadyReversed the second time, NotReversible for a reversal, UnknownTransaction, and
    InsufficientFunds if what was added is no longer there. Raises AlreadyPaidBack for the charge
    of a subscription of which a remainder was returned, unless `although_paid_back`.
    """
    entry = reversal_entry(user, number=number, description=description, **options)
    with transaction.atomic():
        if not although_paid_back:
            hold([entry.user_id])  # meanwhile nobody pays back
            _refuse_what_was_paid_back(entry)
        return _post_one(entry, actor=actor, channel=channel)


def paid_back_of(charge: Transaction) -> list[Transaction]:
    """What was paid back of this charge of a subscription, and is not taken back again."""
    if charge.type != TransactionType.SUBSCRIPTION:
        return []
    later = Transaction.objects.filter(user=charge.user_id, number__gt=charge.number)
    remainders = later.filter(type=charge.type, subtype="remainder").order_by("number")
    taken_back = later.filter(reverses__isnull=False).values("reverses")
    return list(remainders.filter(metadata__charge=charge.number).exclude(number__in=taken_back))


def _refuse_what_was_paid_back(reversal: Entry) -> None:
    """One that was reversed before is `billing_post`'s to answer: by its key, it is no mistake."""
    number = _whole_number("reverses", reversal.reverses)
    of_user = Transaction.objects.filter(user=reversal.user_id)
    charge = of_user.filter(number=number).first() if number is not None else None
    if charge is None or of_user.filter(reverses=number).exists():
        return
    if paid_back := paid_back_of(charge):
        amount = sum((row.amount for row in paid_back), ZERO)
        raise AlreadyPaidBack(number=number, amount=str(amount), paid_back_by=paid_back[-1].number)


@counts_refusals
def post_batch(
    entries: Iterable[Entry],
    *,
    actor: User | None,
    channel: Channel,
    skip_refused: bool = False,
) -> list[Result]:
    """Posts all entries or, if one is refused, none, and raises its refusal.

    The error's `data["entry"]` then is the refused entry's place, from 1. With `skip_refused` what
    cannot be posted is left out instead. Either way, results come in the order of the entries;
    entries of one user are posted in the order given.
    """
    results: dict[int, Result] = {}
    valid: list[tuple[int, dict[str, Any]]] = []
    for place, entry in enumerate(entries, start=1):
        try:
            valid.append((place, _as_json(entry)))
        except BillingError as refusal:
            if not skip_refused:
                refusal.data["entry"] = place
                raise
            counters.refused(refusal.code, channel)
            results[place] = Result("refused", None, refusal)
    if valid:
        posted = _post([e for _, e in valid], actor, channel, skip_refused=skip_refused)
        results |= {valid[position - 1][0]: result for position, result in posted}
    return [results[place] for place in sorted(results)]


@counts_refusals
def post_for_numbers(
    entries: Sequence[Entry], *, actor: User | None, channel: Channel
) -> list[int]:
    """As `post_batch`, all or nothing, but answers the transactions' numbers only, which is faster.

    The numbers come in the order of the entries.
    """
    if not entries:
        return []
    arguments = _arguments([_as_json(entry) for entry in entries], actor, channel)
    with _refusals({entry.user_id for entry in entries}), connection.cursor() as cursor:
        cursor.execute(_CALL_FOR_NUMBERS, arguments)
        numbered = cursor.fetchall()
        outcomes = [outcome for _, outcome in numbered]
    _count([entry.type for entry in entries], outcomes, channel)
    return [number for number, _ in numbered]


@contextmanager
def rehearsal() -> Iterator[None]:
    """Undoes at its end whatever is posted or written within: a preview that cannot be wrong.

    What it posts has the very amounts and balances that posting it for good would have now.
    """
    with transaction.atomic(), counters.rehearsing():
        yield
        transaction.set_rollback(True)


@contextmanager
def for_request(request_id: str) -> Iterator[None]:
    """Whatever is posted within keeps the request's ID in its metadata ("request_id")."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


def callers_key(key: str | None) -> str | None:
    """An idempotency key that a program may use. Raises InvalidEntry for the panel's own."""
    if key is not None and OWN_KEYS.fullmatch(key):
        raise InvalidEntry(field="idempotency_key", reason="keys like this are the panel's own")
    return key


def hold(users: Iterable[int], *, skip_held: bool = False) -> dict[int, Balances]:
    """Locks balances, in the order of user IDs, until the end of the database transaction.

    Whoever holds a balance is alone with the user's money and subscriptions. With `skip_held`
    those that somebody else holds are left out, instead of waited for.
    """
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("A lock lasts no longer than its transaction.")
    possible = [user_id for user_id in users if abs(user_id) <= MAX_WHOLE_NUMBER]
    if skip_held or len(possible) != 1 or not database.takes_turns():
        return _locked(possible, skip_held=skip_held)
    # One that is free, or held by the caller already, is had without a turn.
    if free := _locked(possible, skip_held=True):
        return free
    with database.turn(possible):
        return _locked(possible, skip_held=False)


def _locked(user_ids: list[int], *, skip_held: bool) -> dict[int, Balances]:
    with connection.cursor() as cursor:
        cursor.execute(_HOLD, [user_ids, skip_held])
        return {user_id: Balances(*balances) for user_id, *balances in cursor.fetchall()}


# --- What a service costs -----------------------------------------------------------------------

PRICING: Final = "pricing"  # in the metadata of a service's transaction: how its cost came about


class Price(NamedTuple):
    """What one unit of a service costs a user, and under which plan."""

    service: str
    unit: str
    plan_id: int
    plan: str
    price: Decimal


def price_of(user: User | int, *, service: str, device: str = "") -> Price:
    """The price of one unit for this user, or for this device. Raises as `charge_service` does."""
    is_code = isinstance(service, str) and CODE.fullmatch(service)
    known = Service.objects.filter(code=service).first() if is_code else None
    if known is None:
        raise UnknownService(service=str(service)[:40])
    if not known.is_active:
        raise ServiceRetired(service=known.name)
    subscription = (
        Subscription.objects.live()
        .filter(user=_user_id(user), device__in={device, ""})
        .select_related("plan")
        .order_by("-device")  # the device's own before the account's
        .first()
    )
    if subscription is None:
        if not Balance.objects.filter(user=_user_id(user)).exists():
            raise UnknownUser(user_id=_user_id(user))
        raise NoPlan(user_id=_user_id(user), device=device)
    plan = subscription.plan
    if subscription.status == Subscription.Status.SUSPENDED:
        raise SubscriptionSuspended(
            plan=plan.name,
            device=subscription.device,
            reason=subscription.suspension_reason,
            until=subscription.suspended_until,
        )
    price = ServicePrice.objects.filter(plan=plan, service=known).first()
    if price is None:
        raise ServiceNotAvailable(plan=plan.name, service=known.name)
    return Price(known.name, known.unit, plan.pk, plan.name, price.price)


def describe_service(price: Price, quantity: Decimal, device: str) -> str:
    """The standardised description: "Outgoing SMS × 10, plan Business, device 8617"."""
    unit = price.unit and f" {price.unit}"
    of_device = device and f", device {device}"
    return shorten_description(
        f"{price.service} × {format_quantity(quantity)}{unit}, plan {price.plan}{of_device}"
    )


def explain_cost(price: Price, quantity: Decimal) -> dict[str, Any]:
    """How the cost of a service came about, as the metadata of its transaction say."""
    return {
        "plan": price.plan_id,
        "price": str(price.price),
        "quantity": format_quantity(quantity),
    }


def shorten_description(text: str) -> str:
    """A description that is made up of names. Some may be older than the rule that all of a text
    can be seen, and are charged for all the same."""
    text = readable(text)
    is_short = len(text) <= DESCRIPTION_MAX_LENGTH
    return text if is_short else f"{text[: DESCRIPTION_MAX_LENGTH - 1]}…"


class _Said(NamedTuple):
    """What a caller says who charges a service: the content of an idempotency key."""

    service: str | None
    device: str
    quantity: str | None
    metadata: dict[str, Any]
    description: str


def _charged_before(user: User | int, key: str | None, said: _Said) -> Transaction | None:
    """The charge of this key, whatever the price was then. Raises IdempotencyConflict if another
    was said."""
    if key is None:
        return None
    key = _text("idempotency_key", key, 100)
    earlier = Transaction.objects.filter(user=_user_id(user), idempotency_key=key).first()
    if earlier is None:
        return None
    metadata = dict(earlier.metadata)
    metadata.pop(REQUEST_ID, None)
    pricing = metadata.pop(PRICING, None)
    if _told_apart(said) != _told_apart(
        _Said(
            service=earlier.subtype if earlier.type == TransactionType.SERVICE else None,
            device=earlier.device,
            quantity=pricing.get("quantity") if isinstance(pricing, dict) else None,
            metadata=metadata,
            description=said.description and earlier.description,  # made up where none was said
        )
    ):
        raise IdempotencyConflict(number=earlier.number)
    earlier.replayed = True
    return earlier


def _told_apart(value: Any) -> Any:
    """The same, but to be compared as JSON is: to Python, true is 1, and false 0."""
    if isinstance(value, bool):
        return (bool, value)
    if isinstance(value, dict):
        return {name: _told_apart(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_told_apart(each) for each in value]
    return value


def _own_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """The caller's own metadata, as it will be read back."""
    value = dict(metadata) if isinstance(metadata, Mapping) else metadata
    written = "{}" if value is None else json.dumps(_json_object("metadata", value))
    own = json.loads(written, parse_float=_as_stored)
    if PRICING in own:
        raise InvalidEntry(field="metadata", reason=f"“{PRICING}” in it is the panel's own")
    return cast(dict[str, Any], own)


def _as_stored(number: str) -> int | float:
    """A number with decimals or an exponent, as the database gives it back: 1e23 in whole."""
    return cast(int | float, json.loads(f"{Decimal(number):f}"))


def _quantity(value: Amount) -> Decimal:
    try:
        return to_quantity(value)
    except NotMoney as problem:
        shown = Decimal(value) if type(value) is int else value
        raise InvalidQuantity(reason=problem.reason, value=str(shown)[:40]) from None


def _cost(price: Price, quantity: Decimal) -> Decimal:
    try:
        return service_cost(price.price, quantity)
    except NotMoney as problem:
        raise InvalidQuantity(reason=problem.reason, value=format_quantity(quantity)) from None


# --- What can be in a batch ---------------------------------------------------------------------


def balance_change_entry(
    user: User | int, *, amount: Amount = ZERO, bonus_amount: Amount = ZERO, **options: Any
) -> Entry:
    """See `change_balance`."""
    return _entry(
        user,
        type=TransactionType.PAYMENT,
        amount=amount,
        bonus_amount=bonus_amount,
        **({"subtype": "partner"} | options),
    )


def bonus_entry(user: User | int, *, amount: Amount, **options: Any) -> Entry:
    """See `give_bonus`."""
    return _entry(
        user,
        type=TransactionType.BONUS_REFILL,
        bonus_amount=_positive(amount),
        **({"subtype": "register"} | options),
    )


def service_entry(user: User | int, *, service: str, cost: Amount, **options: Any) -> Entry:
    """See `charge_service`."""
    return _entry(
        user, type=TransactionType.SERVICE, subtype=service, amount=-_positive(cost), **options
    )


def subscription_entry(user: User | int, *, cycle: str, price: Amount, **options: Any) -> Entry:
    """Takes `price` (positive) for a subscription from the real balance, never from the bonus.

    `cycle` is the subtype of its billing cycle: monthly, everyday, activeday, every_year.
    """
    return _entry(
        user, type=TransactionType.SUBSCRIPTION, subtype=cycle, amount=-_positive(price), **options
    )


def remainder_entry(user: User | int, *, amount: Amount, **options: Any) -> Entry:
    """Pays back the unused rest (positive) of a subscription's period."""
    return _entry(
        user,
        type=TransactionType.SUBSCRIPTION,
        subtype="remainder",
        amount=_positive(amount),
        **options,
    )


def reversal_entry(user: User | int, *, number: int, **options: Any) -> Entry:
    """See `reverse`."""
    # The database names the subtype: the type of what is reversed.
    return _entry(
        user, type=TransactionType.REVERSAL, subtype="reversal", reverses=number, **options
    )


# --- What a user has ----------------------------------------------------------------------------


def balance(user: User | int) -> Balances:
    """What the user has now."""
    row = Balance.objects.get(pk=_user_id(user))
    return Balances(row.real, row.bonus, row.last_number)


def balance_at(user: User | int, moment: datetime) -> Balances:
    """What the user had at `moment`, transactions at that very moment included."""
    number = Transaction.objects.number_at(_user_id(user), moment)
    if not number:
        return Balances(ZERO, ZERO, 0)
    row = Transaction.objects.get(user=_user_id(user), number=number)
    return Balances(row.new_balance, row.new_bonus, number)


# --- How it gets there --------------------------------------------------------------------------


def _entry(user: User | int, **fields: Any) -> Entry:
    return Entry(user_id=_user_id(user), **fields)


def _user_id(user: User | int) -> int:
    return user if isinstance(user, int) else user.pk


def _positive(value: Amount) -> Decimal:
    amount = checked_amount("amount", value)
    if amount <= 0:
        raise InvalidAmount(field="amount", reason="wrong_sign", value=str(amount))
    return amount


def checked_amount(name: str, value: Amount) -> Decimal:
    """An amount of money with four decimals. Raises InvalidAmount for what is none."""
    if value is ZERO:
        return ZERO  # as one of the two amounts mostly is
    try:
        return to_money(value)
    except NotMoney as problem:
        # Python writes no whole number of thousands of digits; a Decimal it does.
        shown = Decimal(value) if type(value) is int else value
        raise InvalidAmount(field=name, reason=problem.reason, value=str(shown)[:40]) from None


def checked_device(value: object) -> str:
    """The name of a device, if it can be one: up to 100 visible characters. Raises InvalidEntry.

    However its letters are put together ("é" is one character or two), it is one device.
    """
    # Pasted along unseen, a character would make another device of it.
    name = _text("device", normalize("NFC", value) if isinstance(value, str) else value, 100)
    return name.strip()


def _text(name: str, value: object, max_length: int, *, is_stored: bool = False) -> str:
    """`value`, if it is a text that can be seen; what `is_stored` may be older than that rule."""
    if not isinstance(value, str):
        raise InvalidEntry(field=name, reason="it must be a text")
    if value.isascii() and value.isprintable() and len(value) <= max_length:
        return value  # as most are: nothing of what follows can be wrong with it
    if problem := unstorable(value):
        raise InvalidEntry(field=name, reason=f"it {problem}")
    if has_unseen(value) and not is_stored:
        raise InvalidEntry(field=name, reason="it contains characters that cannot be seen")
    if len(value) > max_length:
        raise InvalidEntry(field=name, reason=f"it has more than {max_length} characters")
    return value


def _whole_number(name: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidEntry(field=name, reason="it must be a whole number")
    if abs(value) > MAX_WHOLE_NUMBER:
        raise InvalidEntry(field=name, reason="it is too large a number")
    return value


_as_strict_json: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _json_object(name: str, value: object) -> Mapping[str, Any]:
    """`value`, if the database can hold it: no NaN, no null characters, no half characters."""
    if value == {}:
        return cast(Mapping[str, Any], value)  # as most are
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
    """Whether JSON is longer than that; of 1e308, the database writes all 309 digits."""
    if len(written) <= limit and EXPONENT_IN_JSON.search(written):
        spelt_out = json.loads(written, parse_float=lambda number: f"{Decimal(number):f}")
        written = _as_strict_json(spelt_out)
    return len(written) > limit


def _with_request(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """The metadata of an entry, with the ID of the request that brings it."""
    if REQUEST_ID in metadata:
        raise InvalidEntry(field="metadata", reason=f"“{REQUEST_ID}” in it is the panel's own")
    request_id = _request_id.get()
    return metadata if request_id is None else {**metadata, REQUEST_ID: request_id}


def _as_json(entry: Entry) -> dict[str, Any]:
    """The entry as `billing_post` takes it. Only the shape is checked here, no rule of money."""
    key = entry.idempotency_key
    if key == "":
        raise InvalidEntry(field="idempotency_key", reason="it is empty")
    if not CODE.fullmatch(_text("subtype", entry.subtype, 32)):
        raise InvalidEntry(field="subtype", reason="it must be a code like outgoing_sms")
    return {
        "user_id": _whole_number("user_id", entry.user_id),
        "type": entry.type,
        "subtype": entry.subtype,
        # Too long or too short a description is refused by the database, with its own code.
        "description": _text("description", entry.description, 10_000),
        # A subscription is charged whatever its device was called when it was started.
        "device": _text(
            "device", entry.device, 100, is_stored=entry.type == TransactionType.SUBSCRIPTION
        ),
        "amount": str(checked_amount("amount", entry.amount)),
        "bonus_amount": str(checked_amount("bonus_amount", entry.bonus_amount)),
        "reverses": _whole_number("reverses", entry.reverses),
        "metadata": _with_request(_json_object("metadata", entry.metadata)),
        "idempotency_key": None if key is None else _text("idempotency_key", key, 100),
        "expected_number": _whole_number("expected_number", entry.expected_number),
    }


def _post_one(entry: Entry, *, actor: User | None, channel: Channel) -> Transaction:
    try:
        [(_, result)] = _post([_as_json(entry)], actor, channel, skip_refused=False)
    except BillingError as refusal:
        refusal.data.pop("entry", None)  # its place in a batch, of which there is none
        raise
    assert result.transaction is not None  # noqa: S101 - a refusal would have been raised
    return result.transaction


def _post(
    entries: list[dict[str, Any]], actor: User | None, channel: Channel, *, skip_refused: bool
) -> list[tuple[int, Result]]:
    """One call of `billing_post`: results with the positions of their entries, from 1."""
    arguments = _arguments(entries, actor, channel, skip_refused=skip_refused)
    with _refusals({entry["user_id"] for entry in entries}):
        results = _call(arguments)
    types = [entries[position - 1]["type"] for position, _ in results]
    _count(types, [result.outcome for _, result in results], channel)
    for _, result in results:
        if result.refusal is not None:
            counters.refused(result.refusal.code, channel)
    return results


def _count(types: Sequence[str], outcomes: Sequence[str], channel: Channel) -> None:
    """Counts what became of the entries of these types: only if and when it is committed."""
    counters.posted(
        [each for each, outcome in zip(types, outcomes, strict=True) if outcome == "posted"],
        channel,
    )
    counters.replayed(channel, outcomes.count("replayed"))


def _arguments(
    entries: list[dict[str, Any]],
    actor: User | None,
    channel: Channel,
    *,
    skip_refused: bool = False,
) -> list[Any]:
    if actor is not None and actor.pk is None:
        raise ValueError("The actor is not a saved user; for the system itself, say actor=None.")
    return [json.dumps(entries), actor and actor.pk, channel, skip_refused]


@contextmanager
def _refusals(user_ids: Collection[int]) -> Iterator[None]:
    """Raises what the posting function refuses as a BillingError."""
    try:
        if connection.in_atomic_block:
            # A savepoint, so that the caller's transaction survives a refusal.
            with transaction.atomic():
                if len(user_ids) == 1 and database.takes_turns():
                    hold(user_ids)
                yield
        else:
            # Batches wait for batches: which of a batch's users it waits for, nobody knows.
            waits_for = user_ids if len(user_ids) == 1 else {("batch", each) for each in user_ids}
            with database.turn(waits_for), database.committing():
                yield
    except DatabaseError as problem:
        diagnostics = getattr(problem.__cause__, "diag", None)
        if diagnostics is None or diagnostics.sqlstate != REFUSED_SQLSTATE:
            raise
        raise refusal_from(diagnostics.message_detail) from None


_HOLD: Final = f"SELECT user_id, {', '.join(_BALANCES)} FROM billing_hold(%s::bigint[], %s)"  # noqa: S608
# With the star the database looks at the row's type once; named one by one, once for each column.
_CALL: Final = 'SELECT "position", outcome, refusal, (posted).* FROM billing_post(%s, %s, %s, %s)'
_CALL_FOR_NUMBERS: Final = (
    'SELECT (posted).number, outcome FROM billing_post(%s, %s, %s, %s) ORDER BY "position"'
)
_COLUMNS: Final = [column.attname for column in Transaction._meta.concrete_fields]


def _call(arguments: list[Any]) -> list[tuple[int, Result]]:
    with connection.cursor() as cursor:
        cursor.execute(_CALL, arguments)
        result = cursor.pgresult  # `cursor.description` makes an object for each column first
        fields_of = _in_model_order(tuple(map(result.fname, range(result.nfields))))
        return [(row[0], _result(row[1], row[2], fields_of(row))) for row in cursor.fetchall()]


@cache
def _in_model_order(names: tuple[bytes, ...]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Picks a transaction's fields from a row: the star's order is the table's, not the model's."""
    return itemgetter(*(names.index(column.encode()) for column in _COLUMNS))


def _result(
    outcome: Literal["posted", "replayed", "refused"], refusal: str | None, fields: Sequence[Any]
) -> Result:
    if refusal is not None:
        return Result(outcome, None, refusal_from(refusal))
    posted = Transaction.from_db(connection.alias, _COLUMNS, fields)
    posted.metadata = json.loads(posted.metadata)  # a bare cursor leaves JSON as text
    posted.replayed = outcome == "replayed"
    return Result(outcome, posted, None)
