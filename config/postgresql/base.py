"""Django's PostgreSQL backend (ENGINE = "config.postgresql").

Each new connection sets the parameters that the panel's SQL relies on. So nothing depends on the
settings of the server, the database or the role (`ALTER ROLE … SET …`), or on the options in
DATABASE_URL. It sets them with a statement after connecting, not with options of the connection,
because PgBouncer refuses options that it does not know.

Behind PgBouncer this works with pooled sessions. With pooled transactions, a setting that is made
here may reach other clients' transactions or none: set the parameters for the role instead. The
ledger does not depend on it, because the database functions set the parameters that they rely on.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Self

import psycopg
from django.db.backends.postgresql import base, client, features, operations
from django.db.backends.postgresql.psycopg_any import register_tzloader
from django.db.backends.utils import CursorWrapper
from psycopg.conninfo import make_conninfo
from psycopg.pq import Format

from config.postgresql.url import NOT_OF_LIBPQ
from users.database import committing, limits_sql

# Names of Django's settings → libpq's names for them.
PARAMETERS: Final = {
    "NAME": "dbname",
    "USER": "user",
    "PASSWORD": "password",
    "HOST": "host",
    "PORT": "port",
}

TIMESTAMPTZ: Final = psycopg.postgres.types["timestamptz"].oid

SESSION_SETTINGS: Final[Mapping[str, str]] = {
    # Compiling takes longer than any statement here; the functions set this for themselves too.
    "jit": "off",
    # After waiting for a lock, a statement sees what was committed meanwhile. At the other levels
    # it would fail instead.
    "default_transaction_isolation": "read committed",
    # The same schema as that of the database functions.
    "search_path": "public, pg_temp",
    # The formats in which the driver reads and writes values.
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    # PostgreSQL chooses between generic and custom plans.
    "plan_cache_mode": "auto",
}
SET_SESSION: Final = "SELECT " + ", ".join(
    f"set_config('{name}', '{value}', false)" for name, value in SESSION_SETTINGS.items()
)


class DatabaseFeatures(features.DatabaseFeatures):
    # Django 5.2 would accept 14. It checks this at each new connection: NotSupportedError.
    minimum_database_version = (15,)


class DatabaseClient(client.DatabaseClient):
    """Runs `manage.py dbshell`: psql, with everything that DATABASE_URL says."""

    @classmethod
    def settings_to_cmd_args_env(
        cls, settings_dict: dict[str, Any], parameters: Iterable[str]
    ) -> tuple[list[str], dict[str, str] | None]:
        options = settings_dict.get("OPTIONS", {})
        place = {name: value for name, value in options.items() if name not in NOT_OF_LIBPQ}
        for setting, name in PARAMETERS.items():
            if settings_dict.get(setting):
                place[name] = settings_dict[setting]
        # Not as an argument: every account of the machine can read those.
        password = place.pop("password", None)
        return (
            [cls.executable_name, *parameters, make_conninfo(**place)],
            {"PGPASSWORD": str(password)} if password else None,
        )


class DatabaseOperations(operations.DatabaseOperations):
    def last_executed_query(self, cursor: Any, sql: str, params: Any) -> str:
        """Returns a prepared statement without its values, which the cursor does not keep."""
        return super().last_executed_query(cursor, sql, params) or str(sql)


class PreparedCursor(psycopg.Cursor[Any]):
    """Sends statements and values apart; the server parses each statement once per connection."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        return super().execute(query, params, prepare=True, **options)


class DatabaseWrapper(base.DatabaseWrapper):
    features_class = DatabaseFeatures
    client_class = DatabaseClient
    ops_class = DatabaseOperations

    def prepared_cursor(self) -> CursorWrapper:
        """Returns a cursor for statements that are executed very often.

        Their columns have to be named: the result of a prepared statement must stay the same while
        a migration adds columns.
        """
        self.close_if_health_check_failed()
        self.ensure_connection()
        cursor = PreparedCursor(self.connection)
        loader = cursor.adapters.get_loader(TIMESTAMPTZ, Format.TEXT)
        if getattr(loader, "timezone", None) != self.timezone:
            register_tzloader(self.timezone, cursor)  # copies the connection's adapters
        made: CursorWrapper = self._prepare_cursor(cursor)  # type: ignore[attr-defined]
        return made

    @property
    def session_sql(self) -> str:
        """The statements that each connection runs first.

        Code that opens connections without Django, like that of the workers, runs them too.
        """
        return "; ".join(filter(None, [SET_SESSION, limits_sql()]))

    def _configure_connection(self, connection: Any) -> bool:
        """Prepares a new connection. Returns True because there is something to commit."""
        super()._configure_connection(connection)  # type: ignore[misc]
        connection.execute(self.session_sql)
        if "prepare_threshold" not in self.settings_dict["OPTIONS"]:
            connection.prepare_threshold = 0  # only prepared_cursor makes use of it
        return True

    def _commit(self) -> None:
        if self.connection is not None:
            with committing():
                super()._commit()  # type: ignore[misc]
