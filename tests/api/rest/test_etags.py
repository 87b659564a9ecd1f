"""ETags: if two programs change the same object, the second does not overwrite the first."""

import gzip
import json
from collections import Counter
from typing import Any

import pytest

from billing import ledger
from billing.models import Channel, Transaction
from tests.api.rest.calls import ANOTHER_PLAN, REFILL, make_world
from tests.api.rest.programs import Program, assert_problem, program_of_administrator, program_with
from tests.conftest import Connections
from users.models import User


def changes(program: Program) -> dict[str, tuple[str, tuple[str, str, Any]]]:
    """Returns, by name, an address to read and a call that changes the object there."""
    world = make_world()
    user = f"/users/{world.user.pk}"
    subscription = f"{user}/subscriptions/{world.subscription.pk}"
    plan = ANOTHER_PLAN | {"plan_id": world.other_plan.pk}
    threshold = f"{user}/low-balance-threshold"
    return {
        "user": (user, ("PATCH", user, {"city": "Berlin"})),
        "plan": (subscription, ("POST", f"{subscription}/change-plan", plan)),
        "cancellation": (subscription, ("POST", f"{subscription}/cancel", {"pay_back": True})),
        "threshold": (threshold, ("PUT", threshold, {"amount": "7"})),
        "no threshold": (threshold, ("DELETE", threshold, None)),
    }


NAMES = ("user", "plan", "cancellation", "threshold", "no threshold")


@pytest.mark.parametrize("name", NAMES)
def test_a_change_is_made_only_to_what_the_caller_knows(program: Program, name: str) -> None:
    read, call = changes(program)[name]
    before = program.get(read)
    posted = Transaction.objects.count()
    for stale in ('"0123456789abcdef"', '"a", "b"', '"a,b"', '""', '"*"'):
        assert_problem(program.call(*call, If_Match=stale), 412, "precondition_failed")
    assert_problem(program.call(*call, If_None_Match=before["ETag"]), 412, "precondition_failed")
    assert_problem(program.call(*call, If_None_Match="*"), 412, "precondition_failed")
    assert program.get(read).json() == before.json()
    assert Transaction.objects.count() == posted
    after = program.call(*call, If_Match=before["ETag"])
    assert after.status_code == 200, after.content
    assert after["ETag"] != before["ETag"]
    assert program.get(read)["ETag"] == after["ETag"]
    assert_problem(program.call(*call, If_Match=before["ETag"]), 412, "precondition_failed")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["*", " * ", '"other", {}', '{} , "other"', ",{},", "W/{}"])
def test_the_etag_may_come_in_any_form(program: Program, name: str, form: str) -> None:
    """A proxy that compresses answers makes the API's ETags weak."""
    read, call = changes(program)[name]
    header = form.format(program.get(read)["ETag"])
    assert program.call(*call, If_Match=header).status_code == 200


@pytest.mark.parametrize("header", ["", " ", ",", "abc", '"abc', "'abc'", '*, "a"', '"a" "b"', "é"])
@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
def test_what_is_no_etag_is_refused(program: Program, user: User, name: str, header: str) -> None:
    header = header.encode().decode("latin-1")
    response = program.patch(f"/users/{user.pk}", {"city": "Berlin"}, **{name: header})
    [error] = assert_problem(response, 422, "invalid_request")["errors"]
    assert error["field"] == name
    user.refresh_from_db()
    assert user.city == ""


def test_money_that_moved_is_no_reason_not_to_change_a_user(program: Program, user: User) -> None:
    path = f"/users/{user.pk}"
    before = program.get(path)["ETag"]
    ledger.change_balance(user, amount=5, description="Refill", actor=None, channel=Channel.API)
    assert program.get(path)["ETag"] != before
    assert program.get(path, If_None_Match=before).status_code == 200
    assert program.patch(path, {"city": "Berlin"}, If_Match=before).status_code == 200


