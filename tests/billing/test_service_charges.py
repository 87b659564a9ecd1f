"""Charging a service: the cost under each plan, the description, repeated calls, and refusals."""

from decimal import Decimal
from typing import Any

import pytest

from billing import errors, ledger
from billing.models import Channel, Plan, Service, ServicePrice, Subscription, Transaction
from billing.plans import services
from tests.billing.histories import BY_PANEL
from tests.factories import PlanFactory, ServiceFactory, plan_with, subscribed, user_with
from users.models import User

pytestmark = pytest.mark.django_db

D = Decimal
SMS = "outgoing_sms"


@pytest.fixture
def sms() -> Service:
    return ServiceFactory(code=SMS, name="Outgoing SMS")


@pytest.fixture
def business(sms: Service) -> Plan:
    """A plan with messages at 0.30. It is free, so subscribing does not change the balance."""
    return plan_with({sms: "0.30"}, name="Business", price=0)


@pytest.fixture
def customer(business: Plan) -> User:
    user = user_with(real=100, bonus=10)
    subscribed(user, business)
    return user


def charge(user: User | int, **said: Any) -> Transaction:
    return services.charge_service(user, **{"service": SMS, "quantity": 10} | BY_PANEL | said)


def refuses(user: User | int, kind: type[errors.BillingError], **said: Any) -> dict[str, Any]:
    """Asserts that this charge is refused and changes nothing. Returns the refusal's data."""
    before = Transaction.objects.count()
    with pytest.raises(kind) as refusal:
        charge(user, **said)
    assert str(refusal.value)
    assert Transaction.objects.count() == before
    return refusal.value.data


# --- The worked examples ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("real", "bonus", "from_real", "from_bonus"),
    [("5.00", "2.00", "-1.0000", "-2.0000"), ("5.00", "0", "-3", "0"), ("0", "3", "0", "-3")],
)
def test_ten_messages_take_the_bonus_first(
    business: Plan, real: str, bonus: str, from_real: str, from_bonus: str
) -> None:
    user = user_with(real=real, bonus=bonus)
    subscribed(user, business)
    posted = charge(user)
    assert (posted.amount, posted.bonus_amount) == (D(from_real), D(from_bonus))
    assert (posted.type, posted.subtype) == ("tariff_charge", SMS)


def test_ten_messages_beyond_both_balances_are_refused(business: Plan) -> None:
    user = user_with(real="0.50", bonus="2.00")
    subscribed(user, business)
    figures = refuses(user, errors.InsufficientFunds)
    assert figures == {"balance": "any", "needed": "3.0000", "available": "2.5000"}
    assert ledger.balance(user) == (D("0.50"), 2, 1)


# --- Which price --------------------------------------------------------------------------------


def test_a_device_is_charged_by_its_own_plan_before_the_accounts(
    customer: User, sms: Service
) -> None:
    subscribed(customer, plan_with({sms: "0.20"}, price=0), device="8617")
    assert charge(customer, device="8617").bonus_amount == D("-2.0000")
    assert charge(customer, device="4711").bonus_amount == D("-3.0000")
    assert charge(customer).bonus_amount == D("-3.0000")


def test_a_device_s_plan_is_not_the_accounts(sms: Service) -> None:
    user = user_with(real=100)
    subscribed(user, plan_with({sms: "0.20"}, price=0), device="8617")
    assert charge(user, device="8617").amount == D("-2.0000")
    figures = refuses(user, errors.NoPlan)
    assert figures == {"user_id": user.pk, "device": ""}
    refuses(user, errors.NoPlan, device="4711")


def test_what_the_device_s_plan_does_not_offer_the_account_s_does_not_lend(customer: User) -> None:
    subscribed(customer, PlanFactory(name="Bare", price=0), device="8617")
    figures = refuses(customer, errors.ServiceNotAvailable, device="8617")
    assert figures == {"plan": "Bare", "service": "Outgoing SMS"}


def test_who_has_cancelled_has_no_plan(business: Plan) -> None:
    user = user_with(real=100)
    subscription = subscribed(user, business)
    Subscription.objects.filter(pk=subscription.pk).update(status="cancelled", due_on=None)
    refuses(user, errors.NoPlan)


def test_nobody_elses_plan_counts(customer: User) -> None:
    refuses(user_with(real=100), errors.NoPlan)


def test_an_unknown_user_is_called_that(customer: User) -> None:
    assert refuses(2**40, errors.UnknownUser) == {"user_id": 2**40}


@pytest.mark.parametrize("code", ["no_such", "", "Outgoing SMS", "a\0b", "\ud800", 5, None])
def test_an_unknown_service_is_refused_whatever_it_is(customer: User, code: Any) -> None:
    refuses(customer, errors.UnknownService, service=code)


