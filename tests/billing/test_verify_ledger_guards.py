"""verify_ledger trusts nothing that was put into the database, and names each changed guard.

All tests here run as the owner of the tables or as a superuser.
"""

import re
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from billing import sql
from billing.models import Balance, Transaction
from billing.sql import guards
from tests.billing.histories import LEDGER_TABLES, execute, judge, tamper, user_with_history
from tests.billing.test_verify_ledger import EDITS, verify
from users.models import User

pytestmark = [pytest.mark.django_db, pytest.mark.as_owner]


@pytest.fixture
def victim() -> User:
    user = user_with_history()
    judge()
    return user


def test_all_guards_are_there_and_armed(victim: User) -> None:
    assert guards.problems() == []
    assert "Each guard of the ledger in the database is present and armed." in verify()[1]
    assert verify("--user", str(victim.pk))[0] == 0


def test_the_files_tables_are_those_of_the_models() -> None:
    declared = {(part.table, part.name) for part in guards.declared_parts()}
    for model in (Transaction, Balance):
        table = model._meta.db_table
        assert table in guards.LEDGER
        for field in model._meta.concrete_fields:
            assert (table, field.column) in declared
        for constraint in model._meta.constraints:
            assert (table, constraint.name) in declared
    with guards.untrusting_cursor() as cursor:
        assert {*guards.parts(cursor)} == {*guards.declared_parts()}


def test_it_reads_only_and_leaves_the_session_as_it_was(victim: User) -> None:
    before = execute("SELECT name, setting FROM pg_settings ORDER BY 1")
    verify()
    assert execute("SELECT name, setting FROM pg_settings ORDER BY 1") == before
    with guards.untrusting_cursor() as cursor:
        cursor.execute("SHOW transaction_read_only")
        assert cursor.fetchone() == ("on",)
    Transaction.objects.count()  # works only if names are looked up as before


# --- Functions that vouch for changed rows ------------------------------------------------------

VOUCHES = (
    "CREATE OR REPLACE FUNCTION public.billing_digest(t public.billing_transaction, "
    "previous_digest bytea, uses jsonb) RETURNS bytea LANGUAGE plpgsql STABLE PARALLEL SAFE "
    "AS 'BEGIN RETURN t.digest; END'"
)
SAYS_OF_DIGEST = "The function billing_digest does not have its current text."


def edit(columns: str, user: User) -> None:
    tamper(
        f"UPDATE billing_transaction SET {columns} WHERE user_id = %(user)s AND number = 3",
        user=user.pk,
    )


@pytest.mark.parametrize("arguments", ["all", "one"])
def test_a_digest_that_vouches_for_every_row_is_not_believed(victim: User, arguments: str) -> None:
    edit("description = 'Something else'", victim)
    execute(VOUCHES)
    code, out, err = verify(*(["--user", str(victim.pk)] if arguments == "one" else []))
    assert (code, out) == (1, "")
    assert f"Transaction 3 of user {victim.pk} breaks G9" in err
    assert err.splitlines().count(SAYS_OF_DIGEST) == 1


def test_guards_are_named_although_all_rows_are_right(victim: User) -> None:
    execute(VOUCHES)
    code, out, err = verify()
    assert code == 1
    assert "All of this holds for 7 transactions" in out
    assert "armed" not in out
    assert err.splitlines()[0] == SAYS_OF_DIGEST


@pytest.mark.parametrize("column", EDITS)
def test_an_edit_of_any_column_is_found_whatever_the_digest_says(column: str, victim: User) -> None:
    execute(VOUCHES)
    edit(EDITS[column], victim)
    code, _, err = verify()
    assert code == 1
    assert re.match(rf"Transaction [34] of user {victim.pk} breaks G", err)
    assert SAYS_OF_DIGEST in err


