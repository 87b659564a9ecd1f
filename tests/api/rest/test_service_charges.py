"""Service charges, and quotes that show a charge without posting it."""

from typing import Any

import pytest

from billing import ledger
from billing.models import Plan, Service, Transaction
from tests.api.rest.programs import Program, assert_problem, program_with
from tests.factories import OperatorFactory, ServiceFactory, plan_with, subscribed, user_with
from users.models import User


@pytest.fixture
def plan(db: None) -> Plan:
    sms = ServiceFactory(code="outgoing_sms", name="Outgoing SMS")
    traffic = ServiceFactory(code="traffic", name="Traffic", unit="MB")
    return plan_with({sms: "0.3", traffic: 0}, name="Business", price=0)


@pytest.fixture
def customer(plan: Plan) -> User:
    """A user with a real balance of 5 and a bonus balance of 2, subscribed to the plan."""
    user = user_with(real=5, bonus=2)
    subscribed(user, plan)
    return user


SMS = {"service": "outgoing_sms", "quantity": "10"}


def charge(
    program: Program, user: User, body: Any = SMS, key: str | None = None, **more: Any
) -> Any:
    return program.post(f"/users/{user.pk}/service-charges", body | more, key=key)


def quote(program: Program, user: User, body: Any = SMS, **more: Any) -> Any:
    return program.post(f"/users/{user.pk}/service-charges/quote", body | more)


def test_a_charge_takes_from_the_bonus_first(program: Program, customer: User) -> None:
    response = charge(program, customer, device="8617", metadata={"batch": 1})
    row = response.json()
    assert response.status_code == 201
    assert response["Location"] == f"/api/v1/users/{customer.pk}/transactions/2"
    assert (row["bonus_amount"], row["amount"]) == ("-2.0000", "-1.0000")
    assert (row["new_bonus"], row["new_balance"]) == ("0.0000", "4.0000")
    assert (row["type"], row["subtype"], row["device"]) == ("tariff_charge", "outgoing_sms", "8617")
    assert row["description"] == "Outgoing SMS × 10, plan Business, device 8617"
    assert row["metadata"]["batch"] == 1
    assert row["metadata"]["request_id"] == response["X-Request-Id"]
    assert (row["actor_id"], row["channel"]) == (program.owner.pk, "api")


def test_the_same_key_charges_once_whatever_the_price_is_then(
    program: Program, customer: User, plan: Plan
) -> None:
    first = charge(program, customer, key="k1")
    plan.service_prices.update(price=7)
    again = charge(program, customer, key="k1")
    assert (first.status_code, again.status_code) == (201, 200)
    assert "Idempotency-Replayed" not in first
    assert again["Idempotency-Replayed"] == "true"
    assert again.json() == first.json()
    assert_problem(
        charge(program, customer, key="k1", quantity="11"), 409, "idempotency_conflict", number=2
    )
    refused = charge(program, customer, key="subscription:1:1:2026-04-01")
    assert_problem(refused, 422, "invalid_entry", field="idempotency_key")
    assert ledger.balance(customer).number == 2


def test_a_quote_posts_nothing_and_is_what_the_charge_comes_to(
    program: Program, customer: User, plan: Plan
) -> None:
    quoted = quote(program, customer, device="8617").json()
    assert quoted == {
        "service": "outgoing_sms",
        "quantity": "10",
        "unit": "",
        "device": "8617",
        "plan_id": plan.pk,
        "plan": "Business",
        "unit_price": "0.3000",
        "cost": "3.0000",
        "bonus_pays": "2.0000",
        "real_pays": "1.0000",
        "new_balance": "4.0000",
        "new_bonus": "0.0000",
        "description": "Outgoing SMS × 10, plan Business, device 8617",
    }
    assert Transaction.objects.filter(user=customer).count() == 1
    assert ledger.balance(customer).number == 1
    row = charge(program, customer, device="8617").json()
    for name in ("new_balance", "new_bonus", "description", "device"):
        assert row[name] == quoted[name]


REFUSALS: list[tuple[dict[str, Any], int, str, dict[str, Any]]] = [
    (
        {"quantity": "24"},
        402,
        "insufficient_funds",
        {"needed": "7.2000", "available": "7.0000", "balance": "any"},
    ),
    ({"quantity": "0"}, 422, "invalid_quantity", {"reason": "wrong_sign"}),
    ({"quantity": "NaN"}, 422, "invalid_quantity", {"reason": "not_a_number"}),
    ({"quantity": "1e3"}, 422, "invalid_quantity", {"reason": "not_a_number"}),
    ({"quantity": "0.0000001"}, 422, "invalid_quantity", {"reason": "too_many_decimals"}),
    ({"quantity": "9" * 30}, 422, "invalid_quantity", {"reason": "out_of_range"}),
    ({"quantity": 10}, 422, "invalid_request", {}),
    ({"quantity": None}, 422, "invalid_request", {}),
    ({"service": "fax"}, 422, "unknown_service", {"service": "fax"}),
    ({"service": "\0"}, 422, "invalid_request", {}),
    ({"service": "geo"}, 422, "service_not_available", {"plan": "Business", "service": "Geo"}),
    ({"service": "pager"}, 422, "service_retired", {"service": "Pager"}),
    ({"description": "No"}, 422, "invalid_description", {}),
    ({"description": "x" * 201}, 422, "invalid_description", {}),
    ({"device": "a\u200bb"}, 422, "invalid_entry", {"field": "device"}),
    ({"metadata": {"pricing": 1}}, 422, "invalid_entry", {"field": "metadata"}),
    ({"metadata": {"request_id": 1}}, 422, "invalid_entry", {"field": "metadata"}),
    ({"metadata": [1]}, 422, "invalid_request", {}),
    ({"expected_number": 0}, 409, "balance_moved", {"number": 1, "expected_number": 0}),
    ({"expected_number": 2**63}, 422, "invalid_request", {}),
    ({"price": "1"}, 422, "invalid_request", {}),
]


