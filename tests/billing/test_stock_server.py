"""Settings of the server, database or role change neither the posted rows nor the cost of posting.

The embedded server and the server of DATABASE_URL may have other settings than a standard server.
So these tests use the harshest settings: they compile every plan, change the choices of the
planner, and write values in other forms than the panel expects.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection

from billing import ledger, sql
from billing.models import Transaction, WebhookEndpoint, WebhookEvent
from billing.plans import subscriptions
from config.postgresql.base import SESSION_SETTINGS
from tests.billing.digests import digest
from tests.billing.histories import BY_PANEL, execute, judge, user_with_history
from tests.factories import PlanFactory, user_with
from users.models import User

pytestmark = pytest.mark.as_owner

# Makes the server compile every statement.
COMPILE_EVERYTHING = {
    "jit": "on",
    "jit_above_cost": "0",
    "jit_inline_above_cost": "0",
    "jit_optimize_above_cost": "0",
}
HOSTILE = {
    "datestyle": "SQL, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "plan_cache_mode": "force_custom_plan",
    "work_mem": "64kB",
    "search_path": "pg_temp",
    "enable_indexscan": "off",
    "enable_hashjoin": "off",
    "xmlbinary": "hex",
    **COMPILE_EVERYTHING,
}
# The pages that a posting reads, its guards included. Their number depends on the rows that are
# looked up, not on the speed of the machine. Reading a whole table costs far more.
PAGES_MAX = 400
ENTRY: dict[str, Any] = {
    "type": "payment",
    "subtype": "partner",
    "description": "Bank transfer",
    "amount": "5",
    "bonus_amount": "1.5",
    "metadata": {"number": 0.1, "text": 'ä\\"\n'},
}


def set_for_session(settings: dict[str, str]) -> None:
    for name, value in settings.items():
        execute("SELECT set_config(%s, %s, true)", [name, value])


def post_with_sql(user: User, **entry: Any) -> tuple[Any, ...]:
    """Posts with plain SQL, as another program does."""
    [row] = execute(
        "SELECT outcome, refusal, (posted).number, (posted).new_balance "
        "FROM public.billing_post(%s::jsonb, NULL, 'import')",
        [json.dumps([ENTRY | entry | {"user_id": user.pk}])],
    )
    return row


@contextmanager
def notices() -> Iterator[list[str]]:
    """Yields a list to which the server's notices are added."""
    said: list[str] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        said.append(diagnostic.message_primary or "")

    connection.ensure_connection()
    connection.connection.add_notice_handler(note)
    try:
        yield said
    finally:
        connection.connection.remove_notice_handler(note)


@contextmanager
def plans_of_everything() -> Iterator[list[str]]:
    """Yields a list of the executed plans, also of statements in functions and guards."""
    execute("LOAD 'auto_explain'")
    shown = {"analyze": "on", "timing": "off", "nested_statements": "on", "min_duration": "0"}
    set_for_session({f"auto_explain.log_{name}": value for name, value in shown.items()})
    set_for_session({"auto_explain.log_level": "notice", "client_min_messages": "notice"})
    with notices() as said:
        yield said
    set_for_session({"auto_explain.log_min_duration": "-1"})


def everything_happens() -> None:
    """Calls each of our functions that has queries at least once."""
    WebhookEndpoint.objects.create(
        name="CRM",
        url="https://crm.example.com/",
        secret="s" * 32,
        events=["transaction.posted", "balance.low", "subscription.suspended"],
    )
    user = user_with_history()
    judge()
    plan = PlanFactory(cycle="monthly", price=10_000)
    subscriptions.start(user, plan, day=date(2026, 4, 1), wait_for_money=True, **BY_PANEL)
    assert ledger.lock_balances([user.pk])
    ledger.change_balance(user, amount=5, description="By hand", **BY_PANEL)
    Transaction.objects.filter(user=user).first()
    execute("SELECT billing_number_at(%s, now())", [user.pk])
    User.objects.filter(pk=user.pk).update(is_active=False)
    User.objects.filter(pk=user.pk).update(is_active=True, password="!another")
    judge()
    assert WebhookEvent.objects.exists()


