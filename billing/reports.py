"""What the panel shows of the ledger: pages of transactions, totals, charts. Read only.

No page is reached by counting or skipping rows. A user's transactions are numbered without gaps
and their times never go back, so a stretch of days is a stretch of numbers, and any page of it is
one range of the index on (user, number). Across users, pages follow the index on (date, id).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Final, Literal, NamedTuple

from django.db import OperationalError, connection, transaction
from django.db.models import Count, Max, Model, OuterRef, Q, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce

from billing.models import (
    Balance,
    Channel,
    ChargingBatch,
    ChargingRun,
    Label,
    Reference,
    Subscription,
    Transaction,
    TransactionType,
)
from billing.money import ZERO
from users.search import found_by

PAGE_SIZE: Final = 50
CHART_POINTS: Final = 120
QUERY_CANCELED: Final = "57014"  # an SQLSTATE
INSTANT: Final = timedelta(microseconds=1)  # the resolution of the database's times

ADDS: Final = Q(amount__gt=0) | Q(bonus_amount__gt=0)
TAKES: Final = Q(amount__lt=0) | Q(bonus_amount__lt=0)
# The condition of the index over them, which the type alone would not bring into play.
REVERSALS: Final = Q(reverses__isnull=False)

# What totals count apart: a reversal is neither a refill nor a charge.
Kind = Literal["", "refills", "charges", "reversals"]
KINDS: Final = {
    "refills": ADDS & ~REVERSALS,
    "charges": TAKES & ~REVERSALS,
    "reversals": REVERSALS,
}


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Which transactions a list shows: of one user or of all, in a period, filtered.

    The period reaches from `since` up to, and without, `until`; None leaves that end open.
    """

    user_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    type: str = ""
    subtype: str = ""
    # What adds to either balance or takes from either, reversals included.
    direction: Literal["", "adds", "takes"] = ""
    kind: Kind = ""
    label: Label | Literal[""] = ""
    text: str = ""
    device: str = ""  # or a part of its name
    exact_device: str | None = None  # "" is none: what concerns no device
    channel: str = ""

    @property
    def is_filtered(self) -> bool:
        """Whether more than the period decides what is shown."""
        filters = (
            self.type, self.subtype, self.direction, self.kind, self.label, self.channel,
            self.text, self.device,
        )  # fmt: skip
        return any(filters) or self.exact_device is not None

    @cached_property
    def numbers(self) -> range:
        """The numbers of one user's transactions in the period."""
        assert self.user_id is not None  # noqa: S101 - a mistake of the caller
        number_at = Transaction.objects.number_at
        first = number_at(self.user_id, self.since - INSTANT) + 1 if self.since else 1
        if self.until:
            last = number_at(self.user_id, self.until - INSTANT)
        else:
            last = Balance.objects.values_list("last_number", flat=True).get(pk=self.user_id)
        return range(first, max(first, last + 1))

    @cached_property
    def rows(self) -> QuerySet[Transaction]:
        """The transactions, in no order."""
        rows = Transaction.objects.filter(self._condition())
        if self.user_id is not None:
            rows = rows.filter(
                user=self.user_id, number__gte=self.numbers.start, number__lt=self.numbers.stop
            )
        else:
            if self.since:
                rows = rows.filter(created_at__gte=self.since)
            if self.until:
                rows = rows.filter(created_at__lt=self.until)
        return rows

    def _condition(self) -> Q:
        condition = Q()
        if self.type:
            condition &= Q(type=self.type)
        if self.subtype:
            condition &= Q(subtype=self.subtype)
        if self.direction == "adds":
            condition &= ADDS
        elif self.direction == "takes":
            condition &= TAKES
        if self.label:
            condition &= Label(self.label).condition
        if self.kind:
            condition &= KINDS[self.kind]
        if self.channel:
            condition &= Q(channel=self.channel)
        for word in self.text.split():
            condition &= Q(description__icontains=word)
        if self.device:
            condition &= Q(device__icontains=self.device)
        if self.exact_device is not None:
            condition &= Q(device=self.exact_device)
        return condition


class TooSlow(Exception):
    """A search was given up because it would take too long."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Gives up queries that run longer, and raises TooSlow.

    What is found by an index takes milliseconds. Only a search for words or devices that are rare,
    over all users and all time, has to read every row there is.
    """
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            usual = cursor.fetchone()[0]
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [f"{seconds}s"])
            yield
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [usual])
    except OperationalError as problem:
        if getattr(problem.__cause__, "sqlstate", None) != QUERY_CANCELED:
            raise
        raise TooSlow from None