# Objects that hide those of the proof, in schemas where names could be looked up.
SHADOWS = {
    "function in public": "CREATE FUNCTION public.sha256(bytea) RETURNS bytea LANGUAGE sql AS "
    "'SELECT digest FROM billing_transaction WHERE number = 3'",
    "better function": "CREATE FUNCTION public.json_build_array(VARIADIC text[]) RETURNS json "
    "LANGUAGE sql AS $$SELECT '[]'::json$$",
    "function in pg_temp": "CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea LANGUAGE sql AS "
    "'SELECT digest FROM billing_transaction WHERE number = 3'",
    "operator": "CREATE FUNCTION public.yes(bytea, bytea) RETURNS boolean LANGUAGE sql AS "
    "'SELECT true'; CREATE OPERATOR public.= (LEFTARG = bytea, RIGHTARG = bytea, "
    "FUNCTION = public.yes)",
    "cast": "CREATE FUNCTION public.amount(numeric) RETURNS text LANGUAGE sql AS "
    "$$SELECT '0.0000'$$; CREATE CAST (numeric AS text) WITH FUNCTION public.amount(numeric)",
    "cast of numbers": "CREATE FUNCTION public.number(bigint) RETURNS text LANGUAGE sql AS "
    "$$SELECT '0'$$; CREATE CAST (bigint AS text) WITH FUNCTION public.number(bigint)",
    "temporary table": "CREATE TEMP TABLE billing_transaction (LIKE public.billing_transaction)",
    "temporary view": "CREATE TEMP VIEW billing_balance AS SELECT * FROM public.billing_balance "
    "WHERE false",
    "temporary users": "CREATE TEMP TABLE users_user (id bigint)",
    "temporary catalog": "CREATE TEMP TABLE pg_proc (LIKE pg_catalog.pg_proc)",
}


@pytest.mark.parametrize("shadow", SHADOWS)
def test_what_stands_in_for_a_name_is_not_believed(shadow: str, victim: User) -> None:
    edit("description = 'Something else'", victim)
    execute(VOUCHES)
    execute(SHADOWS[shadow])
    execute("SET LOCAL search_path = pg_temp, public, pg_catalog")
    code, _, err = verify()
    execute("SET LOCAL search_path = public, pg_temp")
    assert code == 1
    assert err.startswith(f"Transaction 3 of user {victim.pk} breaks G9")
    assert SAYS_OF_DIGEST in err


IN_CATALOG = {
    "replaced": (
        "CREATE OR REPLACE FUNCTION pg_catalog.sha256(bytea) RETURNS bytea LANGUAGE internal "
        "IMMUTABLE STRICT PARALLEL SAFE AS 'sha512_bytea'",
        "PostgreSQL's own function sha256(bytea) was replaced.",
    ),
    "in SQL": (
        "CREATE OR REPLACE FUNCTION pg_catalog.btrim(text) RETURNS text LANGUAGE sql IMMUTABLE "
        "STRICT PARALLEL SAFE AS $$SELECT 'ABCDEFG'$$",
        "PostgreSQL's own function btrim(text) was replaced.",
    ),
    "a better one": (
        "CREATE FUNCTION pg_catalog.char_length(varchar) RETURNS int LANGUAGE sql AS 'SELECT 9'",
        "The function char_length(character varying) is in pg_catalog but does not belong "
        "to PostgreSQL.",
    ),
    "an operator": (
        "CREATE FUNCTION public.yes(varchar, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'; "
        "CREATE OPERATOR pg_catalog.= (LEFTARG = varchar, RIGHTARG = text, FUNCTION = public.yes)",
        "The operator =(character varying,text) is in pg_catalog but does not belong to "
        "PostgreSQL.",
    ),
}


@pytest.mark.parametrize("case", IN_CATALOG)
def test_postgresql_itself_is_looked_at(case: str, victim: User) -> None:
    statement, sentence = IN_CATALOG[case]
    execute(statement)
    assert sentence in verify()[2].splitlines()


