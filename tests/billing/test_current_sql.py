"""billing/sql/ has the current text of every function and trigger; a migrated database has it."""

import re

import pytest

from billing import sql
from tests.billing.histories import execute
from tests.config.processes import ROOT

pytestmark = [pytest.mark.django_db, pytest.mark.as_owner]


def test_a_migrated_database_has_exactly_the_current_functions_and_triggers() -> None:
    assert sql.differences() == []
    installed = {each.name: each.text for each in sql.installed_functions()}
    assert installed == sql.functions()  # text, settings, rights, kind and arguments
    assert {each.name: each.text for each in sql.installed_triggers()} == sql.triggers()
    assert len(installed) >= 20
    assert len(sql.triggers()) >= 12


def test_each_current_text_can_be_installed_and_comes_back_the_same() -> None:
    for text in sql.functions().values():
        execute(text)
    for name, text in sql.triggers().items():
        [table] = re.findall(r" ON public\.(\w+)", text)
        execute(f"DROP TRIGGER {name} ON {table}")
        execute(text)
    assert sql.differences() == []


def test_each_file_has_a_comment_and_the_function_that_its_name_says() -> None:
    for folder in ("functions", "triggers"):
        files = list((ROOT / "billing" / "sql" / folder).glob("*.sql"))
        assert files
        for file in files:
            text = file.read_text()
            assert text.startswith("-- "), file
            assert text.endswith(";\n"), file
            if folder == "functions":
                assert f"FUNCTION public.{file.stem}(" in text


DIFFERENCES = {
    "text": (
        "CREATE OR REPLACE FUNCTION billing_digest(t billing_transaction, previous_digest bytea, "
        "uses jsonb) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE AS 'SELECT t.digest'",
        "The function billing_digest does not have its current text.",
    ),
    "setting": (
        "ALTER FUNCTION billing_post SET jit = on",
        "The function billing_post does not have its current text.",
    ),
    "rights": (
        "ALTER FUNCTION billing_check_balance() SECURITY INVOKER",
        "The function billing_check_balance does not have its current text.",
    ),
    "one more": (
        "CREATE FUNCTION billing_digest(t billing_transaction, previous text) "
        "RETURNS bytea LANGUAGE sql AS 'SELECT t.digest'",
        "The function billing_digest does not have its current text.",
    ),
    "unknown": (
        "CREATE FUNCTION billing_extra() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "The function billing_extra does not belong to the panel.",
    ),
    "missing trigger": (
        "DROP TRIGGER billing_open_balance ON users_user",
        "The trigger billing_open_balance is missing.",
    ),
    "missing function": (
        "DROP FUNCTION billing_number_at",
        "The function billing_number_at is missing.",
    ),
    "disarmed": (
        "ALTER TABLE billing_transaction DISABLE TRIGGER billing_tell_of_transactions",
        "The trigger billing_tell_of_transactions is disarmed.",
    ),
    "for replicas": (
        "ALTER TABLE billing_balance ENABLE REPLICA TRIGGER balances_are_never_removed",
        "The trigger balances_are_never_removed is disarmed.",
    ),
    "somebody else's": (
        "CREATE TRIGGER zz BEFORE INSERT ON billing_transaction FOR EACH ROW "
        "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "The trigger zz does not belong to the panel.",
    ),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_what_differs_is_said(difference: str) -> None:
    change, sentence = DIFFERENCES[difference]
    execute(change)
    assert sql.differences() == [sentence]
    assert execute("SHOW search_path") != [("pg_catalog",)]


def test_nobody_but_the_owner_may_call_a_function_unless_it_is_granted() -> None:
    assert not execute(
        "SELECT p.proname FROM pg_proc p, "
        "aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a "
        "WHERE starts_with(p.proname, 'billing_') AND a.grantee = 0"
    )


def test_a_function_with_owners_rights_says_where_it_looks_names_up_and_makes_no_sql() -> None:
    for name, text in sql.functions().items():
        head, _, body = text.partition("AS $function$")
        if "SECURITY DEFINER" in head:
            assert "SET search_path TO 'pg_catalog', 'public', 'pg_temp'" in head, name
        assert not re.search(r"\bEXECUTE\b", body), name
