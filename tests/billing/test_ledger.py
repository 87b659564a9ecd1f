"""The functions of billing.ledger: what each one posts and what it refuses."""

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import transaction
from django.db.models import ProtectedError

from billing import errors, ledger
from billing.errors import ERRORS_BY_CODE, BillingError
from billing.models import Balance, Channel, Reason, Transaction, TransactionType
from billing.money import MAX_MONEY
from tests.billing.histories import BY_PANEL, judge, user_with_history
from tests.factories import (
    OperatorFactory,
    UserFactory,
    charge_cost,
    charge_price,
    pay_back,
    user_with,
)
from users.models import User

pytestmark = pytest.mark.django_db

D = Decimal


def has(user: User) -> tuple[Decimal, Decimal]:
    real, bonus, _ = ledger.balance(user)
    return real, bonus


def moves(posted: Transaction) -> tuple[Decimal, Decimal]:
    return posted.amount, posted.bonus_amount


# --- The fields of a transaction ----------------------------------------------------------------


def test_a_user_has_nothing_before_the_first_transaction() -> None:
    assert ledger.balance(UserFactory()) == (0, 0, 0)


def test_a_balance_change_is_one_transaction_of_both_balances() -> None:
    user, operator = user_with(real=10, bonus=3), OperatorFactory()
    before = datetime.now(UTC)
    posted = ledger.change_balance(
        user,
        amount="5.5",
        bonus_amount=D("-1.25"),
        description="  Correction of invoice 17  ",
        device="Truck 7",
        metadata={"invoice": [17, None, "ä"]},
        idempotency_key="invoice-17",
        expected_number=1,
        actor=operator,
        channel=Channel.PANEL,
    )
    stored = Transaction.objects.get(user=user, number=2)
    for row in (posted, stored):
        assert (row.type, row.subtype) == ("payment", "partner")
        assert (row.old_balance, row.amount, row.new_balance) == (10, D("5.5000"), D("15.5000"))
        assert (row.old_bonus, row.bonus_amount, row.new_bonus) == (3, D("-1.2500"), D("1.7500"))
        assert (row.refilled, row.bonus_refilled) == (D("15.5000"), 3)
        assert row.description == "Correction of invoice 17"
        assert (row.device, row.idempotency_key, row.reverses) == ("Truck 7", "invoice-17", None)
        assert row.metadata == {"invoice": [17, None, "ä"]}
        assert (row.actor_id, row.channel) == (operator.pk, "panel")
        assert before <= row.created_at <= datetime.now(UTC)
    assert posted == stored
    assert posted.created_at == stored.created_at
    assert bytes(posted.digest) == bytes(stored.digest)
    assert not posted.replayed
    balance = Balance.objects.get(pk=user.pk)
    assert (balance.real, balance.bonus) == (D("15.5000"), D("1.7500"))
    assert (balance.refilled, balance.bonus_refilled) == (D("15.5000"), 3)
    assert (balance.last_number, balance.last_at) == (2, stored.created_at)
    assert bytes(balance.last_digest) == bytes(stored.digest)


def test_every_function_posts_its_type_and_subtype() -> None:
    rows = Transaction.objects.filter(user=user_with_history()).order_by("number")
    assert [(t.number, t.type, t.subtype, *moves(t)) for t in rows] == [
        (1, "payment", "partner", D("100.0000"), D("20.0000")),
        (2, "bonus_charge", "register", D("0.0000"), D("5.0000")),
        (3, "tariff_charge", "outgoing_sms", D("-5.0000"), D("-25.0000")),
        (4, "main_charge", "monthly", D("-12.5500"), D("0.0000")),
        (5, "main_charge", "remainder", D("2.5500"), D("0.0000")),
        (6, "reversal", "tariff_charge", D("5.0000"), D("25.0000")),
        (7, "tariff_charge", "traffic", D("0.0000"), D("-1.0000")),
    ]
    # Only the clock makes a bonus expire: tests/billing/test_grants.py.
    assert {t.type for t in rows} == set(TransactionType.values) - {"bonus_expiry"}


def test_users_can_be_named_by_id_and_may_be_of_any_kind() -> None:
    customer = User.objects.bulk_create([User(email="bulk@example.com")])[0]
    posted = ledger.change_balance(customer.pk, amount=1, description="By number", **BY_PANEL)
    assert posted.user_id == customer.pk
    assert ledger.balance(customer.pk) == ledger.balance(customer) == (1, 0, 1)


def test_subtypes_of_changes_and_gifts_can_be_chosen() -> None:
    user = UserFactory()
    imported = ledger.change_balance(
        user, amount=1, description="Old system", subtype="import", **BY_PANEL
    )
    gift = ledger.give_bonus(
        user, amount=1, description="For Christmas", subtype="holiday_gift", **BY_PANEL
    )
    assert (imported.subtype, gift.subtype) == ("import", "holiday_gift")
    words = {"amount": 1, "description": "As usual"}
    assert ledger.balance_change_entry(user, **words).subtype == "partner"
    assert ledger.bonus_entry(user, **words).subtype == "register"


# --- Debit order (G5): the worked examples ------------------------------------------------------

SERVICE_EXAMPLES = [
    # real, bonus, cost: taken from real, taken from bonus
    ("5.00", "2.00", D("0.30") * 10, "-1.0000", "-2.0000"),
    ("5.00", "0", "3", "-3.0000", "0.0000"),
    ("0", "5.00", "3", "0.0000", "-3.0000"),
    ("5.00", "3.00", "3", "0.0000", "-3.0000"),
    ("1.00", "2.00", "3", "-1.0000", "-2.0000"),
    ("0.0001", "2.9999", "3", "-0.0001", "-2.9999"),
]


