"""The benchmark's own database, in the PostgreSQL that the settings name."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from django.db import connection

NAME: Final = "benchmark_billing"

# The floor and the usual Django way write to these: the ledger's columns without its rules. Their
# indexes are the primary keys and the one that finds a user's transactions.
_PLAIN_TABLES: Final = """
    CREATE TABLE plain_balance (LIKE billing_balance INCLUDING DEFAULTS, PRIMARY KEY (user_id))
        WITH (fillfactor = 50);
    CREATE TABLE plain_transaction (
        LIKE billing_transaction INCLUDING DEFAULTS INCLUDING IDENTITY,
        PRIMARY KEY (id), UNIQUE (user_id, number)
    );
"""


@contextmanager
def own_database() -> Iterator[None]:
    """Makes the database anew, leads Django's connection to it, and drops it afterwards."""
    usual_name = connection.settings_dict["NAME"]
    connection.settings_dict["TEST"]["NAME"] = NAME
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        with connection.cursor() as cursor:
            cursor.execute(_PLAIN_TABLES)
        yield
    finally:
        connection.creation.destroy_test_db(usual_name, verbosity=0)