def test_a_retired_service_is_refused(customer: User, sms: Service) -> None:
    sms.is_active = False
    sms.save()
    assert refuses(customer, errors.ServiceRetired) == {"service": "Outgoing SMS"}


def test_a_retired_plan_goes_on_pricing_for_who_has_it(customer: User, business: Plan) -> None:
    business.is_active = False
    business.save()
    assert charge(customer).bonus_amount == -3


def test_without_a_price_the_service_is_not_offered(customer: User, business: Plan) -> None:
    business.service_prices.all().delete()
    figures = refuses(customer, errors.ServiceNotAvailable)
    assert figures == {"plan": "Business", "service": "Outgoing SMS"}


def test_a_suspended_subscription_gives_no_services(sms: Service) -> None:
    user = user_with(real=5, bonus=100)
    subscribed(user, plan_with({sms: "0.30"}, name="Dear", price=10))
    figures = refuses(user, errors.SubscriptionSuspended)
    until = {"reason": "no_money", "until": "until there is money"}
    assert figures == {"plan": "Dear", "device": ""} | until


def test_a_suspended_device_is_not_served_by_the_account_s_plan(
    customer: User, sms: Service
) -> None:
    subscribed(customer, plan_with({sms: "0.30"}, name="Dear", price=1000), device="8617")
    figures = refuses(customer, errors.SubscriptionSuspended, device="8617")
    assert figures["device"] == "8617"
    assert figures["reason"] == "no_money"


def test_a_price_change_counts_from_the_next_charge_on(customer: User, business: Plan) -> None:
    first = charge(customer)
    business.service_prices.update(price="0.50")
    assert charge(customer).bonus_amount == -5
    assert Transaction.objects.get(pk=first.pk).bonus_amount == -3


# --- How much -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "quantity", "cost"),
    [
        ("0.30", "2.5", "0.75"),
        ("0.0001", "0.5", "0.0001"),
        ("0.3333", "1.000001", "0.3333"),
        ("0.0003", "1.5", "0.0005"),
        ("50", "0.000001", "0.0001"),
        ("0.0001", "1000000", "100"),
    ],
)
def test_a_cost_is_price_times_quantity_rounded_half_up(
    customer: User, business: Plan, price: str, quantity: str, cost: str
) -> None:
    business.service_prices.update(price=price)
    posted = charge(customer, quantity=quantity)
    assert posted.amount + posted.bonus_amount == -D(cost)


@pytest.mark.parametrize(
    ("quantity", "reason"),
    [
        (0, "wrong_sign"),
        ("-1", "wrong_sign"),
        ("0.0000001", "too_many_decimals"),
        ("1000000000000", "out_of_range"),
        pytest.param(10**5000, "out_of_range", id="5001 digits"),
        (1.5, "not_a_number"),
        (True, "not_a_number"),
        ("ten", "not_a_number"),
        (D("NaN"), "not_a_number"),
    ],
)
def test_what_is_no_quantity_is_refused(customer: User, quantity: Any, reason: str) -> None:
    figures = refuses(customer, errors.InvalidQuantity, quantity=quantity)
    assert figures["reason"] == reason
    assert len(figures["value"]) <= 40


def test_a_cost_beyond_all_amounts_is_refused(customer: User, business: Plan) -> None:
    business.service_prices.update(price="999999999999999.9999")
    figures = refuses(customer, errors.InvalidQuantity, quantity=2)
    assert figures == {"reason": "out_of_range", "value": "2"}


@pytest.mark.parametrize(("price", "quantity"), [("0", "10"), ("0.0001", "0.4")])
def test_what_costs_nothing_is_free_of_charge_and_leaves_its_key_free(
    customer: User, business: Plan, price: str, quantity: str
) -> None:
    business.service_prices.update(price=price)
    figures = refuses(customer, errors.FreeOfCharge, quantity=quantity, idempotency_key="k")
    assert (figures["plan"], D(figures["unit_price"])) == ("Business", D(price))
    refuses(customer, errors.FreeOfCharge, quantity=quantity, expected_number=1)
    for other in (0, 2):
        refuses(customer, errors.BalanceMoved, quantity=quantity, expected_number=other)
    for possible in ("Fives", "x" * 200):
        refuses(customer, errors.FreeOfCharge, quantity=quantity, description=possible)
    figures = refuses(customer, errors.InvalidEntry, quantity=quantity, expected_number="1")
    assert figures["field"] == "expected_number"
    refuses(customer, errors.InvalidDescription, quantity=quantity, description="Four")
    refuses(customer, errors.InvalidDescription, quantity=quantity, description="x" * 201)
    business.service_prices.update(price=1)
    assert not charge(customer, quantity=1, idempotency_key="k").replayed


# --- What it is called --------------------------------------------------------------------------