@pytest.mark.parametrize(("real", "bonus", "cost", "from_real", "from_bonus"), SERVICE_EXAMPLES)
def test_a_service_takes_the_bonus_first_then_real_money(
    real: str, bonus: str, cost: Any, from_real: str, from_bonus: str
) -> None:
    user = user_with(real, bonus)
    posted = charge_cost(
        user, service="outgoing_sms", cost=cost, description="10 messages", **BY_PANEL
    )
    assert moves(posted) == (D(from_real), D(from_bonus))
    assert has(user) == (D(real) + D(from_real), D(bonus) + D(from_bonus))


def test_a_service_that_costs_more_than_both_balances_takes_nothing() -> None:
    user = user_with("0.50", "2.00")
    with pytest.raises(errors.InsufficientFunds) as refused:
        charge_cost(
            user, service="outgoing_sms", cost="3.00", description="10 messages", **BY_PANEL
        )
    assert refused.value.data == {
        "balance": "any",
        "needed": "3.0000",
        "available": "2.5000",
        "entry": 1,
    }
    assert str(refused.value) == (
        "Not enough money on both balances together: 3.00 needed, 2.50 available."
    )
    assert ledger.balance(user) == (D("0.5"), 2, 1)


def test_a_subscription_is_never_paid_from_the_bonus() -> None:
    user = user_with("10.00", "100.00")
    with pytest.raises(errors.InsufficientFunds) as refused:
        charge_price(user, cycle="monthly", price="12.55", description="November 2026", **BY_PANEL)
    assert refused.value.data["balance"] == "real"
    assert ledger.balance(user) == (10, 100, 1)
    posted = charge_price(
        user, cycle="monthly", price="10", description="November 2026", **BY_PANEL
    )
    assert moves(posted) == (-10, 0)
    assert has(user) == (0, 100)


@pytest.mark.parametrize("balance", ["real", "bonus"])
def test_a_change_takes_from_the_balance_it_names_and_from_no_other(balance: str) -> None:
    field = {"real": "amount", "bonus": "bonus_amount"}[balance]
    user = user_with(**{"real": 100, "bonus": 100, balance: 1})
    with pytest.raises(errors.InsufficientFunds) as refused:
        ledger.change_balance(user, **{field: "-1.0001"}, description="Too much", **BY_PANEL)
    assert refused.value.data["balance"] == balance
    ledger.change_balance(user, **{field: -1}, description="All of it", **BY_PANEL)
    assert getattr(ledger.balance(user), balance) == 0


# --- Amounts (G4) -------------------------------------------------------------------------------

NO_MONEY = [
    ("NaN", "not_a_number"),
    ("sNaN", "not_a_number"),
    ("-Infinity", "not_a_number"),
    (D("Infinity"), "not_a_number"),
    (D("NaN"), "not_a_number"),
    ("ten", "not_a_number"),
    ("", "not_a_number"),
    (None, "not_a_number"),
    (1.5, "not_a_number"),
    (True, "not_a_number"),
    ([1], "not_a_number"),
    ("1.00001", "too_many_decimals"),
    (D("1E-5"), "too_many_decimals"),
    ("1000000000000000", "out_of_range"),
    (MAX_MONEY + D("0.0001"), "out_of_range"),
    (D("-1e15"), "out_of_range"),
    (D("1e999999"), "out_of_range"),
    pytest.param(10**5000, "out_of_range", id="thousands_of_digits"),
]


@pytest.mark.parametrize(("value", "reason"), NO_MONEY)
def test_what_is_no_money_is_refused_by_every_function(value: Any, reason: str) -> None:
    user = user_with(real=5, bonus=5)
    words = {"description": "No money", **BY_PANEL}
    for call in (
        lambda: ledger.change_balance(user, amount=value, **words),
        lambda: ledger.change_balance(user, bonus_amount=value, **words),
        lambda: ledger.give_bonus(user, amount=value, **words),
        lambda: charge_cost(user, service="traffic", cost=value, **words),
        lambda: charge_price(user, cycle="monthly", price=value, **words),
        lambda: pay_back(user, amount=value, **words),
    ):
        with pytest.raises(errors.InvalidAmount) as refused:
            call()
        assert refused.value.data["reason"] == reason
    assert ledger.balance(user) == (5, 5, 1)


@pytest.mark.parametrize("value", ["1", 1, D(1), "1.0", "1.0000", "+1", D("1e0"), D("10e-1")])
def test_the_same_amount_may_be_written_in_many_ways(value: Any) -> None:
    posted = ledger.change_balance(UserFactory(), amount=value, description="Refill", **BY_PANEL)
    assert str(posted.amount) == "1.0000"


def test_a_change_of_nothing_is_refused() -> None:
    for zero in (0, "0", "-0.0000", D("0E-4")):
        with pytest.raises(errors.NothingToChange):
            ledger.change_balance(
                UserFactory(), amount=zero, bonus_amount=zero, description="Nothing", **BY_PANEL
            )


@pytest.mark.parametrize("value", [0, -1, "-0.0001"])
def test_gifts_costs_prices_and_remainders_are_positive(value: Any) -> None:
    user = user_with(real=5, bonus=5)
    words = {"description": "Wrong way", **BY_PANEL}
    for call in (
        lambda: ledger.give_bonus(user, amount=value, **words),
        lambda: charge_cost(user, service="traffic", cost=value, **words),
        lambda: charge_price(user, cycle="monthly", price=value, **words),
        lambda: pay_back(user, amount=value, **words),
    ):
        with pytest.raises(errors.InvalidAmount) as refused:
            call()
        assert refused.value.data["reason"] == "wrong_sign"


