"""`manage.py grant_roles ROLE …`: sets the rights of the roles of panel and workers.

For installations where one role owns the tables and migrates, and panel and workers use another.
The owner runs it after each `migrate`; it can be repeated at any time.
"""

from collections.abc import Iterator
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from psycopg import sql

from billing.sql import guards
from billing.sql.guards import HISTORY

# Read by the roles, written by functions with the owner's rights. Charges depend on moments, too.
LEDGER: Final = (*guards.LEDGER, "billing_activation", "billing_planterms")
# Only read: the owner writes these.
STRUCTURE: Final = ("django_migrations", "procrastinate_version")
# All other functions belong to triggers and guards, or are called by these.
FUNCTIONS: Final = (
    "billing_post",
    "billing_hold",
    "billing_number_at",
    "billing_digest",
    "billing_canonical",
    "billing_note_events",
    "billing_forget",
    "billing_set_expiry",
    "billing_wake_webhooks",
    "billing_clock",  # for defaults of columns
)
ALL: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")
EVERYTHING: Final = (*ALL, "TRUNCATE", "REFERENCES", "TRIGGER")


class Command(BaseCommand):
    help = (
        "Grants the database roles of panel and workers what they need, but nothing that "
        "would let them write to the ledger without its functions. Run it as the tables' "
        "owner after each migrate."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("roles", nargs="+", metavar="ROLE", help="a role that exists")

    def handle(self, *args: Any, roles: list[str], **options: Any) -> None:
        said: list[str] = []
        with transaction.atomic(), connection.cursor() as cursor:
            self._refuse_others_than_the_owner(cursor)
            cursor.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
            for role in roles:
                self._refuse_mighty(cursor, role)
                for privileges, objects in _grants(cursor):
                    said += _grant(cursor, role, privileges, objects)
                self._check(cursor, role)
        self.stdout.write("\n".join(said))

    def _refuse_others_than_the_owner(self, cursor: CursorWrapper) -> None:
        cursor.execute(
            "SELECT current_user, r.rolname, pg_has_role(r.oid, 'USAGE') "
            "FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner "
            "WHERE c.oid = to_regclass('billing_transaction')"
        )
        found = cursor.fetchone()
        if found is None:
            raise CommandError("Nothing was granted: there are no tables yet. Run migrate first.")
        this, owner, may = found
        if not may:
            raise CommandError(
                f"The role {this} does not own the tables. Nothing was granted. Run this as the "
                f"role that owns them and runs migrate: {owner}."
            )

    def _refuse_mighty(self, cursor: CursorWrapper, role: str) -> None:
        """Refuses superusers and roles that can become the owner: grants do not limit them."""
        cursor.execute(
            "SELECT rolsuper OR rolcreaterole, pg_has_role(oid, (SELECT relowner FROM pg_class "
            "WHERE oid = 'billing_transaction'::regclass), 'MEMBER') "
            "FROM pg_roles WHERE rolname = %s",
            [role],
        )
        found = cursor.fetchone()
        if found is None:
            raise CommandError(
                f"There is no role {role}. Nothing was granted. Make it first: "
                f"createuser --pwprompt {role}"
            )
        makes_roles, is_owner = found
        if makes_roles or is_owner:
            raise CommandError(
                f"The role {role} {'makes roles' if makes_roles else 'owns the tables'}, so it "
                "may do everything anyway. Nothing was granted. Name the "
                "role that panel and workers log in as."
            )

    def _check(self, cursor: CursorWrapper, role: str) -> None:
        """Raises CommandError if the role has more rights through PUBLIC or another role."""
        cursor.execute(
            """
            SELECT c.oid::regclass::text, privilege FROM pg_class c,
                unnest(%s::text[]) AS privilege
            WHERE c.relnamespace = 'public'::regnamespace AND (
                c.relname = ANY (%s) AND privilege <> 'SELECT'
                OR c.relname = ANY (%s) AND privilege NOT IN ('SELECT', 'INSERT')
            ) AND CASE WHEN privilege IN ('INSERT', 'UPDATE', 'REFERENCES')
                THEN has_any_column_privilege(%s, c.oid, privilege)
                ELSE has_table_privilege(%s, c.oid, privilege) END
            UNION ALL
            SELECT 'schema public', 'CREATE' WHERE has_schema_privilege(%s, 'public', 'CREATE')
            ORDER BY 1, 2
            """,
            [list(EVERYTHING), list(LEDGER), list(HISTORY), role, role, role],
        )
        if left := [f"{privilege} on {name}" for name, privilege in cursor.fetchall()]:
            raise CommandError(
                f"Nothing was granted: {role} has {', '.join(left)} by another way, as a member of "
                "another role or like everybody (PUBLIC). Revoke that first."
            )


def _grant(
    cursor: CursorWrapper, role: str, privileges: tuple[str, ...], objects: list[str]
) -> list[str]:
    """Grants exactly these privileges on objects of one kind. Returns lines that say so."""
    kind, names = objects[0].split(" ", 1)[0], [each.split(" ", 1)[1] for each in objects]
    written, to = sql.SQL(f"{kind} {', '.join(names)}"), sql.Identifier(role)
    cursor.execute(sql.SQL("REVOKE ALL ON {} FROM {}").format(written, to))
    if privileges:
        what = sql.SQL(", ".join(privileges))
        cursor.execute(sql.SQL("GRANT {} ON {} TO {}").format(what, written, to))
    head = f"{role}: {', '.join(privileges) or 'nothing'} on {kind.lower()}"
    return [head, *(f"    {name}" for name in names)]


def _grants(cursor: CursorWrapper) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Yields privileges with their objects; each object occurs once."""
    yield ("USAGE",), ["SCHEMA public"]
    tables, sequences = _relations(cursor, "r"), _relations(cursor, "S")
    special = (*LEDGER, *HISTORY, *STRUCTURE)
    yield ("SELECT",), [f"TABLE {name}" for name in tables if name in LEDGER + STRUCTURE]
    yield ("SELECT", "INSERT"), [f"TABLE {name}" for name in tables if name in HISTORY]
    yield ALL, [f"TABLE {name}" for name in tables if name not in special]
    own = {f"{name}_id_seq" for name in LEDGER + STRUCTURE}
    yield (), [f"SEQUENCE {name}" for name in sequences if name in own]
    yield ("USAGE",), [f"SEQUENCE {name}" for name in sequences if name not in own]
    # Also what a restored backup without privileges has opened to everybody.
    cursor.execute(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace "
        "AND starts_with(proname, 'billing_') ORDER BY 1"
    )
    ours = [name for (name,) in cursor.fetchall()]
    cursor.execute(f"REVOKE ALL ON FUNCTION {', '.join(ours)} FROM PUBLIC")
    cursor.execute(
        "SELECT array_agg(name::regproc::regprocedure::text ORDER BY name) "
        "FROM unnest(%s::text[]) name",
        [list(FUNCTIONS)],
    )
    [called] = cursor.fetchone()
    yield (), [f"FUNCTION {name}" for name in ours if name not in called]
    yield ("EXECUTE",), [f"FUNCTION {name}" for name in called]


def _relations(cursor: CursorWrapper, kind: str) -> list[str]:
    """Returns the quoted names of tables (r) or sequences (S)."""
    cursor.execute(
        "SELECT quote_ident(relname) FROM pg_class "
        "WHERE relnamespace = 'public'::regnamespace AND relkind = %s ORDER BY 1",
        [kind],
    )
    return [name for (name,) in cursor.fetchall()]
