"""Money over the Panel API: changing balances with exactly four decimals, and listing."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import ledger
from billing.api.panel.answers import in_json
from billing.api.panel.parameters import MAX_AMOUNT, nearest_amount
from billing.api.panel.transactions import tracker_id
from billing.models import Channel, Transaction
from tests.api.panel.calls import CALL, World
from tests.api.panel.client import Answer, Program
from tests.conftest import Connections
from tests.factories import AdministratorFactory, charge_cost, user_with
from users.models import User

CHANGE = "user/transaction/change_balance"
LIST = "user/transaction/list"
NOW, DAYS = datetime.now(UTC), timedelta(days=30)
EVER = {"from": f"{NOW - DAYS:%Y-%m-%d %H:%M:%S}", "to": f"{NOW + DAYS:%Y-%m-%d %H:%M:%S}"}


def change(program: Program, world: World, **given: Any) -> Answer:
    return program(CHANGE, **(CALL[CHANGE].parameters(world) | given))


def change_raw(program: Program, world: World, amount: str, kind: str = "main") -> Answer:
    """Changes a balance. The JSON contains `amount` exactly as given."""
    return program.post(
        CHANGE,
        f'{{"user_id": {world.user.pk}, "amount": {amount}, "type": "{kind}", "text": "By hand"}}',
    )


# --- Changing a balance -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "has"), [("balance", ("112.5", 20)), ("main", ("112.5", 20)), ("bonus", (100, "32.5"))]
)
def test_either_balance_is_changed(
    program: Program, administrator: User, world: World, kind: str, has: tuple[Any, Any]
) -> None:
    assert change(program, world, type=kind).body == {"success": True}
    assert ledger.balance(world.user) == (*map(Decimal, has), 2)
    posted = Transaction.objects.get(user=world.user, number=2)
    assert (posted.type, posted.subtype, posted.channel) == ("payment", "partner", Channel.API)
    assert posted.actor == administrator
    assert posted.description == "Bank transfer 4711"
    assert set(posted.metadata) == {"request_id"}


def test_the_answers_request_id_is_in_the_transaction(program: Program, world: World) -> None:
    answer = change(program, world)
    posted = Transaction.objects.get(user=world.user, number=2)
    assert posted.metadata["request_id"] == answer.response["X-Request-Id"]


@pytest.mark.parametrize(("kind", "amount"), [("main", -100.0001), ("bonus", -20.0001)])
def test_there_has_to_be_the_money(
    program: Program, world: World, kind: str, amount: float
) -> None:
    answer = change(program, world, type=kind, amount=amount)
    assert answer.status == 403
    assert answer.body == {
        "success": False,
        "status": {"code": 251, "description": "Insufficient funds"},
    }
    assert ledger.balance(world.user).number == 1


def test_a_deactivated_users_balance_can_be_changed(program: Program, world: World) -> None:
    User.objects.filter(pk=world.user.pk).update(is_active=False)
    assert change(program, world).code is None


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"user_id": None}, "user_id"),
        ({"user_id": "x"}, "user_id"),
        ({"user_id": True}, "user_id"),
        ({"user_id": 1.5}, "user_id"),
        ({"user_id": 0}, "user_id"),
        ({"user_id": -1}, "user_id"),
        ({"user_id": 2**63}, "user_id"),
        ({"user_id": [1]}, "user_id"),
        ({"amount": None}, "amount"),
        ({"amount": 0}, "amount"),
        ({"amount": "5"}, "amount"),
        ({"amount": True}, "amount"),
        ({"amount": {}}, "amount"),
        ({"amount": 10_000_000_000}, "amount"),
        ({"amount": -10_000_000_000}, "amount"),
        ({"type": None}, "type"),
        ({"type": "real"}, "type"),
        ({"type": ["main"]}, "type"),
        ({"text": None}, "text"),
        ({"text": "four"}, "text"),
        ({"text": "     four     "}, "text"),
        ({"text": "x" * 201}, "text"),
        ({"text": 12345}, "text"),
        ({"text": "nul \0 character"}, "text"),
        ({"text": "half \ud800 character"}, "text"),
        ({"text": "two\nlines"}, "text"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "x" * 101}, "idempotency_key"),
        ({"idempotency_key": 5}, "idempotency_key"),
        ({"idempotency_key": "registration"}, "idempotency_key"),
        ({"idempotency_key": "subscription:1:1:2026-01-01"}, "idempotency_key"),
    ],
)
def test_what_is_wrong_is_named(
    program: Program, world: World, given: dict[str, Any], wrong: str
) -> None:
    answer = change(program, world, **given)
    assert (answer.code, answer.status) == (7, 400)
    assert list(answer.wrong) == [wrong]
    assert ledger.balance(world.user).number == 1


def test_an_unknown_user_is_not_found(program: Program, world: World) -> None:
    for user_id in (world.user.pk + 1_000, 2**63 - 1):
        answer = change(program, world, user_id=user_id)
        assert (answer.code, answer.status) == (201, 400)


def test_an_id_may_be_a_text_or_a_whole_float(program: Program, world: World) -> None:
    for user_id in (str(world.user.pk), float(world.user.pk)):
        assert change(program, world, user_id=user_id).code is None


# --- Floats -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "lands"),
    [
        ("10", "10"),
        ("10.0", "10"),
        ("10.10000", "10.1"),
        ("1e1", "10"),
        ("1.5E+1", "15"),
        ("0.0001", "0.0001"),
        ("1E-4", "0.0001"),
        ("-0.5", "-0.5"),
        ("10.100000000000001", "10.1"),
        ("0.30000000000000004", "0.3"),
        ("3.0149999999999997", "3.015"),
        ("-0.30000000000000004", "-0.3"),
        ("0.00009999999999999999", "0.0001"),
        ("0.09999999997671694", "0.1"),  # 1000000.1 - 1000000
        ("9999999999.9999", "9999999999.9999"),
        ("9999999999.999899", "9999999999.9999"),
    ],
)
def test_what_floats_make_of_an_amount_is_that_amount(
    program: Program, world: World, sent: str, lands: str
) -> None:
    before = ledger.balance(world.user).real
    assert change_raw(program, world, sent).code is None
    assert ledger.balance(world.user).real - before == Decimal(lands)
    assert Transaction.objects.get(user=world.user, number=2).amount == Decimal(lands)


@pytest.mark.parametrize(
    "sent",
    ["0.00005", "0.00015", "10.12345", "10.10000001", "-0.00004", "0.33333333333333331", "1e-5"],
)
def test_what_was_meant_to_have_more_decimals_is_refused(
    program: Program, world: World, sent: str
) -> None:
    answer = change_raw(program, world, sent)
    assert answer.code == 7
    assert answer.wrong == {"amount": "Should have at most four decimals"}
    form = {"user_id": world.user.pk, "amount": sent, "type": "main", "text": "By hand"}
    assert program.form(CHANGE, form).wrong == answer.wrong


@pytest.mark.parametrize(
    "sent",
    [
        *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e999999999999999999999", "1e11"),
        *("1e-999999999999999999999", "1" * 5_000, "1." + "1" * 5_000, "0e999999999999999999999"),
        *("10000000000", "9999999999.99991", "true", '"10"', '"NaN"', "[1]", "{}", "null", "0"),
        *("0.0", "-0", "1e-300", "2.7755575615628914e-17"),
    ],
)
def test_what_is_no_amount_is_refused(program: Program, world: World, sent: str) -> None:
    answer = change_raw(program, world, sent)
    assert (answer.code, answer.status) == (7, 400)
    assert list(answer.wrong) == ["amount"]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        *(("10.5", None), ("+10.5", None), ("1.05E1", None), (".5", None), ("5.", None)),
        *(("", 7), (" 1", 7), ("1,5", 7), ("1_000", 7), ("٣", 7), ("nan", 7), ("inf", 7)),
        *(("0x10", 7), ("1e", 7), ("--1", 7), ("Infinity", 7), ("1e99999999999999999999", 7)),
    ],
)
def test_amounts_in_a_form_and_in_an_address(
    program: Program, world: World, sent: str, code: int | None
) -> None:
    given = {"user_id": world.user.pk, "amount": sent, "type": "main", "text": "By hand"}
    assert program.form(CHANGE, given).code == code
    assert program.get(CHANGE, given).code == code


@given(st.decimals("-9999999999.9999", "9999999999.9999", places=4))
def test_every_amount_survives_being_a_float(amount: Decimal) -> None:
    assert nearest_amount(Decimal(repr(float(amount)))) == amount


@given(st.lists(st.decimals("-9999.9999", "9999.9999", places=4), min_size=2, max_size=20))
def test_every_sum_of_floats_is_the_sum_of_the_amounts(amounts: list[Decimal]) -> None:
    added = sum(float(amount) for amount in amounts)
    assert nearest_amount(Decimal(repr(added))) == sum(amounts)


@given(st.decimals("-9999999999", "9999999999", places=5))
def test_nothing_else_is_rounded(number: Decimal) -> None:
    whole = number == round(number, 4)
    assert nearest_amount(number) == (number if whole else None)


@given(st.decimals(-MAX_AMOUNT, MAX_AMOUNT, places=4))
def test_amounts_are_answered_to_the_last_digit(amount: Decimal) -> None:
    written = in_json({"a": amount})
    assert json.loads(written, parse_float=Decimal, parse_int=Decimal) == {"a": amount}
    assert "E" not in written


def test_a_whole_amount_keeps_its_zeros() -> None:
    assert in_json([Decimal("100"), Decimal("100.0000"), Decimal("1E+2")]) == "[100, 100, 100]"


# --- Once ---------------------------------------------------------------------------------------


def test_a_repeated_key_changes_nothing_and_answers_the_same(
    program: Program, world: World
) -> None:
    answers = [change(program, world, idempotency_key="order-1") for _ in range(3)]
    assert [answer.body for answer in answers] == [{"success": True}] * 3
    assert ledger.balance(world.user).number == 2


def test_a_key_with_other_content_is_refused(program: Program, world: World) -> None:
    change(program, world, idempotency_key="order-1")
    for other in ({"amount": 1}, {"type": "bonus"}, {"text": "Another text"}):
        answer = change(program, world, idempotency_key="order-1", **other)
        assert (answer.code, list(answer.wrong)) == (7, ["idempotency_key"])
    assert ledger.balance(world.user).number == 2


def test_one_key_at_once_on_many_connections_posts_once(connections: Connections) -> None:
    user = user_with(real="100")
    administrator = AdministratorFactory()
    programs = [Program(administrator) for _ in range(8)]

    def call(place: int) -> int | None:
        return programs[place](
            CHANGE,
            user_id=user.pk,
            amount=5,
            type="main",
            text="Order number 1",
            idempotency_key="order-1",
        ).code

    outcomes = connections(8, call)
    assert [outcome.error for outcome in outcomes] == [None] * 8
    assert [outcome.result for outcome in outcomes] == [None] * 8
    assert ledger.balance(user) == (Decimal(105), 0, 2)


def test_many_at_once_cannot_take_more_than_there_is(connections: Connections) -> None:
    user = user_with(real="100")
    administrator = AdministratorFactory()
    programs = [Program(administrator) for _ in range(8)]
    outcomes = connections(
        8,
        lambda place: (
            programs[place](
                CHANGE, user_id=user.pk, amount=-30, type="main", text="Taken away"
            ).code
        ),
    )
    codes = [outcome.result for outcome in outcomes]
    assert sorted(codes, key=str) == [251] * 5 + [None] * 3
    assert ledger.balance(user).real == 10


# --- Listing ------------------------------------------------------------------------------------

FIELDS = {
    "id", "description", "text", "type", "subtype", "timestamp", "user_id", "dealer_id",
    "tracker_id", "amount", "new_balance", "old_balance", "bonus_amount", "new_bonus", "old_bonus",
}  # fmt: skip


def test_a_row_tells_all_of_a_transaction(program: Program, world: World) -> None:
    posted = charge_cost(
        world.user,
        service="outgoing_sms",
        cost="28.7850",
        description="Outgoing SMS × 10",
        device="303126",
        actor=None,
        channel=Channel.API,
    )
    answer = program(LIST, user_id=world.user.pk, **EVER)
    assert set(answer.body) == {"success", "list"}
    first, last = answer["list"]
    assert set(first) == set(last) == FIELDS
    assert last == {
        "id": posted.pk,
        "description": "Outgoing SMS × 10",
        "text": "Outgoing SMS × 10",
        "type": "tariff_charge",
        "subtype": "outgoing_sms",
        "timestamp": f"{posted.created_at:%Y-%m-%d %H:%M:%S}",
        "user_id": world.user.pk,
        "dealer_id": 1,
        "tracker_id": 303126,
        "amount": Decimal("-8.785"),
        "new_balance": Decimal("91.215"),
        "old_balance": 100,
        "bonus_amount": -20,
        "new_bonus": 0,
        "old_bonus": 20,
    }
    assert '"amount": -8.785,' in answer.content.decode()
    assert (first["amount"], first["tracker_id"]) == (100, 0)


@pytest.mark.parametrize(
    ("device", "number"),
    [
        ("", 0),
        ("303126", 303126),
        ("0012", 12),
        ("GPS-7", 0),
        ("-5", 0),
        ("1.5", 0),
        ("²", 0),
        ("٣", 0),
        (str(2**63 - 1), 2**63 - 1),
        (str(2**63), 0),
        ("9" * 100, 0),
    ],
)
def test_a_tracker_is_a_device_that_is_a_number(device: str, number: int) -> None:
    assert tracker_id(device) == number


def test_oldest_first_up_to_the_limit(program: Program, world: World) -> None:
    for amount in (1, 2, 3):
        change(program, world, amount=amount)
    given = {"user_id": world.user.pk, **EVER}
    assert [row["amount"] for row in program(LIST, **given)["list"]] == [100, 1, 2, 3]
    assert [row["amount"] for row in program(LIST, **given, limit=2)["list"]] == [100, 1]
    assert len(program(LIST, **given, limit=20_000)["list"]) == 4


def test_both_ends_of_the_interval_belong_to_it(program: Program, world: World) -> None:
    second = Transaction.objects.get(user=world.user).created_at.replace(microsecond=0)

    def listed(first: datetime, last: datetime) -> int:
        said = {"from": f"{first:%Y-%m-%d %H:%M:%S}", "to": f"{last:%Y-%m-%d %H:%M:%S}"}
        return len(program(LIST, user_id=world.user.pk, **said)["list"])

    step = timedelta(seconds=1)
    assert listed(second, second) == 1
    assert listed(second - step, second - step) == 0
    assert listed(second + step, second + step) == 0


def test_the_time_is_utc_whatever_the_installation_or_operator_reads(
    program: Program, administrator: User, world: World, settings: Any
) -> None:
    settings.TIME_ZONE = "Asia/Tokyo"
    User.objects.filter(pk=administrator.pk).update(time_zone="America/New_York")
    program.client.force_login(administrator)
    [row] = program(LIST, user_id=world.user.pk, **EVER)["list"]
    at = Transaction.objects.get(user=world.user).created_at.astimezone(UTC)
    assert row["timestamp"] == f"{at:%Y-%m-%d %H:%M:%S}"


@pytest.mark.parametrize(
    ("first", "last", "code"),
    [
        ("2020-02-03 03:04:00", "2021-02-03 03:04:00", None),  # 366 days
        ("2020-02-03 03:04:00", "2021-02-03 03:04:01", 211),
        ("0001-01-01 00:00:00", "9999-12-31 23:59:59", 211),
        ("0001-01-01 00:00:00", "0001-01-01 00:00:00", None),
        ("9999-12-31 23:59:59", "9999-12-31 23:59:59", None),
        ("2026-05-02 00:00:00", "2026-05-01 23:59:59", 7),
        ("2026-05-01", "2026-05-02 00:00:00", 7),
        ("2026-05-01T00:00:00", "2026-05-02 00:00:00", 7),
        ("2026-05-01 00:00:00Z", "2026-05-02 00:00:00", 7),
        ("2026-02-30 00:00:00", "2026-05-02 00:00:00", 7),
        ("2026-05-01 24:00:00", "2026-05-02 00:00:00", 7),
        ("2026-05-01 00:00:60", "2026-05-02 00:00:00", 7),
        ("0000-05-01 00:00:00", "2026-05-02 00:00:00", 7),
        ("٢٠٢٦-05-01 00:00:00", "2026-05-02 00:00:00", 7),
        ("2026-5-1 0:00:00", "2026-05-02 00:00:00", 7),
        (1777593600, "2026-05-02 00:00:00", 7),
        (None, "2026-05-02 00:00:00", 7),
        ("2026-05-01 00:00:00", None, 7),
    ],
)
def test_the_interval(
    program: Program, world: World, first: Any, last: Any, code: int | None
) -> None:
    answer = program(LIST, **{"user_id": world.user.pk, "from": first, "to": last})
    assert answer.code == code
    if code == 7:
        assert set(answer.wrong) <= {"from", "to"}
        assert answer.wrong


@pytest.mark.parametrize("limit", [0, -1, 20_001, "x", 1.5, [], True])
def test_the_limit(program: Program, world: World, limit: Any) -> None:
    answer = program(LIST, user_id=world.user.pk, **EVER, limit=limit)
    assert (answer.code, list(answer.wrong)) == (7, ["limit"])


def test_the_transactions_of_nobody_are_not_found(program: Program, world: World) -> None:
    assert program(LIST, user_id=world.user.pk + 1_000, **EVER).code == 201
