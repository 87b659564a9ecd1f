"""Programs change balances: once for each key, one at a time or in batches, and concurrently."""

import json
from collections import Counter
from typing import Any

import pytest
from django.core.management import call_command
from django.http import HttpResponse
from django.test import Client

from billing import ledger
from billing.models import Channel, Transaction
from tests.api.rest.programs import BASE, Program, assert_problem, program_of_administrator
from tests.conftest import Connections, Outcome
from tests.factories import OperatorFactory, UserFactory, user_with
from users.models import User

REPLAYED = "Idempotency-Replayed"
MISSING = 2**63 - 1  # the ID of no user


def refill(amount: str = "5", **fields: Any) -> dict[str, Any]:
    return {"description": "Bank transfer 4711", "amount": amount} | fields


def change(program: Program, user: User | int, body: Any = None, **options: Any) -> HttpResponse:
    user_id = user if isinstance(user, int) else user.pk
    body = refill() if body is None else body
    return program.post(f"/users/{user_id}/balance-changes", body, **options)


def batch(program: Program, *entries: dict[str, Any], **fields: Any) -> HttpResponse:
    return program.post("/balance-changes", {"entries": entries} | fields)


def entry(user: User | int, amount: str = "5", **fields: Any) -> dict[str, Any]:
    return refill(amount, user_id=user if isinstance(user, int) else user.pk, **fields)


# --- One change ---------------------------------------------------------------------------------


def test_a_change_answers_its_transaction(program: Program) -> None:
    user = user_with(real="10", bonus="2")
    body = refill("-2.5", bonus_amount="0.0001", metadata={"order": 17})
    response = change(program, user, body, key="order 17", X_Request_Id="order-4711")
    told = response.json()
    row = Transaction.objects.get(user=user, number=2)
    assert response.status_code == 201
    assert REPLAYED not in response
    assert response["Location"] == f"{BASE}/users/{user.pk}/transactions/2"
    assert told == {
        "id": row.pk,
        "user_id": user.pk,
        "number": 2,
        "type": "payment",
        "subtype": "partner",
        "description": "Bank transfer 4711",
        "device": "",
        "amount": "-2.5000",
        "old_balance": "10.0000",
        "new_balance": "7.5000",
        "bonus_amount": "0.0001",
        "old_bonus": "2.0000",
        "new_bonus": "2.0001",
        "created_at": row.created_at.isoformat().replace("+00:00", "Z"),
        "actor_id": program.owner.pk,
        "channel": "api",
        "idempotency_key": "order 17",
        "reverses": None,
        "metadata": {"order": 17, "request_id": "order-4711"},
        "digest": bytes(row.digest).hex(),
        "payment_date": None,
        "bonus_expires_at": None,
        "reason": None,
        "batch": None,
    }
    call_command("verify_ledger", verbosity=0)


@pytest.mark.parametrize(
    ("body", "status", "code", "figures"),
    [
        (
            refill("-10.0001"),
            402,
            "insufficient_funds",
            {"balance": "real", "needed": "10.0001", "available": "10.0000"},
        ),
        (
            {"description": "Gift taken back", "bonus_amount": "-3"},
            402,
            "insufficient_funds",
            {"balance": "bonus", "needed": "3.0000", "available": "2.0000"},
        ),
        (refill("0"), 422, "nothing_to_change", {}),
        (refill("-0.0000"), 422, "nothing_to_change", {}),
        ({"description": "Nothing said"}, 422, "nothing_to_change", {}),
        (refill(description="Four"), 422, "invalid_description", {}),
        (refill(description="x" * 201), 422, "invalid_description", {}),
        (refill(description="    a    "), 422, "invalid_description", {}),
        (refill(description="Line\nbreak"), 422, "invalid_entry", {"field": "description"}),
        (refill(metadata={"request_id": 1}), 422, "invalid_entry", {"field": "metadata"}),
        (
            refill(expected_number=0),
            409,
            "balance_moved",
            {"number": 1, "expected_number": 0},
        ),
        (
            refill("999999999999999"),
            422,
            "balance_out_of_range",
            {"balance": "real"},
        ),
        *[
            (
                {"description": "An amount", field: value},
                422,
                "invalid_amount",
                {"field": field, "reason": reason, "value": value},
            )
            for field in ("amount", "bonus_amount")
            for value, reason in {
                "": "not_a_number",
                "five": "not_a_number",
                "NaN": "not_a_number",
                "Infinity": "not_a_number",
                "1_000": "not_a_number",
                "1,5": "not_a_number",
                " 5": "not_a_number",
                "٥": "not_a_number",
                "--5": "not_a_number",
                "0x10": "not_a_number",
                "5\0": "not_a_number",
                "0.00001": "too_many_decimals",
                "1000000000000000": "out_of_range",
                "-1000000000000000": "out_of_range",
            }.items()
        ],
    ],
)
def test_a_refusal_has_its_status_its_code_and_its_figures(
    program: Program, body: dict[str, Any], status: int, code: str, figures: dict[str, Any]
) -> None:
    user = user_with(real="10", bonus="2")
    problem = assert_problem(change(program, user, body), status, code, **figures)
    assert "entry" not in problem
    assert ledger.balance(user) == (10, 2, 1)


