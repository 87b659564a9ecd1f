"""Posting: each function here is one call of the database function `billing_post`.

The function locks balances, checks, splits amounts by the debit order, and writes (`billing/sql/`).
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from typing import Any, Final, Literal, NamedTuple, Unpack

from django.db import DatabaseError, connection, transaction
from django.db.models import Sum

from billing import counters
from billing.counters import counts_refusals
from billing.errors import AlreadyPaidBack, BillingError, UnknownUser, refusal_from
from billing.ledger.balances import lock_balances
from billing.ledger.entries import (
    MAX_WHOLE_NUMBER,
    Entry,
    Options,
    as_json,
    balance_change_entry,
    bonus_entry,
    checked_expiry,
    request_id,
    reversal_entry,
    whole_number,
)
from billing.models import Channel, Grant, Transaction, TransactionType
from billing.money import ZERO, Amount
from users import database
from users.models import User, customer_sql

REFUSED_SQLSTATE: Final = "BL001"

Outcome = Literal["posted", "replayed", "refused"]


class Posted(NamedTuple):
    """The result of one entry of a batch: a transaction, or the refusal."""

    outcome: Outcome
    transaction: Transaction | None
    refusal: BillingError | None


# --- One transaction ----------------------------------------------------------------------------


@counts_refusals
def change_balance(
    user: User | int,
    *,
    description: str,
    amount: Amount = ZERO,
    bonus_amount: Amount = ZERO,
    actor: User | None,
    channel: Channel,
    subtype: str = "partner",
    payment_date: date | None = None,
    bonus_expires_at: datetime | None = None,
    customers_only: bool = False,
    **options: Unpack[Options],
) -> Transaction:
    """Adds signed amounts to both balances, in one transaction.

    `subtype` is `partner` for a change by hand or by the API, `import` for an import.
    `payment_date` is the day on which a payment was made, if it is posted later. From
    `bonus_expires_at` on, what is left of the added bonus cannot be spent; None: it never expires.

    Raises InsufficientFunds if a balance would become negative, NothingToChange if both amounts are
    zero, InvalidExpiry if the expiry is past or no bonus is added, and InvalidPaymentDate. With
    `customers_only`, raises UnknownUser also for an operator's account.
    """
    entry = balance_change_entry(
        user,
        description=description,
        amount=amount,
        bonus_amount=bonus_amount,
        subtype=subtype,
        payment_date=payment_date,
        bonus_expires_at=bonus_expires_at,
        **options,
    )
    return post(entry, actor=actor, channel=channel, customers_only=customers_only)


@counts_refusals
def give_bonus(
    user: User | int,
    *,
    description: str,
    amount: Amount,
    actor: User | None,
    channel: Channel,
    subtype: str = "register",
    bonus_expires_at: datetime | None = None,
    **options: Unpack[Options],
) -> Transaction:
    """Adds `amount` to the bonus balance; `subtype` names the occasion.

    From `bonus_expires_at` on, what is left of it cannot be spent; None: it never expires.
    """
    entry = bonus_entry(
        user,
        description=description,
        amount=amount,
        subtype=subtype,
        bonus_expires_at=bonus_expires_at,
        **options,
    )
    return post(entry, actor=actor, channel=channel)


@counts_refusals
def reverse(
    user: User | int,
    *,
    number: int,
    description: str,
    actor: User | None,
    channel: Channel,
    amount: Amount | None = None,
    although_paid_back: bool = False,
    **options: Unpack[Options],
) -> Transaction:
    """Reverses the user's transaction `number`, or `amount` (positive) of it.

    Without `amount`, takes back all that earlier reversals have left. With it, money goes back in
    the reverse order in which it was taken: real money first, then the grants.

    Raises AlreadyReversed if nothing is left, RefundTooLarge, NotReversible for reversals and
    expiries, UnknownTransaction, and InsufficientFunds if the added money has been spent. Raises
    AlreadyPaidBack for a subscription charge of which a remainder was paid back, unless
    `although_paid_back`.
    """
    entry = reversal_entry(user, number=number, description=description, amount=amount, **options)
    with transaction.atomic():
        if not although_paid_back:
            lock_balances([entry.user_id])  # so that nobody pays back meanwhile
            _refuse_what_was_paid_back(entry)
        return post(entry, actor=actor, channel=channel)


class Left(NamedTuple):
    """What earlier reversals have left of a transaction's two amounts, with their signs."""

    real: Decimal
    bonus: Decimal

    @property
    def amount(self) -> Decimal:
        """The most that a refund in part can have; zero if the two signs differ."""
        return ZERO if self.real * self.bonus < 0 else abs(self.real + self.bonus)


