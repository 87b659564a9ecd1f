"""Transactions for programs that follow the ledger: each row once, in order, none missed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from django.db import connection

from billing.models import Transaction
from billing.reports.listing import Listing
from billing.reports.pages import Place, by_date


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
        rows = rows.filter(by_date(beyond, "lt" if newest_first else "gt"))
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
