"""As whom tests are connected to the database.

Usually as its owner. With `--as-panel` as the role that `manage.py grant_roles` sets up, which is
how an installation with two roles runs: what panel and workers do must work as that role, and does
wherever no test is marked `as_owner` or steps out of it with `as_owner()`.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from django.core.management import call_command
from django.db import DatabaseError, connection

PANEL: Final = "panel_of_tests"


def set_up_panel() -> None:
    """The role, for all tests of this server; what it may do, in this database."""
    _execute(
        f"DO $$ BEGIN CREATE ROLE {PANEL}; "
        "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    )
    with open("/dev/null", "w") as nowhere:
        call_command("grant_roles", PANEL, stdout=nowhere)


@contextmanager
def as_panel() -> Iterator[None]:
    """This connection, and each that is opened within, is the panel's."""
    connection.settings_dict["OPTIONS"]["assume_role"] = PANEL
    _on_this_connection(f"SET ROLE {PANEL}")
    yield
    connection.settings_dict["OPTIONS"].pop("assume_role", None)
    _on_this_connection("RESET ROLE")


@contextmanager
def as_owner() -> Iterator[None]:
    """The owner's, in the midst of what the panel does: to tamper, and to clean up."""
    role = connection.settings_dict["OPTIONS"].pop("assume_role", None)
    if role is None:
        yield
        return
    _on_this_connection("RESET ROLE")
    yield
    connection.settings_dict["OPTIONS"]["assume_role"] = role
    _on_this_connection(f"SET ROLE {role}")


def _on_this_connection(statement: str) -> None:
    if connection.connection is not None:
        with suppress(DatabaseError):  # a connection that broke is opened anew, as whom it should
            _execute(statement)


def _execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