@pytest.mark.parametrize("amount", ["5.00000", "1e400000", "1e1", "5e-5", "9" * 40])
def test_amounts_in_other_writings_are_refused_or_exact(program: Program, amount: str) -> None:
    user = UserFactory()
    response = change(program, user, refill(amount))
    assert response.status_code in (201, 422)
    if response.status_code == 201:
        assert ledger.balance(user).real == float(amount)
    else:
        assert_problem(response, 422, "invalid_amount")


def test_money_of_operators_is_not_to_be_found(program: Program) -> None:
    for user_id in (OperatorFactory().pk, program.owner.pk, MISSING):
        assert_problem(change(program, user_id), 404, "unknown_user", user_id=user_id)
    assert not Transaction.objects.exists()


def test_a_deactivated_users_balance_can_be_corrected(program: Program) -> None:
    assert change(program, UserFactory(is_active=False)).status_code == 201


# --- Once for each key --------------------------------------------------------------------------


def test_a_repeated_call_answers_the_same_byte_for_byte(program: Program, user: User) -> None:
    body = refill(metadata={"z": 1, "a": [0.1, 1e23, "é"], "deep": {"b": None}})
    first = change(program, user, body, key="17")
    for _ in range(2):
        again = change(program, user, body, key="17")
        assert (again.status_code, again[REPLAYED]) == (200, "true")
        assert again.content == first.content
        assert again["Location"] == first["Location"]
        assert again["X-Request-Id"] != first["X-Request-Id"]
    assert ledger.balance(user) == (5, 0, 1)


def test_a_repeated_call_answers_the_same_whatever_came_in_between(
    program: Program, user: User
) -> None:
    first = change(program, user, key="17")
    change(program, user, refill("-5"))
    again = change(program, user, key="17")
    assert (again.status_code, again.content) == (200, first.content)
    assert ledger.balance(user) == (0, 0, 2)


def test_another_request_and_another_program_repeat_it_too(program: Program, user: User) -> None:
    """A key stands for the same content whichever program or request sends it."""
    first = change(program, user, key="17", X_Request_Id="request-1")
    other = program_of_administrator()
    again = change(other, user, key="17", X_Request_Id="request-2")
    assert (again.status_code, again.content) == (200, first.content)
    assert again["X-Request-Id"] == "request-2"
    assert again.json()["metadata"] == {"request_id": "request-1"}


@pytest.mark.parametrize(
    "other",
    [
        {"amount": "5.0001"},
        {"amount": "-5"},
        {"bonus_amount": "1"},
        {"description": "Bank transfer 4712"},
        {"metadata": {"order": 18}},
        {"metadata": {}},
    ],
)
def test_a_key_stands_for_one_content(program: Program, user: User, other: dict[str, Any]) -> None:
    body = refill(metadata={"order": 17})
    change(program, user, body, key="17")
    response = change(program, user, body | other, key="17")
    assert_problem(response, 409, "idempotency_conflict", number=1)
    assert ledger.balance(user) == (5, 0, 1)


@pytest.mark.parametrize(
    "same", [{"amount": "5.0000"}, {"amount": "+5"}, {"bonus_amount": "0"}, {"bonus_amount": "-0"}]
)
def test_the_same_content_in_another_writing_is_the_same(
    program: Program, user: User, same: dict[str, Any]
) -> None:
    first = change(program, user, key="17")
    again = change(program, user, refill() | same, key="17")
    assert (again.status_code, again.content) == (200, first.content)


