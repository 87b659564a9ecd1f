"""Transactions and balances over the API: lists to page through and follow, and reversals."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing import ledger, reports
from billing.api import cursors
from billing.models import Channel, Transaction
from tests.api.rest.programs import Program, assert_problem, program_with
from tests.billing.clock import database_clock_at
from tests.billing.histories import user_with_history
from tests.factories import OperatorFactory, charge_cost, user_with
from users.models import User

BY_API: dict[str, Any] = {"actor": None, "channel": Channel.API}
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def refill(user: User | int, amount: int = 1, **options: Any) -> Transaction:
    return ledger.change_balance(
        user, amount=amount, description="Bank transfer", **(BY_API | options)
    )


def listed(program: Program, path: str, **parameters: Any) -> dict[str, Any]:
    names = {"since": "from", "until": "to"}
    query = urlencode({names.get(name, name): value for name, value in parameters.items()})
    response = program.get(f"{path}?{query}")
    assert response.status_code == 200, response.content
    answer: dict[str, Any] = response.json()
    return answer


def walked(program: Program, path: str, **parameters: Any) -> list[int]:
    """Returns the IDs of all pages, in the order of the list."""
    page = listed(program, path, limit=2, **parameters)
    ids = [row["id"] for row in page["transactions"]]
    while page["has_more"]:
        page = listed(program, path, limit=2, cursor=page["next_cursor"], **parameters)
        ids += [row["id"] for row in page["transactions"]]
    return ids


def ids(rows: Any) -> list[int]:
    return list(rows.values_list("pk", flat=True))


@pytest.fixture(params=["of a user", "of all users"])
def path(request: pytest.FixtureRequest, db: None) -> str:
    user = user_with_history()
    if request.param == "of all users":
        user_with_history(email="other@example.com")
        return "/transactions"
    return f"/users/{user.pk}/transactions"


def rows_of(path: str) -> Any:
    if path == "/transactions":
        return Transaction.objects.order_by("created_at", "pk")
    return Transaction.objects.filter(user=path.split("/")[2]).order_by("number")


def test_pages_show_every_transaction_once_in_either_order(program: Program, path: str) -> None:
    expected = ids(rows_of(path))
    assert len(expected) >= 7
    assert walked(program, path) == expected[::-1]
    assert walked(program, path, order="oldest") == expected


@pytest.mark.parametrize(
    ("parameters", "condition"),
    [
        ({"type": "tariff_charge"}, {"type": "tariff_charge"}),
        ({"subtype": "traffic"}, {"subtype": "traffic"}),
        ({"type": "payment", "subtype": "traffic"}, {"pk": 0}),
        ({"device": "Truck 7"}, {"device": "Truck 7"}),
        ({"device": "Truck"}, {"pk": 0}),
        ({"device": ""}, {"device": ""}),
        ({"direction": "charges", "subtype": "monthly"}, {"subtype": "monthly"}),
        ({"direction": "refills", "subtype": "monthly"}, {"pk": 0}),
        ({"direction": "refills", "type": "bonus_charge"}, {"type": "bonus_charge"}),
        # Refills are all transactions that add money, also the reversal of a charge.
        ({"direction": "refills", "type": "reversal"}, {"type": "reversal"}),
    ],
)
@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_filters_leave_out_what_they_say(
    program: Program, path: str, parameters: dict[str, str], condition: dict[str, Any], order: str
) -> None:
    expected = ids(rows_of(path).filter(**condition))
    found = walked(program, path, order=order, **parameters)
    assert (found if order == "oldest" else found[::-1]) == expected


@pytest.mark.parametrize("of", ["one", "all"])
@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_payments_are_found_by_the_day_they_were_made_both_days_included(
    program: Program, of: str, order: str
) -> None:
    user = user_with(real=1)  # posted today, without a payment date
    for day in (9, 10, 11, 12):
        ledger.change_balance(
            user, amount=day, description="Transfer", payment_date=date(2026, 3, day), **BY_API
        )
    path = f"/users/{user.pk}/transactions" if of == "one" else "/transactions"
    period = {"paid_from": "2026-03-10", "paid_to": "2026-03-11"}
    rows = Transaction.objects.filter(user=user, amount__in=[10, 11]).order_by("number")
    found = walked(program, path, order=order, **period)
    assert (found if order == "oldest" else found[::-1]) == ids(rows)
    ever = {"paid_from": "0001-01-01", "paid_to": "9999-12-31"}
    assert len(walked(program, path, order=order, **ever)) == 5


@pytest.mark.parametrize("of", ["one", "all"])
@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_a_period_has_its_beginning_and_not_its_end(program: Program, of: str, order: str) -> None:
    user = user_with()
    for day in range(4):
        with database_clock_at(NOON + timedelta(days=day)):
            refill(user)
    path = f"/users/{user.pk}/transactions" if of == "one" else "/transactions"
    page = listed(
        program,
        path,
        order=order,
        since="2026-03-11T14:00:00+02:00",
        until="2026-03-13T12:00:00Z",
    )
    assert sorted(row["number"] for row in page["transactions"]) == [2, 3]
    everything = listed(program, path, since="0001-01-01T00:00:00Z", until="9999-12-31T23:59:59Z")
    assert len(everything["transactions"]) == 4
    nothing = listed(program, path, since="2026-03-11T12:00:00Z", until="2026-03-11T12:00:00Z")
    assert nothing["transactions"] == []


def test_the_newest_pages_are_the_same_while_transactions_come_in(
    program: Program, path: str
) -> None:
    expected = ids(rows_of(path))[::-1]
    page = listed(program, path, limit=3)
    found = [row["id"] for row in page["transactions"]]
    while page["next_cursor"]:
        refill(rows_of(path)[0].user_id)
        page = listed(program, path, limit=3, cursor=page["next_cursor"])
        found += [row["id"] for row in page["transactions"]]
    assert found == expected
    assert page["has_more"] is False


def test_a_follower_goes_on_from_where_nothing_was_left(program: Program, path: str) -> None:
    before = len(ids(rows_of(path)))
    page = listed(program, path, order="oldest", limit=200)
    assert (len(page["transactions"]), page["has_more"]) == (before, False)
    for _ in range(2):
        page = listed(program, path, order="oldest", cursor=page["next_cursor"])
        assert (page["transactions"], page["has_more"]) == ([], False)
    posted = [refill(rows_of(path)[0].user_id).pk for _ in range(3)]
    page = listed(program, path, order="oldest", limit=2, cursor=page["next_cursor"])
    assert [row["id"] for row in page["transactions"]] == posted[:2]
    assert page["has_more"] is True
    page = listed(program, path, order="oldest", limit=2, cursor=page["next_cursor"])
    assert [row["id"] for row in page["transactions"]] == posted[2:]


@pytest.mark.parametrize("of", ["one", "all"])
def test_a_follower_of_nothing_yet_gets_what_comes(program: Program, of: str) -> None:
    user = user_with()
    path = f"/users/{user.pk}/transactions" if of == "one" else "/transactions"
    page = listed(program, path, order="oldest")
    assert page["transactions"] == []
    posted = refill(user)
    page = listed(program, path, order="oldest", cursor=page["next_cursor"])
    assert [row["id"] for row in page["transactions"]] == [posted.pk]


def test_a_follower_who_filters_is_led_past_what_does_not_fit(program: Program, path: str) -> None:
    """Otherwise the follower would search the same transactions again each time."""
    page = listed(program, path, order="oldest", type="reversal")
    assert page["has_more"] is False
    first_there = listed(program, path, order="oldest", cursor=page["next_cursor"])
    assert first_there["transactions"] == []


@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_a_page_asks_for_no_count_and_skips_no_rows(
    program: Program, path: str, order: str
) -> None:
    listed(program, path)  # notes the key's last use, so that the query below does not
    cursor = listed(program, path, limit=2, order=order)["next_cursor"]
    with CaptureQueriesContext(
        connection,
    ) as queries:
        listed(program, path, limit=2, order=order, cursor=cursor)
    asked = [query["sql"].upper() for query in queries]
    assert not [sql for sql in asked if "COUNT(" in sql or "OFFSET" in sql]
    of_transactions = [sql for sql in asked if 'FROM "BILLING_TRANSACTION"' in sql]
    assert len(of_transactions) == 1
    assert "LIMIT 3" in of_transactions[0]


# --- Refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=2026-03-11", "from"),
        ("from=2026-03-11T12:00:00", "from"),
        ("to=1700000000", "to"),
        ("to=2026-13-11T12:00:00Z", "to"),
        ("to=9999-12-31T23:59:59-12:00", "to"),
        ("from=2026-03-11T12:00:00Z&to=2026-03-11T11:59:59Z", "from"),
        ("type=gift", "type"),
        ("subtype=%00", "subtype"),
        ("device=%00", "device"),
        ("direction=up", "direction"),
        ("paid_from=2026-02-30", "paid_from"),
        ("paid_to=2026-03-11T12:00:00Z", "paid_to"),
        ("paid_from=2026-03-11&paid_to=2026-03-10", "paid_from"),
        ("order=random", "order"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=many", "limit"),
        ("cursor=", "cursor"),
        ("cursor=%C3%A9", "cursor"),
        ("cursor=W10", "cursor"),
        ("cursor=WzEsMiwzXQ", "cursor"),
    ],
)
def test_what_is_no_filter_is_named(program: Program, path: str, query: str, field: str) -> None:
    problem = assert_problem(program.get(f"{path}?{query}"), 422, "invalid_request")
    assert [error["field"] for error in problem["errors"]] == [field]


def test_a_cursor_beyond_all_times_is_none(program: Program) -> None:
    for place in ((2**62, 1), (-(2**62), 1)):
        cursor = cursors.to_text("transactions, newest first", *place)
        response = program.get(f"/transactions?cursor={cursor}")
        assert_problem(response, 422, "invalid_request")


def test_a_cursor_leads_on_in_its_own_list_only(program: Program) -> None:
    """In another list it would skip rows, or repeat some, without an error."""
    one, other = user_with_history(), user_with_history(email="other@example.com")
    lists = [
        f"{path}?limit=1&order={order}"
        for path in ("/transactions", *(f"/users/{pk}/transactions" for pk in (one.pk, other.pk)))
        for order in ("newest", "oldest")
    ]
    gave = {each: program.get(each).json()["next_cursor"] for each in lists}
    for each in lists:
        for giver, cursor in gave.items():
            response = program.get(f"{each}&cursor={cursor}")
            if giver == each:
                assert response.status_code == 200
            else:
                assert_problem(response, 422, "invalid_request")


@pytest.mark.parametrize("call", ["transactions", "transactions/1", "balance"])
def test_operators_and_strangers_have_no_money_pages(program: Program, call: str) -> None:
    for user_id in (OperatorFactory().pk, 2**62):
        response = program.get(f"/users/{user_id}/{call}")
        assert_problem(response, 404, "unknown_user", user_id=user_id)
    assert_problem(program.get(f"/users/{2**63}/{call}"), 422, "invalid_request")


def test_a_search_that_takes_too_long_is_given_up(
    program: Program, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(*arguments: Any, **options: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(20)")

    monkeypatch.setattr("billing.api.transactions.SEARCH_SECONDS", 1)
    for name in ("slice_of_user", "slice_of_all"):
        monkeypatch.setattr(reports, name, sleep)
    assert_problem(program.get(f"{path}?type=payment"), 503, "too_slow")


# --- One transaction ----------------------------------------------------------------------------


def test_a_transaction_tells_by_which_it_was_taken_back(program: Program) -> None:
    user = user_with_history()
    row = program.get(f"/users/{user.pk}/transactions/3").json()
    assert (row["number"], row["reversed_by"], row["reverses"]) == (3, 6, None)
    assert row["metadata"] == {"messages": 100}
    reversal = program.get(f"/users/{user.pk}/transactions/6").json()
    assert (reversal["reverses"], reversal["reversed_by"]) == (3, None)
    response = program.get(f"/users/{user.pk}/transactions/8")
    assert_problem(response, 404, "unknown_transaction", number=8)
    for number in (0, 2**63):
        response = program.get(f"/users/{user.pk}/transactions/{number}")
        assert_problem(response, 422, "invalid_request")
    response = program.get(f"/users/{user.pk}/transactions/last")
    assert_problem(response, 404, "not_found")


def test_one_user_s_transaction_is_not_another_s(program: Program) -> None:
    user_with_history()
    other = user_with(real=5)
    response = program.get(f"/users/{other.pk}/transactions/2")
    assert_problem(response, 404, "unknown_transaction", number=2)


# --- Balances -----------------------------------------------------------------------------------


def test_a_balance_is_known_now_and_as_of_any_time(program: Program, settings: Any) -> None:
    settings.BILLING_CURRENCY = "EUR"
    user = user_with()
    for day in range(3):
        with database_clock_at(NOON + timedelta(days=day)):
            refill(user, 10, bonus_amount="0.5")
    base = {"user_id": user.pk, "currency": "EUR"}
    assert program.get(f"/users/{user.pk}/balance").json() == base | {
        "at": None,
        "real": "30.0000",
        "bonus": "1.5000",
        "number": 3,
    }
    for asked, at, number in (
        ("2026-03-11T12:00:00Z", "2026-03-11T12:00:00.000000Z", 2),
        ("2026-03-11T11:59:59.999999Z", "2026-03-11T11:59:59.999999Z", 1),
        ("2026-03-10T13:00:00%2B02:00", "2026-03-10T11:00:00.000000Z", 0),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z", 0),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.000000Z", 3),
    ):
        assert program.get(f"/users/{user.pk}/balance?at={asked}").json() == base | {
            "at": at,
            "real": f"{10 * number}.0000",
            "bonus": f"{number * 0.5:.4f}",
            "number": number,
        }
    response = program.get(f"/users/{user.pk}/balance?at=2026-03-11T12:00:00+02:00")
    assert_problem(response, 422, "invalid_request")  # in an address, + means a space


# --- Reversals ----------------------------------------------------------------------------------


def reverse(program: Program, user: User, number: int, key: str | None = None, **body: Any) -> Any:
    body = {"description": "Posted by mistake"} | body
    return program.post(f"/users/{user.pk}/transactions/{number}/reversal", body, key=key)


def test_a_reversal_takes_back_once(program: Program) -> None:
    user = user_with(real=10, bonus=2)
    response = reverse(program, user, 1, key="r1", metadata={"ticket": 7})
    row = response.json()
    assert response.status_code == 201
    assert response["Location"] == f"/api/v1/users/{user.pk}/transactions/2"
    assert (row["type"], row["subtype"], row["reverses"]) == ("reversal", "payment", 1)
    assert (row["amount"], row["bonus_amount"]) == ("-10.0000", "-2.0000")
    assert row["metadata"] == {"ticket": 7, "request_id": response["X-Request-Id"]}
    assert (row["actor_id"], row["channel"]) == (program.owner.pk, "api")

    again = reverse(program, user, 1, key="r1", metadata={"ticket": 7})
    assert (again.status_code, again["Idempotency-Replayed"]) == (200, "true")
    assert again.json() == row
    assert_problem(reverse(program, user, 1, key="r1"), 409, "idempotency_conflict", number=2)
    assert_problem(reverse(program, user, 1), 409, "already_reversed", number=1, reversed_by=2)
    assert_problem(reverse(program, user, 2), 409, "not_reversible", number=2)
    assert ledger.balance(user).number == 2


def test_a_reversal_is_refused_as_the_ledger_refuses(program: Program) -> None:
    user = user_with(real=10)
    charge_cost(user, service="traffic", cost=4, description="Traffic", **BY_API)
    assert_problem(
        reverse(program, user, 1),
        402,
        "insufficient_funds",
        balance="real",
        needed="10.0000",
        available="6.0000",
    )
    assert_problem(reverse(program, user, 3), 404, "unknown_transaction", number=3)
    assert_problem(reverse(program, user, 2, expected_number=1), 409, "balance_moved", number=2)
    assert_problem(reverse(program, user, 2, description="No"), 422, "invalid_description")
    assert_problem(reverse(program, user, 2, amount="1"), 422, "invalid_request")
    assert_problem(reverse(program, OperatorFactory(), 1), 404, "unknown_user")
    assert ledger.balance(user).number == 2


def test_who_may_only_read_reverses_nothing(db: None) -> None:
    user = user_with(real=10)
    reader = program_with("billing.view_transaction", "billing.change_balance", is_read_only=True)
    assert reader.get(f"/users/{user.pk}/transactions").status_code == 200
    assert_problem(reverse(reader, user, 1), 403, "read_only_key")
