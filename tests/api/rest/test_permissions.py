"""Who may make which call: one table for both faces of the Billing API.

CALLERS lists the callers, each with the answer that it gets from either face. Every caller makes
every call. If the lists of calls lack one, a test fails.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from django.db import connection
from django.utils import timezone

from billing import authority
from billing.api.panel.dispatch import ACTIONS
from tests.api.panel import calls as panel_calls
from tests.api.panel.calls import PanelCall
from tests.api.panel.client import Program as PanelProgram
from tests.api.rest import calls as rest_calls
from tests.api.rest.calls import RestCall
from tests.api.rest.programs import Program, assert_problem
from tests.factories import AdministratorFactory, PlanFactory, user_with
from tests.operators import operator_with
from users.models import User

# The HTTP status and the code of a refusal; None if the call succeeds.
ResponseModel = tuple[int, Any] | None


class Caller(NamedTuple):
    """`owner` creates the operator; it is given the permission that the call needs."""

    owner: Callable[[str | None], User]
    rest: ResponseModel
    panel: ResponseModel
    key: Callable[[], dict[str, Any]] = dict
    then: str = ""  # how the caller loses access before the call


ALL_PERMISSIONS = frozenset(
    {call.permission for call in rest_calls.CALLS}
    | {call.permission for call in panel_calls.CALLS if call.permission}
)


def with_just(permission: str | None) -> User:
    return operator_with(*filter(None, [permission]))


def with_all_others(permission: str | None) -> User:
    return operator_with(*(ALL_PERMISSIONS - {permission}))


def superuser(permission: str | None) -> User:
    return AdministratorFactory()


NOBODY = (401, "unauthenticated")
SESSION_ENDED = (400, 4)

CALLERS = {
    "nobody": Caller(superuser, NOBODY, (400, 3), then="forget"),
    "who lacks the permission": Caller(with_all_others, (403, "forbidden"), (403, 13)),
    "who has just the permission": Caller(with_just, None, None),
    "a superuser": Caller(superuser, None, None),
    "a deactivated owner": Caller(superuser, NOBODY, SESSION_ENDED, then="is_active"),
    "an operator no more": Caller(superuser, NOBODY, SESSION_ENDED, then="is_staff"),
    "an expired key": Caller(
        superuser, NOBODY, SESSION_ENDED, lambda: {"expires_at": timezone.now()}, then="expire"
    ),
    "a revoked key": Caller(superuser, NOBODY, SESSION_ENDED, then="revoke"),
}


@pytest.fixture(params=CALLERS.values(), ids=[name.replace(" ", "-") for name in CALLERS])
def caller(request: pytest.FixtureRequest) -> Caller:
    return request.param


def happen(then: str, owner: User) -> None:
    if then in ("is_active", "is_staff"):
        User.objects.filter(pk=owner.pk).update(**{then: False})


def state() -> list[Any]:
    """Returns a digest of each table that a call could change, except those of keys and limits."""
    seen = []
    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)
        for table in sorted(set(tables) - {"billing_apikey", "billing_apiallowance"}):
            if table.startswith(("billing_", "users_", "django_admin_log", "procrastinate_jobs")):
                cursor.execute(
                    f"SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} t"
                )
                seen.append((table, cursor.fetchone()))
    return seen


# --- /api/v1/ -----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", rest_calls.CALLS, ids=str)
def test_who_may_make_which_call_of_the_rest_api(db: None, call: RestCall, caller: Caller) -> None:
    world = rest_calls.make_world()
    owner = caller.owner(call.permission)
    program = Program(owner, **caller.key())
    happen(caller.then, owner)
    if caller.then == "revoke":
        authority.revoke_key(program.key, by=owner, now=timezone.now())
    credentials = {"Authorization": None} if caller.then == "forget" else {}
    before = state()
    response = program.call(call.method, call.path_in(world), call.body(world), **credentials)
    if caller.rest is None:
        assert response.status_code == call.status, response.content
        assert (state() != before) == call.writes
        return
    problem = assert_problem(response, *caller.rest)
    if problem["code"] == "forbidden":
        assert problem["permission"] == call.permission
    assert state() == before


@pytest.mark.parametrize("call", rest_calls.CALLS, ids=str)
def test_a_key_that_may_only_read_makes_no_call_that_writes(db: None, call: RestCall) -> None:
    world = rest_calls.make_world()
    program = Program(AdministratorFactory(), is_read_only=True)
    before = state()
    response = program.call(call.method, call.path_in(world), call.body(world))
    if call.writes:
        assert_problem(response, 403, "read_only_key")
    else:
        assert response.status_code == call.status, response.content
    assert state() == before


def test_every_call_of_the_rest_api_is_in_the_table() -> None:
    assert sorted(name for name, _ in rest_calls.operations()) == sorted(map(str, rest_calls.CALLS))


def test_every_call_of_the_rest_api_asks_for_a_key() -> None:
    for name, operation in rest_calls.operations():
        assert operation.auth_callbacks, f"{name} is open to everybody"


# --- /v2/panel/ ---------------------------------------------------------------------------------


@pytest.mark.parametrize("call", panel_calls.CALLS, ids=str)
def test_who_may_make_which_call_of_the_panel_api(
    db: None, call: PanelCall, caller: Caller
) -> None:
    world = panel_calls.World(user_with(real="100"), PlanFactory())
    given = call.parameters(world)
    owner = caller.owner(call.permission)
    program = PanelProgram(owner)
    happen(caller.then, owner)
    match caller.then:
        case "forget":
            program.hash = ""
        case "expire":
            program.hash = authority.open_session(owner, timezone.now() - authority.SESSION_LASTS)
        case "revoke":
            assert program("account/logout").status == 200
    before = state()
    answer = program(call.path, **given)
    told = caller.panel
    if call.permission is None and told == (403, 13):
        told = None  # any operator may make it
    if told is None:
        assert answer.status == 200, answer.content
        return
    assert (answer.status, answer.code) == told
    assert state() == before


def test_every_call_of_the_panel_api_is_in_the_table() -> None:
    def names() -> Iterator[str]:
        for handler, action in ACTIONS:
            yield f"{handler}/{action}"

    assert sorted(names()) == sorted(map(str, panel_calls.CALLS))


def test_the_two_faces_ask_for_the_same_permission_for_the_same_thing() -> None:
    rest = {str(call): call.permission for call in rest_calls.CALLS}
    panel = {str(call): call.permission for call in panel_calls.CALLS}
    for one, other in {
        "GET /users": "user/list",
        "GET /users/{user_id}": "user/read",
        "POST /users": "user/create",
        "PATCH /users/{user_id}": "user/update",
        "POST /users/{user_id}/balance-changes": "user/transaction/change_balance",
    }.items():
        assert rest[one] == panel[other]


# --- Permissions other than the one that a call needs -------------------------------------------


def test_balances_show_only_to_who_may_see_them(db: None) -> None:
    user = user_with(real="5")
    blind = Program(operator_with("users.view_user"))
    seeing = Program(operator_with("users.view_user", "billing.view_balance"))
    assert blind.get(f"/users/{user.pk}").json()["balance"] is None
    assert [u["balance"] for u in blind.get("/users").json()["users"]] == [None]
    balance = {"real": "5.0000", "bonus": "0.0000", "number": 1}
    assert seeing.get(f"/users/{user.pk}").json()["balance"] == balance
    assert [u["balance"] for u in seeing.get("/users").json()["users"]] == [balance]


def test_a_permission_that_is_taken_away_is_missed_at_once(db: None) -> None:
    owner = operator_with("users.view_user")
    program = Program(owner)
    assert program.get("/users").status_code == 200
    owner.user_permissions.clear()
    assert_problem(program.get("/users"), 403, "forbidden", permission="users.view_user")


def test_what_a_key_does_its_owner_did(db: None) -> None:
    user = user_with()
    owner = operator_with("billing.change_balance", "users.change_user")
    program = Program(owner)
    response = program.post(f"/users/{user.pk}/balance-changes", rest_calls.REFILL)
    assert (response.json()["actor_id"], response.json()["channel"]) == (owner.pk, "api")


def test_an_expired_session_was_one_until_its_last_moment(db: None) -> None:
    """This shows that the caller "an expired key" above is refused only because of the expiry."""
    owner = AdministratorFactory()
    program = PanelProgram(owner)
    almost = timezone.now() - authority.SESSION_LASTS + timedelta(minutes=1)
    program.hash = authority.open_session(owner, almost)
    assert program("user/list").status == 200