@pytest.mark.parametrize(
    "entry",
    [
        {"type": TransactionType.SERVICE, "subtype": "traffic", "amount": 1},
        {"type": TransactionType.SERVICE, "subtype": "traffic", "bonus_amount": -1},
        {"type": TransactionType.SERVICE, "subtype": "traffic", "amount": -1, "bonus_amount": 1},
        {"type": TransactionType.SUBSCRIPTION, "subtype": "monthly", "bonus_amount": -1},
        {"type": TransactionType.SUBSCRIPTION, "subtype": "monthly", "amount": 1},
        {"type": TransactionType.SUBSCRIPTION, "subtype": "remainder", "amount": -1},
        {"type": TransactionType.SERVICE, "subtype": "traffic", "amount": "0.0001"},
        {"type": TransactionType.SUBSCRIPTION, "subtype": "monthly", "amount": "0.0001"},
        {"type": TransactionType.SUBSCRIPTION, "subtype": "remainder", "amount": "-0.0001"},
        {"type": TransactionType.BONUS_REFILL, "subtype": "register", "bonus_amount": "-0.0001"},
        {"type": TransactionType.BONUS_REFILL, "subtype": "register", "amount": 1},
        {"type": TransactionType.BONUS_REFILL, "subtype": "register", "bonus_amount": -1},
    ],
)
def test_entries_made_by_hand_cannot_go_the_wrong_way(entry: dict[str, Any]) -> None:
    user = user_with(real=5, bonus=5)
    with pytest.raises(errors.InvalidAmount) as refused:
        ledger.post_batch(
            [ledger.Entry(user_id=user.pk, description="By hand", **entry)], **BY_PANEL
        )
    assert refused.value.data["reason"] == "wrong_sign"
    assert ledger.balance(user) == (5, 5, 1)


def test_the_largest_balance_holds_and_not_a_hundredth_of_a_cent_more() -> None:
    user = user_with(real=MAX_MONEY, bonus=MAX_MONEY)
    assert has(user) == (MAX_MONEY, MAX_MONEY)
    for field, balance in (("amount", "real"), ("bonus_amount", "bonus")):
        with pytest.raises(errors.BalanceOutOfRange) as refused:
            ledger.change_balance(user, **{field: "0.0001"}, description="Too much", **BY_PANEL)
        assert refused.value.data["balance"] == balance
    charge = ledger.change_balance(user, amount=-MAX_MONEY, description="All of it", **BY_PANEL)
    assert charge.new_balance == 0
    again = ledger.change_balance(user, amount=MAX_MONEY, description="And again", **BY_PANEL)
    assert again.refilled == 2 * MAX_MONEY  # the sum of refills may exceed the largest amount


def test_the_smallest_amount_counts() -> None:
    user = UserFactory()
    for _ in range(3):
        ledger.change_balance(user, amount="0.0001", description="Tiny refill", **BY_PANEL)
    assert has(user) == (D("0.0003"), 0)


def test_every_operation_takes_and_gives_the_smallest_amount() -> None:
    user = user_with(real="0.0002", bonus="0.0002")
    words = {"description": "Next to nothing", **BY_PANEL}
    tiny = D("0.0001")
    assert moves(charge_price(user, cycle="monthly", price=tiny, **words)) == (-tiny, 0)
    assert moves(pay_back(user, amount=tiny, **words)) == (tiny, 0)
    assert moves(ledger.give_bonus(user, amount=tiny, **words)) == (0, tiny)
    assert moves(charge_cost(user, service="traffic", cost=tiny, **words)) == (0, -tiny)
    assert moves(ledger.reverse(user, number=3, **words)) == (-tiny, 0)
    spent = charge_cost(user, service="traffic", cost="0.0003", **words)
    assert moves(spent) == (-tiny, D("-0.0002"))
    assert has(user) == (0, 0)
    with pytest.raises(errors.InsufficientFunds):
        charge_cost(user, service="traffic", cost=tiny, **words)


# --- Texts and the other fields of an entry -----------------------------------------------------


@pytest.mark.parametrize("text", ["", "1234", "  1234  ", " " * 50, "x" * 201, "x" * 5000])
def test_a_description_of_less_than_5_or_more_than_200_characters_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidDescription):
        ledger.change_balance(UserFactory(), amount=1, description=text, **BY_PANEL)


@pytest.mark.parametrize("text", ["12345", "é" * 5, "👍" * 200, "x" * 200, "a'b\"c\\d%s{}"])
def test_any_characters_count_as_one_in_a_description(text: str) -> None:
    posted = ledger.change_balance(UserFactory(), amount=1, description=text, **BY_PANEL)
    assert Transaction.objects.get(pk=posted.pk).description == text


def test_a_description_may_be_of_much_space() -> None:
    user = UserFactory()
    padded = ledger.change_balance(user, amount=1, description="Refill".ljust(10_000), **BY_PANEL)
    assert padded.description == "Refill"
    with pytest.raises(errors.InvalidEntry):
        ledger.change_balance(user, amount=1, description="Refill".ljust(10_001), **BY_PANEL)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("description", None),
        ("description", "null \0 here"),
        ("description", "two\nlines"),
        ("description", "turned \u202e round"),
        ("description", "printed but unseen \u3164"),
        ("device", "a bell \x07"),
        ("device", None),
        ("device", 7),
        ("device", "x" * 101),
        ("device", "a\0b"),
        ("subtype", "x" * 33),
        ("subtype", None),
        ("idempotency_key", ""),
        ("idempotency_key", "x" * 101),
        ("idempotency_key", "a\0b"),
        ("idempotency_key", 5),
        ("metadata", []),
        ("metadata", "text"),
        ("metadata", None),
        ("metadata", {"at": datetime(2026, 1, 1, tzinfo=UTC)}),
        ("metadata", {"a": float("nan")}),
        ("metadata", {"a": float("inf")}),
        ("metadata", {"a": float("-inf")}),
        ("metadata", {"a": "b\0c"}),
        ("metadata", {"a\0": 1}),
        ("metadata", {"a": "\ud800"}),
        ("metadata", {"request_id": "mine"}),
        ("description", "lone \ud800 surrogate"),
        ("device", "\udfff"),
        ("subtype", "Not A Code"),
        ("subtype", ""),
        ("subtype", "1st"),
        ("subtype", "code\n"),
        ("expected_number", "1"),
        ("expected_number", 1.0),
        ("expected_number", True),
        ("expected_number", 2**63),
    ],
)
def test_fields_that_cannot_be_stored_are_refused_by_name(field: str, value: Any) -> None:
    user = UserFactory()
    options = {"description": "Refill", "amount": 1, field: value}
    with pytest.raises(errors.InvalidEntry) as refused:
        ledger.change_balance(user, **options, **BY_PANEL)
    assert refused.value.data["field"] == field
    assert ledger.balance(user).number == 0


