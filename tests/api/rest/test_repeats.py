"""`Idempotency-Key`: a call that writes does its work once, and repeats get the first answer."""

import json
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from billing import answers, ledger
from billing.api import repeats
from billing.api.keys import RequiresPermission
from billing.api.rest import api
from billing.models import KeptAnswer, Subscription, Transaction, UserDefaults
from tests.api.rest.calls import CALLS, REFILL, RestCall, make_world, operations
from tests.api.rest.programs import Program, assert_problem, program_of_administrator, program_with
from tests.conftest import Connections
from tests.factories import user_with
from users.models import User

ADA = {"email": "ada@example.net", "first_name": "Ada"}
WRITING = [call for call in CALLS if call.writes]
KEPT = [name for name, operation in operations() if not operation.auth_callbacks[0].posting]


@pytest.mark.parametrize("call", WRITING, ids=str)
def test_every_call_that_writes_does_its_work_once_by_its_key(
    program: Program, call: RestCall
) -> None:
    world = make_world()
    path, body = call.path_in(world), call.body(world)
    first = program.call(call.method, path, body, key="k 17")
    assert first.status_code == call.status, first.content
    assert "Idempotency-Replayed" not in first
    posted, users = Transaction.objects.count(), User.objects.count()
    again = program.call(call.method, path, body, key="k 17")
    assert (again.status_code, again["Idempotency-Replayed"]) == (200, "true")
    assert again.content == first.content
    assert again.get("Location") == first.get("Location")
    assert again.get("ETag") == first.get("ETag")
    assert (Transaction.objects.count(), User.objects.count()) == (posted, users)


def test_the_keys_header_is_described_for_every_call_that_writes() -> None:
    description = api.get_openapi_schema()
    for name, operation in operations():
        [needs] = operation.auth_callbacks
        assert isinstance(needs, RequiresPermission)
        method, path = name.split(" ")
        call = description["paths"][f"/api/v1{path}"][method.lower()]
        headers = [each for each in call["parameters"] if each["name"] == "Idempotency-Key"]
        assert len(headers) == needs.writes, name


@pytest.mark.parametrize("body", [ADA | {"first_name": "Grace"}, ADA | {"city": ""}, {}, b"{"])
def test_other_content_by_the_same_key_is_a_conflict(program: Program, body: Any) -> None:
    program.post("/users", ADA, key="17")
    response = program.post("/users", body, key="17")
    if body in ({}, b"{"):
        assert response.status_code in (400, 422)  # not a valid call
    else:
        assert "number" not in assert_problem(response, 409, "idempotency_conflict")
    assert User.objects.filter(is_staff=False).count() == 1


def test_the_same_content_may_be_written_in_another_way(program: Program) -> None:
    program.post("/users", ADA, key="17")
    otherwise = json.dumps(dict(reversed(ADA.items())), indent=4).encode()
    assert program.post("/users", otherwise, key="17")["Idempotency-Replayed"] == "true"


def test_the_first_answer_is_given_also_when_things_have_changed_since(program: Program) -> None:
    first = program.post("/users", ADA, key="17")
    program.patch(f"/users/{first.json()['id']}", {"city": "Berlin"})
    assert program.post("/users", ADA, key="17").content == first.content


def test_a_refused_call_leaves_its_key_free(program: Program, user: User) -> None:
    taken = {"email": user.email}
    assert_problem(program.post("/users", taken, key="17"), 409, "email_taken")
    assert not KeptAnswer.objects.exists()
    assert program.post("/users", ADA, key="17").status_code == 201


def test_a_key_is_of_its_address_and_of_its_owner(program: Program) -> None:
    first = program.post("/users", ADA, key="17")
    other = Program(program_with("users.add_user").owner)
    assert_problem(other.post("/users", ADA, key="17"), 409, "email_taken")
    same_owner = Program(program.owner, name="Another key")
    assert same_owner.post("/users", ADA, key="17").content == first.content
    for number in range(2):
        user = user_with()
        response = program.patch(f"/users/{user.pk}", {"city": f"Berlin {number}"}, key="17")
        assert (response.status_code, "Idempotency-Replayed" in response) == (200, False)


def test_who_may_not_make_the_call_is_not_told_its_answer(program: Program) -> None:
    program.post("/users", ADA, key="17")
    reading = Program(program.owner, is_read_only=True)
    assert_problem(reading.post("/users", ADA, key="17"), 403, "read_only_key")
    type(program.owner).objects.filter(pk=program.owner.pk).update(is_superuser=False)
    assert_problem(program.post("/users", ADA, key="17"), 403, "forbidden")


@pytest.mark.parametrize("key", ["", " ", "a" * 101, "a\tb", "a\nb", "a\n", "\x7f"])
@pytest.mark.parametrize("path", ["/users", "/balance-changes"])
def test_a_key_that_is_none_is_refused(program: Program, path: str, key: str) -> None:
    body = ADA if path == "/users" else {"entries": [REFILL | {"user_id": user_with().pk}]}
    [error] = assert_problem(program.post(path, body, key=key), 422, "invalid_request")["errors"]
    assert error["field"] == "Idempotency-Key"
    assert not User.objects.filter(email=ADA["email"]).exists()
    assert not Transaction.objects.exists()


@pytest.mark.parametrize("key", ["registration", "subscription:1:2026-11"])
def test_keys_of_the_panel_are_refused_everywhere(program: Program, key: str) -> None:
    response = program.post("/users", ADA, key=key)
    assert_problem(response, 422, "invalid_entry", field="idempotency_key")