# --- Pages --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cursor:
    """Where in a list, newest first, a page lies.

    `key` is a transaction's number in a user's list, in other lists a row's ID. The page
    holds what is older than the key (`before`), newer than it (`after`), or the key itself and
    what is older (`at`). Without a key it is the first page; `after` 0 is the last.
    """

    place: Literal["first", "before", "after", "at"] = "first"
    key: int = 0


@dataclass(frozen=True)
class Page[Row: Model]:
    """Up to PAGE_SIZE rows, newest first, and whether there are newer and older ones.

    `key` is the attribute of a row that the pages of this list go by, as `Cursor.key` does.
    """

    rows: Sequence[Row]
    has_newer: bool
    has_older: bool
    key: str = "pk"

    @property
    def first_key(self) -> int | None:
        return getattr(self.rows[0], self.key) if self.rows else None

    @property
    def last_key(self) -> int | None:
        return getattr(self.rows[-1], self.key) if self.rows else None


def page(listing: Listing, cursor: Cursor) -> Page[Transaction]:
    """A page of transactions, each with those that it is tied to by a reversal."""
    found = _page(listing, cursor)
    tie_reversals(found.rows)
    return found


def tie_reversals(rows: Sequence[Transaction]) -> None:
    """Notes on each row what it reverses, and what reversed it. One query for all rows."""
    if not rows:
        return
    users, numbers = [row.user_id for row in rows], [row.number for row in rows]
    reversing = [row for row in rows if row.reverses is not None]
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT t.user_id, t.number, t.id, t.reverses
            FROM unnest(%s::bigint[], %s::bigint[]) AS x (user_id, number)
            JOIN billing_transaction t ON t.user_id = x.user_id AND t.reverses = x.number
            UNION ALL
            SELECT t.user_id, t.number, t.id, NULL
            FROM unnest(%s::bigint[], %s::bigint[]) AS x (user_id, number)
            JOIN billing_transaction t ON t.user_id = x.user_id AND t.number = x.number
            ORDER BY 1, 2
            """,
            [
                users,
                numbers,
                [row.user_id for row in reversing],
                [row.reverses for row in reversing],
            ],
        )
        found = cursor.fetchall()
    reversals: dict[tuple[int, int], list[Reference]] = {}
    originals: dict[tuple[int, int], Reference] = {}
    for user_id, number, row_id, reverses in found:
        reference = Reference(row_id, number)
        if reverses is None:
            originals[user_id, number] = reference
        else:
            reversals.setdefault((user_id, reverses), []).append(reference)
    for row in rows:
        row.reversed_by = reversals.get((row.user_id, row.number), [])
        if row.reverses is not None:
            row.reversed_one = originals.get((row.user_id, row.reverses))


def _page(listing: Listing, cursor: Cursor) -> Page[Transaction]:
    order = ["number"] if listing.user_id is not None else ["created_at", "id"]
    newest_first = [f"-{name}" for name in order]
    key = order[-1]
    rows = listing.rows.select_related("user", "actor")
    if cursor.place == "after":
        found = list(_beyond(rows, listing, cursor, newer=True).order_by(*order)[: PAGE_SIZE + 1])
        shown = found[:PAGE_SIZE][::-1]
        has_newer = len(found) > PAGE_SIZE
        has_older = bool(shown) and _exists_beyond(listing, shown[-1], newer=False)
        return Page(shown, has_newer, has_older, key)
    wanted = rows if cursor.place == "first" else _beyond(rows, listing, cursor, newer=False)
    found = list(wanted.order_by(*newest_first)[: PAGE_SIZE + 1])
    shown = found[:PAGE_SIZE]
    has_older = len(found) > PAGE_SIZE
    has_newer = (
        cursor.place != "first" and bool(shown) and _exists_beyond(listing, shown[0], newer=True)
    )
    return Page(shown, has_newer, has_older, key)


def _beyond(
    rows: QuerySet[Transaction], listing: Listing, cursor: Cursor, *, newer: bool
) -> QuerySet[Transaction]:
    """The rows on one side of the cursor."""
    comparison = ("gt" if newer else "lt") + ("e" if cursor.place == "at" else "")
    if listing.user_id is not None:
        return rows.filter(**{f"number__{comparison}": cursor.key})
    if newer and cursor.key == 0:
        return rows
    # The newest transaction up to that ID: one with just that ID need not exist.
    edge = Transaction.objects.filter(id__lte=cursor.key).order_by("-id").first()
    if edge is None:
        return rows if newer else rows.none()
    return rows.filter(_by_date(edge, comparison))


def _exists_beyond(listing: Listing, row: Transaction, *, newer: bool) -> bool:
    comparison = "gt" if newer else "lt"
    if listing.user_id is not None and not listing.is_filtered:
        edge = listing.numbers.stop - 1 if newer else listing.numbers.start
        return row.number < edge if newer else row.number > edge
    if listing.user_id is not None:
        return listing.rows.filter(**{f"number__{comparison}": row.number}).exists()
    return listing.rows.filter(_by_date(row, comparison)).exists()


def _by_date(row: "Transaction | Place", comparison: str) -> Q:
    """Compares (created_at, id) with that of `row`, in a form the index on both serves."""
    strict = comparison.removesuffix("e")
    return Q(**{f"created_at__{strict}e": row.created_at}) & (
        Q(**{f"created_at__{strict}": row.created_at}) | Q(**{f"id__{comparison}": row.id})
    )


def cursor_at(listing: Listing, moment: datetime) -> Cursor:
    """The page that begins with the last transaction before `moment`."""
    if listing.user_id is not None:
        return Cursor("at", Transaction.objects.number_at(listing.user_id, moment - INSTANT))
    row = Transaction.objects.filter(created_at__lt=moment).order_by("-created_at", "-id").first()
    return Cursor("at", row.id if row else 0)


def page_by_id[Row: Model](rows: QuerySet[Row], cursor: Cursor) -> Page[Row]:
    """A page of rows that are listed by their IDs, newest first."""
    comparison = "id__" + ("gt" if cursor.place == "after" else "lt")
    comparison += "e" if cursor.place == "at" else ""
    wanted = rows if cursor.place == "first" else rows.filter(**{comparison: cursor.key})
    found = list(wanted.order_by("id" if cursor.place == "after" else "-id")[: PAGE_SIZE + 1])
    shown, has_more = found[:PAGE_SIZE], len(found) > PAGE_SIZE
    if cursor.place == "after":
        has_older = bool(shown) and rows.filter(id__lt=shown[0].pk).exists()
        return Page(shown[::-1], has_newer=has_more, has_older=has_older)
    has_newer = cursor.place != "first" and bool(shown) and rows.filter(id__gt=shown[0].pk).exists()
    return Page(shown, has_newer=has_newer, has_older=has_more)


# --- Stretches, for programs --------------------------------------------------------------------


class Place(NamedTuple):
    """Where a row lies in lists across users. With ID 0: before all rows of that very moment."""

    created_at: datetime
    id: int


@dataclass(frozen=True)
class Stretch[Key: (int, Place)]:
    """Some rows of a list in its order, and whether there are more beyond them now.

    `end` is where to go on from. Newest first, that is the last row's place. Oldest first, nothing
    that is still to come will lie before `end`, so a program that goes on from there, whenever,
    sees every row once; without a row to show it may lie further than where the stretch began.
    """

    rows: Sequence[Transaction]
    has_more: bool
    end: Key | None


def stretch_of_user(
    listing: Listing, *, beyond: int | None, newest_first: bool, limit: int
) -> Stretch[int]:
    """Up to `limit` transactions of one user beyond a number.

    Who posts number n + 1 has waited for the commit of number n: whoever sees one sees all before.
    """
    numbers = listing.numbers  # in an earlier statement than the rows, so all of these are there
    rows = listing.rows
    if beyond is not None:
        rows = rows.filter(**{"number__lt" if newest_first else "number__gt": beyond})
    found = list(rows.order_by("-number" if newest_first else "number")[: limit + 1])
    shown, has_more = found[:limit], len(found) > limit
    end = shown[-1].number if shown else beyond
    if not newest_first and not has_more:
        end = max(beyond or 0, numbers.stop - 1)
    return Stretch(shown, has_more, end)


def stretch_of_all(
    listing: Listing, *, beyond: Place | None, newest_first: bool, limit: int
) -> Stretch[Place]:
    """Up to `limit` transactions of all users beyond a place.

    Oldest first, it ends where rows may still be missing (`complete_until`).
    """
    until = None
    if not newest_first:
        until = complete_until()
        if listing.until is not None:
            until = min(until, listing.until)
        listing = replace(listing, until=until)
    rows = listing.rows
    if beyond is not None:
        rows = rows.filter(_by_date(beyond, "lt" if newest_first else "gt"))
    order = ["-created_at", "-id"] if newest_first else ["created_at", "id"]
    found = list(rows.order_by(*order)[: limit + 1])
    shown, has_more = found[:limit], len(found) > limit
    end = Place(shown[-1].created_at, shown[-1].pk) if shown else beyond
    if until is not None and not has_more:
        end = max(Place(until, 0), beyond) if beyond else Place(until, 0)
    return Stretch(shown, has_more, end)


# What cannot be known of other transactions is taken to have begun so long ago.
LONGEST_TRANSACTION: Final = timedelta(hours=1)


def complete_until() -> datetime:
    """A moment before which no transaction will appear any more that is not there already.

    Whoever reads rows created before it, in a later statement, misses none, although a row's
    `created_at` is earlier than the commit that shows it. Because:

    - A row of the ledger gets its `created_at` from the clock after its database transaction T has
      locked a balance, that is, when T has its ID (xid); T keeps it until it ends. So, from that
      reading of the clock to its end, T is listed with an ID and a beginning (`xact_start`) that
      is not after `created_at`.
    - The moment answered is not after this statement's time, read before the list is, nor after
      the beginning of any other T that is listed with an ID. When the list is read, any T either
      has ended: then the later statement sees its rows; or is listed: then its rows are not before
      the moment; or has no ID yet: then it reads the clock later, and its rows are not before it.
    - A T without a beginning in the list had not begun when its entry was read. But where the list
      hides it, because T is of another role (and this one not of pg_read_all_stats), or because
      the server does not track activities, it is taken to have begun LONGEST_TRANSACTION ago.
    - Autovacuum, whose workers are listed to anybody as of no role, takes IDs too, for transactions
      that began long before; it writes no row of the ledger.
    - A prepared transaction (PREPARE TRANSACTION) leaves the list for that of prepared ones, which
      is therefore read after it. When it began is not known there; it is taken to have been
      prepared within LONGEST_TRANSACTION.

    Rows that this very database transaction wrote, it sees anyway. What is relied on: the
    database's clock does not go back, and the later statement looks anew (READ COMMITTED).
    """
    with connection.cursor() as cursor:
        # Within one database transaction the list would otherwise stay as it was when first read.
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(
            """
            SELECT least(statement_timestamp(), min(
                CASE WHEN state IS NULL OR state = 'disabled'
                    THEN statement_timestamp() - make_interval(secs => %s) ELSE xact_start END
            ))
            FROM pg_stat_activity
            WHERE datname = current_database() AND backend_xid IS NOT NULL
                AND pid <> pg_backend_pid() AND usesysid IS NOT NULL
            """,
            [LONGEST_TRANSACTION.total_seconds()],
        )
        [moment] = cursor.fetchone()
        cursor.execute(
            "SELECT least(%s, min(prepared) - make_interval(secs => %s)) "
            "FROM pg_prepared_xacts WHERE database = current_database()",
            [moment, LONGEST_TRANSACTION.total_seconds()],
        )
        [complete] = cursor.fetchone()
    assert isinstance(complete, datetime)  # noqa: S101 - for the types
    return complete


# --- Totals -------------------------------------------------------------------------------------


class Totals(NamedTuple):
    """opening + refills − charges + reversals + unlisted = closing.

    `reversals` is what the reversals of the period changed together: they add where they take a
    charge back, and take where they take a refill back. `unlisted` is the same of the transactions
    of the period that a filter leaves out.
    """

    opening: Decimal
    refills: Decimal
    charges: Decimal
    reversals: Decimal
    unlisted: Decimal
    closing: Decimal


class Turnover(NamedTuple):
    """What was added and what was taken, both as positive amounts, and what reversals changed."""

    refills: Decimal
    charges: Decimal
    reversals: Decimal

    @property
    def net(self) -> Decimal:
        return self.refills - self.charges + self.reversals


@dataclass(frozen=True)
class BothTotals:
    real: Totals
    bonus: Totals


@dataclass(frozen=True)
class BothTurnovers:
    real: Turnover
    bonus: Turnover


def totals(listing: Listing) -> BothTotals:
    """Opening and closing balances of one user's period, and what is listed in between.

    Without filters this reads two rows and the reversals, however long the period is: each
    transaction knows the sum of all that was added up to it. With filters, the rows of the period
    are summed up.
    """
    numbers = listing.numbers
    edges = {
        row.number: row
        for row in Transaction.objects.filter(
            user=listing.user_id, number__in=[numbers.start - 1, numbers.stop - 1]
        )
    }
    before, last = edges.get(numbers.start - 1), edges.get(numbers.stop - 1)
    opening = (before.new_balance, before.new_bonus) if before else (ZERO, ZERO)
    closing = (last.new_balance, last.new_bonus) if last else (ZERO, ZERO)
    if listing.is_filtered:
        listed = turnover(listing)
    else:
        added_before = (before.refilled, before.bonus_refilled) if before else (ZERO, ZERO)
        added = (last.refilled, last.bonus_refilled) if last else (ZERO, ZERO)
        reversed_ = _reversals(listing)
        listed = BothTurnovers(
            _turnover(added[0] - added_before[0], closing[0] - opening[0], reversed_.real),
            _turnover(added[1] - added_before[1], closing[1] - opening[1], reversed_.bonus),
        )
    return BothTotals(
        _totals(opening[0], listed.real, closing[0]), _totals(opening[1], listed.bonus, closing[1])
    )


def _totals(opening: Decimal, listed: Turnover, closing: Decimal) -> Totals:
    unlisted = closing - opening - listed.net
    return Totals(opening, *listed, unlisted, closing)


class _Reversed(NamedTuple):
    """What reversals added to a balance, and what they changed in all."""

    added: Decimal
    net: Decimal


@dataclass(frozen=True)
class _BothReversed:
    real: _Reversed
    bonus: _Reversed


def _reversals(listing: Listing) -> _BothReversed:
    """What the reversals of one user's period did: these rows alone are read, by their index."""
    sums = listing.rows.filter(REVERSALS).aggregate(
        added=Sum("amount", filter=Q(amount__gt=0), default=ZERO),
        net=Sum("amount", default=ZERO),
        bonus_added=Sum("bonus_amount", filter=Q(bonus_amount__gt=0), default=ZERO),
        bonus_net=Sum("bonus_amount", default=ZERO),
    )
    return _BothReversed(
        _Reversed(sums["added"], sums["net"]), _Reversed(sums["bonus_added"], sums["bonus_net"])
    )