def test_a_charge_describes_itself(customer: User) -> None:
    posted = charge(customer, device="8617")
    assert posted.description == "Outgoing SMS × 10, plan Business, device 8617"
    assert posted.device == "8617"
    assert charge(customer).description == "Outgoing SMS × 10, plan Business"


def test_the_unit_stands_behind_the_quantity(customer: User, business: Plan) -> None:
    call = ServiceFactory(code="phone_call", name="Phone call", unit="min")
    ServicePrice.objects.create(plan=business, service=call, price="0.10")
    posted = charge(customer, service="phone_call", quantity="2.50")
    assert posted.description == "Phone call × 2.5 min, plan Business"


def test_the_longest_names_still_make_a_description() -> None:
    service = ServiceFactory(code="s" * 32, name="S" * 40, unit="u" * 20)
    user = user_with(real="999999999999999")
    subscribed(user, plan_with({service: "1"}, name="P" * 60, price=0), device="D" * 100)
    posted = charge(user, service="s" * 32, quantity="123456789012.123456", device="D" * 100)
    assert len(posted.description) == 200
    assert posted.description.startswith(
        f"{'S' * 40} × 123456789012.123456 {'u' * 20}, plan {'P' * 60}, device DDD"
    )
    assert posted.description.endswith("D…")


def test_the_shortest_names_do_too() -> None:
    service = ServiceFactory(code="s", name="S")
    user = user_with(real=1)
    subscribed(user, plan_with({service: "1"}, name="P", price=0))
    assert charge(user, service="s", quantity=1).description == "S × 1, plan P"


def test_a_description_of_the_caller_stands(customer: User) -> None:
    assert charge(customer, description="  Campaign 17 ").description == "Campaign 17"
    refuses(customer, errors.InvalidDescription, description="four")


def test_the_pricing_is_noted_beside_the_caller_s_own_metadata(
    customer: User, business: Plan
) -> None:
    posted = charge(customer, quantity="2.50", metadata={"order": 17})
    assert posted.metadata == {
        "order": 17,
        "pricing": {"plan": business.pk, "price": "0.3000", "quantity": "2.5"},
    }


@pytest.mark.parametrize("metadata", [{"pricing": 1}, [1], "x", 5, {"x": {1, 2}}, [], ""])
def test_metadata_that_cannot_be_kept_is_refused(customer: User, metadata: Any) -> None:
    assert refuses(customer, errors.InvalidEntry, metadata=metadata)["field"] == "metadata"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", "x" * 101),
        ("device", "a\0b"),
        ("device", 5),
        ("idempotency_key", ""),
        ("idempotency_key", "a\0b"),
        ("idempotency_key", "\ud800"),
        ("idempotency_key", "k" * 101),
        ("idempotency_key", 5),
        ("description", None),
        ("description", "a\nb and more"),
    ],
)
def test_texts_that_cannot_be_kept_are_refused_by_name(
    customer: User, name: str, value: Any
) -> None:
    assert refuses(customer, errors.InvalidEntry, **{name: value})["field"] == name


def test_a_device_is_the_same_with_spaces_around_it(customer: User, sms: Service) -> None:
    subscribed(customer, plan_with({sms: "0.20"}, price=0), device=" 8617 ")
    posted = charge(customer, device="  8617")
    assert (posted.device, posted.bonus_amount) == ("8617", -2)


def test_a_device_is_the_same_however_its_letters_are_put_together(
    customer: User, sms: Service
) -> None:
    subscribed(customer, plan_with({sms: "0.20"}, price=0), device="Cam\u00e9ra")
    posted = charge(customer, device="Came\u0301ra")
    assert (posted.device, posted.bonus_amount) == ("Cam\u00e9ra", -2)
    with pytest.raises(errors.SubscriptionExists):
        subscribed(customer, PlanFactory(), device="Came\u0301ra")


@pytest.mark.parametrize("unseen", ["\u00ad", "\u200b", "\u2060", "\ufeff"])
def test_a_device_has_nothing_unseen_in_its_name(customer: User, unseen: str) -> None:
    for name in (f"8617{unseen}", f"{unseen}8617", unseen):
        assert refuses(customer, errors.InvalidEntry, device=name)["field"] == "device"


def test_a_description_may_be_of_much_space(customer: User) -> None:
    assert charge(customer, description="Campaign".ljust(10_000)).description == "Campaign"
    refuses(customer, errors.InvalidEntry, description="Campaign".ljust(10_001))


def test_actor_and_channel_are_noted(customer: User) -> None:
    posted = charge(customer, actor=customer, channel=Channel.API)
    assert (posted.actor_id, posted.channel) == (customer.pk, "api")


def test_only_on_the_state_that_the_caller_knows(customer: User) -> None:
    assert charge(customer, expected_number=1).number == 2
    refuses(customer, errors.BalanceMoved, expected_number=1)


