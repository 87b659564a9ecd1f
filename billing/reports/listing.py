"""Which transactions a list shows: its filters as one value."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import date, datetime, time, timedelta
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import OperationalError, connection, transaction
from django.db.models import Q, QuerySet

from billing.models import Balance, Label, Transaction, TransactionType
from billing.plans.schedule import INSTANT

CHOICES: Final = ("service", "reason")
QUERY_CANCELED: Final = "57014"  # SQLSTATE

ADDS: Final = Q(amount__gt=0) | Q(bonus_amount__gt=0)
TAKES: Final = Q(amount__lt=0) | Q(bonus_amount__lt=0)
# The condition of the index on reversals; filtering by type would not use that index.
REVERSALS: Final = Q(reverses__isnull=False)

# Gifts and expired bonuses: what changes no real balance.
WITHOUT_AMOUNT: Final = {
    *(TransactionType.BONUS_REFILL, TransactionType.BONUS_EXPIRY),
    *(Label.GIFT, Label.EXPIRY),
}

# Totals count these separately: a reversal is neither a refill nor a charge.
Kind = Literal["", "refills", "charges", "reversals"]
KINDS: Final = {
    "refills": ADDS & ~REVERSALS,
    "charges": TAKES & ~REVERSALS,
    "reversals": REVERSALS,
}


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Which transactions a list shows: of one user or all users, in a period, with filters.

    The period includes `since` and excludes `until`; None leaves that end open. `paid_from` and
    `paid_to` are the first and the last day of payments by their payment date.
    """

    user_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    type: str = ""
    subtype: str = ""
    # Transactions that add to either balance, or take from either; reversals included.
    direction: Literal["", "adds", "takes"] = ""
    kind: Kind = ""
    label: Label | Literal[""] = ""
    text: str = ""
    device: str = ""  # or a part of its name
    exact_device: str | None = None  # "": transactions that concern no device
    channel: str = ""
    reason: str = ""  # its code
    batch: int | None = None
    actor: int | None = None
    paid_from: date | None = None
    paid_to: date | None = None
    # The number of the user's last transaction, from callers that have read it with the user.
    last_number: int | None = None

    def as_data(self) -> dict[str, str | int]:
        """Returns the listing as JSON has it, for background jobs; `from_data` reads it."""
        return {
            field.name: value.isoformat() if isinstance(value, date) else value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Listing":
        kinds: dict[str, type[date]] = {
            **dict.fromkeys(("since", "until"), datetime),
            **dict.fromkeys(("paid_from", "paid_to"), date),
        }
        values: dict[str, Any] = {
            name: kinds[name].fromisoformat(value) if name in kinds else value
            for name, value in data.items()
        }
        return cls(**values)

    @property
    def is_filtered(self) -> bool:
        """True if filters other than the period apply."""
        filters = (
            self.type, self.subtype, self.direction, self.kind, self.label, self.channel,
            self.text, self.device, self.paid_from, self.paid_to, self.reason, self.batch,
            self.actor,
        )  # fmt: skip
        return any(filters) or self.exact_device is not None

    @property
    def is_quick(self) -> bool:
        """True for all transactions of one user: every part of them is a few rows of an index."""
        has_period = self.since is not None or self.until is not None
        return self.user_id is not None and not self.is_filtered and not has_period

    @cached_property
    def numbers(self) -> range:
        """The range of numbers of one user's transactions in the period."""
        assert self.user_id is not None  # noqa: S101 - a mistake of the caller
        number_at = Transaction.objects.number_at
        first = number_at(self.user_id, self.since - INSTANT) + 1 if self.since else 1
        if self.until:
            last = number_at(self.user_id, self.until - INSTANT)
        elif self.last_number is not None:
            last = self.last_number
        else:
            last = Balance.objects.values_list("last_number", flat=True).get(pk=self.user_id)
        return range(first, max(first, last + 1))

    @cached_property
    def rows(self) -> QuerySet[Transaction]:
        """The transactions, unordered."""
        rows = Transaction.objects.filter(self._condition())
        if self.user_id is not None:
            rows = rows.filter(
                user=self.user_id, number__gte=self.numbers.start, number__lt=self.numbers.stop
            )
        else:
            rows &= self.in_period
        return rows

    @property
    def in_period(self) -> QuerySet[Transaction]:
        """The transactions of all users in the period."""
        rows = Transaction.objects.all()
        if self.since:
            rows = rows.filter(created_at__gte=self.since)
        if self.until:
            rows = rows.filter(created_at__lt=self.until)
        return rows

    def with_whole_device(self) -> "Listing":
        """Returns the listing of the one device of all users that has exactly the wanted name.

        If there is none, it stays a search for a part of the name, which takes longer.
        """
        if self.user_id is not None or not self.device:
            return self
        if not Transaction.objects.filter(device=self.device).exists():
            return self
        return replace(self, device="", exact_device=self.device)

    @property
    def _is_of_reversals(self) -> bool:
        kinds = (self.type, self.label, self.kind)
        return any(each in (TransactionType.REVERSAL, "reversals") for each in kinds)

    @property
    def _is_without_amount(self) -> bool:
        return self.type in WITHOUT_AMOUNT or self.label in WITHOUT_AMOUNT

    @property
    def has_index(self) -> bool:
        """True if an index leads to the few rows of all users that a filter is for."""
        chosen = (self.reason, self.batch, self.actor, self.exact_device)
        return any(chosen) or self._is_of_reversals or self._is_without_amount

    def _condition(self) -> Q:
        same = {
            "type": self.type,
            "subtype": self.subtype,
            "channel": self.channel,
            "reason": self.reason,
            "batch": self.batch,
            "actor": self.actor,
        }
        condition = Q(**{field: value for field, value in same.items() if value})
        if self.direction == "adds":
            condition &= ADDS
        elif self.direction == "takes":
            condition &= TAKES
        if self.label:
            condition &= Label(self.label).condition
        if self.kind:
            condition &= KINDS[self.kind]
        if self.user_id is None:
            # True of these anyway; it has PostgreSQL use their indexes.
            if self._is_of_reversals:
                condition &= REVERSALS
            if self._is_without_amount:
                condition &= Q(amount=0)
        for word in self.text.split():
            condition &= Q(description__icontains=word)
        if self.device:
            condition &= Q(device__icontains=self.device)
        if self.exact_device is not None:
            condition &= Q(device=self.exact_device)
        if self.paid_from or self.paid_to:
            condition &= Q(type=TransactionType.PAYMENT) & self._paid()
        return condition

    def _paid(self) -> Q:
        """Returns the condition on the day of a payment: its date, else the day of its posting."""
        dated, undated = Q(payment_date__isnull=False), Q(payment_date=None)
        if self.paid_from:
            dated &= Q(payment_date__gte=self.paid_from)
            undated &= Q(created_at__gte=_midnight(self.paid_from))
        if self.paid_to:
            dated &= Q(payment_date__lte=self.paid_to)
            undated &= Q(created_at__lt=_midnight(self.paid_to + timedelta(days=1)))
        return dated | undated


def _midnight(day: date) -> datetime:
    """Returns the first moment of a day in the installation's time zone, like payment dates."""
    return datetime.combine(day, time(tzinfo=ZoneInfo(settings.TIME_ZONE)))


class Choices(NamedTuple):
    """Names by code: what lists can be filtered by that is not fixed in the code."""

    services: dict[str, str]
    reasons: dict[str, str]


def choices() -> Choices:
    """Returns all services and all reasons, in their order, with one query."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT 'service', 0 AS position, name, code FROM billing_service
            UNION ALL SELECT 'reason', position, label, code FROM billing_reason
            ORDER BY 1, 2, 3, 4
            """
        )
        rows = cursor.fetchall()
    return Choices(
        *({code: name for kind, _, name, code in rows if kind == each} for each in CHOICES)
    )


class TooSlow(Exception):
    """A search was cancelled because it would take too long."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Cancels queries that run longer, and raises TooSlow.

    Queries that use an index take milliseconds. Only a search for rare words or devices, over all
    users and all time, has to read every row.
    """
    # The limit ends with the database transaction. Within another one it is set back.
    is_nested = connection.in_atomic_block
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            usual = None
            if is_nested:
                cursor.execute("SHOW statement_timeout")
                usual = cursor.fetchone()[0]
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [f"{seconds}s"])
            yield
            if is_nested:
                cursor.execute("SELECT set_config('statement_timeout', %s, true)", [usual])
    except OperationalError as problem:
        if getattr(problem.__cause__, "sqlstate", None) != QUERY_CANCELED:
            raise
        raise TooSlow from None