@pytest.mark.parametrize(
    "metadata", [{}, {"a": {"b": [1, 2.5, "x", None, True]}}, {"n": "NaN"}, {"ü": "\\u0000"}]
)
def test_metadata_comes_back_as_it_was(metadata: dict[str, Any]) -> None:
    posted = ledger.change_balance(
        UserFactory(), amount=1, description="Refill", metadata=metadata, **BY_PANEL
    )
    assert posted.metadata == Transaction.objects.get(pk=posted.pk).metadata == metadata


def test_metadata_may_not_be_endless() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"deeper": deep}
    circular: dict[str, Any] = {}
    circular["again"] = circular
    for metadata in (deep, circular):
        with pytest.raises(errors.InvalidEntry):
            ledger.change_balance(
                UserFactory(), amount=1, description="Refill", metadata=metadata, **BY_PANEL
            )


@pytest.mark.parametrize(
    "metadata",
    [
        {"a": "x" * ledger.MAX_METADATA},
        {"a": [1e308] * 60},  # the database writes each with 309 digits
        {"a": [1e-300] * 60},
        {str(number): number for number in range(2_000)},
    ],
)
def test_metadata_that_every_page_would_have_to_carry_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidEntry, match=r"more than 16,384 characters") as refused:
        ledger.change_balance(
            UserFactory(), amount=1, description="Refill", metadata=metadata, **BY_PANEL
        )
    assert refused.value.data["field"] == "metadata"


def test_the_longest_metadata_is_kept() -> None:
    metadata = {"a": "x" * (ledger.MAX_METADATA - len('{"a": ""}'))}
    posted = ledger.change_balance(
        UserFactory(), amount=1, description="Refill", metadata=metadata, **BY_PANEL
    )
    assert posted.metadata == metadata


@pytest.mark.parametrize("number", ["1", 1.0, True, 2**63, -(2**63) - 1])
def test_numbers_of_transactions_are_whole_numbers(number: Any) -> None:
    user = user_with(real=5)
    with pytest.raises(errors.InvalidEntry) as refused:
        ledger.reverse(user, number=number, description="Taken back", **BY_PANEL)
    assert refused.value.data["field"] == "reverses"


def test_a_user_id_beyond_all_ids_is_refused() -> None:
    with pytest.raises(errors.InvalidEntry):
        ledger.change_balance(2**70, amount=1, description="Refill", **BY_PANEL)
    with transaction.atomic():
        assert ledger.lock_balances([2**63, -(2**63) - 1]) == {}


def test_the_last_user_of_all_is_one_as_any_other() -> None:
    user = UserFactory(pk=2**63 - 1)
    with transaction.atomic():
        assert ledger.lock_balances([user.pk]) == {user.pk: (0, 0, 0)}


def test_an_unknown_user_is_refused() -> None:
    with pytest.raises(errors.UnknownUser, match=r"^There is no user with ID 4711000\.$"):
        ledger.change_balance(4711000, amount=1, description="Refill", **BY_PANEL)


# --- Idempotency keys (G6) ----------------------------------------------------------------------

FIRST: dict[str, Any] = {
    "amount": 5,
    "bonus_amount": 2,
    "description": "Order 17",
    "device": "Truck 7",
    "metadata": {"order": 17},
    "subtype": "partner",
}


def test_the_same_key_with_the_same_content_returns_the_first_transaction() -> None:
    user = UserFactory()
    first = ledger.change_balance(user, **FIRST, idempotency_key="17", **BY_PANEL)
    ledger.change_balance(user, amount=-5, bonus_amount=-2, description="All gone", **BY_PANEL)
    again = ledger.change_balance(
        user,
        **FIRST | {"description": "  Order 17 ", "amount": "5.00"},
        idempotency_key="17",
        expected_number=0,  # outdated, but a replay does not check it
        actor=OperatorFactory(),  # a replay may come from another actor and channel
        channel=Channel.API,
    )
    assert again == first
    assert again.replayed
    assert not first.replayed
    assert again.actor_id is None
    assert again.channel == Channel.PANEL
    assert ledger.balance(user) == (0, 0, 2)


@pytest.mark.parametrize(
    "other",
    [
        {"amount": 6},
        {"amount": "5.0001"},
        {"bonus_amount": 3},
        {"amount": 2, "bonus_amount": 5},
        {"description": "Order 18"},
        {"device": "Truck 8"},
        {"device": ""},
        {"metadata": {"order": 18}},
        {"metadata": {}},
        {"subtype": "import"},
    ],
)
def test_the_same_key_with_other_content_is_an_error(other: dict[str, Any]) -> None:
    user = UserFactory()
    ledger.change_balance(user, **FIRST, idempotency_key="17", **BY_PANEL)
    with pytest.raises(errors.IdempotencyConflict) as refused:
        ledger.change_balance(user, **FIRST | other, idempotency_key="17", **BY_PANEL)
    assert refused.value.data["number"] == 1
    assert ledger.balance(user) == (5, 2, 1)


def test_the_same_key_for_another_kind_of_operation_is_an_error() -> None:
    user = user_with(real=10, bonus=10)
    key = {"description": "Same words", "idempotency_key": "17", **BY_PANEL}
    ledger.change_balance(user, amount=-1, **key)
    for call in (
        lambda: ledger.give_bonus(user, amount=1, **key),
        lambda: charge_cost(user, service="partner", cost=1, **key),
        lambda: charge_price(user, cycle="partner", price=1, **key),
        lambda: ledger.reverse(user, number=1, **key),
    ):
        with pytest.raises(errors.IdempotencyConflict):
            call()