@pytest.mark.parametrize(("more", "status", "code", "figures"), REFUSALS)
@pytest.mark.parametrize("call", [charge, quote])
def test_a_quote_is_refused_just_as_the_charge(  # noqa: PLR0917 - pytest passes these by name
    program: Program,
    customer: User,
    call: Any,
    more: dict[str, Any],
    status: int,
    code: str,
    figures: dict[str, Any],
) -> None:
    ServiceFactory(code="geo", name="Geo")
    ServiceFactory(code="pager", name="Pager", is_active=False)
    assert_problem(call(program, customer, **more), status, code, **figures)
    assert ledger.balance(customer).number == 1


@pytest.mark.parametrize(
    ("service", "price", "quantity"),
    [("traffic", "0.0000", "7.5"), ("outgoing_sms", "0.0001", "0.4")],
)
def test_what_costs_nothing_may_be_given_and_is_not_posted(  # noqa: PLR0917
    program: Program, customer: User, plan: Plan, service: str, price: str, quantity: str
) -> None:
    plan.service_prices.update(price=price)
    said = {"service": service, "quantity": quantity, "device": " 8617"}
    quoted = quote(program, customer, said)
    assert quoted.status_code == 200
    unit, name = ("MB", "Traffic") if service == "traffic" else ("", "Outgoing SMS")
    assert quoted.json() == said | {
        "device": "8617",
        "unit": unit,
        "plan_id": plan.pk,
        "plan": "Business",
        "unit_price": price,
        "cost": "0.0000",
        "bonus_pays": "0.0000",
        "real_pays": "0.0000",
        "new_balance": "5.0000",
        "new_bonus": "2.0000",
        "description": f"{name} × {quantity}{unit and ' '}{unit}, plan Business, device 8617",
    }
    charged = charge(program, customer, said, key="k1")
    assert (charged.status_code, charged.json()) == (200, quoted.json())
    assert "Location" not in charged
    assert "Idempotency-Replayed" not in charged
    assert ledger.balance(customer) == (5, 2, 1)
    plan.service_prices.update(price=1)
    assert charge(program, customer, key="k1", quantity="1").status_code == 201


@pytest.mark.parametrize("call", [charge, quote])
def test_what_costs_nothing_is_refused_too_if_another_transaction_came_in(
    program: Program, customer: User, plan: Plan, call: Any
) -> None:
    plan.service_prices.update(price=0)
    balances = {"balance": "5.0000", "bonus": "2.0000"}
    stale = call(program, customer, expected_number=0)
    assert_problem(stale, 409, "balance_moved", number=1, expected_number=0, **balances)
    assert call(program, customer, expected_number=1).status_code == 200


@pytest.mark.parametrize("call", [charge, quote])
def test_a_price_of_nothing_needs_no_money_but_a_plan_in_force(
    program: Program, plan: Plan, call: Any
) -> None:
    user = user_with()
    free = {"service": "traffic", "quantity": "1"}
    assert_problem(call(program, user, free), 422, "no_plan")
    subscribed(user, plan)
    assert call(program, user, free).status_code == 200
    Service.objects.update(is_active=False)
    assert_problem(call(program, user, free), 422, "service_retired")


def test_a_charge_is_found_again_when_its_service_is_free_by_then(
    program: Program, customer: User, plan: Plan
) -> None:
    first = charge(program, customer, key="k1")
    plan.service_prices.update(price=0)
    again = charge(program, customer, key="k1")
    assert (again.status_code, again.json()) == (200, first.json())
    assert again["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize("call", [charge, quote])
def test_without_a_plan_in_force_there_is_no_price(program: Program, plan: Plan, call: Any) -> None:
    user = user_with(real=5)
    assert_problem(call(program, user), 422, "no_plan", user_id=user.pk, device="")
    Plan.objects.filter(pk=plan.pk).update(price=100)
    plan.refresh_from_db()
    subscribed(user, plan)
    assert_problem(call(program, user), 409, "subscription_suspended", plan="Business")
    assert_problem(call(program, OperatorFactory()), 404, "unknown_user")
    assert ledger.balance(user).number == 1


def test_who_may_only_read_can_quote(customer: User) -> None:
    reader = program_with("billing.change_balance", is_read_only=True)
    assert quote(reader, customer).status_code == 200
    assert_problem(charge(reader, customer), 403, "read_only_key")
    assert_problem(
        quote(program_with("billing.view_balance"), customer),
        403,
        "forbidden",
        permission="billing.change_balance",
    )
