"""The role of docs/ledger.md that owns nothing: with what it is granted the panel works, and the
ledger's rows are out of its reach, guards or no guards.
"""

import json
import re
from collections.abc import Iterator
from datetime import date
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import DatabaseError, transaction
from django.test import Client
from django.utils import timezone

from billing import access, ledger, subscriptions, thresholds, webhooks
from billing.models import ApiSession, Transaction
from tests.billing.histories import BY_PANEL, execute, judge, user_with_history
from tests.config.processes import ROOT
from tests.factories import AdministratorFactory, PlanFactory, UserFactory
from users.models import User

PAGE = (ROOT / "docs" / "ledger.md").read_text()
PASSWORD = "a password of an operator"


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
    """From here on as the role of the page; roles are rolled back as all else is."""
    if not execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")[0][0]:
        pytest.skip("the database's role is no superuser")
    [grants] = re.findall(r"^```sql\n(GRANT .*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    judge()
    execute("CREATE ROLE panel")
    execute(grants)
    execute("SET ROLE panel")
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
    operator.set_password("another password")  # which ends the sessions
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
    _, key = access.issue_key(name="ERP", owner=operator, created_by=operator)
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
    access.forget_allowances(timezone.now())
    webhooks.delete_old(timezone.now())


def test_the_ledger_can_be_proven(as_panel: None) -> None:
    out = StringIO()
    call_command("verify_ledger", stdout=out)
    assert "7 transactions of" in out.getvalue()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE billing_transaction SET description = 'Another'",
        "DELETE FROM billing_transaction",
        "TRUNCATE billing_transaction CASCADE",
        "DELETE FROM billing_balance",
        "TRUNCATE billing_balance CASCADE",
        "ALTER TABLE billing_transaction DISABLE TRIGGER ALL",
        "ALTER TABLE billing_balance DISABLE TRIGGER ALL",
        "DROP TABLE billing_transaction CASCADE",
        "SET session_replication_role = replica",
    ],
)
def test_the_ledger_is_out_of_its_reach(as_panel: None, sql: str) -> None:
    with (
        pytest.raises(DatabaseError, match=r"permission denied|must be owner"),
        transaction.atomic(),
    ):
        execute(sql)
    assert Transaction.objects.count() == 7