def test_a_key_is_a_users_own(program: Program) -> None:
    one, other = UserFactory(), UserFactory()
    assert change(program, one, key="17").status_code == 201
    assert change(program, other, key="17").status_code == 201


def test_a_refused_call_leaves_its_key_free(program: Program, user: User) -> None:
    assert_problem(change(program, user, refill("-5"), key="17"), 402, "insufficient_funds")
    assert change(program, user, refill("5"), key="17").status_code == 201


def test_without_a_key_each_call_is_another(program: Program, user: User) -> None:
    assert [change(program, user).status_code for _ in range(3)] == [201] * 3
    assert ledger.balance(user) == (15, 0, 3)


def test_a_replay_goes_before_what_the_caller_expected(program: Program, user: User) -> None:
    """A caller that got no answer repeats exactly the same call."""
    body = refill(expected_number=0)
    first = change(program, user, body, key="17")
    again = change(program, user, body, key="17")
    assert (first.status_code, again.status_code) == (201, 200)


def test_a_change_is_made_only_on_what_the_caller_saw(program: Program, user: User) -> None:
    assert change(program, user, refill(expected_number=0)).status_code == 201
    late = change(program, user, refill(expected_number=0))
    assert_problem(late, 409, "balance_moved", number=1, expected_number=0)
    early = change(program, user, refill(expected_number=2))
    assert_problem(early, 409, "balance_moved", number=1, expected_number=2)
    assert change(program, user, refill(expected_number=1)).status_code == 201


# --- Batches ------------------------------------------------------------------------------------


def test_each_users_changes_of_a_batch_are_posted_in_their_order(program: Program) -> None:
    one, other = user_with(real=1), UserFactory()
    response = batch(
        program, entry(other, "5"), entry(one, "-1"), entry(other, "-5"), entry(one, "2")
    )
    assert response.status_code == 200
    results = response.json()["results"]
    assert [result["outcome"] for result in results] == ["posted"] * 4
    assert [result["problem"] for result in results] == [None] * 4
    told = [(r["transaction"]["user_id"], r["transaction"]["number"]) for r in results]
    assert told == [(other.pk, 1), (one.pk, 2), (other.pk, 2), (one.pk, 3)]
    assert ledger.balance(one) == (2, 0, 3)
    assert {r["transaction"]["metadata"]["request_id"] for r in results} == {
        response["X-Request-Id"]
    }


@pytest.mark.parametrize("place", [1, 2, 3])
@pytest.mark.parametrize(
    ("bad", "status", "code"),
    [
        ({"amount": "-1"}, 402, "insufficient_funds"),
        ({"amount": "0"}, 422, "nothing_to_change"),
        ({"amount": "five"}, 422, "invalid_amount"),
        ({"description": "Four"}, 422, "invalid_description"),
        ({"description": "Line\nbreak"}, 422, "invalid_entry"),
        ({"idempotency_key": "registration"}, 422, "invalid_entry"),
        ({"expected_number": 7}, 409, "balance_moved"),
        ({"user_id": MISSING}, 404, "unknown_user"),
    ],
)
def test_a_batch_is_posted_whole_or_not_at_all(
    program: Program, place: int, bad: dict[str, Any], status: int, code: str
) -> None:
    users = [UserFactory() for _ in range(3)]
    entries = [entry(user) for user in users]
    entries[place - 1] |= bad
    response = batch(program, *entries)
    assert_problem(response, status, code, entry=place)
    assert not Transaction.objects.exists()
    skipping = batch(program, *entries, skip_refused=True)
    assert skipping.status_code == 200
    results = skipping.json()["results"]
    assert [r["outcome"] for r in results] == [
        "refused" if at == place else "posted" for at in (1, 2, 3)
    ]
    refused = results[place - 1]
    assert refused["transaction"] is None
    assert (refused["problem"]["code"], refused["problem"]["status"]) == (code, status)
    assert refused["problem"]["entry"] == place
    assert Transaction.objects.count() == 2


