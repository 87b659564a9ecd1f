"""Lists of transactions for programs that follow the ledger: each row once, in order, no gaps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from billing.models import Transaction
from billing.reports.complete import complete_until
from billing.reports.listing import Listing
from billing.reports.places import Place, by_date


@dataclass(frozen=True)
class Slice[Key: (int, Place)]:
    """Some rows of a list in its order, and whether there are more beyond them now.

    `end` is where to continue. Newest first, it is the place of the last row. Oldest first, no
    later transaction will be placed before `end`, so a program that continues there, at any time,
    sees every row once. If there is no row to show, `end` may still be further than the start.
    """

    rows: Sequence[Transaction]
    has_more: bool
    end: Key | None


def slice_of_user(
    listing: Listing, *, beyond: int | None, newest_first: bool, limit: int
) -> Slice[int]:
    """Returns up to `limit` transactions of one user beyond a number.

    Number n + 1 is posted only after number n is committed: a reader of one sees all before it.
    """
    numbers = listing.numbers  # read before the rows, so all of these exist
    rows = listing.rows
    if beyond is not None:
        rows = rows.filter(**{"number__lt" if newest_first else "number__gt": beyond})
    found = list(rows.order_by("-number" if newest_first else "number")[: limit + 1])
    shown, has_more = found[:limit], len(found) > limit
    end = shown[-1].number if shown else beyond
    if not newest_first and not has_more:
        end = max(beyond or 0, numbers.stop - 1)
    return Slice(shown, has_more, end)


def slice_of_all(
    listing: Listing, *, beyond: Place | None, newest_first: bool, limit: int
) -> Slice[Place]:
    """Returns up to `limit` transactions of all users beyond a place.

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
        rows = rows.filter(by_date(beyond, "lt" if newest_first else "gt"))
    order = ["-created_at", "-id"] if newest_first else ["created_at", "id"]
    found = list(rows.order_by(*order)[: limit + 1])
    shown, has_more = found[:limit], len(found) > limit
    end = Place(shown[-1].created_at, shown[-1].pk) if shown else beyond
    if until is not None and not has_more:
        end = max(Place(until, 0), beyond) if beyond else Place(until, 0)
    return Slice(shown, has_more, end)