def left_of(original: Transaction) -> Left:
    """Returns what reversals can still take back of a transaction: nothing of a reversal."""
    if original.type in (TransactionType.REVERSAL, TransactionType.BONUS_EXPIRY):
        return Left(ZERO, ZERO)
    reversals = Transaction.objects.filter(user=original.user_id, reverses=original.number)
    taken_back = reversals.aggregate(real=Sum("amount"), bonus=Sum("bonus_amount"))
    return Left(
        original.amount + (taken_back["real"] or ZERO),
        original.bonus_amount + (taken_back["bonus"] or ZERO),
    )


def paid_back_of(charge: Transaction) -> list[Transaction]:
    """Returns the remainders of this subscription charge of which something is still paid back."""
    if charge.type != TransactionType.SUBSCRIPTION:
        return []
    later = Transaction.objects.filter(user=charge.user_id, number__gt=charge.number)
    remainders = later.filter(type=charge.type, subtype="remainder").order_by("number")
    found = remainders.filter(metadata__charge=charge.number)
    return [row for row in found if left_of(row).real]


def paid_back_of_number(user_id: int, number: int) -> list[Transaction]:
    """Returns the same for the user's transaction `number`; [] if it does not exist."""
    charge = Transaction.objects.filter(user=user_id, number=number).first()
    return [] if charge is None else paid_back_of(charge)


def _refuse_what_was_paid_back(reversal: Entry) -> None:
    """Raises AlreadyPaidBack. Leaves charges of which nothing is left to `billing_post`."""
    number = whole_number("reverses", reversal.reverses)
    of_user = Transaction.objects.filter(user=reversal.user_id)
    charge = of_user.filter(number=number).first() if number is not None else None
    if charge is None or not any(left_of(charge)):
        return
    if paid_back := paid_back_of(charge):
        amount = sum((left_of(row).real for row in paid_back), ZERO)
        raise AlreadyPaidBack(number=number, amount=str(amount), paid_back_by=paid_back[-1].number)


def post(
    entry: Entry, *, actor: User | None, channel: Channel, customers_only: bool = False
) -> Transaction:
    """Posts one entry of any kind. The caller counts refusals (`counters.counts_refusals`).

    With `customers_only`, raises UnknownUser also for an operator's account.
    """
    try:
        [(_, posted)] = _post(
            [as_json(entry)], actor, channel, skip_refused=False, customers_only=customers_only
        )
    except BillingError as refusal:
        refusal.data.pop("entry", None)  # its place in a batch; there is no batch here
        raise
    assert posted.transaction is not None  # noqa: S101 - a refusal would have been raised
    return posted.transaction


# --- Many at once -------------------------------------------------------------------------------


