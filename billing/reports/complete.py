"""Up to when lists of all users' transactions are complete."""

from datetime import datetime, timedelta
from typing import Final

from django.db import connection

# Database transactions whose beginning is unknown are assumed to have begun this long ago.
LONGEST_TRANSACTION: Final = timedelta(hours=1)


def complete_until() -> datetime:
    """Returns a moment before which no further transaction will appear.

    A later statement that reads rows created before it misses none, although a row's `created_at`
    is earlier than the commit that makes it visible. The proof:

    - A row of the ledger gets its `created_at` from the clock after its database transaction T has
      locked a balance, that is, when T has its ID (xid); T keeps it until it ends. So, from that
      reading of the clock to its end, T is listed with an ID and a beginning (`xact_start`) that
      is not after `created_at`.
    - The returned moment is not after this statement's time, which is read before the list, nor
      after the beginning of any other T that is listed with an ID. When the list is read, any T
      either has ended: then the later statement sees its rows; or is listed: then its rows are not
      before the moment; or has no ID yet: then it reads the clock later, and its rows are not
      before the moment either.
    - A T that is listed without a beginning had not begun when its entry was read. The list hides
      the beginning if T belongs to another role (and this role is not in pg_read_all_stats), or if
      the server does not track activities. Then T is assumed to have begun LONGEST_TRANSACTION ago.
    - Workers of autovacuum are listed to everybody as of no role. They take IDs for transactions
      that began long before, but write no row of the ledger.
    - A prepared transaction (PREPARE TRANSACTION) moves from the list to that of prepared ones,
      which is therefore read second. It does not say when T began: T is assumed to have been
      prepared within LONGEST_TRANSACTION.

    Rows written by this database transaction itself are visible to it anyway. The proof relies on
    a database clock that does not go back, and on READ COMMITTED for the later statement.
    """
    with connection.cursor() as cursor:
        # Otherwise the list stays the same throughout a database transaction.
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