def query_of(plan: str) -> str:
    """Returns the statement of a plan on one line."""
    found = re.search(r"Query Text: (.*?)\n(Query Parameters: |\S[^\n]*\(cost=)", plan, re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def are_ours(plans: list[str]) -> list[str]:
    """Returns the plans of statements in our functions, found by their text.

    The first word is not compared: PERFORM is executed as SELECT.
    """
    bodies = " ".join(" ".join(text.split()) for text in sql.functions().values())
    return [plan for plan in plans if query_of(plan).partition(" ")[2][:200] in bodies]


# --- No compilation -----------------------------------------------------------------------------


def test_every_function_that_has_queries_says_that_it_compiles_none() -> None:
    # `billing_post` sets it before these run.
    within_others = {"billing_write", "billing_use_grant", "billing_check_grant"}
    without_queries = within_others | {
        *("billing_amount_problem", "billing_digest", "billing_type_allows"),
        "billing_canonical",
        *("billing_event_digest", "billing_erased"),
        *("billing_refuse_balance_removal", "billing_refuse_rewriting_history"),
        *("billing_refuse_rewriting_grants",),
        *("billing_refuse_other_code", "billing_refuse_rewriting_moments", "billing_clock"),
    }
    for name, text in sql.functions().items():
        head, _, body = text.partition("AS $function$")
        assert ("SET jit TO 'off'" in head) is (name not in without_queries), name
        if "SET enable_seqscan TO 'off'" in head:
            assert "SET jit TO 'off'" in head, name
        if name in without_queries - {
            "billing_amount_problem",
            "billing_type_allows",
            *within_others,
        }:
            assert " FROM billing_" not in body


def test_nothing_within_our_functions_is_compiled(db: None) -> None:
    set_for_session(COMPILE_EVERYTHING)
    if execute("SELECT pg_jit_available()") == [(False,)]:
        return  # this server has no compiler; the test above checks the functions' settings
    with plans_of_everything() as plans:
        everything_happens()
    ours = are_ours(plans)
    assert {"FOR NO KEY UPDATE", "billing_webhookendpoint", "balance.last_number"} <= {
        mark
        for mark in ("FOR NO KEY UPDATE", "billing_webhookendpoint", "balance.last_number")
        if any(mark in plan for plan in ours)
    }
    assert len(ours) > 20
    assert not [plan for plan in ours if "JIT:" in plan]
    # Without the setting of the function, the server compiles its statements.
    execute("ALTER FUNCTION billing_number_at RESET jit")
    with plans_of_everything() as plans:
        execute("SELECT billing_number_at(%s, now())", [User.objects.latest("pk").pk])
    assert [plan for plan in are_ours(plans) if "JIT:" in plan]


@contextmanager
def another_connection(**options: Any) -> Iterator[Any]:
    """Yields another connection of the panel, with these options of DATABASE_URL."""
    other = connection.copy()
    other.settings_dict["OPTIONS"] = other.settings_dict["OPTIONS"] | options
    try:
        yield other
    finally:
        other.close()


def settings_of(other: Any) -> dict[str, str]:
    with other.cursor() as cursor:
        cursor.execute(
            "SELECT name, current_setting(name) FROM unnest(%s::text[]) name",
            [list(SESSION_SETTINGS)],
        )
        return dict(cursor.fetchall())


def test_the_panels_connections_compile_nothing_whatever_the_address_of_the_database_says(
    committed_db: None,
) -> None:
    with another_connection(options="-c jit=on -c statement_timeout=54321") as other:
        assert settings_of(other) == SESSION_SETTINGS
        assert SESSION_SETTINGS["jit"] == "off"
        with other.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            assert cursor.fetchone() == ("54321ms",)


def test_the_panels_connections_are_the_same_whatever_is_set_for_the_database(
    committed_db: None,
) -> None:
    database = connection.ops.quote_name(connection.settings_dict["NAME"])
    user = user_with(real=100)
    hostile = HOSTILE | {"default_transaction_isolation": "serializable"}
    try:
        for name, value in hostile.items():
            execute(f"ALTER DATABASE {database} SET {name} = '{value}'")
        with another_connection() as other:
            assert settings_of(other) == SESSION_SETTINGS
            with other.cursor() as cursor:
                cursor.execute("SHOW transaction_isolation")
                assert cursor.fetchone() == ("read committed",)
        connection.close()
        posted = ledger.change_balance(
            user, amount="0.1", description="By hand", metadata={"n": 0.1}, **BY_PANEL
        )
        assert execute("SHOW enable_indexscan") == [("off",)]
    finally:
        execute(f"ALTER DATABASE {database} RESET ALL")
        connection.close()
    [first, second] = Transaction.objects.filter(user=user).order_by("number")
    assert second == posted
    assert bytes(second.digest) == digest(second, bytes(first.digest))


# --- The cost of a posting ----------------------------------------------------------------------


def test_a_posting_reads_few_pages_however_many_rows_there_are(db: None) -> None:
    user = user_with(real=100)
    execute(
        "INSERT INTO users_user (password, is_superuser, email, first_name, middle_name, last_name,"
        " phone, legal_name, tin, country, region, city, street_address, postal_code, time_zone,"
        " comment, is_active, is_staff, created_at) SELECT '!', false, g || '@example.net', '', '',"
        " '', '', '', '', '', '', '', '', '', '', repeat('x', 500), true, false, now() "
        "FROM generate_series(1, 10000) g"
    )
    judge()
    pages = execute(
        "SELECT min(pg_relation_size(oid)) / 8192 FROM pg_class WHERE relname = ANY(%s)",
        [["users_user", "billing_balance"]],
    )
    assert pages > [(100,)]
    execute(
        """CREATE FUNCTION pg_temp.posts(entries jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
        DECLARE number bigint;
        BEGIN
            SELECT (posted).number INTO number FROM public.billing_post(entries, NULL, 'import');
            SET CONSTRAINTS ALL IMMEDIATE;
            SET CONSTRAINTS ALL DEFERRED;
            RETURN number;
        END $$"""
    )
    entries = json.dumps([ENTRY | {"user_id": user.pk}])
    set_for_session({"enable_seqscan": "on", "jit": "on"})
    for _ in range(2):  # the first run also reads the catalogs
        [(plan,)] = execute(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT pg_temp.posts(%s)", [entries]
        )
    top = (plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"]
    read = top["Shared Hit Blocks"] + top["Shared Read Blocks"]
    assert 10 < read <= PAGES_MAX
    assert ledger.balance(user).number == 3


# --- The posted rows ----------------------------------------------------------------------------


def test_digests_and_postings_are_the_same_under_hostile_settings(db: None) -> None:
    user = user_with(real=100)
    judge()
    set_for_session(HOSTILE)
    assert post_with_sql(user)[0] == "posted"
    service = {"type": "tariff_charge", "subtype": "sms", "amount": "-2", "bonus_amount": "0"}
    assert post_with_sql(user, **service)[0] == "posted"
    judge()
    usual = {name: value for name, value in SESSION_SETTINGS.items() if "isolation" not in name}
    set_for_session(usual | {"timezone": "UTC", "enable_indexscan": "on"})
    before = b""
    for row in Transaction.objects.filter(user=user).order_by("number"):
        assert bytes(row.digest) == digest(row, before)
        before = bytes(row.digest)
    assert ledger.balance(user).number == 3
    call_command("verify_ledger", stdout=StringIO())


def test_refusals_are_the_same_under_hostile_settings(db: None) -> None:
    user = user_with(real=100)
    call = "SELECT refusal FROM public.billing_post(%s::jsonb, NULL, 'api', true)"
    entries = json.dumps([ENTRY | {"user_id": user.pk, "amount": "-1000.5"}])
    usual = execute(call, [entries])
    set_for_session(HOSTILE)
    assert execute(call, [entries]) == usual