# --- Once ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"device": " 8617 "},
        {"description": "  Campaign 17 "},
        {"quantity": "2.50"},
        {"metadata": {"list": (1, 2), 5: None, "deep": {"a": [0.1, 1e22]}}},
        {"actor": None, "channel": Channel.API},
    ],
    ids=lambda said: next(iter(said), "plain"),
)
def test_a_key_charges_once(customer: User, said: dict[str, Any]) -> None:
    first = charge(customer, idempotency_key="k", **said)
    again = charge(customer, idempotency_key="k", **said)
    assert (first.replayed, again.replayed, again) == (False, True, first)
    assert ledger.balance(customer).number == 2


def change_price(user: User) -> None:
    ServicePrice.objects.update(price="0.99")


def change_plan(user: User) -> None:
    plan = plan_with({Service.objects.get(code=SMS): "7"}, price=0)
    Subscription.objects.filter(user=user).update(plan=plan)


def cancel(user: User) -> None:
    Subscription.objects.filter(user=user).update(status="cancelled", due_on=None)


def retire(user: User) -> None:
    Service.objects.update(is_active=False)


def rename(user: User) -> None:
    Service.objects.update(name="Messages", unit="pcs")
    Plan.objects.update(name="Other")


def spend(user: User) -> None:
    money = ledger.balance(user)
    ledger.change_balance(
        user, amount=-money.real, bonus_amount=-money.bonus, description="All gone", **BY_PANEL
    )


@pytest.mark.parametrize("happens", [change_price, change_plan, cancel, retire, rename, spend])
def test_a_repeated_call_finds_its_charge_whatever_happened_since(
    customer: User, happens: Any
) -> None:
    first = charge(customer, idempotency_key="k", metadata={"order": 17})
    happens(customer)
    again = charge(customer, idempotency_key="k", metadata={"order": 17})
    assert (again, again.replayed) == (first, True)
    assert again.bonus_amount == -3


@pytest.mark.parametrize(
    "number", [1.5, 0.1, -0.0, 1e16, 1e22, 1e23, -1e23, 1.7e308, 5e-324, 2**70, 10**400]
)
def test_a_repeated_call_finds_its_charge_whatever_numbers_its_metadata_has(
    customer: User, number: float
) -> None:
    said = {"metadata": {"a": [number], "b": number}, "idempotency_key": "k"}
    first, again = charge(customer, **said), charge(customer, **said)
    assert (again, again.replayed) == (first, True)


@pytest.mark.parametrize(("first", "second"), [(True, 1), (1, True), (False, 0), (0.0, False)])
def test_in_metadata_true_is_not_one(customer: User, first: Any, second: Any) -> None:
    charge(customer, metadata={"a": [{"b": first}]}, idempotency_key="k")
    refuses(
        customer,
        errors.IdempotencyConflict,
        metadata={"a": [{"b": second}]},
        idempotency_key="k",
    )


@pytest.mark.parametrize(("first", "second"), [(1.5, 2.5), (1e22, 1e23), (0.1, None)])
def test_in_metadata_another_number_is_another(customer: User, first: Any, second: Any) -> None:
    charge(customer, metadata={"a": first}, idempotency_key="k")
    refuses(customer, errors.IdempotencyConflict, metadata={"a": second}, idempotency_key="k")


@pytest.mark.parametrize(
    "other",
    [
        {"quantity": 11},
        {"device": "8617"},
        {"service": "traffic"},
        {"metadata": {"order": 18}},
        {"metadata": None},
        {"description": "Something else"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_key_with_other_content_is_an_error(
    customer: User, business: Plan, other: dict[str, Any]
) -> None:
    traffic = ServiceFactory(code="traffic", name="Traffic")
    ServicePrice.objects.create(plan=business, service=traffic, price="0.30")
    said = {"metadata": {"order": 17}, "idempotency_key": "k"}
    charge(customer, **said)
    assert refuses(customer, errors.IdempotencyConflict, **said | other) == {"number": 2}


def test_a_key_of_another_operation_is_not_found_to_be_a_charge(customer: User) -> None:
    ledger.change_balance(
        customer, amount=-3, description="By hand", idempotency_key="k", **BY_PANEL
    )
    refuses(customer, errors.IdempotencyConflict, idempotency_key="k")


def test_not_even_by_the_name_of_the_service_and_the_same_metadata(customer: User) -> None:
    ledger.change_balance(
        customer,
        amount=-3,
        description="By hand",
        subtype=SMS,
        metadata={"pricing": {"quantity": "10"}},
        idempotency_key="k",
        **BY_PANEL,
    )
    refuses(customer, errors.IdempotencyConflict, idempotency_key="k")


def test_each_user_has_keys_of_their_own(customer: User, business: Plan) -> None:
    other = user_with(real=100)
    subscribed(other, business)
    charge(customer, idempotency_key="k")
    assert not charge(other, idempotency_key="k").replayed