def _turnover(added: Decimal, net: Decimal, reversed_: _Reversed) -> Turnover:
    """The turnover of a period of which it is known what was added and what changed in all."""
    refills = added - reversed_.added
    return Turnover(refills, refills + reversed_.net - net, reversed_.net)


def turnover(listing: Listing) -> BothTurnovers:
    """The sums over all transactions of a listing. Reads them all."""
    sums = listing.rows.aggregate(
        refills=Sum("amount", filter=Q(amount__gt=0) & ~REVERSALS, default=ZERO),
        charges=Sum("amount", filter=Q(amount__lt=0) & ~REVERSALS, default=ZERO),
        reversals=Sum("amount", filter=REVERSALS, default=ZERO),
        bonus_refills=Sum("bonus_amount", filter=Q(bonus_amount__gt=0) & ~REVERSALS, default=ZERO),
        bonus_charges=Sum("bonus_amount", filter=Q(bonus_amount__lt=0) & ~REVERSALS, default=ZERO),
        bonus_reversals=Sum("bonus_amount", filter=REVERSALS, default=ZERO),
    )
    return BothTurnovers(
        Turnover(sums["refills"], -sums["charges"], sums["reversals"]),
        Turnover(sums["bonus_refills"], -sums["bonus_charges"], sums["bonus_reversals"]),
    )


