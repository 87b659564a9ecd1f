"""The database role that `manage.py grant_roles` sets up. The panel works with it.

No SQL of this role can tamper with the ledger or the operators' history.
"""

import json
from collections.abc import Iterator
from datetime import date
from io import StringIO

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.management import CommandError, call_command
from django.db import DatabaseError, transaction
from django.test import Client
from django.utils import timezone

from billing import authority, ledger, thresholds, webhooks
from billing.models import ApiSession
from billing.plans import subscriptions
from tests.billing.histories import BY_PANEL, execute, judge, user_with_history
from tests.config.processes import ROOT
from tests.factories import AdministratorFactory, PlanFactory, UserFactory
from users.models import User

pytestmark = pytest.mark.as_owner  # the tests set the role themselves

PASSWORD = "a password of an operator"


def grant_roles(*names: str) -> str:
    out = StringIO()
    call_command("grant_roles", *names, stdout=out)
    return out.getvalue()


@pytest.fixture
def operator(db: None) -> User:
    operator = AdministratorFactory(email="ada@example.net")
    operator.set_password(PASSWORD)
    operator.save()
    return operator


@pytest.fixture
def customer(db: None) -> User:
    return user_with_history()


@pytest.fixture
def as_panel(operator: User, customer: User) -> Iterator[None]:
    """Creates the role and runs the test as it. The rollback at the end removes the role."""
    if not execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")[0][0]:
        pytest.skip("the database's role is no superuser")
    LogEntry.objects.log_actions(operator.pk, [customer], CHANGE, "Said it", single_object=True)
    judge()
    execute("CREATE ROLE panel_tried")
    grant_roles("panel_tried")
    execute("SET ROLE panel_tried")
    yield
    judge()
    execute("RESET ROLE")


def test_operators_log_in_and_change_balances_and_passwords(
    as_panel: None, operator: User, customer: User
) -> None:
    client = Client()
    login = client.post("/admin/login/", {"username": operator.email, "password": PASSWORD})
    assert login.status_code == 302
    page = f"/admin/users/user/{customer.pk}/transactions/"
    assert client.get(page).status_code == 200
    ledger.change_balance(customer, amount=5, description="By hand", **BY_PANEL)
    judge()
    assert ledger.balance(customer).number == 8
    client.post("/admin/logout/")
    operator.set_password("another password")  # ends the operator's sessions
    operator.save()
    assert UserFactory().balance.real == 0


def test_programs_log_in_and_post(as_panel: None, operator: User, customer: User) -> None:
    client = Client()
    ApiSession.objects.create(hashed="gone", operator=operator, expires_at=timezone.now())
    credentials = {"login": operator.email, "password": PASSWORD}
    session = client.post("/v2/panel/account/auth", credentials)
    assert session.json()["success"]
    assert not ApiSession.objects.filter(hashed="gone").exists()
    logout = client.post("/v2/panel/account/logout", {"hash": session.json()["hash"]})
    assert logout.json()["success"]
    _, key = authority.issue_key(name="ERP", owner=operator, created_by=operator)
    posted = client.post(
        f"/api/v1/users/{customer.pk}/balance-changes",
        json.dumps({"description": "Bank transfer 4711", "amount": "5"}),
        content_type="application/json",
        headers={"Authorization": f"Bearer {key}"},
    )
    assert posted.status_code == 201


def test_the_jobs_of_workers_run(as_panel: None, customer: User) -> None:
    april = date(2026, 4, 1)
    plan = PlanFactory(price=1)
    subscriptions.start(customer, plan, day=april, **BY_PANEL)
    call_command("charge_due", "--at", "2026-05-01T00:05:00", stdout=StringIO(), stderr=StringIO())
    assert ledger.balance(customer).number == 9
    thresholds.set_own(customer.pk, 5)
    thresholds.unset_own(customer.pk)
    authority.forget_allowances(timezone.now())
    webhooks.delete_old(timezone.now())


def test_the_ledger_can_be_proven(as_panel: None) -> None:
    out = StringIO()
    call_command("verify_ledger", stdout=out)
    assert "7 transactions of" in out.getvalue()