def test_a_service_is_the_same_by_its_whole_cost_however_it_was_split() -> None:
    user = user_with(real=10, bonus=2)
    words = {
        "service": "traffic",
        "description": "10 MB of traffic",
        "idempotency_key": "17",
        **BY_PANEL,
    }
    first = charge_cost(user, cost=3, **words)
    ledger.give_bonus(user, amount=50, description="New bonus", **BY_PANEL)
    assert charge_cost(user, cost=3, **words) == first
    for other in ({"cost": 2}, {"cost": 3, "service": "phone_call"}, {"cost": 3, "device": "x"}):
        with pytest.raises(errors.IdempotencyConflict):
            charge_cost(user, **words | other)


def test_a_reversal_can_be_repeated_by_its_key() -> None:
    user = user_with(real=10)
    ledger.change_balance(user, amount=1, description="A mistake", **BY_PANEL)
    words = {"description": "Taken back", "idempotency_key": "back", **BY_PANEL}
    first = ledger.reverse(user, number=2, **words)
    assert ledger.reverse(user, number=2, **words) == first
    with pytest.raises(errors.IdempotencyConflict):
        ledger.reverse(user, number=1, **words)
    assert has(user) == (10, 0)


def test_keys_belong_to_one_user() -> None:
    one, other = UserFactory(), UserFactory()
    for user in (one, other):
        ledger.change_balance(user, **FIRST, idempotency_key="17", **BY_PANEL)
    assert has(one) == has(other) == (5, 2)


def test_a_refused_entry_does_not_use_its_key_up() -> None:
    user = UserFactory()
    words = {"amount": -5, "description": "Charge", "idempotency_key": "17", **BY_PANEL}
    with pytest.raises(errors.InsufficientFunds):
        ledger.change_balance(user, **words)
    ledger.change_balance(user, amount=5, description="Refill", **BY_PANEL)
    assert not ledger.change_balance(user, **words).replayed


def test_a_key_counts_within_one_batch_too() -> None:
    user = UserFactory()
    entry = ledger.balance_change_entry(user, **FIRST, idempotency_key="17")
    other = ledger.balance_change_entry(user, **FIRST | {"amount": 6}, idempotency_key="17")
    results = ledger.post_batch([entry, entry, other], skip_refused=True, **BY_PANEL)
    assert [r.outcome for r in results] == ["posted", "replayed", "refused"]
    assert results[0].transaction == results[1].transaction
    assert isinstance(results[2].refusal, errors.IdempotencyConflict)
    assert ledger.balance(user) == (5, 2, 1)


# --- Expected numbers ---------------------------------------------------------------------------


def test_a_change_can_be_bound_to_what_the_caller_saw() -> None:
    user = user_with(real=10)
    words = {"amount": 1, "description": "Refill", **BY_PANEL}
    ledger.change_balance(user, **words, expected_number=1)
    for stale in (1, 0, 3):
        with pytest.raises(errors.BalanceMoved) as refused:
            ledger.change_balance(user, **words, expected_number=stale)
        assert refused.value.data == {
            "number": 2,
            "expected_number": stale,
            "balance": "11.0000",
            "bonus": "0.0000",
        }
    assert ledger.balance(user) == (11, 0, 2)


def test_no_transaction_yet_can_be_what_the_caller_saw() -> None:
    user = UserFactory()
    words = {"amount": 1, "description": "Refill", "expected_number": 0, **BY_PANEL}
    ledger.change_balance(user, **words)
    with pytest.raises(errors.BalanceMoved):
        ledger.change_balance(user, **words)


# --- Reversal -----------------------------------------------------------------------------------


def test_a_reversal_gives_back_to_both_balances_what_was_taken_from_each() -> None:
    user = user_with(real=5, bonus=2)
    charge = charge_cost(
        user, service="traffic", cost=3, description="Traffic", device="Truck 7", **BY_PANEL
    )
    ledger.give_bonus(user, amount=10, description="More bonus", **BY_PANEL)
    back = ledger.reverse(user, number=charge.number, description="Not delivered", **BY_PANEL)
    assert moves(back) == (1, 2)
    assert (back.type, back.subtype, back.device) == ("reversal", "tariff_charge", "Truck 7")
    assert back.reverses == charge.number
    assert has(user) == (5, 12)


def test_metadata_of_many_decimals_may_be_as_long_as_any_other() -> None:
    metadata: dict[str, Any] = {"decimals": [0.5] * 1000, "filled": ""}
    metadata["filled"] = "x" * (ledger.MAX_METADATA - len(json.dumps(metadata)))
    said = {"amount": 1, "description": "Measured", **BY_PANEL}
    assert ledger.change_balance(user_with(), metadata=metadata, **said).metadata == metadata
    metadata["filled"] += "x"
    with pytest.raises(errors.InvalidEntry):
        ledger.change_balance(user_with(), metadata=metadata, **said)


