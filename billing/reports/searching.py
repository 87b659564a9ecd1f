"""Searches the transactions of all users for what no index finds, some at a time.

Words of a description can be anywhere, and an index on them would make each posting slower. So such
a search reads rows by their time, from where it begins, and ends after SEARCHED_MAX rows at the
latest. It says how far it came; whoever wants more searches on from there.
"""

from typing import Final, NamedTuple

from billing.models import Transaction
from billing.reports.listing import Listing
from billing.reports.places import Place, by_date

# Stretches of the search: the first is short, because common words are found at once.
FIRST_STRETCH: Final = 10_000
SEARCHED_MAX: Final = 640_000


class Found(NamedTuple):
    """Rows in the order of the search. `end` is the last row it looked at, if there are more."""

    rows: list[Transaction]
    end: Place | None


def search(
    listing: Listing, beyond: Place | None, *, newer: bool, limit: int, at_most: int = 0
) -> Found:
    """Returns up to `limit` rows of a listing of all users on one side of a place.

    Newest first or, with `newer`, oldest first. Without a place it begins at that end of the list.
    It looks at SEARCHED_MAX rows, or `at_most` so many.
    """
    at_most = at_most or SEARCHED_MAX
    order = ["created_at", "id"] if newer else ["-created_at", "-id"]
    comparison = "gt" if newer else "lt"
    rows = listing.rows.prefetch_related("user", "actor").order_by(*order)
    everything = listing.in_period.order_by(*order)
    found: list[Transaction] = []
    stretch, searched = min(FIRST_STRETCH, at_most), 0
    while True:
        wanted, all_of_them = rows, everything
        if beyond is not None:
            wanted = wanted.filter(by_date(beyond, comparison))
            all_of_them = all_of_them.filter(by_date(beyond, comparison))
        last = all_of_them.values_list("created_at", "id")[stretch - 1 : stretch].first()
        if last is not None:
            wanted = wanted.filter(by_date(Place(*last), "lte" if newer else "gte"))
        found += wanted[: limit - len(found)]
        if len(found) == limit or last is None:
            return Found(found, None)
        beyond, searched = Place(*last), searched + stretch
        stretch = min(2 * stretch, at_most - searched)
        if stretch <= 0:
            return Found(found, beyond)