BACKDATED = """
    INSERT INTO billing_transaction (user_id, number, type, subtype, description, device, amount,
        old_balance, new_balance, bonus_amount, old_bonus, new_bonus, refilled, bonus_refilled,
        created_at, channel, metadata, digest)
    SELECT user_id, number + 1, 'payment', 'partner', 'Bank transfer', '', 5, new_balance,
        new_balance + 5, 0, new_bonus, new_bonus, refilled + 5, bonus_refilled,
        clock_timestamp() - interval '13 days', 'panel', '{}', ''
    FROM billing_transaction ORDER BY number DESC LIMIT 1
"""
ATTACKS = {
    "insert": BACKDATED,
    "copy of a row": "INSERT INTO billing_transaction SELECT * FROM billing_transaction",
    "update": "UPDATE billing_transaction SET description = 'Another'",
    "delete": "DELETE FROM billing_transaction",
    "truncate": "TRUNCATE billing_transaction CASCADE",
    "merge": "MERGE INTO billing_transaction t USING (SELECT 1) s ON t.number = 3 "
    "WHEN MATCHED THEN DELETE",
    "balance": "UPDATE billing_balance SET real = real + 5",
    "time of a balance": "UPDATE billing_balance SET last_at = last_at - interval '13 days'",
    "new balance": "INSERT INTO billing_balance (user_id) VALUES (-1)",
    "no balance": "DELETE FROM billing_balance",
    "no balances": "TRUNCATE billing_balance CASCADE",
    "lock": "SELECT FROM billing_balance FOR UPDATE",
    "lock of all": "LOCK TABLE billing_balance IN EXCLUSIVE MODE",
    "numbers": "SELECT setval('billing_transaction_id_seq', 1)",
    "next number": "SELECT nextval('billing_transaction_id_seq')",
    "no guards": "ALTER TABLE billing_transaction DISABLE TRIGGER ALL",
    "no guard": "DROP TRIGGER transactions_follow_each_other ON billing_transaction",
    "no guards of balances": "ALTER TABLE billing_balance DISABLE TRIGGER ALL",
    "no constraint": "ALTER TABLE billing_transaction "
    "DROP CONSTRAINT a_transaction_does_what_its_type_allows",
    "no table": "DROP TABLE billing_transaction CASCADE",
    "as a replica": "SET session_replication_role = replica",
    "another digest": "ALTER FUNCTION billing_digest(billing_transaction, bytea, jsonb) "
    "RENAME TO billing_digest_before",
    "as its caller": "ALTER FUNCTION billing_post SECURITY INVOKER",
    "own function": "CREATE FUNCTION public.billing_extra() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "own operator": "CREATE TABLE public.billing_extra (id int)",
    "own trigger": "CREATE TRIGGER t BEFORE INSERT ON billing_transaction FOR EACH ROW "
    "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "function of a trigger": "SELECT billing_queue_resumption(1)",
    "trigger elsewhere": "CREATE TEMP TABLE mine (id bigint); "
    "CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION billing_open_balance()",
    "history changed": "UPDATE django_admin_log SET change_message = 'Said nothing'",
    "history moved": "UPDATE django_admin_log SET action_time = action_time - interval '13 days'",
    "history removed": "DELETE FROM django_admin_log",
    "history emptied": "TRUNCATE django_admin_log",
    "migrations": "DELETE FROM django_migrations",
    "history of others": "ALTER TABLE django_admin_log OWNER TO panel_tried",
}


def ledger_and_history() -> list[object]:
    return [
        execute(f"SELECT * FROM {table} ORDER BY 1, 2")
        for table in ("billing_transaction", "billing_balance", "django_admin_log")
    ]


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_ledger_and_the_history_are_out_of_its_reach(as_panel: None, attack: str) -> None:
    before = ledger_and_history()
    refusals = r"permission denied|must be owner|must have CREATEROLE"
    with pytest.raises(DatabaseError, match=refusals), transaction.atomic():
        execute(ATTACKS[attack])
    assert ledger_and_history() == before


def test_it_cannot_grant_itself_more(as_panel: None) -> None:
    execute("GRANT ALL ON billing_transaction, billing_balance, django_admin_log TO panel_tried")
    for attack in ("insert", "balance", "history removed"):
        with pytest.raises(DatabaseError, match="permission denied"), transaction.atomic():
            execute(ATTACKS[attack])


def test_it_cannot_become_the_owner(as_panel: None) -> None:
    [(owner,)] = execute("SELECT relowner::regrole FROM pg_class WHERE relname = 'users_user'")
    # As in a session that logged in as this role. The session of the test is a superuser's.
    execute("SET SESSION AUTHORIZATION panel_tried")
    with pytest.raises(DatabaseError, match="permission denied"), transaction.atomic():
        execute(f"SET ROLE {owner}")
    execute("RESET SESSION AUTHORIZATION")