@counts_refusals
def post_batch(
    entries: Iterable[Entry],
    *,
    actor: User | None,
    channel: Channel,
    skip_refused: bool = False,
) -> list[Posted]:
    """Posts all entries or, if one is refused, none, and raises the refusal.

    The error's `data["entry"]` is the place of the refused entry, from 1. With `skip_refused`,
    refused entries are left out instead. Results are in the order of the entries; entries of one
    user are posted in the given order.
    """
    results: dict[int, Posted] = {}
    valid: list[tuple[int, dict[str, Any]]] = []
    for place, entry in enumerate(entries, start=1):
        try:
            valid.append((place, as_json(entry)))
        except BillingError as refusal:
            if not skip_refused:
                refusal.data["entry"] = place
                raise
            counters.refused(refusal.code, channel)
            results[place] = Posted("refused", None, refusal)
    if valid:
        posted = _post([e for _, e in valid], actor, channel, skip_refused=skip_refused)
        results |= {valid[position - 1][0]: result for position, result in posted}
    return [results[place] for place in sorted(results)]


@counts_refusals
def post_for_numbers(
    entries: Sequence[Entry], *, actor: User | None, channel: Channel
) -> list[int]:
    """Posts all entries or none, like `post_batch`, but returns numbers only, which is faster.

    The numbers come in the order of the entries.
    """
    if not entries:
        return []
    arguments = _arguments([as_json(entry) for entry in entries], actor, channel)
    with _refusals({entry.user_id for entry in entries}), database.prepared_cursor() as cursor:
        cursor.execute(_CALL_FOR_NUMBERS, arguments)
        numbered = cursor.fetchall()
        outcomes = [outcome for _, outcome in numbered]
    _count([entry.type for entry in entries], outcomes, channel)
    return [number for number, _ in numbered]


# --- Grants that have expired -------------------------------------------------------------------


USERS_EXPIRED_AT_ONCE: Final = 200


def expire_due(now: datetime) -> int:
    """Posts what has expired of all users' grants by `now`. Returns the number of users."""
    due = Grant.objects.filter(is_open=True, expires_at__lte=now).order_by("user_id")
    done, last = 0, 0
    while True:
        of_users = due.filter(user_id__gt=last).values_list("user_id", flat=True).distinct()
        user_ids = list(of_users[:USERS_EXPIRED_AT_ONCE])
        if not user_ids:
            return done
        expire_grants(user_ids)
        done, last = done + len(user_ids), user_ids[-1]


def expire_grants(user_ids: Iterable[int]) -> None:
    """Posts what has expired of these users' grants, as each of their next postings would.

    Leaves out users for whom nothing can be posted now, because the database's clock is wrong.
    """
    entries = [{"user_id": user_id, "type": TransactionType.BONUS_EXPIRY} for user_id in user_ids]
    with database.prepared_cursor() as cursor:
        arguments = _arguments(entries, None, Channel.SYSTEM, skip_refused=True)
        cursor.execute(_CALL_FOR_NUMBERS, arguments)


def set_expiry(user_id: int, number: int, expires_at: datetime | None) -> None:
    """Sets when a grant expires. The user's last event has to record it (`operations.bonus`).

    Raises InvalidExpiry for a time after the year 9000.
    """
    if expires_at is not None:
        expires_at = checked_expiry(expires_at)
    with connection.cursor() as cursor:
        cursor.execute("SELECT billing_set_expiry(%s, %s, %s)", [user_id, number, expires_at])


# --- Around postings ----------------------------------------------------------------------------


@contextmanager
def dry_run() -> Iterator[None]:
    """Undoes at its end everything that is written within.

    Transactions posted within have the amounts and balances that they would really have now.
    """
    with transaction.atomic(), counters.dry_run():
        yield
        transaction.set_rollback(True)


@contextmanager
def for_request(identifier: str) -> Iterator[None]:
    """Stores the request's ID in the metadata ("request_id") of all that is posted within."""
    token = request_id.set(identifier)
    try:
        yield
    finally:
        request_id.reset(token)


def current_request() -> str | None:
    """Returns the ID of the present request (`for_request`), if any."""
    return request_id.get()


# --- The call of the database function ----------------------------------------------------------


