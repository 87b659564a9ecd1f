"""Programs find, read, create, change and deactivate users."""

import re
from typing import Any

import pytest
from django.db import connection

from billing import events, ledger
from billing.models import Subject, Subscription, UserDefaults
from tests.api.rest.programs import (
    Program,
    assert_problem,
    program_of_administrator,
    program_with,
)
from tests.conftest import Connections
from tests.factories import OperatorFactory, PlanFactory, UserFactory, user_with
from tests.recorded import events_of
from users.models import User

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def created(program: Program, email: str = "grace@example.com", **fields: Any) -> dict[str, Any]:
    response = program.post("/users", {"email": email} | fields)
    assert response.status_code == 201, response.content
    return response.json()


def ids(program: Program, query: str = "") -> list[int]:
    response = program.get(f"/users?{query}")
    assert response.status_code == 200, response.content
    return [user["id"] for user in response.json()["users"]]


# --- Reading ------------------------------------------------------------------------------------


def test_a_user_is_told_with_balances(program: Program) -> None:
    user = user_with(real="12.5", bonus="3", city="Berlin", comment="Pays late")
    told = program.get(f"/users/{user.pk}").json()
    assert told["id"] == user.pk
    assert (told["email"], told["city"], told["comment"]) == (user.email, "Berlin", "Pays late")
    assert told["balance"] == {"real": "12.5000", "bonus": "3.0000", "number": 1}
    assert told["is_active"] is True
    assert MOMENT.fullmatch(told["created_at"])
    assert "password" not in told


def test_operators_are_not_to_be_found(program: Program) -> None:
    operator = OperatorFactory(last_name="Unseen")
    for response in (
        program.get(f"/users/{operator.pk}"),
        program.patch(f"/users/{operator.pk}", {"last_name": "Seen"}),
        program.patch(f"/users/{operator.pk}", {"is_active": False}),
        program.get(f"/users/{program.owner.pk}"),
    ):
        assert_problem(response, 404, "unknown_user")
    assert ids(program, "search=Unseen") == []
    assert ids(program, f"search={operator.pk}") == []
    assert ids(program) == []
    operator.refresh_from_db()
    assert (operator.last_name, operator.is_active) == ("Unseen", True)


def test_a_user_that_there_is_not_is_named(program: Program) -> None:
    missing = 2**63 - 1
    for response in (program.get(f"/users/{missing}"), program.patch(f"/users/{missing}", {})):
        assert_problem(response, 404, "unknown_user", user_id=missing)


# --- Searching and paging -----------------------------------------------------------------------


def test_users_are_listed_newest_first_page_by_page(program: Program) -> None:
    users = [UserFactory().pk for _ in range(7)][::-1]
    first = program.get("/users?limit=3").json()
    second = program.get(f"/users?limit=3&cursor={first['next_cursor']}").json()
    third = program.get(f"/users?limit=3&cursor={second['next_cursor']}").json()
    pages = [[user["id"] for user in page["users"]] for page in (first, second, third)]
    assert pages == [users[:3], users[3:6], users[6:]]
    assert third["next_cursor"] is None


def test_a_last_page_that_is_full_says_it_is_the_last(program: Program) -> None:
    UserFactory.create_batch(3)
    assert program.get("/users?limit=3").json()["next_cursor"] is None


def test_a_walk_misses_nobody_and_meets_nobody_twice_while_users_are_added(
    program: Program,
) -> None:
    there = {UserFactory().pk for _ in range(7)}
    met, cursor = [], ""
    while cursor is not None:
        page = program.get(f"/users?limit=2{cursor and '&cursor=' + cursor}").json()
        met += [user["id"] for user in page["users"]]
        cursor = page["next_cursor"]
        UserFactory.create_batch(3)  # more than a page
        User.objects.filter(pk=met[-1]).update(first_name="Changed")
    assert len(met) == len(set(met))
    assert set(met) == there