def test_names_of_its_own_do_not_stand_in_for_ours(as_panel: None, customer: User) -> None:
    """Functions with the owner's rights look in pg_temp last, so the role cannot replace ours."""
    execute("CREATE TEMP TABLE billing_transaction (LIKE public.billing_transaction)")
    execute("CREATE TEMP TABLE billing_balance (LIKE public.billing_balance)")
    for function, returns, body in (
        ("clock_timestamp()", "timestamptz", "SELECT timestamptz '2020-01-01Z'"),
        ("billing_amount_problem(numeric)", "text", "SELECT NULL::text"),
        ("billing_digest(public.billing_transaction, bytea, jsonb)", "bytea", "SELECT ''::bytea"),
    ):
        execute(f"CREATE FUNCTION pg_temp.{function} RETURNS {returns} LANGUAGE sql AS $${body}$$")
    execute("SET LOCAL search_path = pg_temp, public")
    posted = execute(
        "SELECT (posted).number, (posted).created_at > now() - interval '1 hour' "
        "FROM public.billing_post(%s, NULL, 'api')",
        [
            json.dumps(
                [
                    {
                        "user_id": customer.pk,
                        "type": "payment",
                        "subtype": "partner",
                        "description": "Bank transfer",
                        "amount": "5",
                    }
                ]
            )
        ],
    )
    assert posted == [(8, True)]
    execute("SET LOCAL search_path = public, pg_temp")
    judge()
    call_command("verify_ledger", stdout=StringIO())
    assert execute("SELECT count(*) FROM pg_temp.billing_transaction") == [(0,)]


# --- The command --------------------------------------------------------------------------------


def test_it_says_what_it_grants_and_can_be_repeated(as_panel: None) -> None:
    execute("RESET ROLE")
    execute("CREATE ROLE worker_tried")
    said = grant_roles("panel_tried", "worker_tried")
    assert grant_roles("panel_tried", "worker_tried") == said
    for role in ("panel_tried", "worker_tried"):
        assert (
            f"{role}: SELECT on table\n    billing_activation\n    billing_balance\n"
            "    billing_event\n    billing_grant\n    billing_grantuse\n"
            "    billing_planterms\n    billing_transaction\n"
            "    django_migrations\n" in said
        )
        assert f"{role}: SELECT, INSERT on table\n    django_admin_log\n" in said
        assert f"{role}: EXECUTE on function\n" in said
    execute("SET ROLE panel_tried")


def test_it_takes_back_what_was_granted_before(as_panel: None) -> None:
    execute("RESET ROLE")
    execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO panel_tried")
    execute("GRANT UPDATE (real) ON billing_balance TO panel_tried")
    execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO PUBLIC")
    grant_roles("panel_tried")
    execute("SET ROLE panel_tried")
    for attack in ("insert", "balance", "history removed", "own function", "function of a trigger"):
        with pytest.raises(DatabaseError, match="permission denied"), transaction.atomic():
            execute(ATTACKS[attack])


REFUSED = {
    "unknown": ("", "nobody", "There is no role nobody"),
    "superuser": ("CREATE ROLE mighty SUPERUSER", "mighty", "makes roles"),
    "makes roles": ("CREATE ROLE mighty CREATEROLE", "mighty", "makes roles"),
    "member of the owner": (
        "CREATE ROLE mighty; "
        "DO $$ BEGIN EXECUTE format('GRANT %I TO mighty', current_user); END $$",
        "mighty",
        "owns the tables",
    ),
    "rights of all": (
        "CREATE ROLE plain; GRANT UPDATE ON billing_balance TO PUBLIC",
        "plain",
        "plain has UPDATE on billing_balance by another way",
    ),
    "rights of a group": (
        "CREATE ROLE plain; GRANT pg_write_all_data TO plain",
        "plain",
        "DELETE on billing_balance, INSERT on billing_balance",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_role_that_could_write_the_ledger_anyway_is_refused(as_panel: None, case: str) -> None:
    execute("RESET ROLE")
    sql, role, sentence = REFUSED[case]
    if sql:
        execute(sql)
    with pytest.raises(CommandError, match="Nothing was granted") as refused:
        grant_roles(role)
    assert sentence in str(refused.value)
    if role != "nobody":
        assert execute("SELECT has_function_privilege(%s, %s, 'EXECUTE')", [role, POST]) == [
            (case in ("superuser", "member of the owner"),)
        ]
    execute("SET ROLE panel_tried")


POST = "billing_post(jsonb, bigint, text, boolean)"


def test_only_the_owner_grants(as_panel: None) -> None:
    with pytest.raises(CommandError, match="The role panel_tried does not own the tables"):
        grant_roles("panel_tried")


def test_who_could_post_before_the_functions_were_closed_still_can(as_panel: None) -> None:
    """An upgrade does not break a role that was made as docs/ledger.md once described."""
    execute("RESET ROLE")
    execute("CREATE ROLE earlier")
    execute("GRANT SELECT, INSERT ON billing_transaction TO earlier")
    # Functions of that time, which have other arguments now.
    execute(
        "CREATE FUNCTION billing_digest(billing_transaction, bytea) RETURNS bytea "
        "LANGUAGE sql AS 'SELECT $2'; CREATE FUNCTION billing_type_allows(varchar, varchar, "
        "varchar, numeric, numeric, numeric, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true'"
    )
    execute((ROOT / "billing" / "migrations" / "sql" / "0019_owners_rights.sql").read_text())
    assert execute("SELECT has_function_privilege('earlier', %s, 'EXECUTE')", [POST]) == [(True,)]
    execute("SET ROLE panel_tried")
