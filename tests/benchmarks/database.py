"""The benchmark's own database, on the PostgreSQL server of the settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from django.db import connection

NAME: Final = "benchmark_billing"

# The ways that are compared with the ledger write to these tables. The ruled tables are copies of
# the ledger's with its indexes, foreign keys and CHECK constraints, but without its guards. The
# plain tables have only the columns, the primary keys and the index that finds a user's
# transactions.
_TABLES: Final = """
    CREATE TABLE plain_balance (LIKE billing_balance INCLUDING DEFAULTS, PRIMARY KEY (user_id))
        WITH (fillfactor = 50);
    CREATE TABLE plain_transaction (
        LIKE billing_transaction INCLUDING DEFAULTS INCLUDING IDENTITY,
        PRIMARY KEY (id), UNIQUE (user_id, number)
    );
    CREATE TABLE ruled_balance (
        LIKE billing_balance INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES,
        FOREIGN KEY (user_id) REFERENCES users_user DEFERRABLE INITIALLY DEFERRED
    ) WITH (fillfactor = 50);
    CREATE TABLE ruled_transaction (
        LIKE billing_transaction
            INCLUDING DEFAULTS INCLUDING IDENTITY INCLUDING CONSTRAINTS INCLUDING INDEXES,
        FOREIGN KEY (user_id) REFERENCES users_user DEFERRABLE INITIALLY DEFERRED,
        FOREIGN KEY (actor_id) REFERENCES users_user DEFERRABLE INITIALLY DEFERRED
    );
"""


@contextmanager
def own_database() -> Iterator[None]:
    """Creates the database, connects Django to it, and drops it afterwards."""
    usual_name = connection.settings_dict["NAME"]
    connection.settings_dict["TEST"]["NAME"] = NAME
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        with connection.cursor() as cursor:
            cursor.execute(_TABLES)
        yield
    finally:
        connection.creation.destroy_test_db(usual_name, verbosity=0)