# --- Each guard ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sql.functions())
def test_each_function_is_named_that_is_replaced_gone_or_somebody_elses(name: str) -> None:
    text = sql.functions()[name]
    head, _, _ = text.partition("AS $function$")
    if "RETURNS trigger" in head:
        other, ended = "BEGIN RETURN NULL; END", True
    else:
        other, ended = "BEGIN RETURN; END", False
    body = re.sub(r"LANGUAGE \w+", "LANGUAGE plpgsql", head)
    if not ended and "RETURNS SETOF" not in head and "RETURNS TABLE" not in head:
        other = "BEGIN RETURN NULL; END" if "RETURNS void" not in head else other
    for change, sentence in (
        (f"{body}AS $function$ {other} $function$", "does not have its current text"),
        (f"ALTER FUNCTION {name} SET work_mem = '1MB'", "does not have its current text"),
        (f"DROP FUNCTION {name} CASCADE", "is missing"),
    ):
        assert f"The function {name} {sentence}." in problems_after(change)
    execute("CREATE ROLE somebody_tried")
    assert (
        f"The function {name} belongs to the role somebody_tried, and not to the owner of the "
        "tables."
    ) in problems_after(f"ALTER FUNCTION {name} OWNER TO somebody_tried")
    assert f"Everybody may call the function {name}." in problems_after(
        f"GRANT EXECUTE ON FUNCTION {name} TO PUBLIC"
    )


def problems_after(change: str) -> list[str]:
    """Returns the problems of the guards after a change, and undoes the change."""
    with transaction.atomic():
        execute(change)
        found = guards.problems()
        transaction.set_rollback(True)
    return found


@pytest.mark.parametrize("name", sql.triggers())
def test_each_trigger_is_named_that_is_gone_disarmed_or_another(name: str) -> None:
    text = sql.triggers()[name]
    [table] = re.findall(r" ON (public\.\w+)", text)
    calls_another = re.sub(r"EXECUTE FUNCTION \S+", "EXECUTE FUNCTION public.nothing()", text)
    for change, sentence in (
        (f"DROP TRIGGER {name} ON {table}", "is missing"),
        (f"ALTER TABLE {table} DISABLE TRIGGER {name}", "is disarmed"),
        (f"ALTER TABLE {table} DISABLE TRIGGER USER", "is disarmed"),
        (f"ALTER TABLE {table} ENABLE REPLICA TRIGGER {name}", "is disarmed"),
        (
            "CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql "
            f"AS 'BEGIN RETURN NULL; END'; DROP TRIGGER {name} ON {table}; {calls_another}",
            # "is missing" if the table has no other trigger of ours, or is a table of `users`.
            "",
        ),
    ):
        found = problems_after(change)
        if sentence:
            assert f"The trigger {name} {sentence}." in found
        else:
            assert re.match(
                f"The trigger {name} (is missing|does not have its current text)", found[0]
            )
    never = re.sub(r"( WHEN \(.*\))? EXECUTE", r" WHEN (1 = 2) EXECUTE", text)
    assert f"The trigger {name} does not have its current text." in problems_after(
        f"DROP TRIGGER {name} ON {table}; {never}"
    )


CONSTRAINTS = [
    (part.table, part.name, part.text)
    for part in guards.declared_parts()
    if part.kind == "constraint"
]