def test_users_are_found_by_all_of_the_words(program: Program) -> None:
    ada = UserFactory(first_name="Ada", last_name="Lovelace", phone="+44 1234")
    grace = UserFactory(first_name="Grace", last_name="Hopper", email="grace@navy.example")
    assert ids(program, "search=lovelace") == [ada.pk]
    assert ids(program, "search=ADA%20love") == [ada.pk]
    assert ids(program, "search=navy") == [grace.pk]
    assert ids(program, "search=ada%20hopper") == []
    assert ids(program, f"search={grace.pk}%20grace") == [grace.pk]
    assert ids(program, "search=%25") == []  # no wildcard
    assert ids(program, "search=_") == []
    assert ids(program, "search=%20") == [grace.pk, ada.pk]


def test_active_and_deactivated_users_are_told_apart(program: Program) -> None:
    active, gone = UserFactory(), UserFactory(is_active=False)
    assert ids(program, "is_active=true") == [active.pk]
    assert ids(program, "is_active=false") == [gone.pk]
    assert ids(program) == [gone.pk, active.pk]


def test_a_search_is_paged_too(program: Program) -> None:
    found = [UserFactory(city="Berlin").pk for _ in range(3)][::-1]
    UserFactory.create_batch(3)
    page = program.get("/users?search=berlin&limit=2").json()
    cursor = page["next_cursor"]
    rest = program.get(f"/users?search=berlin&limit=2&cursor={cursor}").json()
    assert [user["id"] for user in page["users"] + rest["users"]] == found


@pytest.mark.parametrize("limit", [1, 50, 200])
def test_a_page_costs_the_same_number_of_queries_whatever_its_length(
    program: Program, limit: int, django_assert_num_queries: Any
) -> None:
    UserFactory.create_batch(5)
    program.get("/users")  # notes the last use
    with django_assert_num_queries(2):  # the key and its limit, the page
        program.get(f"/users?limit={limit}")


def test_a_search_that_takes_too_long_is_given_up(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "LIKE" in sql:
            return execute("SELECT pg_sleep(60)", None, many, context)
        return execute(sql, params, many, context)

    monkeypatch.setattr("billing.api.users.SEARCH_SECONDS", 0.05)
    with connection.execute_wrapper(slowly):
        assert_problem(program.get("/users?search=nobody"), 503, "too_slow")


# --- Creating -----------------------------------------------------------------------------------


def test_a_user_is_created_with_what_is_given(program: Program) -> None:
    fields = {
        "first_name": "Grace",
        "middle_name": "Brewster",
        "last_name": "Hopper",
        "phone": "+1 555",
        "legal_type": "legal_entity",
        "legal_name": "Compilers Ltd",
        "tin": "DE-123",
        "country": "USA",
        "region": "New York",
        "city": "New York",
        "street_address": "5th Ave. 1/2",
        "postal_code": "NY 10003",
        "time_zone": "America/New_York",
        "comment": "Talks of nanoseconds",
        "is_active": False,
    }
    response = program.post("/users", {"email": "grace@example.com"} | fields)
    told = response.json()
    assert response.status_code == 201
    assert {name: told[name] for name in fields} == fields
    assert told["balance"] == {"real": "0.0000", "bonus": "0.0000", "number": 0}
    assert response["Location"] == f"/api/v1/users/{told['id']}"
    assert (
        program.client.get(
            response["Location"], headers={"Authorization": f"Bearer {program.secret}"}
        ).json()
        == told
    )


def test_a_created_user_is_a_customer_who_cannot_log_in_here(program: Program) -> None:
    user = User.objects.get(pk=created(program)["id"])
    rights = (user.is_staff, user.is_superuser, user.has_usable_password())
    assert rights == (False, False, False)


@pytest.mark.parametrize("field", ["is_staff", "is_superuser", "password", "id", "created_at"])
def test_nobody_becomes_more_than_a_customer(program: Program, field: str) -> None:
    user = UserFactory()
    for response in (
        program.post("/users", {"email": "mallory@example.com", field: True}),
        program.patch(f"/users/{user.pk}", {field: True}),
    ):
        problem = assert_problem(response, 422, "invalid_request")
        assert problem["errors"] == [{"field": field, "reason": "There is no such field."}]
    assert not User.objects.filter(email="mallory@example.com").exists()


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"email": "no-address"}, "email"),
        ({"email": ""}, "email"),
        ({"email": "a@b@example.com"}, "email"),
        ({"email": "a\r\nb@example.com"}, "email"),
        ({"email": "a\x00@example.com"}, "email"),
        ({"email": "a" * 250 + "@example.com"}, "email"),
        ({"email": None}, "email"),
        ({"email": 5}, "email"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"time_zone": "../etc/passwd"}, "time_zone"),
        ({"legal_type": "robot"}, "legal_type"),
        ({"legal_type": "legal_entity"}, "legal_name"),
        ({"legal_type": "legal_entity", "legal_name": " "}, "legal_name"),
        ({"first_name": "x" * 101}, "first_name"),
        ({"first_name": None}, "first_name"),
        ({"first_name": "half \ud800"}, "first_name"),
        ({"comment": "x" * 10_001}, "comment"),
        ({"is_active": "yes"}, "is_active"),
        ({"is_active": 1}, "is_active"),
        ({"is_active": None}, "is_active"),
    ],
)
def test_what_cannot_be_a_users_is_named(
    program: Program, fields: dict[str, Any], wrong: str
) -> None:
    user = UserFactory(first_name="Ada")
    for response in (
        program.post("/users", {"email": "grace@example.com"} | fields),
        program.patch(f"/users/{user.pk}", fields),
    ):
        problem = assert_problem(response, 422, "invalid_request")
        assert [error["field"] for error in problem["errors"]] == [wrong]
    assert not User.objects.filter(email="grace@example.com").exists()
    assert User.objects.get(pk=user.pk).first_name == "Ada"


