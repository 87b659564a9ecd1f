"""The database role that tests use.

Usually it is the owner of the tables. With `--as-panel` it is the role that `manage.py grant_roles`
sets up, as in an installation with two roles. This shows that the panel and its workers need no
other role. Tests that need the owner are marked `as_owner`, or use `as_owner()`.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from django.core.management import call_command
from django.db import DatabaseError, connection

PANEL: Final = "panel_of_tests"


def set_up_panel() -> None:
    """Creates the role, which all databases of the server share, and grants its rights here."""
    _execute(
        f"DO $$ BEGIN CREATE ROLE {PANEL}; "
        "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    )
    with open("/dev/null", "w") as nowhere:
        call_command("grant_roles", PANEL, stdout=nowhere)


@contextmanager
def as_panel() -> Iterator[None]:
    """Gives the panel's role to this connection, and to those that are opened meanwhile."""
    connection.settings_dict["OPTIONS"]["assume_role"] = PANEL
    _on_this_connection(f"SET ROLE {PANEL}")
    yield
    connection.settings_dict["OPTIONS"].pop("assume_role", None)
    _on_this_connection("RESET ROLE")


@contextmanager
def as_owner() -> Iterator[None]:
    """Switches to the owner's role inside `as_panel`, to tamper with data or to clean up."""
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
        with suppress(DatabaseError):  # a broken connection is opened again, with the right role
            _execute(statement)


def _execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