def test_what_was_paid_back_of_one_charge_was_paid_back_of_no_other() -> None:
    say = {"description": "Fee of April"}
    someone = user_with(real=100)
    for _ in range(3):
        charge_price(someone, cycle="monthly", price=1, **say, **BY_PANEL)
    user = user_with(real=100)
    entries = [ledger.subscription_entry(user, cycle="monthly", price=30, **say) for _ in range(3)]
    first, second, third = (
        result.transaction
        for result in ledger.post_batch(entries, **BY_PANEL)
        if result.transaction
    )
    named = {"metadata": {"charge": second.number}}
    rests = [
        ledger.remainder_entry(user, amount=amount, metadata={"charge": number}, **say)
        for amount, number in (
            (7, second.number),
            (5, third.number),
            (4, second.number),
            (3, second.number),
            (2, second.number),
        )
    ]
    posted = [result.transaction for result in ledger.post_batch(rests, **BY_PANEL)]
    # The next three name the same charge number, but are no remainders of that charge.
    # The reversal takes one remainder back.
    ledger.change_balance(user, amount=1, subtype="remainder", **named, **say, **BY_PANEL)
    charge_price(user, cycle="monthly", price=1, **named, **say, **BY_PANEL)
    pay_back(someone, amount=1, **named, **say, **BY_PANEL)
    ledger.reverse(user, number=posted[3].number, **say, **BY_PANEL)
    assert ledger.paid_back_of(first) == []
    assert ledger.paid_back_of(Transaction.objects.get(user=user, number=1)) == []
    assert ledger.paid_back_of(second) == [posted[0], posted[2], posted[4]]
    assert ledger.paid_back_of(third) == [posted[1]]
    said = {"description": "Charged in error", **BY_PANEL}
    assert ledger.reverse(user, number=first.number, **said).amount == 30
    with pytest.raises(errors.AlreadyPaidBack) as refused:
        ledger.reverse(user, number=second.number, **said)
    assert refused.value.data == {
        "number": second.number,
        "amount": "13.0000",
        "paid_back_by": posted[4].number,
    }
    # With `although_paid_back` the charge is reversed, and cannot be reversed again.
    taken = ledger.reverse(user, number=second.number, although_paid_back=True, **said)
    assert taken.amount == 30
    with pytest.raises(errors.AlreadyReversed):
        ledger.reverse(user, number=second.number, **said)


def test_a_remainder_comes_after_what_it_is_of() -> None:
    user = user_with(real=100)
    say = {"description": "Fee of April", **BY_PANEL}
    pay_back(user, amount=7, metadata={"charge": 3}, **say)
    later = charge_price(user, cycle="monthly", price=30, **say)
    assert later.number == 3
    assert ledger.paid_back_of(later) == []


def test_a_transaction_is_reversed_once_only() -> None:
    user = user_with(real=5)
    ledger.reverse(user, number=1, description="Wrong user", **BY_PANEL)
    with pytest.raises(errors.AlreadyReversed) as refused:
        ledger.reverse(user, number=1, description="Wrong user", **BY_PANEL)
    assert (refused.value.data["number"], refused.value.data["reversed_by"]) == (1, 2)
    assert ledger.balance(user) == (0, 0, 2)


def test_a_reversal_is_not_reversed() -> None:
    user = user_with(real=5)
    ledger.reverse(user, number=1, description="Wrong user", **BY_PANEL)
    with pytest.raises(errors.NotReversible):
        ledger.reverse(user, number=2, description="Right user", **BY_PANEL)


@pytest.mark.parametrize("gone", ["amount", "bonus_amount"])
def test_a_refill_is_not_reversed_when_the_money_is_gone(gone: str) -> None:
    user = user_with(real=5, bonus=5)
    ledger.change_balance(user, **{gone: -1}, description="Spent some", **BY_PANEL)
    with pytest.raises(errors.InsufficientFunds):
        ledger.reverse(user, number=1, description="Wrong user", **BY_PANEL)
    assert ledger.balance(user).number == 2


@pytest.mark.parametrize("number", [0, 2, 3, -1])
def test_only_a_transaction_of_the_same_user_can_be_reversed(number: int) -> None:
    user_with_history()
    user = user_with(real=5)
    with pytest.raises(errors.UnknownTransaction) as refused:
        ledger.reverse(user, number=number, description="Which one", **BY_PANEL)
    assert refused.value.data["number"] == number


def test_a_reversal_needs_room_on_the_balance() -> None:
    user = user_with(real=MAX_MONEY)
    ledger.change_balance(user, amount=-1, description="Spent some", **BY_PANEL)
    ledger.change_balance(user, amount=1, description="Full again", **BY_PANEL)
    with pytest.raises(errors.BalanceOutOfRange):
        ledger.reverse(user, number=2, description="Taken back", **BY_PANEL)


# --- Batches (G7) -------------------------------------------------------------------------------


def change(user: User, amount: Any, description: str = "In a batch", **options: Any) -> Any:
    return ledger.balance_change_entry(user, amount=amount, description=description, **options)


def test_a_batch_posts_the_entries_of_each_user_in_the_order_given() -> None:
    first, second = UserFactory(), UserFactory()
    results = ledger.post_batch(
        [change(second, 5), change(first, 7), change(second, -5), change(first, -3)], **BY_PANEL
    )
    assert [(r.outcome, r.refusal) for r in results] == [("posted", None)] * 4
    rows = [r.transaction for r in results if r.transaction]
    assert [(t.user_id, t.number, t.amount, t.new_balance) for t in rows] == [
        (second.pk, 1, 5, 5),
        (first.pk, 1, 7, 7),
        (second.pk, 2, -5, 0),
        (first.pk, 2, -3, 4),
    ]


def test_a_batch_with_one_bad_entry_posts_nothing_and_says_which() -> None:
    first, second = UserFactory(), UserFactory()
    with pytest.raises(errors.InsufficientFunds) as refused:
        ledger.post_batch(
            [change(second, 5), change(first, 7), change(first, -8), change(second, 1)], **BY_PANEL
        )
    assert refused.value.data["entry"] == 3
    assert not Transaction.objects.exists()
    assert ledger.balance(first) == ledger.balance(second) == (0, 0, 0)


def test_a_batch_with_one_malformed_entry_posts_nothing_and_says_which() -> None:
    user = UserFactory()
    with pytest.raises(errors.InvalidAmount) as refused:
        ledger.post_batch([change(user, 5), change(user, "NaN"), change(user, 1)], **BY_PANEL)
    assert refused.value.data["entry"] == 2
    assert ledger.balance(user).number == 0