def test_a_user_needs_an_address(program: Program) -> None:
    problem = assert_problem(program.post("/users", {"first_name": "Ada"}), 422, "invalid_request")
    assert problem["errors"] == [{"field": "email", "reason": "This is missing."}]


@pytest.mark.parametrize("email", ["ada@example.com", "ADA@Example.COM"])
def test_an_address_that_another_has_is_taken_whatever_its_case(
    program: Program, email: str
) -> None:
    UserFactory(email="Ada@example.com")
    other = UserFactory()
    assert_problem(program.post("/users", {"email": email}), 409, "email_taken")
    assert_problem(program.patch(f"/users/{other.pk}", {"email": email}), 409, "email_taken")
    assert User.objects.count() == 3


def test_also_an_operators_address_is_taken(program: Program) -> None:
    response = program.post("/users", {"email": program.owner.email.upper()})
    assert_problem(response, 409, "email_taken")


def test_an_address_may_be_written_in_another_case_by_who_has_it(program: Program) -> None:
    user = UserFactory(email="ada@example.com")
    response = program.patch(f"/users/{user.pk}", {"email": "Ada@example.com"})
    assert (response.status_code, response.json()["email"]) == (200, "Ada@example.com")


def test_of_many_at_once_with_one_address_one_is_created(connections: Connections) -> None:
    program = program_of_administrator()
    outcomes = connections(
        8,
        lambda place: program.post(
            "/users", {"email": "ADA@example.com" if place % 2 else "ada@example.com"}
        ),
    )
    assert sorted(outcome.result.status_code for outcome in outcomes) == [201] + [409] * 7
    for outcome in outcomes:
        if outcome.result.status_code == 409:
            assert_problem(outcome.result, 409, "email_taken")
    assert User.objects.filter(is_staff=False).count() == 1


def test_of_many_at_once_who_want_one_address_one_gets_it(connections: Connections) -> None:
    program = program_of_administrator()
    users = [UserFactory() for _ in range(8)]
    outcomes = connections(
        8,
        lambda place: program.patch(f"/users/{users[place].pk}", {"email": "ada@example.com"}),
    )
    assert sorted(outcome.result.status_code for outcome in outcomes) == [200] + [409] * 7


def test_a_new_user_gets_what_the_defaults_give(program: Program) -> None:
    UserDefaults.objects.update_or_create(
        pk=1, defaults={"bonus": "7.5", "plan": PlanFactory(name="Basic", price="0")}
    )
    told = created(program)
    assert told["balance"] == {"real": "0.0000", "bonus": "7.5000", "number": 1}
    user = User.objects.get(pk=told["id"])
    gift = user.transactions.get()
    assert (gift.type, gift.subtype, gift.channel) == ("bonus_charge", "register", "api")
    assert gift.actor == program.owner
    assert "request_id" in gift.metadata
    assert Subscription.objects.get(user=user).plan.name == "Basic"


