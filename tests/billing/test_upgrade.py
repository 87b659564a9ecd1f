"""A database that was upgraded from the first release is the same as a new one."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from django.core.management import call_command
from django.db import connection, connections
from pytest_django.plugin import DjangoDbBlocker

from billing import sql
from tests import roles

EARLIER: Final = Path(__file__).parent / "earlier"
UPGRADED: Final = "upgraded"

# Queries for everything of ours in the catalogs: one row for each object, with its properties.
CATALOGS: Final = {
    "columns": """
        SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
            a.attidentity, a.attgenerated, pg_get_expr(d.adbin, d.adrelid), a.attcollation
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v', 'm')
            AND a.attnum > 0 AND NOT a.attisdropped""",
    "relations": """
        SELECT relname, relkind, relpersistence, reloptions::text, relrowsecurity
        FROM pg_class WHERE relnamespace = 'public'::regnamespace""",
    "sequences": """
        SELECT c.relname, format_type(s.seqtypid, NULL), s.seqincrement, s.seqmin, s.seqmax,
            s.seqstart, s.seqcache, s.seqcycle
        FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 't'""",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "functions": """
        SELECT pg_get_functiondef(oid) FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND prokind = 'f'""",
    "triggers": """
        SELECT pg_get_triggerdef(oid), tgenabled FROM pg_trigger WHERE NOT tgisinternal""",
    "types": """
        SELECT t.typname, t.typtype, e.enumsortorder, e.enumlabel
        FROM pg_type t LEFT JOIN pg_enum e ON e.enumtypid = t.oid
        WHERE t.typnamespace = 'public'::regnamespace AND t.typelem = 0""",
    "grants on tables": """
        SELECT c.relname, g.grantee::regrole::text, g.privilege_type, g.is_grantable
        FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault(
            CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))) g
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'S')""",
    "grants on columns": """
        SELECT c.relname, a.attname, a.attacl::text
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relnamespace = 'public'::regnamespace AND a.attacl IS NOT NULL""",
    "grants on functions": """
        SELECT p.oid::regprocedure::text, g.grantee::regrole::text, g.privilege_type
        FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g
        WHERE p.pronamespace = 'public'::regnamespace""",
    "migrations": "SELECT app, name FROM django_migrations",
}


def catalogs(alias: str) -> dict[str, list[str]]:
    """Returns all objects, without the grants to the role that other tests use."""
    with connections[alias].cursor() as cursor:
        found = {}
        for name, query in CATALOGS.items():
            cursor.execute(query)
            rows = [str(row) for row in cursor.fetchall()]
            found[name] = sorted(row for row in rows if roles.PANEL not in row)
    return found


def execute(alias: str, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    with connections[alias].cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def upgraded(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """Creates an empty database beside the one of the tests. Yields its alias."""
    name = f"{connection.settings_dict['NAME']}_{UPGRADED}"
    quoted = connection.ops.quote_name(name)
    with django_db_blocker.unblock():
        with connection._nodb_cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {quoted}")
            cursor.execute(f"CREATE DATABASE {quoted}")
        connections.databases[UPGRADED] = connection.settings_dict | {"NAME": name}
        try:
            yield UPGRADED
        finally:
            connections[UPGRADED].close()
            del connections[UPGRADED]
            del connections.databases[UPGRADED]
            with connection._nodb_cursor() as cursor:
                cursor.execute(f"DROP DATABASE {quoted}")
            connection.close()


def migrate(alias: str, *target: str) -> None:
    call_command("migrate", *target, database=alias, verbosity=0, interactive=False)


@pytest.mark.parametrize("text", ["0005_first", "0005_second"])
def test_an_upgraded_database_is_the_same_as_a_new_one(upgraded: str, text: str) -> None:
    # The first release, with a user.
    migrate(upgraded, "billing", "0004")
    execute(
        upgraded,
        "INSERT INTO users_user (password, is_superuser, email, first_name, middle_name, last_name,"
        " phone, legal_name, tin, country, region, city, street_address, postal_code, time_zone,"
        " comment, is_active, is_staff, created_at) VALUES ('!', false, 'ada@example.net', '', '',"
        " '', '', '', '', '', '', '', '', '', '', '', true, false, now())",
    )
    entry = {
        "user_id": execute(upgraded, "SELECT id FROM users_user")[0][0],
        "type": "payment",
        "subtype": "partner",
        "description": "Bank transfer",
        "amount": "5",
    }
    post = "SELECT (posted).number FROM billing_post(%s, NULL, 'api')"
    assert execute(upgraded, post, [json.dumps([entry])]) == [(1,)]
    # The next release. Its migration had another text then, which is executed here.
    migrate(upgraded, "billing", "0005")
    execute(upgraded, (EARLIER / f"{text}.sql").read_text())
    migrate(upgraded)
    assert execute(upgraded, post, [json.dumps([entry])]) == [(2,)]

    for name, found in catalogs(upgraded).items():
        assert found == catalogs("default")[name], name
    assert sql.differences() == []


def test_what_is_compared_sees_a_weaker_constraint(upgraded: str) -> None:
    """Uses the smallest database that has a constraint."""
    execute(upgraded, "CREATE TABLE t (a int, b int, CONSTRAINT c CHECK (a <= b))")
    execute(upgraded, "CREATE TABLE django_migrations (app text, name text)")
    before = catalogs(upgraded)
    execute(
        upgraded,
        "ALTER TABLE t DROP CONSTRAINT c, ADD CONSTRAINT c CHECK (a IS NOT NULL AND a <= b)",
    )
    after = catalogs(upgraded)
    assert [name for name in before if before[name] != after[name]] == ["constraints"]


def test_standard_descriptions_become_reasons_with_codes(upgraded: str) -> None:
    migrate(upgraded, "billing", "0034")
    texts = [
        "Bank transfer",
        "Bank-transfer!",
        "Credit: traffic was counted twice, and more",
        "Credit: traffic was counted twice, and more than that",
        "Оплата наличными",
        "42 days for nothing",
        "x" * 200,
    ]
    for place, text in enumerate(texts):
        execute(
            upgraded,
            "INSERT INTO billing_standarddescription (text, position) VALUES (%s, %s)",
            [text, place],
        )
    execute(upgraded, "INSERT INTO auth_group (name) VALUES ('Wordings')")
    execute(
        upgraded,
        "INSERT INTO auth_group_permissions (group_id, permission_id) SELECT g.id, p.id "
        "FROM auth_group g, auth_permission p WHERE g.name = 'Wordings' "
        "AND p.codename = 'change_standarddescription'",
    )
    migrate(upgraded)
    reasons = execute(
        upgraded,
        "SELECT template, code, label, direction, is_active FROM billing_reason ORDER BY position",
    )
    assert [row[0] for row in reasons] == texts
    codes = [code for _, code, *_ in reasons]
    assert codes[5] == "days_for_nothing"
    assert codes[4].startswith("reason_")
    assert len(set(codes)) == len({row[2] for row in reasons}) == len(texts)
    assert all(re.fullmatch("[a-z][a-z0-9_]*", code) and len(code) <= 32 for code in codes)
    assert {row[3:] for row in reasons} == {("both", True)}
    held = "SELECT p.codename FROM auth_group_permissions h JOIN auth_group g ON g.id = h.group_id "
    held += "JOIN auth_permission p ON p.id = h.permission_id WHERE g.name = 'Wordings'"
    assert execute(upgraded, held) == [("change_reason",)]
    migrate(upgraded, "billing", "0034")
    back = execute(upgraded, "SELECT text FROM billing_standarddescription ORDER BY position")
    assert [text for (text,) in back] == texts
    migrate(upgraded)
    assert execute(upgraded, "SELECT count(*) FROM billing_reason") == [(len(texts),)]