def _post(
    entries: list[dict[str, Any]],
    actor: User | None,
    channel: Channel,
    *,
    skip_refused: bool,
    customers_only: bool = False,
) -> list[tuple[int, Posted]]:
    """Calls `billing_post`. Returns results with the positions of their entries, from 1.

    `customers_only` is for one entry.
    """
    arguments = _arguments(entries, actor, channel, skip_refused=skip_refused)
    with _refusals({entry["user_id"] for entry in entries}):
        if customers_only:
            [entry] = entries
            results = _call_for_customer(entry["user_id"], arguments)
        else:
            results = _call(_CALL, arguments)
    types = [entries[position - 1]["type"] for position, _ in results]
    _count(types, [result.outcome for _, result in results], channel)
    for _, result in results:
        if result.refusal is not None:
            counters.refused(result.refusal.code, channel)
    return results


def _count(types: Sequence[str], outcomes: Sequence[str], channel: Channel) -> None:
    """Counts the outcomes of entries of these types: transactions when they are committed."""
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
    # Not as a number, whose type would depend on its size: each type is another statement.
    actor_id = None if actor is None else str(actor.pk)
    return [json.dumps(entries), actor_id, channel, skip_refused]


@contextmanager
def _refusals(user_ids: Collection[int]) -> Iterator[None]:
    """Turns refusals of the posting function into BillingErrors."""
    try:
        if connection.in_atomic_block:
            # A savepoint, so that the caller's transaction survives a refusal.
            with transaction.atomic():
                if len(user_ids) == 1 and database.takes_turns():
                    lock_balances(user_ids)
                yield
        else:
            # Batches wait for batches: it is unknown which of its users a batch waits for.
            waits_for = user_ids if len(user_ids) == 1 else {("batch", each) for each in user_ids}
            with database.hold_turn(waits_for), database.committing():
                yield
    except DatabaseError as problem:
        diagnostics = getattr(problem.__cause__, "diag", None)
        if diagnostics is None or diagnostics.sqlstate != REFUSED_SQLSTATE:
            raise
        raise refusal_from(diagnostics.message_detail) from None


_COLUMNS: Final = [column.attname for column in Transaction._meta.concrete_fields]
_RESULTS: Final = 'SELECT "position", outcome, refusal, ' + ", ".join(
    f"(posted).{name}" for name in _COLUMNS
)
_CALL: Final = f"{_RESULTS} FROM billing_post(%s, %s, %s, %s)"
_CALL_FOR_NUMBERS: Final = (
    'SELECT (posted).number, outcome FROM billing_post(%s, %s, %s, %s) ORDER BY "position"'
)


@cache
def _for_customer() -> str:
    """Returns the call with an entry of the customer who is found; without one there is no call."""
    return (
        f"{_RESULTS} FROM ({customer_sql()}) c (id) CROSS JOIN LATERAL billing_post("
        "jsonb_set(%s::jsonb, '{0,user_id}', to_jsonb(c.id)), %s, %s, %s)"
    )


def _call_for_customer(user_id: int, arguments: list[Any]) -> list[tuple[int, Posted]]:
    if 0 < user_id <= MAX_WHOLE_NUMBER and (
        results := _call(_for_customer(), [str(user_id), *arguments])
    ):
        return results
    raise UnknownUser(user_id=user_id)


def _call(statement: str, arguments: list[Any]) -> list[tuple[int, Posted]]:
    with database.prepared_cursor() as cursor:
        cursor.execute(statement, arguments)
        return [(row[0], _posted(row[1], row[2], row[3:])) for row in cursor.fetchall()]


def _posted(outcome: Outcome, refusal: str | None, fields: Sequence[Any]) -> Posted:
    if refusal is not None:
        return Posted(outcome, None, refusal_from(refusal))
    posted = Transaction.from_db(connection.alias, _COLUMNS, fields)
    posted.metadata = json.loads(posted.metadata)  # a plain cursor returns JSON as text
    posted.replayed = outcome == "replayed"
    return Posted(outcome, posted, None)
