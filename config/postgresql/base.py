"""Django's PostgreSQL backend (ENGINE = "config.postgresql").

Each connection says for itself what the panel's SQL relies on, so that nothing depends on what is
set for the server, the database or the role (`ALTER ROLE … SET …`), or in the options of
DATABASE_URL. It says so with one statement after connecting, not with options of the connection:
PgBouncer refuses a connection with options that it does not know. Behind PgBouncer this holds
where it pools sessions. Where it pools transactions, what is set here reaches the connections of
whoever comes next or nobody, so set it for the role instead; the database functions carry what they
rely on with them, and post the same either way.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from django.db.backends.postgresql import base, client, features
from psycopg.conninfo import make_conninfo

from config.postgresql.url import NOT_OF_LIBPQ
from users.database import committing, limits_sql

# What Django's settings call by another name than libpq.
PARAMETERS: Final = {
    "NAME": "dbname",
    "USER": "user",
    "PASSWORD": "password",
    "HOST": "host",
    "PORT": "port",
}

SESSION_SETTINGS: Final[Mapping[str, str]] = {
    # Compiling takes longer than any statement here; the functions say the same for themselves.
    "jit": "off",
    # Who waited for a lock sees what was committed meanwhile. Other levels fail there instead.
    "default_transaction_isolation": "read committed",
    # Tables and functions are looked for in the one place where the functions look, too.
    "search_path": "public, pg_temp",
    # The forms in which the driver reads and writes values.
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    # A plan of each kind where it is the better one.
    "plan_cache_mode": "auto",
}
SET_SESSION: Final = "SELECT " + ", ".join(
    f"set_config('{name}', '{value}', false)" for name, value in SESSION_SETTINGS.items()
)


class DatabaseFeatures(features.DatabaseFeatures):
    # Django 5.2 takes 14. Its check of each new connection says so in one sentence.
    minimum_database_version = (15,)


class DatabaseClient(client.DatabaseClient):
    """`manage.py dbshell`: psql, with all that DATABASE_URL says."""

    @classmethod
    def settings_to_cmd_args_env(
        cls, settings_dict: dict[str, Any], parameters: Iterable[str]
    ) -> tuple[list[str], dict[str, str] | None]:
        options = settings_dict.get("OPTIONS", {})
        place = {name: value for name, value in options.items() if name not in NOT_OF_LIBPQ}
        for setting, name in PARAMETERS.items():
            if settings_dict.get(setting):
                place[name] = settings_dict[setting]
        # Not among the arguments, which every account of the machine can read.
        password = place.pop("password", None)
        return (
            [cls.executable_name, *parameters, make_conninfo(**place)],
            {"PGPASSWORD": str(password)} if password else None,
        )


class DatabaseWrapper(base.DatabaseWrapper):
    features_class = DatabaseFeatures
    client_class = DatabaseClient

    @property
    def session_sql(self) -> str:
        """What each connection says first; for who opens connections of its own, too."""
        return "; ".join(filter(None, [SET_SESSION, limits_sql()]))

    def _configure_connection(self, connection: Any) -> bool:
        """Of each new connection, before it is used; whether there is something to commit."""
        super()._configure_connection(connection)  # type: ignore[misc]
        connection.execute(self.session_sql)
        return True

    def _commit(self) -> None:
        if self.connection is not None:
            with committing():
                super()._commit()  # type: ignore[misc]