def test_a_batch_can_skip_what_is_refused_and_tells_entry_by_entry() -> None:
    first, second = UserFactory(), UserFactory()
    results = ledger.post_batch(
        [
            change(second, -1),
            change(first, "1.00001"),
            change(first, 7),
            change(second, 2, idempotency_key="k"),
            ledger.reversal_entry(first, number=1, description="Taken back"),
            change(4711000, 1),
            change(second, 2, idempotency_key="k"),
            change(first, 1, description="tiny"),
            change(second, -1),
        ],
        skip_refused=True,
        **BY_PANEL,
    )
    assert [
        (r.outcome, r.refusal.code if r.refusal else r.transaction and r.transaction.number)
        for r in results
    ] == [
        ("refused", "insufficient_funds"),
        ("refused", "invalid_amount"),
        ("posted", 1),
        ("posted", 1),
        ("posted", 2),
        ("refused", "unknown_user"),
        ("replayed", 1),
        ("refused", "invalid_description"),
        ("posted", 2),
    ]
    assert (has(first), has(second)) == ((0, 0), (1, 0))


def test_a_transaction_can_be_reversed_in_the_batch_that_posts_it() -> None:
    user = UserFactory()
    back = ledger.reversal_entry(user, number=1, description="Taken back")
    results = ledger.post_batch([change(user, 5), back, back], skip_refused=True, **BY_PANEL)
    assert [r.outcome for r in results] == ["posted", "posted", "refused"]
    assert isinstance(results[2].refusal, errors.AlreadyReversed)
    assert ledger.balance(user) == (0, 0, 2)


def test_each_entry_is_answered_if_a_later_one_refers_to_it() -> None:
    """What is written before the end, and what is left over, alone or not."""
    user, other = user_with(real=1), user_with(real=1)
    back = ledger.reversal_entry(user, number=2, description="Taken back")
    for further in ([], [change(user, 3)], [change(other, 4), change(user, 3)]):
        results = ledger.post_batch([change(user, 5), back, *further], **BY_PANEL)
        amounts = [r.transaction.amount for r in results if r.transaction]
        assert amounts == [5, -5, *(entry.amount for entry in further)]
        number = ledger.balance(user).number + 1
        back = ledger.reversal_entry(user, number=number, description="Taken back")


def test_numbers_of_nothing_are_none() -> None:
    assert ledger.post_for_numbers([], **BY_PANEL) == []


def test_a_rehearsal_posts_and_leaves_nothing() -> None:
    user = user_with(real=5)
    with ledger.dry_run():
        shown = ledger.change_balance(user, amount=2, description="A preview", **BY_PANEL)
        assert shown.new_balance == 7
    assert ledger.balance(user) == (5, 0, 1)


def test_a_request_is_noted_in_what_it_posts_and_in_nothing_else() -> None:
    user = UserFactory()

    def metadata() -> dict[str, Any]:
        words = {"description": "Refill", "metadata": {"order": 17}, **BY_PANEL}
        return ledger.change_balance(user, amount=1, **words).metadata

    with ledger.for_request("outer"):
        with ledger.for_request("inner"):
            assert metadata() == {"order": 17, "request_id": "inner"}
        assert metadata() == {"order": 17, "request_id": "outer"}
    assert metadata() == {"order": 17}


@pytest.mark.parametrize("key", [None, "17", "order:subscription:1", "registration-1"])
def test_a_callers_key_is_any_other_than_the_panels_own(key: str | None) -> None:
    assert ledger.callers_key(key) == key


@pytest.mark.parametrize("key", ["registration", "subscription:1", "subscription:\n1"])
def test_the_panels_own_keys_are_no_callers_keys(key: str) -> None:
    with pytest.raises(errors.InvalidEntry) as refused:
        ledger.callers_key(key)
    assert refused.value.data["field"] == "idempotency_key"


def test_an_empty_batch_does_nothing() -> None:
    assert ledger.post_batch([], **BY_PANEL) == []
    assert ledger.post_batch(iter(()), skip_refused=True, **BY_PANEL) == []


