"""The SQL of verify_ledger calls only PostgreSQL's functions in built_in.txt, not ours."""

import re
from collections.abc import Callable
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection

from billing import events
from billing.models import Channel, Subject
from billing.sql import guards
from tests.billing.histories import execute, user_with_history

pytestmark = [pytest.mark.django_db, pytest.mark.as_owner]

# Functions, operators and sort operators in the tree of a query (pg_node_tree).
FUNCTIONS = re.compile(r":(?:funcid|opfuncid|winfnoid|aggfnoid) (\d+)")
OPERATORS = re.compile(r":(?:opno|eqop|sortop) (\d+)")


def queries_of_the_proof(file: Path) -> list[str]:
    """Returns the queries of the whole check, and of those against heads."""
    asked: list[str] = []

    def note(run: Callable[..., Any], query: str, parameters: Any, *rest: Any) -> Any:
        if query.strip().startswith(("SELECT", "WITH")) and "set_config" not in query:
            asked.append(query.replace("%(prefix)s", "'billing_'"))
        return run(query, parameters, *rest)

    call_command("ledger_heads", str(file), stdout=StringIO())
    for option in ("--heads", "--since"):
        with connection.execute_wrapper(note), suppress(SystemExit):
            call_command("verify_ledger", option, str(file), stdout=StringIO())
    return asked


@pytest.fixture
def called(tmp_path: Path) -> dict[str, str]:
    """Returns every function that verify_ledger calls, with the name of its code."""
    user_with_history()
    events.record(Subject.PLAN, 1, "noted", actor=None, channel=Channel.PANEL)
    queries = queries_of_the_proof(tmp_path / "heads")
    assert len(queries) > 30
    functions: set[str] = set()
    operators: set[str] = set()
    execute("SET LOCAL search_path = pg_catalog, pg_temp")
    for query in queries:
        execute(f"CREATE TEMP VIEW of_the_proof AS SELECT 1 FROM ({query}) q")
        [(tree,)] = execute(
            "SELECT ev_action::text FROM pg_rewrite WHERE ev_class = 'of_the_proof'::regclass"
        )
        functions |= set(FUNCTIONS.findall(tree))
        operators |= set(OPERATORS.findall(tree))
        execute("DROP VIEW of_the_proof")
    found = execute(
        "SELECT p.oid::regprocedure::text, p.prosrc FROM pg_proc p WHERE p.oid::text = ANY (%s) "
        "OR p.oid IN (SELECT oprcode FROM pg_operator WHERE oid::text = ANY (%s)) "
        "OR p.oid IN (SELECT aggtransfn FROM pg_aggregate WHERE aggfnoid::oid::text = ANY (%s))",
        [sorted(functions), sorted(operators), sorted(functions)],
    )
    execute("SET LOCAL search_path = public, pg_temp")
    return dict(found)


def test_every_function_that_the_proof_calls_is_looked_at(called: dict[str, str]) -> None:
    ours = guards.built_in()
    missing = [f"{signature} {code}" for signature, code in called.items() if signature not in ours]
    assert not missing, "Add to billing/sql/built_in.txt:\n" + "\n".join(sorted(missing))
    assert {each: ours[each] for each in called} == called


def test_none_of_them_is_ours(called: dict[str, str]) -> None:
    assert not [signature for signature in called if "billing" in signature]
    assert "sha256(bytea)" in called