def test_a_user_who_is_refused_gets_nothing(program: Program) -> None:
    UserDefaults.objects.update_or_create(pk=1, defaults={"bonus": "7.5"})
    assert_problem(program.post("/users", {"email": "no"}), 422, "invalid_request")
    assert not User.objects.filter(is_staff=False).exists()


# --- Changing -----------------------------------------------------------------------------------


def test_what_is_not_given_stays_as_it_is(program: Program) -> None:
    user = user_with(real=5, city="Paris", first_name="Ada", comment="Pays late")
    before = program.get(f"/users/{user.pk}").json()
    after = program.patch(f"/users/{user.pk}", {"city": "Berlin", "comment": ""}).json()
    assert after == before | {"city": "Berlin", "comment": ""}
    assert program.get(f"/users/{user.pk}").json() == after


def test_a_user_is_deactivated_and_activated_again(program: Program) -> None:
    user = UserFactory()
    for is_active in (False, True):
        response = program.patch(f"/users/{user.pk}", {"is_active": is_active})
        assert (response.status_code, response.json()["is_active"]) == (200, is_active)
        user.refresh_from_db()
        assert user.is_active is is_active


def test_two_who_change_different_fields_at_once_both_do(connections: Connections) -> None:
    program = program_of_administrator()
    user = UserFactory()
    fields = ["city", "region", "country", "phone", "comment", "tin", "postal_code", "last_name"]
    outcomes = connections(
        len(fields), lambda place: program.patch(f"/users/{user.pk}", {fields[place]: "changed"})
    )
    assert [outcome.result.status_code for outcome in outcomes] == [200] * len(fields)
    user.refresh_from_db()
    assert [getattr(user, field) for field in fields] == ["changed"] * len(fields)


def test_changing_a_user_moves_no_money(connections: Connections) -> None:
    """Money moves while the user is saved, because saving an outdated row could undo a change."""
    program = program_of_administrator()
    user = UserFactory()

    def work(place: int) -> int:
        if place % 2:
            return program.patch(f"/users/{user.pk}", {"city": f"City {place}"}).status_code
        body = {"description": "Refill 17", "amount": "1"}
        return program.post(f"/users/{user.pk}/balance-changes", body).status_code

    outcomes = connections(8, work)
    assert [outcome.result for outcome in outcomes] == [201, 200] * 4
    assert ledger.balance(user) == (4, 0, 4)


# --- The user's history -------------------------------------------------------------------------


def history(user_id: int) -> list[tuple[str, str, str, User | None]]:
    found = events_of(Subject.USER, user_id)
    return [(each.action, events.sentence(each), each.channel, each.actor) for each in found]


def test_the_history_tells_who_did_what(program: Program) -> None:
    user_id = created(program)["id"]
    program.patch(f"/users/{user_id}", {"city": "Berlin", "first_name": "Grace"})
    owner = User.objects.get(pk=program.owner.pk)
    assert history(user_id) == [
        ("added", "Added.", "api", owner),
        ("changed", "Changed: first name, city.", "api", owner),
    ]


def test_a_change_that_changes_nothing_has_no_history(program: Program) -> None:
    user = UserFactory(city="Berlin")
    for changes in ({}, {"city": "Berlin"}):
        assert program.patch(f"/users/{user.pk}", changes).status_code == 200
    assert history(user.pk) == []


def test_a_refused_change_has_no_history(program: Program) -> None:
    user = UserFactory()
    program.patch(f"/users/{user.pk}", {"time_zone": "Mars/Olympus", "city": "Berlin"})
    assert history(user.pk) == []


def test_a_program_without_the_right_to_balances_creates_users_all_the_same(db: None) -> None:
    told = created(program_with("users.add_user"))
    assert told["balance"] is None


@pytest.mark.parametrize("garbled", ["Ada\r\nX: y", "\u202eAda", "A\x07da"])
def test_a_name_that_would_garble_what_stands_beside_it_is_refused(
    program: Program, garbled: str
) -> None:
    user = UserFactory(first_name="Ada")
    answer = program.call("PATCH", f"/users/{user.pk}", {"first_name": garbled})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["field"] == "first_name"
    assert program.call("PATCH", f"/users/{user.pk}", {"comment": "two\nlines"}).status_code == 200
