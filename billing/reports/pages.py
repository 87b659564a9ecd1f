"""Pages of transactions, newest first, and whole lists, oldest first.

No page counts or skips rows. A user's transactions are numbered without gaps and their times never
go back, so a period is a range of numbers, and each page is one range of the index on
(user, number). Across users, pages follow the index on (created_at, id).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal, NamedTuple

from django.contrib.postgres.fields import ArrayField
from django.db import connection, models
from django.db.models import Model, QuerySet
from django.db.models.expressions import RawSQL

from billing.models import Reference, Transaction
from billing.plans.schedule import INSTANT
from billing.reports.complete import complete_until
from billing.reports.listing import Listing, TooSlow, time_limit
from billing.reports.places import Place, by_date
from billing.reports.searching import FIRST_STRETCH, Found, search

PAGE_SIZE: Final = 50
# After this, an index was not of much use, and rows are searched for by their time.
INDEX_MAX_SECONDS: Final = 1

# The columns that lists show.
NAMES: Final = ("email", "first_name", "middle_name", "last_name", "legal_type", "legal_name")
SHOWN: Final = (
    *("user_id", "number", "type", "subtype", "description", "device", "created_at", "channel"),
    *("amount", "old_balance", "new_balance", "bonus_amount", "old_bonus", "new_bonus"),
    *("actor_id", "reverses", "payment_date", "reason_id", "batch_id"),
)


def _of_people(*people: str) -> list[str]:
    return [f"{person}__{name}" for person in people for name in NAMES]


@dataclass(frozen=True)
class Cursor:
    """The place of a page in a list that has the newest row first.

    `key` is a transaction's number in the list of a user, and a row's ID in other lists. The page
    shows rows older than the key (`before`), newer (`after`), or the key's row and older ones
    (`at`). Without a key it is the first page; `after` 0 is the last page.
    """

    place: Literal["first", "before", "after", "at"] = "first"
    key: int = 0


@dataclass(frozen=True)
class Page[Row: Model]:
    """Up to PAGE_SIZE rows, newest first, and whether there are newer and older ones.

    `key` is the name of the attribute that `Cursor.key` refers to. `searched_to` is the place where
    a search ended that would take too long; the page may then be empty although there is more.
    """

    rows: Sequence[Row]
    has_newer: bool
    has_older: bool
    key: str = "pk"
    searched_to: Place | None = None

    @property
    def first_key(self) -> int | None:
        return getattr(self.rows[0], self.key) if self.rows else None

    @property
    def last_key(self) -> int | None:
        if self.searched_to is not None:
            return self.searched_to.id
        return getattr(self.rows[-1], self.key) if self.rows else None


def page(listing: Listing, cursor: Cursor) -> Page[Transaction]:
    """Returns a page of transactions, each with its reversals and the transaction it reverses.

    Except in a search over all users, one query reads all that lists show, unless the page needs to
    know what is beyond it.
    """
    if listing.user_id is None and listing.is_filtered:
        found = _page_of_search(listing, cursor)
        tie_reversals(found.rows)
        return found
    found = _page(listing, cursor)
    for row in found.rows:
        row.reversed_by = [_tie(*each) for each in row.took_back]  # type: ignore[attr-defined]
        for each in row.taken_back:  # type: ignore[attr-defined]
            row.reversed_one = _tie(*each)
    return found


def _tied(rows: QuerySet[Transaction]) -> QuerySet[Transaction]:
    """Adds the reversals of each row, and the row that it reverses, as arguments of `_tie`."""
    tie = """ARRAY(
        SELECT ARRAY[t.id, t.number, ((t.amount, t.bonus_amount) IS DISTINCT FROM
            (-billing_transaction.amount, -billing_transaction.bonus_amount))::int]
        FROM billing_transaction t
        WHERE t.user_id = billing_transaction.user_id AND {} ORDER BY t.number
    )"""
    ties = ArrayField(ArrayField(models.BigIntegerField()))
    return rows.annotate(
        took_back=RawSQL(tie.format("t.reverses = billing_transaction.number"), [], ties),  # noqa: S611 - constant
        taken_back=RawSQL(tie.format("t.number = billing_transaction.reverses"), [], ties),  # noqa: S611 - constant
    )


def _tie(row_id: int, number: int, is_part: int) -> Reference:
    return Reference(row_id, number, is_part=bool(is_part))


def tie_reversals(rows: Sequence[Transaction]) -> None:
    """Sets `reversed_one` and `reversed_by` on each row, with one query for all rows."""
    if not rows:
        return
    users, numbers = [row.user_id for row in rows], [row.number for row in rows]
    reversing = [row for row in rows if row.reverses is not None]
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT t.user_id, t.number, t.id, t.reverses, t.amount, t.bonus_amount
            FROM unnest(%s::bigint[], %s::bigint[]) AS x (user_id, number)
            JOIN billing_transaction t ON t.user_id = x.user_id AND t.reverses = x.number
            UNION ALL
            SELECT t.user_id, t.number, t.id, NULL, t.amount, t.bonus_amount
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
    reversals: dict[tuple[int, int], list[_Moved]] = {}
    originals: dict[tuple[int, int], _Moved] = {}
    for user_id, number, row_id, reverses, *amounts in found:
        moved = _Moved(row_id, number, *amounts)
        if reverses is None:
            originals[user_id, number] = moved
        else:
            reversals.setdefault((user_id, reverses), []).append(moved)
    for row in rows:
        took_back = reversals.get((row.user_id, row.number), [])
        row.reversed_by = [_reference(each, row) for each in took_back]
        original = None if row.reverses is None else originals.get((row.user_id, row.reverses))
        row.reversed_one = None if original is None else _reference(original, row)


class _Moved(NamedTuple):
    id: int
    number: int
    amount: Decimal
    bonus_amount: Decimal


def _reference(other: _Moved, row: Transaction) -> Reference:
    is_whole = (other.amount, other.bonus_amount) == (-row.amount, -row.bonus_amount)
    return Reference(other.id, other.number, is_part=not is_whole)


def _page(listing: Listing, cursor: Cursor) -> Page[Transaction]:
    order = ["number"] if listing.user_id is not None else ["created_at", "id"]
    newest_first = [f"-{name}" for name in order]
    key = order[-1]
    if listing.user_id is None and listing.is_filtered:
        # Joined, users would be looked up for all rows that an index finds.
        rows = listing.rows.prefetch_related("user", "actor")
    else:
        # Whose transactions they are is on each row only in a list of several users.
        people = ["actor"] if listing.user_id is not None else ["actor", "user"]
        rows = _tied(listing.rows).select_related(*people).only(*SHOWN, *_of_people(*people))
    if cursor.place == "after":
        found = list(_beyond(rows, listing, cursor, newer=True).order_by(*order)[: PAGE_SIZE + 1])
        shown = found[:PAGE_SIZE][::-1]
        has_newer = len(found) > PAGE_SIZE
        has_older = (
            cursor.key != 0 and bool(shown) and _exists_beyond(listing, shown[-1], newer=False)
        )
        return Page(shown, has_newer, has_older, key)
    wanted = rows if cursor.place == "first" else _beyond(rows, listing, cursor, newer=False)
    found = list(wanted.order_by(*newest_first)[: PAGE_SIZE + 1])
    shown = found[:PAGE_SIZE]
    has_older = len(found) > PAGE_SIZE
    has_newer = (
        cursor.place != "first" and bool(shown) and _exists_beyond(listing, shown[0], newer=True)
    )
    return Page(shown, has_newer, has_older, key)


def _page_of_search(listing: Listing, cursor: Cursor) -> Page[Transaction]:
    """Returns a page of a filtered list of all users.

    What is common is found among the next rows by time; what is rare, by its index. What has no
    index, or is left by another filter, is searched for by time, in parts.
    """
    newer = cursor.place == "after"
    beyond = None
    if cursor.place != "first" and not (newer and cursor.key == 0):
        edge = Transaction.objects.filter(id__lte=cursor.key).order_by("-id").first()
        if edge is None and not newer:
            return Page([], has_newer=True, has_older=False)
        if edge is not None:
            # A page `at` a row includes it.
            beyond = Place(edge.created_at, edge.pk + (cursor.place == "at"))
    limit = PAGE_SIZE + 1
    found = search(listing, beyond, newer=newer, limit=limit, at_most=FIRST_STRETCH)
    if found.end is not None:
        if listing.has_index:
            try:
                with time_limit(INDEX_MAX_SECONDS):
                    return _page(listing, cursor)
            except TooSlow:
                pass
        more = search(listing, found.end, newer=newer, limit=limit - len(found.rows))
        found = Found([*found.rows, *more.rows], more.end)
    shown = found.rows[:PAGE_SIZE]
    has_more = len(found.rows) > PAGE_SIZE or found.end is not None
    if newer:
        return Page(shown[::-1], has_more, has_older=cursor.key != 0)
    return Page(shown, cursor.place != "first", has_more, searched_to=found.end)


def _beyond(
    rows: QuerySet[Transaction], listing: Listing, cursor: Cursor, *, newer: bool
) -> QuerySet[Transaction]:
    """Returns the rows on one side of the cursor."""
    comparison = ("gt" if newer else "lt") + ("e" if cursor.place == "at" else "")
    if listing.user_id is not None:
        return rows.filter(**{f"number__{comparison}": cursor.key})
    if newer and cursor.key == 0:
        return rows
    # The newest transaction up to this ID: there may be none with exactly this ID.
    edge = Transaction.objects.filter(id__lte=cursor.key).order_by("-id").first()
    if edge is None:
        return rows if newer else rows.none()
    return rows.filter(by_date(edge, comparison))


def _exists_beyond(listing: Listing, row: Transaction, *, newer: bool) -> bool:
    comparison = "gt" if newer else "lt"
    if listing.user_id is not None and not listing.is_filtered:
        edge = listing.numbers.stop - 1 if newer else listing.numbers.start
        return row.number < edge if newer else row.number > edge
    if listing.user_id is not None:
        return listing.rows.filter(**{f"number__{comparison}": row.number}).exists()
    if listing.is_filtered:
        return True  # from where this page was reached; to make sure might read every row
    return listing.rows.filter(by_date(row, comparison)).exists()


def cursor_at(listing: Listing, moment: datetime) -> Cursor:
    """Returns the cursor of the page that begins with the last transaction before `moment`."""
    if listing.user_id is not None:
        return Cursor("at", Transaction.objects.number_at(listing.user_id, moment - INSTANT))
    row = Transaction.objects.filter(created_at__lt=moment).order_by("-created_at", "-id").first()
    return Cursor("at", row.id if row else 0)


def page_by_id[Row: Model](rows: QuerySet[Row], cursor: Cursor) -> Page[Row]:
    """Returns a page of rows listed by their IDs, newest first."""
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


def latest(count: int) -> list[Transaction]:
    """Returns the latest transactions of all users, newest first."""
    rows = Transaction.objects.select_related("user", "actor")
    found = list(rows.order_by("-created_at", "-id")[:count])
    tie_reversals(found)
    return found


def count(listing: Listing, *, at_most: int) -> int:
    """Returns how many transactions there are; `at_most` if there are as many or more."""
    return listing.rows[:at_most].count()


def in_chunks[Part](
    listing: Listing,
    read: Callable[[QuerySet[Transaction]], tuple[Part, int | None]],
    *,
    chunk_rows: int = 10_000,
) -> Iterator[Part]:
    """Yields all transactions of a listing, oldest first, in constant memory.

    `read` gets the rows of each chunk, and returns what is to be yielded, and the ID of the last
    row, after which the next chunk begins. (A database cursor would have to stay open, and collects
    the whole result before its first row.)

    Together they are the rows that were committed when the first chunk was asked for, as if one
    statement had read them: rows are never changed, those of one user are numbered in the order of
    their commits, and across users chunks end where rows may still be missing. The IDs of the later
    rows, which are those of the last moments, are read before anything else.
    """
    if listing.user_id is not None:
        yield from _chunks(listing, read, chunk_rows)
        return
    complete = complete_until()
    late: list[int] = []
    if listing.until is None or listing.until > complete:
        since = complete if listing.since is None else max(listing.since, complete)
        rows = replace(listing, since=since).rows.order_by("created_at", "id")
        late = list(rows.values_list("id", flat=True))
        listing = replace(listing, until=complete)
    yield from _chunks(listing, read, chunk_rows)
    for start in range(0, len(late), chunk_rows):
        rows = Transaction.objects.filter(id__in=late[start : start + chunk_rows])
        yield read(rows.order_by("created_at", "id"))[0]


def _chunks[Part](
    listing: Listing,
    read: Callable[[QuerySet[Transaction]], tuple[Part, int | None]],
    chunk_rows: int,
) -> Iterator[Part]:
    is_of_user = listing.user_id is not None
    rows = listing.rows.order_by(*(["number"] if is_of_user else ["created_at", "id"]))
    wanted = rows
    while True:
        part, last_id = read(wanted[:chunk_rows])
        if last_id is None:
            return
        yield part
        number, created_at = Transaction.objects.values_list("number", "created_at").get(pk=last_id)
        wanted = (
            rows.filter(number__gt=number)
            if is_of_user
            else rows.filter(by_date(Place(created_at, last_id), "gt"))
        )