def test_of_many_refusals_one_is_told_or_each_at_its_place(program: Program) -> None:
    """Entries are refused by the API, by the ledger's Python code, or by the database."""
    user = UserFactory()
    entries = [
        entry(user, "5"),
        entry(user, "-6"),  # by the database
        entry(MISSING),  # by the API
        entry(user, "five"),  # by the ledger
        entry(user, "-5"),
        entry(user, "-1"),  # by the database
        entry(OperatorFactory()),  # by the API
        entry(user, "1"),
    ]
    results = batch(program, *entries, skip_refused=True).json()["results"]
    codes = [r["problem"] and (r["problem"]["entry"], r["problem"]["code"]) for r in results]
    assert codes == [
        None,
        (2, "insufficient_funds"),
        (3, "unknown_user"),
        (4, "invalid_amount"),
        None,
        (6, "insufficient_funds"),
        (7, "unknown_user"),
        None,
    ]
    assert ledger.balance(user) == (1, 0, 3)
    whole = batch(program, *entries)
    assert whole.json()["entry"] in (2, 3, 4)
    assert ledger.balance(user) == (1, 0, 3)


def test_of_several_users_refusals_that_of_the_lowest_id_is_told(program: Program) -> None:
    """The ledger posts by ascending user ID, so that batches do not deadlock."""
    low, high = sorted((UserFactory().pk, UserFactory().pk))
    refused = batch(program, entry(high, "-1"), entry(low, "-1"), entry(low, "-2"))
    assert_problem(refused, 402, "insufficient_funds", entry=2)


def test_a_batch_of_refusals_alone_posts_nothing(program: Program) -> None:
    response = batch(program, entry(MISSING), entry(MISSING), skip_refused=True)
    assert [r["outcome"] for r in response.json()["results"]] == ["refused"] * 2
    assert not Transaction.objects.exists()


@pytest.mark.parametrize("count", [1, 1000])
def test_a_batch_may_have_up_to_a_thousand_entries(program: Program, count: int) -> None:
    users = [UserFactory() for _ in range(3)]
    entries = [entry(users[i % 3], "1", idempotency_key=f"{i}") for i in range(count)]
    first = batch(program, *entries)
    assert Counter(r["outcome"] for r in first.json()["results"]) == {"posted": count}
    again = batch(program, *entries)
    assert Counter(r["outcome"] for r in again.json()["results"]) == {"replayed": count}
    told = [[r["transaction"] for r in answer.json()["results"]] for answer in (first, again)]
    assert told[0] == told[1]
    assert Transaction.objects.count() == count


@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_of_none_or_too_many_is_not_valid(program: Program, user: User, count: int) -> None:
    problem = assert_problem(batch(program, *[entry(user)] * count), 422, "invalid_request")
    assert [error["field"] for error in problem["errors"]] == ["entries"]
    assert not Transaction.objects.exists()


def test_one_key_twice_in_a_batch_is_posted_once(program: Program, user: User) -> None:
    same = entry(user, idempotency_key="17")
    results = batch(program, same, same).json()["results"]
    assert [r["outcome"] for r in results] == ["posted", "replayed"]
    assert results[0]["transaction"] == results[1]["transaction"]
    assert ledger.balance(user) == (5, 0, 1)


def test_one_key_twice_in_a_batch_with_other_content_is_refused(
    program: Program, user: User
) -> None:
    entries = [entry(user, "5", idempotency_key="17"), entry(user, "6", idempotency_key="17")]
    assert_problem(batch(program, *entries), 409, "idempotency_conflict", entry=2)
    assert not Transaction.objects.exists()
    results = batch(program, *entries, skip_refused=True).json()["results"]
    assert [r["outcome"] for r in results] == ["posted", "refused"]
    assert results[1]["problem"]["code"] == "idempotency_conflict"


def test_a_key_is_the_same_in_a_batch_and_alone(program: Program, user: User) -> None:
    change(program, user, key="17")
    [result] = batch(program, entry(user, idempotency_key="17")).json()["results"]
    assert result["outcome"] == "replayed"