def test_a_change_by_who_sees_no_balance_is_matched_alike(program: Program, user: User) -> None:
    blind = program_with("users.view_user", "users.change_user")
    path = f"/users/{user.pk}"
    seen = program.get(path)["ETag"]
    assert blind.get(path)["ETag"] != seen
    assert blind.patch(path, {"city": "Berlin"}, If_Match=seen).status_code == 200
    assert_problem(blind.patch(path, {"city": "Paris"}, If_Match=seen), 412, "precondition_failed")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/low-balance-threshold",
        "/subscriptions/{subscription}",
        "/transactions/1",
        "../../plans/{plan}",
    ],
)
def test_what_the_caller_has_is_not_sent_again(program: Program, path: str) -> None:
    world = make_world()
    path = path.format(subscription=world.subscription.pk, plan=world.other_plan.pk)
    path = path.removeprefix("../..") if "plans" in path else f"/users/{world.user.pk}{path}"
    first = program.get(path)
    tag = first["ETag"]
    assert tag[0] == tag[-1] == '"'
    for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        again = program.get(path, If_None_Match=known)
        assert (again.status_code, again.content, again["ETag"]) == (304, b"", tag)
        assert again["X-Request-Id"]
    for other in ('"x"', "nonsense", ""):
        assert program.get(path, If_None_Match=other).json() == first.json()
    head = program.call("HEAD", path, If_None_Match=tag)
    assert (head.status_code, head["ETag"]) == (304, tag)


def test_compressed_answers_have_exact_etags_too(program: Program, user: User) -> None:
    """Django would make them weak, and in HTTP a weak ETag never satisfies If-Match."""
    path = f"/users/{user.pk}"
    plain = program.get(path)["ETag"]
    response = program.get(path, Accept_Encoding="gzip")
    tag = response["ETag"]
    assert json.loads(gzip.decompress(response.content)) == program.get(path).json()
    assert (tag[0], tag != plain) == ('"', True)
    assert program.get(path, If_None_Match=tag).status_code == 304
    assert program.patch(path, {"city": "Berlin"}, If_Match=tag).status_code == 200


@pytest.mark.parametrize("path", ["/users", "/balance-changes", "/users/{}/balance-changes"])
def test_calls_without_an_etag_can_match_none(program: Program, user: User, path: str) -> None:
    path = path.format(user.pk)
    body = {
        "/users": {"email": "ada@example.net"},
        "/balance-changes": {"entries": [REFILL | {"user_id": user.pk}]},
    }.get(path, REFILL)
    assert_problem(program.post(path, body, If_Match='"a"'), 412, "precondition_failed")
    assert not Transaction.objects.exists()
    assert program.post(path, body, If_Match="*").status_code in (200, 201)


def test_a_new_user_comes_with_an_etag(program: Program) -> None:
    made = program.post("/users", {"email": "ada@example.net"})
    assert program.get(f"/users/{made.json()['id']}")["ETag"] == made["ETag"]


# --- Many at once -------------------------------------------------------------------------------


def test_of_many_changes_of_the_same_user_one_is_made(connections: Connections) -> None:
    program = program_of_administrator()
    path = f"/users/{make_world().user.pk}"
    tag = program.get(path)["ETag"]
    outcomes = connections(10, lambda i: program.patch(path, {"city": f"Berlin {i}"}, If_Match=tag))
    won = [place for place, each in enumerate(outcomes) if each.result.status_code == 200]
    assert Counter(each.result.status_code for each in outcomes) == {200: 1, 412: 9}
    assert program.get(path).json()["city"] == f"Berlin {won[0]}"


@pytest.mark.parametrize("name", ["plan", "cancellation", "threshold"])
def test_of_many_changes_of_anything_one_is_made(connections: Connections, name: str) -> None:
    program = program_of_administrator()
    read, call = changes(program)[name]
    tag = program.get(read)["ETag"]
    outcomes = connections(6, lambda i: program.call(*call, If_Match=tag))
    assert Counter(each.result.status_code for each in outcomes) == {200: 1, 412: 5}