@pytest.mark.parametrize(("table", "name", "text"), CONSTRAINTS)
def test_each_constraint_is_named_that_is_gone_weaker_or_not_valid(
    table: str, name: str, text: str
) -> None:
    called = f"The constraint {name} of {table}"
    dropped = f"ALTER TABLE {table} DROP CONSTRAINT {name}"
    assert f"{called} is missing." in problems_after(dropped)
    if text.startswith("CHECK"):
        added = f"{dropped}, ADD CONSTRAINT {name}"
        assert f"{called} is not valid: it has not been checked for all rows." in problems_after(
            f"{added} {text} NOT VALID"
        )
        assert f"{called} is not as it should be: CHECK (true)" in problems_after(
            f"{added} CHECK (true)"
        )
    elif text.startswith("FOREIGN KEY"):
        added = f"{dropped}, ADD CONSTRAINT {name}"
        cascades = text.replace(" DEFERRABLE", " ON DELETE CASCADE DEFERRABLE")
        assert f"{called} is not as it should be: {cascades}" in problems_after(
            f"{added} {cascades}"
        )
        assert f"{called} is not valid: it has not been checked for all rows." in problems_after(
            f"{added} {text} NOT VALID"
        )
        [other] = re.findall(r"REFERENCES public\.(\w+)", text)
        for where in (table, other):
            assert f"{called} is disarmed." in problems_after(
                f"ALTER TABLE {where} DISABLE TRIGGER ALL"
            )


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (part.table, part.name)
        for part in guards.declared_parts()
        if part.kind == "index" and part.name not in {name for _, name, _ in CONSTRAINTS}
    ],
)
def test_each_unique_index_is_named_that_is_gone_or_not_unique(table: str, name: str) -> None:
    called = f"The index {name} of {table}"
    [(definition,)] = execute("SELECT pg_get_indexdef(%s::regclass)", [name])
    assert f"{called} is missing." in problems_after(f"DROP INDEX {name}")
    if "UNIQUE" in definition:
        [said] = problems_after(f"DROP INDEX {name}; {definition.replace('UNIQUE', '')}")
        assert said.startswith(f"{called} is not as it should be: CREATE INDEX")


@pytest.mark.parametrize(
    ("table", "name", "text"),
    [
        (part.table, part.name, part.text)
        for part in guards.declared_parts()
        if part.kind == "column"
    ],
)
def test_each_column_is_named_that_may_be_null_or_is_of_another_type(
    table: str, name: str, text: str
) -> None:
    called = f"The column {name} of {table} is not as it should be: "
    is_key = (table, name) in {
        ("billing_transaction", "id"),
        ("billing_event", "id"),
        ("billing_balance", "user_id"),
        *(("billing_grant", key) for key in ("user_id", "number")),
        *(("billing_grantuse", key) for key in ("user_id", "grant_number", "place")),
    }
    kind = text.split(" NOT ", maxsplit=1)[0]
    changes = [
        f"ALTER COLUMN {name} DROP IDENTITY"
        if " IDENTITY" in text
        else f"ALTER COLUMN {name} SET DEFAULT NULLIF('1', '1')::{kind}"
        if " NOT NULL" in text
        else f"ALTER COLUMN {name} SET NOT NULL"
    ]
    if " NOT NULL" in text and not is_key:
        changes.append(f"ALTER COLUMN {name} DROP NOT NULL")
    for change in changes:
        found = problems_after(f"ALTER TABLE {table} {change}")
        assert any(each.startswith(called) for each in found), found


