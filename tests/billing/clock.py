"""Transactions in the past, posted by the ledger itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from django.db import connection

from tests.roles import as_owner

POST = "'billing_post(jsonb, bigint, text, boolean)'::regprocedure"


@contextmanager
def database_clock_at(moment: datetime) -> Iterator[None]:
    """Lets the posting function's clock stand at `moment`, within a test that is rolled back.

    The function runs as it is, but for its one call of the clock. Times still never go back: a
    user's moments have to come in order.
    """
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_get_functiondef({POST})")
        [as_it_is] = cursor.fetchone()
        assert as_it_is.count("clock_timestamp()") == 1
        standing = as_it_is.replace("clock_timestamp()", f"timestamptz '{moment.isoformat()}'")
        with as_owner():
            cursor.execute(standing)
        try:
            yield
        finally:
            with as_owner():
                cursor.execute(as_it_is)
