"""Each call reads its key, the key's owner and the owner's permissions, and counts, at once."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing import authority
from billing.models import ApiAllowance
from billing.operations.customers import customer_id
from tests.api.rest.calls import REFILL
from tests.api.rest.programs import Program, assert_problem, program_of_administrator
from tests.api.rest.programs import program_with as allowed
from tests.conftest import Connections
from tests.factories import AdministratorFactory, OperatorFactory, user_with
from tests.operators import permission
from users import database
from users.models import User

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)


def issued(owner: User, **fields: Any) -> str:
    return authority.issue_key(name="CRM", owner=owner, created_by=owner, **fields)[1]


def admitted(secret: str, now: datetime = NOW, per_minute: int = 60) -> authority.Admission | None:
    return authority.admit(secret, per_minute=per_minute, now=now)


def wait(secret: str, now: datetime = NOW, per_minute: int = 60) -> timedelta | None:
    admission = admitted(secret, now, per_minute)
    assert admission is not None
    return admission.wait


# --- Who is admitted ----------------------------------------------------------------------------


def test_a_key_comes_with_its_owner_and_no_further_question(operator: User) -> None:
    secret = issued(operator, requests_per_minute=7, is_read_only=True)
    admission = admitted(secret)
    assert admission is not None
    key = admission.key
    with CaptureQueriesContext(connection) as asked:
        assert (key.owner, key.owner_id) == (operator, operator.pk)
        assert (key.name, key.requests_per_minute, key.is_read_only) == ("CRM", 7, True)
        assert key.owner.email == operator.email
        assert not key.owner.has_perm("billing.change_balance")
        assert authority.state_of(key, NOW) == "working"
    assert not asked.captured_queries


def test_who_is_not_admitted_uses_up_nothing(operator: User) -> None:
    revoked, expired = issued(operator), issued(operator, expires_at=NOW)
    authority.revoke_key(authority.find_key(revoked, NOW), by=operator, now=NOW)  # type: ignore[arg-type]
    gone = OperatorFactory()
    of_gone = issued(gone)
    User.objects.filter(pk=gone.pk).update(is_active=False)
    for secret in (revoked, expired, of_gone, "bill_nothing", ""):
        assert admitted(secret) is None
    assert not ApiAllowance.objects.exists()


def test_finding_a_key_uses_up_nothing(operator: User) -> None:
    assert authority.find_key(issued(operator), NOW) is not None
    assert not ApiAllowance.objects.exists()


@pytest.mark.parametrize("given", ["nothing", "own", "group", "both", "everything"])
def test_its_owner_has_the_permissions_that_the_panel_finds(db: None, given: str) -> None:
    owner = AdministratorFactory() if given == "everything" else OperatorFactory()
    if given in ("own", "both"):
        owner.user_permissions.set(
            [permission("users.view_user"), permission("billing.change_balance")]
        )
    if given in ("group", "both"):
        for name in ("billing.change_balance", "billing.view_plan"):
            group = Group.objects.create(name=f"May {name}")
            group.permissions.add(permission(name))
            owner.groups.add(group)
    # Somebody else's are not the owner's.
    other = OperatorFactory()
    other.user_permissions.set([permission("billing.view_reason")])
    admission = admitted(issued(owner))
    assert admission is not None
    told = User.objects.get(pk=owner.pk)
    assert admission.key.owner.get_all_permissions() == told.get_all_permissions()
    for name in ("users.view_user", "billing.change_balance", "billing.view_reason"):
        assert admission.key.owner.has_perm(name) == told.has_perm(name)


# --- How often ----------------------------------------------------------------------------------


@pytest.mark.parametrize("per_minute", [1, 7, 11])
def test_exactly_a_minutes_worth_is_admitted_and_then_one_with_each_share(
    operator: User, per_minute: int
) -> None:
    secret = issued(operator)
    assert [wait(secret, NOW, per_minute) for _ in range(per_minute)] == [None] * per_minute
    left = wait(secret, NOW, per_minute)
    assert left is not None
    assert wait(secret, NOW + left - INSTANT, per_minute) == INSTANT
    assert wait(secret, NOW + left, per_minute) is None


def test_a_limit_of_its_own_comes_before_that_of_the_installation(operator: User) -> None:
    few, many, any_number = (issued(operator, requests_per_minute=n) for n in (1, 3, 0))
    assert [wait(few, NOW, 2) is None for _ in range(2)] == [True, False]
    assert [wait(many, NOW, 2) is None for _ in range(4)] == [True, True, True, False]
    assert [wait(any_number, NOW, 2) for _ in range(5)] == [None] * 5


def test_calls_and_the_count_by_name_are_one_count(operator: User) -> None:
    secret = issued(operator)
    key = authority.find_key(secret, NOW)
    assert key is not None
    assert wait(secret, NOW, 2) is None
    assert authority.spend(f"key:{key.pk}", per_minute=2, now=NOW) is None
    assert wait(secret, NOW, 2) == authority.spend(f"key:{key.pk}", per_minute=2, now=NOW)


def test_of_twice_as_many_at_once_exactly_a_minutes_worth_is_admitted(
    connections: Connections,
) -> None:
    secret = issued(OperatorFactory())
    outcomes = connections(20, lambda place: wait(secret, NOW, 10))
    assert [outcome.error for outcome in outcomes] == [None] * 20
    assert [outcome.result for outcome in outcomes].count(None) == 10


# --- Calls --------------------------------------------------------------------------------------


def change(program: Program, user: User) -> Any:
    return program.post(f"/users/{user.pk}/balance-changes", REFILL)


def test_what_the_owner_loses_the_next_call_has_lost(db: None) -> None:
    program, user = allowed("billing.change_balance"), user_with(real="1")
    assert change(program, user).status_code == 201
    program.owner.user_permissions.clear()
    assert_problem(change(program, user), 403, "forbidden", permission="billing.change_balance")
    program.owner.user_permissions.add(permission("billing.change_balance"))
    assert change(program, user).status_code == 201
    User.objects.filter(pk=program.owner.pk).update(is_active=False)
    assert_problem(change(program, user), 401, "unauthenticated")
    User.objects.filter(pk=program.owner.pk).update(is_active=True)
    authority.revoke_key(program.key, by=program.owner, now=timezone.now())
    assert_problem(change(program, user), 401, "unauthenticated")


@pytest.mark.parametrize("is_superuser", [True, False])
def test_a_balance_change_is_two_statements(db: None, is_superuser: bool) -> None:
    program = program_of_administrator() if is_superuser else allowed("billing.change_balance")
    user = user_with(real="1")
    change(program, user)  # notes the last use, once a minute
    with CaptureQueriesContext(connection) as asked:
        assert change(program, user).status_code == 201
    kinds = ("FROM found f", "billing_post(")
    # Within a test's own transaction, the posting has a savepoint around it.
    statements = [each["sql"] for each in asked if "SAVEPOINT" not in each["sql"]]
    assert [kind in sql for kind, sql in zip(kinds, statements, strict=True)] == [True] * 2


# --- A connection that has ended ----------------------------------------------------------------


def end_connection() -> None:
    """Ends the connection of this thread, as a restart between two requests does."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [pid] = cursor.fetchone()
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    finally:
        other.close()
    connection.health_check_done = False  # as a request begins


