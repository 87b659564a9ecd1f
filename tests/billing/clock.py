"""Transactions in the past, posted by the ledger itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from django.db import connection


@contextmanager
def database_clock_at(moment: datetime) -> Iterator[None]:
    """Lets the database's clock stand at `moment`, within a test that is rolled back.

    A function of the same name is put before PostgreSQL's own, so the ledger's functions run as
    they are. Times still never go back: a user's moments have to come in order.
    """
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA IF NOT EXISTS standing_clock")
        cursor.execute(
            "CREATE OR REPLACE FUNCTION standing_clock.clock_timestamp() RETURNS timestamptz "
            f"LANGUAGE sql AS $$ SELECT timestamptz '{moment.isoformat()}' $$"
        )
        cursor.execute("SET LOCAL search_path = standing_clock, pg_catalog, public")
        try:
            yield
        finally:
            cursor.execute("SET LOCAL search_path = public")
