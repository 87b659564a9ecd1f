"""Django's PostgreSQL backend (ENGINE = "config.postgresql")."""

from collections.abc import Iterable
from typing import Any, Final

from django.db.backends.postgresql import base, client, features
from psycopg.conninfo import make_conninfo

from config.postgresql.url import NOT_OF_LIBPQ
from users.database import committing, with_limits

# What Django's settings call by another name than libpq.
PARAMETERS: Final = {
    "NAME": "dbname",
    "USER": "user",
    "PASSWORD": "password",
    "HOST": "host",
    "PORT": "port",
}


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

    def get_connection_params(self) -> dict[str, Any]:
        return with_limits(super().get_connection_params())

    def _commit(self) -> None:
        if self.connection is not None:
            with committing():
                super()._commit()  # type: ignore[misc]
