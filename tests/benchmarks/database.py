"""Databases of the benchmark, on the PostgreSQL server of the settings.

One is migrated, and is the template of the others: each part has a fresh one.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from django.db import ProgrammingError, connection

from users.models import User

NAME: Final = "benchmark_billing"
TEMPLATE: Final = f"{NAME}_template"

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
def template() -> Iterator[None]:
    """Creates the template, and drops it afterwards."""
    usual_name = connection.settings_dict["NAME"]
    connection.settings_dict["TEST"]["NAME"] = TEMPLATE
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    connection.close()
    try:
        yield
    finally:
        connection.close()
        connection.creation.destroy_test_db(usual_name, verbosity=0)


@contextmanager
def fresh_database(name: str = NAME, *, keep: bool = False) -> Iterator[None]:
    """Creates a database from the template, and connects Django to it; drops it unless `keep`."""
    usual_name = connection.settings_dict["NAME"]
    connection.close()
    _recreate(name)
    connection.settings_dict["NAME"] = name
    try:
        with connection.cursor() as cursor:
            cursor.execute(_TABLES)
        yield
    finally:
        connection.close()
        connection.settings_dict["NAME"] = usual_name
        if not keep:
            _drop(name)


def make_users(count: int) -> list[int]:
    """Creates users without money, also in the tables of the compared ways."""
    users = User.objects.bulk_create(
        User(email=f"customer-{place}@example.com", password="!") for place in range(count)
    )
    with connection.cursor() as cursor:
        for table in ("plain_balance", "ruled_balance"):
            cursor.execute(f"INSERT INTO {table} (user_id) SELECT user_id FROM billing_balance")
        cursor.execute("VACUUM ANALYZE")
    return [user.pk for user in users]


def checkpoint() -> None:
    """Makes a checkpoint, where the role may."""
    with suppress(ProgrammingError), connection.cursor() as cursor:
        cursor.execute("CHECKPOINT")


def _recreate(name: str) -> None:
    _drop(name)
    quoted = connection.ops.quote_name
    with connection._nodb_cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {quoted(name)} TEMPLATE {quoted(TEMPLATE)}")


def _drop(name: str) -> None:
    with connection._nodb_cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {connection.ops.quote_name(name)} WITH (FORCE)")