# Other changes that weaken the ledger, each with the sentence that names it.
ELSE = {
    "rule": (
        "CREATE RULE quiet AS ON DELETE TO billing_transaction DO INSTEAD NOTHING",
        "The rule quiet of billing_transaction does not belong to the panel.",
    ),
    "policy": (
        "ALTER TABLE billing_transaction ENABLE ROW LEVEL SECURITY; "
        "CREATE POLICY few ON billing_transaction USING (number < 3)",
        "billing_transaction has policies that can hide rows.",
    ),
    "child": (
        "CREATE TABLE more () INHERITS (billing_transaction)",
        "billing_transaction shares its rows with another table, by inheritance.",
    ),
    "unlogged": (
        "ALTER TABLE billing_balance SET UNLOGGED",
        "billing_balance is not written to the log, and is empty after a crash.",
    ),
    "view": (
        "ALTER TABLE billing_balance RENAME TO hidden; "
        "CREATE VIEW billing_balance AS SELECT * FROM hidden",
        "The table billing_balance is missing.",
    ),
    "no table": ("DROP TABLE billing_balance CASCADE", "The table billing_balance is missing."),
    "column": (
        "ALTER TABLE billing_transaction ADD COLUMN broken int",
        "The column broken of billing_transaction does not belong to the panel.",
    ),
    "generated column": (
        "ALTER TABLE billing_balance ADD COLUMN twice numeric "
        "GENERATED ALWAYS AS (real * 2) STORED",
        "The column twice of billing_balance does not belong to the panel.",
    ),
    "constraint": (
        "ALTER TABLE billing_balance ADD CONSTRAINT poor CHECK (real < 1000000)",
        "The constraint poor of billing_balance does not belong to the panel.",
    ),
    "trigger": (
        "CREATE TRIGGER zz BEFORE INSERT ON billing_transaction FOR EACH ROW "
        "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "The trigger zz does not belong to the panel.",
    ),
    "event trigger": (
        "CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; "
        "CREATE EVENT TRIGGER watching ON ddl_command_end EXECUTE FUNCTION watch()",
        "The event trigger watching does not belong to the panel.",
    ),
    "as a replica": (
        "SET LOCAL session_replication_role = replica",
        "Triggers and foreign keys do not fire: session_replication_role is replica.",
    ),
    "a role as a replica": (
        "CREATE ROLE some_tried; ALTER ROLE some_tried SET session_replication_role = replica",
        "Triggers and foreign keys do not fire for some: the role some_tried has "
        "session_replication_role=replica.",
    ),
    "a right to write": (
        "CREATE ROLE some_tried; GRANT INSERT, UPDATE ON billing_transaction TO some_tried",
        "The role some_tried may INSERT, UPDATE on billing_transaction.",
    ),
    "a right to write a column": (
        "GRANT UPDATE (real) ON billing_balance TO PUBLIC",
        "Everybody may UPDATE on billing_balance.",
    ),
    "numbers": (
        "CREATE ROLE some_tried; GRANT USAGE ON billing_transaction_id_seq TO some_tried",
        "The role some_tried may USAGE on billing_transaction_id_seq.",
    ),
    "a right to remove history": (
        "GRANT INSERT, DELETE ON django_admin_log TO PUBLIC",
        "Everybody may DELETE on django_admin_log.",
    ),
    "a right to write everything": (
        "CREATE ROLE some_tried; GRANT pg_write_all_data TO some_tried",
        "The role some_tried may write every table, as a member of pg_write_all_data.",
    ),
    "objects of everybody": (
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
        "Everybody may create objects in the schema public, which functions of the ledger may "
        "then call in place of their own.",
    ),
    "table of another": (
        "CREATE ROLE some_tried; ALTER TABLE billing_balance OWNER TO some_tried",
        "billing_balance belongs to the role some_tried, and not to the owner of "
        "billing_transaction.",
    ),
}


@pytest.mark.parametrize("case", ELSE)
def test_what_else_weakens_the_ledger_is_named(case: str, victim: User) -> None:
    change, sentence = ELSE[case]
    execute(change)
    code, _, err = verify()
    assert code == 1
    assert sentence in err.splitlines()
    assert "The index" not in err or case in {"view", "no table"}


def test_rights_that_harm_nothing_and_an_index_for_reports_are_fine(victim: User) -> None:
    execute("CREATE ROLE reports_tried")
    execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reports_tried")
    execute("GRANT INSERT ON django_admin_log TO reports_tried")
    execute("CREATE INDEX for_reports ON billing_transaction (type, created_at)")
    assert verify()[0] == 0


def test_rows_that_cannot_be_read_are_said_and_the_guards_are_too(victim: User) -> None:
    execute("DROP TABLE billing_balance CASCADE")
    code, out, err = verify()
    assert (code, out) == (1, "")
    assert err.startswith('The rows could not be checked: relation "public.billing_balance"')


# --- Rows that constraints would have refused ---------------------------------------------------