def test_a_batch_may_be_large() -> None:
    users = [UserFactory() for _ in range(20)]
    entries = (change(users[i % 20], i // 20 + 1) for i in range(1000))
    results = ledger.post_batch(entries, **BY_PANEL)
    assert len(results) == 1000
    assert {ledger.balance(user) for user in users} == {(1275, 0, 50)}
    judge()


def test_a_refusal_leaves_the_surrounding_transaction_usable() -> None:
    user = user_with(real=5)
    with transaction.atomic():
        ledger.change_balance(user, amount=1, description="Goes through", **BY_PANEL)
        with pytest.raises(errors.InsufficientFunds):
            ledger.change_balance(user, amount=-7, description="Is refused", **BY_PANEL)
        with pytest.raises(errors.InsufficientFunds):
            ledger.post_batch([change(user, 1), change(user, -8)], **BY_PANEL)
        ledger.change_balance(user, amount=1, description="Goes through", **BY_PANEL)
    assert ledger.balance(user) == (7, 0, 3)


def test_a_surrounding_transaction_that_fails_takes_the_money_back() -> None:
    user = user_with(real=5)
    with transaction.atomic():
        ledger.change_balance(user, amount=1, description="Never was", **BY_PANEL)
        transaction.set_rollback(True)
    assert ledger.balance(user) == (5, 0, 1)


# --- As of a point in time ----------------------------------------------------------------------


def test_balances_as_of_a_point_in_time() -> None:
    user = UserFactory()
    start = datetime.now(UTC)
    posted = [
        ledger.change_balance(
            user, amount=amount, bonus_amount=1, description="Refill", **BY_PANEL
        ).created_at
        for amount in (5, 7, -2, 4, 1)
    ]
    tick = timedelta(microseconds=1)
    assert ledger.balance_at(user, start - tick) == (0, 0, 0)
    assert ledger.balance_at(user, posted[0] - tick) == (0, 0, 0)
    for number, (real, moment) in enumerate(zip((5, 12, 10, 14, 15), posted, strict=True), start=1):
        assert ledger.balance_at(user, moment) == (real, number, number)
        assert ledger.balance_at(user, moment - tick).number == number - 1
        assert ledger.balance_at(user.pk, moment + tick).number == number
    assert ledger.balance_at(user, datetime.now(UTC) + timedelta(days=1)) == (15, 5, 5)


def test_of_transactions_at_one_moment_the_last_counts() -> None:
    user = UserFactory()
    ledger.post_batch([change(user, 1) for _ in range(50)], **BY_PANEL)
    for row in Transaction.objects.filter(user=user):
        expected = Transaction.objects.filter(user=user, created_at__lte=row.created_at).count()
        assert ledger.balance_at(user, row.created_at).number == expected


# --- Actor and channel (G8) ---------------------------------------------------------------------


def test_actor_and_channel_are_named_every_time() -> None:
    user = UserFactory()
    with pytest.raises(TypeError, match="actor"):
        ledger.change_balance(user, amount=1, description="Refill", channel=Channel.API)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="channel"):
        ledger.change_balance(user, amount=1, description="Refill", actor=None)  # type: ignore[call-arg]


def test_somebody_who_is_not_logged_in_does_not_pass_for_the_system() -> None:
    with pytest.raises(ValueError, match="not a saved user"):
        ledger.change_balance(
            UserFactory(),
            amount=1,
            description="Refill",
            actor=AnonymousUser(),  # type: ignore[arg-type]
            channel=Channel.PANEL,
        )


@pytest.mark.parametrize("channel", Channel)
def test_every_channel_is_recorded(channel: Channel) -> None:
    posted = ledger.change_balance(
        UserFactory(), amount=1, description="Refill", actor=None, channel=channel
    )
    assert Transaction.objects.get(pk=posted.pk).channel == channel.value


def test_users_and_operators_with_history_cannot_be_deleted() -> None:
    user, operator = UserFactory(), OperatorFactory()
    ledger.change_balance(
        user, amount=1, description="Refill", actor=operator, channel=Channel.PANEL
    )
    for person in (user, operator, UserFactory()):  # without a history, the balance row prevents it
        with pytest.raises(ProtectedError):
            person.delete()


# --- Refusals -----------------------------------------------------------------------------------


def test_each_kind_of_refusal_has_a_code_of_its_own() -> None:
    """The codes are part of the interface: programs depend on them."""
    assert set(ERRORS_BY_CODE) == {
        "invalid_quantity",
        "unknown_service",
        "service_retired",
        "no_plan",
        "service_not_available",
        "subscription_suspended",
        "subscription_exists",
        "subscription_cancelled",
        "unknown_plan",
        "unknown_subscription",
        "email_taken",
        "plan_retired",
        "same_plan",
        "user_deactivated",
        "duplicate_user",
        "forgotten_user",
        "not_closed",
        "invalid_day",
        "already_paid_back",
        "already_reversed",
        "clock_behind",
        "balance_moved",
        "balance_out_of_range",
        "idempotency_conflict",
        "insufficient_funds",
        "invalid_amount",
        "invalid_description",
        "invalid_entry",
        "invalid_expiry",
        "invalid_payment_date",
        "unknown_reason",
        "reason_refused",
        "reason_required",
        "unknown_batch",
        "batch_reversed",
        "unknown_voucher",
        "voucher_expired",
        "voucher_redeemed",
        "voucher_used_up",
        "refund_too_large",
        "not_movable",
        "same_user",
        "unknown_grant",
        "not_reversible",
        "nothing_to_change",
        "unknown_transaction",
        "unknown_user",
    }
    assert len(ERRORS_BY_CODE) == len(BillingError.__subclasses__())


# Refused before anything is posted: see test_service_charges.py and test_subscriptions.py.
OF_PLANS = {
    "unknown_voucher",
    "voucher_expired",
    "voucher_redeemed",
    "voucher_used_up",
    "reason_required",
    "unknown_batch",
    "batch_reversed",
    "not_movable",
    "same_user",
    "unknown_grant",
    "unknown_plan",
    "unknown_subscription",
    "email_taken",
    "already_paid_back",
    "invalid_quantity",
    "unknown_service",
    "service_retired",
    "no_plan",
    "service_not_available",
    "subscription_suspended",
    "subscription_exists",
    "subscription_cancelled",
    "plan_retired",
    "same_plan",
    "user_deactivated",
    "not_closed",
    "invalid_day",
}


def test_each_kind_of_refusal_happens_and_explains_itself() -> None:
    user = user_with(real=5)
    Reason.objects.create(code="old", label="Old", template="Old reason", is_active=False)
    ledger.reverse(user, number=1, description="Taken back", **BY_PANEL)
    ledger.change_balance(user, amount=5, description="Keyed", idempotency_key="k", **BY_PANEL)
    entries = [
        ledger.reversal_entry(user, number=1, description="Again"),
        change(user, 1, expected_number=1),
        change(user, MAX_MONEY),
        change(user, 6, idempotency_key="k"),
        change(user, -6),
        change(user, "a lot"),
        change(user, 1, description="abcd"),
        change(user, 1, device=7),
        ledger.reversal_entry(user, number=2, description="Reverse the reversal"),
        change(user, 0),
        ledger.reversal_entry(user, number=99, description="Which one"),
        change(4711000, 1),
        change(user, 1, payment_date=date(2999, 1, 1)),
        change(user, 1, reason="no_reason"),
        change(user, 1, reason="old"),
        change(user, 1, bonus_expires_at=datetime(2999, 1, 1, tzinfo=UTC)),
        ledger.reversal_entry(user, number=3, amount=6, description="More than it was"),
        change(UserFactory(is_active=False, duplicate_of=user), 1),
        change(UserFactory(is_active=False, forgotten_at=datetime.now(UTC)), 1),
    ]
    results = ledger.post_batch(entries, skip_refused=True, **BY_PANEL)
    refusals = [result.refusal for result in results]
    assert all(refusals)
    assert sorted(refusal.code for refusal in refusals if refusal) == sorted(
        ERRORS_BY_CODE.keys() - OF_PLANS - {"clock_behind"}  # needs a clock that goes back
    )
    for refusal in refusals:
        assert str(refusal).endswith(".")
        assert "{" not in str(refusal)
    assert ledger.balance(user) == (5, 0, 3)