def test_a_call_does_not_notice_that_its_connection_has_ended(committed_db: None) -> None:
    program, user = program_of_administrator(), user_with(real="1")
    assert change(program, user).status_code == 201
    end_connection()
    assert change(program, user).status_code == 201


def test_nor_does_any_other_prepared_statement(committed_db: None) -> None:
    user = user_with(real="1")
    end_connection()
    assert customer_id(user.pk) == user.pk


def test_no_statement_tests_the_connection_of_a_call(committed_db: None) -> None:
    program, user = program_of_administrator(), user_with(real="1")
    change(program, user)
    connection.health_check_done = False
    tests_before = connection.is_usable
    tested: list[bool] = []
    connection.is_usable = lambda: tested.append(True) or tests_before()
    try:
        assert change(program, user).status_code == 201
    finally:
        del connection.is_usable
    assert not tested


def test_only_the_first_statement_of_a_request_is_repeated(committed_db: None) -> None:
    asked = ("SELECT %(one)s::integer", {"one": "1"})
    assert database.first_row(*asked) == (1,)
    end_connection()
    assert database.first_row(*asked) == (1,)
    end_connection()
    connection.health_check_done = True
    with pytest.raises(OperationalError):
        database.first_row(*asked)
    connection.close()


def test_a_statement_that_fails_by_itself_is_not_repeated(committed_db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 10")
    connection.health_check_done = False
    with CaptureQueriesContext(connection) as asked, pytest.raises(OperationalError):
        database.first_row("SELECT pg_sleep(%(seconds)s::integer)", {"seconds": "60"})
    connection.close()
    assert len(asked) == 1