ROWS = {
    "a key used twice": (
        "UPDATE billing_transaction SET idempotency_key = 'messages-1' "
        "WHERE user_id = %(user)s AND number = 7;",
        7,
        "G6",
    ),
    "an actor who never was": (
        "UPDATE billing_transaction SET actor_id = 4711000 "
        "WHERE user_id = %(user)s AND number = 7;",
        7,
        "G8",
    ),
    "a channel that is none": (
        "UPDATE billing_transaction SET channel = 'phone' WHERE user_id = %(user)s AND number = 7;",
        7,
        "G8",
    ),
    "a type that is none": (
        "UPDATE billing_transaction SET type = 'gift' WHERE user_id = %(user)s AND number = 7;",
        7,
        "G8",
    ),
    "a subtype that is none": (
        "UPDATE billing_transaction SET subtype = 'A b' WHERE user_id = %(user)s AND number = 7;",
        7,
        "G8",
    ),
    "a fifth decimal": (
        "ALTER TABLE billing_transaction ALTER bonus_amount TYPE numeric, "
        "ALTER new_bonus TYPE numeric; UPDATE billing_transaction "
        "SET bonus_amount = bonus_amount - 0.00001, new_bonus = new_bonus - 0.00001 "
        "WHERE user_id = %(user)s AND number = 7;",
        7,
        "G4",
    ),
    "a short description": (
        "UPDATE billing_transaction SET description = '  ab  ' "
        "WHERE user_id = %(user)s AND number = 7;",
        7,
        "G4",
    ),
    "nobody's row": (
        "ALTER TABLE billing_transaction ALTER user_id DROP NOT NULL; "
        "INSERT INTO billing_transaction SELECT (jsonb_populate_record(t, "
        "jsonb_build_object('id', t.id + 1000000, 'user_id', NULL))).* FROM billing_transaction t "
        "WHERE user_id = %(user)s AND number = 1;",
        1,
        "G1",
    ),
    "an ID used twice": (
        "ALTER TABLE billing_transaction DROP CONSTRAINT billing_transaction_pkey CASCADE; "
        "UPDATE billing_transaction SET id = (SELECT x.id FROM billing_transaction x "
        "WHERE x.user_id = %(user)s AND x.number = 6) WHERE user_id = %(user)s AND number = 7;",
        6,
        "G2",
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_are_found_that_a_constraint_kept_out(case: str, victim: User) -> None:
    """Digest and balance fit the changed rows, so that no other rule is broken first."""
    edit_of_rows, number, guarantee = ROWS[case]
    tamper(
        edit_of_rows + "UPDATE billing_transaction t SET digest = digest_of(t) "
        "WHERE user_id = %(user)s AND number = 7;"
        "UPDATE billing_balance b SET last_digest = t.digest, bonus = t.new_bonus "
        "FROM billing_transaction t "
        "WHERE b.user_id = %(user)s AND t.user_id = b.user_id AND t.number = 7;",
        user=victim.pk,
    )
    _, _, err = verify()
    assert re.match(rf"Transaction {number} of user (\d+|None) breaks {guarantee}: ", err), err
    if case != "nobody's row":
        assert verify("--user", str(victim.pk))[0] == 1


def test_a_second_balance_of_a_user_is_found(victim: User) -> None:
    tamper(
        "ALTER TABLE billing_balance DROP CONSTRAINT billing_balance_pkey CASCADE; "
        "INSERT INTO billing_balance SELECT * FROM billing_balance WHERE user_id = %(user)s",
        user=victim.pk,
    )
    assert (
        f"Balance of user {victim.pk} breaks G1: it does not hold that no user has two"
        in (verify()[2])
    )


def test_the_panels_role_proves_the_same(victim: User) -> None:
    execute(VOUCHES)
    edit("description = 'Something else'", victim)
    execute("CREATE ROLE panel_tried")
    call_command("grant_roles", "panel_tried", stdout=StringIO())
    as_owner = verify()
    execute("SET ROLE panel_tried")
    assert verify() == as_owner
    execute("RESET ROLE")
    assert SAYS_OF_DIGEST in as_owner[2]
    assert connection.is_usable()
    assert {*LEDGER_TABLES, "billing_event"} == set(guards.LEDGER)