def test_the_header_is_a_key_of_the_whole_batch(program: Program, user: User) -> None:
    """Entries can have their own keys as well, or no key."""
    body = {"entries": [entry(user)]}
    first = program.post("/balance-changes", body, key="17")
    again = program.post("/balance-changes", body, key="17")
    assert (first.status_code, again.status_code) == (200, 200)
    assert "Idempotency-Replayed" not in first
    assert again["Idempotency-Replayed"] == "true"
    assert again.content == first.content
    row = Transaction.objects.get()
    assert row.idempotency_key is None


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"user_id": "1"}, "entries.1.user_id"),
        ({"user_id": 0}, "entries.1.user_id"),
        ({"user_id": 1.0}, "entries.1.user_id"),
        ({"user_id": True}, "entries.1.user_id"),
        ({"user_id": 2**63}, "entries.1.user_id"),
        ({"amount": 5}, "entries.1.amount"),
        ({"idempotency_key": ""}, "entries.1.idempotency_key"),
        ({"idempotency_key": "x" * 101}, "entries.1.idempotency_key"),
        ({"subtype": "import"}, "entries.1.subtype"),
        ({"channel": "panel"}, "entries.1.channel"),
        ({"actor": 1}, "entries.1.actor"),
    ],
)
def test_a_mistake_in_a_batch_is_told_with_its_place(
    program: Program, user: User, bad: dict[str, Any], field: str
) -> None:
    for skip_refused in (False, True):
        response = batch(program, entry(user), entry(user) | bad, skip_refused=skip_refused)
        problem = assert_problem(response, 422, "invalid_request")
        assert [error["field"] for error in problem["errors"]] == [field]
    assert not Transaction.objects.exists()


# --- At the same moment -------------------------------------------------------------------------


def statuses(outcomes: list[Outcome]) -> Counter[int]:
    for outcome in outcomes:
        if outcome.error:
            raise outcome.error
    return Counter(outcome.result.status_code for outcome in outcomes)


def alone(program: Program) -> Program:
    """Returns a program with the same API key and its own client."""
    other = object.__new__(Program)
    other.__dict__ |= program.__dict__ | {"client": Client()}
    return other


def test_one_key_from_everywhere_at_once_posts_once(connections: Connections) -> None:
    program, user = program_of_administrator(), UserFactory()
    outcomes = connections(12, lambda place: change(alone(program), user, key="17"))
    assert statuses(outcomes) == {201: 1, 200: 11}
    assert len({outcome.result.content for outcome in outcomes}) == 1
    assert ledger.balance(user) == (5, 0, 1)
    call_command("verify_ledger", verbosity=0)


def test_one_key_with_different_contents_at_once_posts_one_of_them(
    connections: Connections,
) -> None:
    program, user = program_of_administrator(), UserFactory()
    outcomes = connections(
        12, lambda place: change(alone(program), user, refill(f"{place + 1}"), key="17")
    )
    assert statuses(outcomes) == {201: 1, 409: 11}
    assert ledger.balance(user).number == 1


def test_no_more_is_taken_at_once_than_there_is(connections: Connections) -> None:
    program, user = program_of_administrator(), user_with(real="25")
    outcomes = connections(12, lambda place: change(alone(program), user, refill("-5")))
    assert statuses(outcomes) == {201: 5, 402: 7}
    assert ledger.balance(user) == (0, 0, 6)
    call_command("verify_ledger", verbosity=0)


def test_of_all_who_saw_the_same_state_one_changes_it(connections: Connections) -> None:
    program, user = program_of_administrator(), UserFactory()
    outcomes = connections(
        12, lambda place: change(alone(program), user, refill(expected_number=0))
    )
    assert statuses(outcomes) == {201: 1, 409: 11}


def test_batches_in_opposite_orders_do_not_hold_each_other_up(connections: Connections) -> None:
    program = program_of_administrator()
    users = [UserFactory() for _ in range(6)]

    def post(place: int) -> HttpResponse:
        return batch(alone(program), *map(entry, users if place % 2 else users[::-1]))

    assert statuses(connections(12, post)) == {200: 12}
    assert {ledger.balance(user) for user in users} == {(60, 0, 12)}
    call_command("verify_ledger", verbosity=0)


def test_the_channel_of_what_programs_do_is_the_api(program: Program, user: User) -> None:
    change(program, user)
    batch(program, entry(user))
    assert set(Transaction.objects.values_list("channel", "actor")) == {
        (Channel.API, program.owner.pk)
    }


def test_the_answer_is_json_as_the_description_says(program: Program, user: User) -> None:
    response = change(program, user)
    assert response["Content-Type"].startswith("application/json")
    assert json.loads(response.content) == response.json()