def test_the_same_answer_when_etags_have_moved_on(program: Program, user: User) -> None:
    """A repeat carries the old ETag again, which the first call itself made outdated."""
    tag = program.get(f"/users/{user.pk}")["ETag"]
    first = program.patch(f"/users/{user.pk}", {"city": "Berlin"}, key="17", If_Match=tag)
    again = program.patch(f"/users/{user.pk}", {"city": "Berlin"}, key="17", If_Match=tag)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.content == first.content


# --- Batches ------------------------------------------------------------------------------------


def test_a_batch_is_answered_as_it_was_also_what_was_refused(program: Program) -> None:
    user = user_with(real=5)
    entries = [
        {"user_id": user.pk, "description": "More than there is", "amount": "-9"},
        {"user_id": user.pk, "description": "Bank transfer 4711", "amount": "20"},
    ]
    body = {"entries": entries, "skip_refused": True}
    first = program.post("/balance-changes", body, key="17")
    again = program.post("/balance-changes", body, key="17")
    assert [each["outcome"] for each in first.json()["results"]] == ["refused", "posted"]
    assert again.content == first.content
    assert ledger.balance(user).real == 25


def test_a_batch_that_is_refused_whole_leaves_its_key_free(program: Program) -> None:
    user = user_with()
    body = {"entries": [{"user_id": user.pk, "description": "Charge of 9", "amount": "-9"}]}
    assert_problem(
        program.post("/balance-changes", body, key="17"), 402, "insufficient_funds", entry=1
    )
    ledger.change_balance(user, amount=9, description="Refill of 9", actor=None, channel="panel")
    assert program.post("/balance-changes", body, key="17").status_code == 200
    assert ledger.balance(user).real == 0


# --- Many at once, and answers that get lost ----------------------------------------------------


def test_of_many_at_once_one_does_the_work_and_all_have_its_answer(
    connections: Connections,
) -> None:
    UserDefaults.objects.create(pk=UserDefaults.ONLY_ID, bonus=5)
    program = program_of_administrator()
    outcomes = connections(10, lambda i: program.post("/users", ADA, key="17"))
    responses = [outcome.result for outcome in outcomes]
    assert Counter(each.status_code for each in responses) == {201: 1, 200: 9}
    assert len({each.content for each in responses}) == 1
    [user] = User.objects.filter(is_staff=False)
    assert ledger.balance(user) == (0, 5, 1)


def test_of_many_batches_at_once_one_is_posted(connections: Connections) -> None:
    program, user = program_of_administrator(), user_with()
    body = {"entries": [REFILL | {"user_id": user.pk}] * 3}
    outcomes = connections(10, lambda i: program.post("/balance-changes", body, key="17"))
    assert {each.result.status_code for each in outcomes} == {200}
    assert len({each.result.content for each in outcomes}) == 1
    assert ledger.balance(user).number == 3


def test_of_many_with_other_content_one_wins(connections: Connections) -> None:
    program = program_of_administrator()
    outcomes = connections(
        8, lambda i: program.post("/users", {"email": f"user-{i}@example.net"}, key="17")
    )
    assert Counter(each.result.status_code for each in outcomes) == {201: 1, 409: 7}
    assert User.objects.filter(is_staff=False).count() == 1


def test_when_the_first_is_refused_one_that_waited_does_the_work(connections: Connections) -> None:
    """Calls with two keys cancel one subscription. A refused call does not use up its key."""
    program, world = program_of_administrator(), make_world()
    path = f"/users/{world.user.pk}/subscriptions/{world.subscription.pk}/cancel"
    outcomes = connections(8, lambda i: program.post(path, {"pay_back": True}, key=f"{i % 2}"))
    counted = Counter(each.result.status_code for each in outcomes)
    assert counted == {200: 4, 409: 4}
    assert Subscription.objects.get().status == "cancelled"
    assert Transaction.objects.filter(subtype="remainder").count() <= 1


class Killed(BaseException):
    """Stands for a signal that kills the process: no code handles it."""


def test_what_was_committed_is_answered_though_the_first_answer_never_left(
    committed_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = program_of_administrator()

    def die(*args: Any, **options: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(api, "create_response", die)
        with pytest.raises(Killed):
            program.post("/users", ADA, key="17")
    again = program.post("/users", ADA, key="17")
    assert (again.status_code, again["Idempotency-Replayed"]) == (200, "true")
    assert again.json()["email"] == ADA["email"]
    assert User.objects.filter(is_staff=False).count() == 1


def test_what_was_not_committed_is_done_by_the_repeat(
    committed_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = program_of_administrator()

    def die(*args: Any, **options: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(repeats.answers, "keep", die)
        with pytest.raises(Killed):
            program.post("/users", ADA, key="17")
    assert not User.objects.filter(is_staff=False).exists()
    assert program.post("/users", ADA, key="17").status_code == 201


# --- How long -----------------------------------------------------------------------------------


def test_answers_are_forgotten_in_time_and_batches_are_never_posted_again(
    program: Program, user: User
) -> None:
    body = {"entries": [REFILL | {"user_id": user.pk}]}
    program.post("/balance-changes", body, key="17")
    program.post("/users", ADA, key="17")
    now = timezone.now()
    answers.forget_old(now + answers.KEPT_FOR - timedelta(hours=1))
    assert KeptAnswer.objects.exclude(answer="").count() == 2
    answers.forget_old(now + answers.KEPT_FOR + timedelta(hours=1))
    [kept] = KeptAnswer.objects.all()
    assert (kept.answer, kept.call) == ("", "POST /api/v1/balance-changes")
    problem = assert_problem(
        program.post("/balance-changes", body, key="17"), 409, "idempotency_conflict"
    )
    assert "no longer stored" in problem["detail"]
    assert ledger.balance(user).number == 1
    assert_problem(program.post("/users", ADA, key="17"), 409, "email_taken")