# --- Charts -------------------------------------------------------------------------------------


class Point(NamedTuple):
    moment: datetime
    real: Decimal
    bonus: Decimal


def balance_points(listing: Listing) -> list[Point]:
    """Both balances over the period of one user's listing, at most CHART_POINTS of them.

    A long period shows every so many-th transaction, the first and the last among them.
    """
    numbers = listing.numbers
    if not numbers:
        return []
    first, last = numbers.start, numbers.stop - 1
    step = max(1, -(-len(numbers) // CHART_POINTS))
    wanted = [*range(first, last, step), last]
    rows = (
        Transaction.objects.filter(user=listing.user_id, number__in=wanted)
        .order_by("number")
        .values_list("created_at", "new_balance", "new_bonus")
    )
    return [Point(*row) for row in rows]


class Day(NamedTuple):
    """What was added, taken and reversed on one day, which is given by its midnight."""

    day: datetime
    real: Turnover
    bonus: Turnover


def turnover_by_day(since: datetime, until: datetime, time_zone: str) -> list[Day]:
    """Refills, charges and reversals of all users for each day of a period; days without
    transactions are left out.

    Days are those of `time_zone`; each is given by its midnight there.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT date_trunc('day', created_at, %(zone)s) AS day,
                coalesce(sum(amount) FILTER (WHERE amount > 0 AND reverses IS NULL), 0),
                coalesce(-sum(amount) FILTER (WHERE amount < 0 AND reverses IS NULL), 0),
                coalesce(sum(amount) FILTER (WHERE reverses IS NOT NULL), 0),
                coalesce(sum(bonus_amount)
                    FILTER (WHERE bonus_amount > 0 AND reverses IS NULL), 0),
                coalesce(-sum(bonus_amount)
                    FILTER (WHERE bonus_amount < 0 AND reverses IS NULL), 0),
                coalesce(sum(bonus_amount) FILTER (WHERE reverses IS NOT NULL), 0)
            FROM billing_transaction
            WHERE created_at >= %(since)s AND created_at < %(until)s
            GROUP BY day ORDER BY day
            """,
            {"zone": time_zone, "since": since, "until": until},
        )
        return [
            Day(day, Turnover(*sums[:3]), Turnover(*sums[3:])) for day, *sums in cursor.fetchall()
        ]


class Holdings(NamedTuple):
    """What all customers together have."""

    users: int
    active_users: int
    real: Decimal
    bonus: Decimal


def holdings() -> Holdings:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(*), count(*) FILTER (WHERE u.is_active),
                coalesce(sum(b.real), 0), coalesce(sum(b.bonus), 0)
            FROM users_user u JOIN billing_balance b ON b.user_id = u.id
            WHERE NOT u.is_staff
            """
        )
        return Holdings(*cursor.fetchone())


def latest(count: int) -> list[Transaction]:
    """The latest transactions of all users, newest first."""
    rows = Transaction.objects.select_related("user", "actor")
    found = list(rows.order_by("-created_at", "-id")[:count])
    tie_reversals(found)
    return found


LOOKED_THROUGH: Final = 2_000


def latest_by_operators(user_id: int, count: int) -> list[Transaction]:
    """The latest transactions of a user that operators posted in the panel, newest first.

    Only the user's last LOOKED_THROUGH ones are looked at: no index leads to an operator's, and
    there may be a million others.
    """
    last = Balance.objects.values_list("last_number", flat=True).filter(pk=user_id).first()
    rows = Transaction.objects.filter(
        user=user_id, number__gt=(last or 0) - LOOKED_THROUGH, channel=Channel.PANEL
    )
    found = list(rows.select_related("user", "actor").order_by("-number")[:count])
    tie_reversals(found)
    return found


# --- Everything, for exports --------------------------------------------------------------------


def oldest_first(listing: Listing, chunk_size: int = 2_000) -> Iterator[Transaction]:
    """All transactions of a listing, oldest first, in constant memory.

    Rows are fetched a chunk at a time, each beginning where the last one ended: a database cursor
    would have to be kept open, and collects the whole result before its first row.
    """
    order = ["number"] if listing.user_id is not None else ["created_at", "id"]
    rows = listing.rows.select_related("user", "actor").order_by(*order)
    wanted = rows
    while chunk := list(wanted[:chunk_size]):
        tie_reversals(chunk)
        yield from chunk
        last = chunk[-1]
        wanted = (
            rows.filter(number__gt=last.number)
            if listing.user_id is not None
            else rows.filter(_by_date(last, "gt"))
        )


# --- Plans, subscriptions and services ----------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SubscriptionListing:
    """Which subscriptions of all users a list shows. Every word of `text` has to be found."""

    plan_id: int | None = None
    status: str = ""  # "live": active or suspended
    cycle: str = ""
    text: str = ""

    @property
    def rows(self) -> QuerySet[Subscription]:
        rows = Subscription.objects.select_related("user", "plan")
        if self.plan_id is not None:
            rows = rows.filter(plan=self.plan_id)
        if self.cycle:
            rows = rows.filter(plan__cycle=self.cycle)
        if self.status == "live":
            rows = rows.live()
        elif self.status:
            rows = rows.filter(status=self.status)
        return rows.filter(subscriptions_with(self.text))


def subscriptions_with(text: str) -> Q:
    """Those in which every word is found: in the name of the device, or in whose it is."""
    return found_by(text, "user", beside=lambda word: Q(device__icontains=word.typed))


def was_charged(service_code: str) -> bool:
    """Whether any user was ever charged for a service. May have to read all transactions."""
    return Transaction.objects.filter(type=TransactionType.SERVICE, subtype=service_code).exists()


# --- Charging runs ------------------------------------------------------------------------------

RUN_TIME: Final = time(0, 5, tzinfo=UTC)  # when the run of each day is due
RUN_MAY_TAKE: Final = timedelta(minutes=30)
# A batch takes a minute at most; a run of which nothing is heard for so long was killed.
SILENCE: Final = timedelta(minutes=10)

RunState = Literal["finished", "running", "interrupted"]


def charging_runs() -> QuerySet[ChargingRun]:
    """The runs, each with its batches counted and the time when it was last heard of."""
    batches = ChargingBatch.objects.filter(run=OuterRef("pk")).order_by().values("run")
    # Looked up for the runs of a page; joined, those of all runs would be counted.
    return ChargingRun.objects.annotate(
        batch_count=Coalesce(Subquery(batches.values(n=Count("*"))), 0),
        batches_done=Coalesce(Subquery(batches.values(n=Count("finished_at"))), 0),
        last_batch_at=Subquery(batches.values(at=Max("finished_at"))),
    )


def state_of(run: ChargingRun, now: datetime) -> RunState:
    """What has become of a run of `charging_runs` by `now`."""
    if run.finished_at is not None:
        return "finished"
    return "running" if now - heard_of(run) <= SILENCE else "interrupted"


def heard_of(run: ChargingRun) -> datetime:
    """When a run of `charging_runs` last did something that left a trace."""
    last_batch_at: datetime | None = run.last_batch_at  # type: ignore[attr-defined]
    return last_batch_at or run.started_at


@dataclass(frozen=True)
class Overdue:
    """No run has done what was due at `since`. `begun` is one that has tried, in this state."""

    since: datetime
    begun: ChargingRun | None
    state: RunState | None


def last_scheduled(at: datetime) -> datetime:
    """When a run was due last: at 00:05 UTC of this day, or of the day before."""
    at = at.astimezone(UTC)
    today = datetime.combine(at.date(), RUN_TIME)
    return today if today <= at else today - timedelta(days=1)


def overdue(now: datetime) -> Overdue | None:
    """Whether the latest daily run that should be over by `now` is not, and since when.

    A run's time to finish is half an hour. An installation that has never had a run is told so
    from the first subscription on that a run should have looked at.
    """
    since = last_scheduled(now - RUN_MAY_TAKE - INSTANT)
    # One that was told to look ahead, on a day before, does not stand in for it.
    late = charging_runs().filter(at__gte=since, started_at__gte=since)
    if late.filter(finished_at__isnull=False).exists():
        return None
    if (
        not ChargingRun.objects.exists()
        and not Subscription.objects.filter(started_on__lt=since.date()).exists()
    ):
        return None
    begun = late.order_by("-id").first()
    return Overdue(since, begun, state_of(begun, now) if begun else None)


class RunsOfDay(NamedTuple):
    """What the runs as of one UTC day charged, all together."""

    runs: int
    charged: int
    total: Decimal


def runs_of_day(day: date) -> RunsOfDay:
    """With cron, or after a run by hand, the last run of a day is mostly one that found nothing."""
    since = datetime.combine(day, time.min, tzinfo=UTC)
    runs = ChargingRun.objects.filter(at__gte=since, at__lt=since + timedelta(days=1))
    figures = runs.aggregate(
        runs=Count("*"), charged=Coalesce(Sum("charged"), 0), total=Coalesce(Sum("total"), ZERO)
    )
    return RunsOfDay(**figures)


def latest_run() -> ChargingRun | None:
    """Of the runs that are over, the one that charged up to the latest time."""
    return ChargingRun.objects.filter(finished_at__isnull=False).order_by("-at", "-id").first()
