"""The Charge service page, and the explanation of a charge on the page of a transaction."""

import re
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from billing import ledger
from billing.models import Channel, Plan, Service, ServicePrice, Subscription, Transaction
from billing.plans import services, subscriptions
from tests.billing.test_subscriptions_page import confirm, second_step, text_of
from tests.factories import PlanFactory, ServiceFactory, plan_with, subscribed, user_with
from tests.operators import client_of, operator_with
from users.models import User

BY_API: dict[str, Any] = {"actor": None, "channel": Channel.API}


@pytest.fixture
def sms(db: None) -> Service:
    return ServiceFactory(code="outgoing_sms", name="Outgoing SMS")


@pytest.fixture
def traffic(db: None) -> Service:
    return ServiceFactory(code="traffic", name="Traffic", unit="MB")


@pytest.fixture
def business(sms: Service) -> Plan:
    return plan_with({sms: "0.30"}, name="Business", price="3")


@pytest.fixture
def customer(business: Plan) -> User:
    """A user with 5 real and 2 bonus money, and Business for the account and for device 8617."""
    user = user_with(real=11, bonus=2)
    subscribed(user, business)
    subscribed(user, business, device="8617")
    return user


def page_of(user: User) -> str:
    return f"/admin/users/user/{user.pk}/charge-service/"


def fields(**changes: str) -> dict[str, str]:
    return {
        "service": "outgoing_sms",
        "quantity": "10",
        "device": "",
        "description": "",
    } | changes


def charges(user: User) -> list[Transaction]:
    return list(Transaction.objects.filter(user=user, type="tariff_charge").order_by("number"))


# --- The two steps ------------------------------------------------------------------------------


def test_what_is_confirmed_is_what_was_previewed(
    panel: Client, administrator: User, customer: User
) -> None:
    preview = panel.post(page_of(customer), fields(device=" 8617 "))
    shown = text_of(preview)
    assert "Unit price 0.30, plan Business" in shown
    assert "Cost 10 × 0.30 = 3.00" in shown
    assert "The bonus balance pays 2.00" in shown
    assert "The real balance pays 1.00" in shown
    assert "Outgoing SMS × 10, plan Business, device 8617" in shown
    assert "5.00 → 4.00" in shown
    assert "2.00 → 0.00" in shown
    assert not charges(customer)

    done = confirm(panel, page_of(customer), second_step(preview))
    [posted] = charges(customer)
    assert done["Location"].endswith(f"/transactions/?posted={posted.number}")
    [previewed] = preview.context["step"].preview.posted
    for name in ("description", "device", "amount", "bonus_amount", "new_balance", "new_bonus"):
        assert getattr(posted, name) == getattr(previewed, name)
    assert (posted.actor, posted.channel) == (administrator, Channel.PANEL)
    assert 'class="marked" id="posted"' in panel.get(done["Location"]).content.decode()


def test_a_description_can_be_given(panel: Client, customer: User) -> None:
    preview = panel.post(page_of(customer), fields(description="Twelve alarms of 3 April"))
    assert "Twelve alarms of 3 April" in text_of(preview)
    confirm(panel, page_of(customer), second_step(preview))
    assert charges(customer)[0].description == "Twelve alarms of 3 April"


def test_sent_twice_it_is_posted_once(panel: Client, customer: User) -> None:
    sent = second_step(panel.post(page_of(customer), fields()))
    first = confirm(panel, page_of(customer), sent)
    again = confirm(panel, page_of(customer), sent)
    assert again["Location"] == first["Location"] + "&again=1"
    assert len(charges(customer)) == 1


def test_a_quantity_that_could_be_two_is_asked_about_and_previewed_as_answered(
    panel: Client, customer: User
) -> None:
    asked = panel.post(page_of(customer), fields(quantity="1.500", device="8617"))
    assert asked.context["step"].preview is None
    assert 'name="quantity_meant" value="1500"' in asked.text
    preview = panel.post(
        page_of(customer), fields(quantity="1.500", device="8617") | {"quantity_meant": "1.5"}
    )
    assert "Cost 1.5 × 0.30 = 0.45" in text_of(preview)
    confirm(panel, page_of(customer), second_step(preview))
    [posted] = charges(customer)
    assert (posted.bonus_amount, posted.device) == (Decimal("-0.45"), "8617")


def test_a_further_preview_is_a_further_charge(panel: Client, customer: User) -> None:
    for _ in range(2):
        sent = second_step(panel.post(page_of(customer), fields(quantity="1")))
        assert "again" not in confirm(panel, page_of(customer), sent)["Location"]
    assert len(charges(customer)) == 2


def test_another_transaction_in_between_asks_again_with_the_new_preview(
    panel: Client, customer: User
) -> None:
    preview = panel.post(page_of(customer), fields())
    ledger.change_balance(customer, bonus_amount=-2, description="Meanwhile, by the API", **BY_API)
    again = confirm(panel, page_of(customer), second_step(preview))
    assert "Nothing was posted: something has changed since the preview." in text_of(again)
    assert "The real balance pays 3.00" in text_of(again)
    assert not charges(customer)
    assert confirm(panel, page_of(customer), second_step(again)).status_code == 302
    assert ledger.balance(customer).real == 2


def test_a_price_that_changed_in_between_asks_again(panel: Client, customer: User) -> None:
    preview = panel.post(page_of(customer), fields())
    ServicePrice.objects.update(price="0.40")
    again = confirm(panel, page_of(customer), second_step(preview))
    assert "Cost 10 × 0.40 = 4.00" in text_of(again)
    assert not charges(customer)


def test_a_confirmation_of_nothing_seen_posts_nothing(panel: Client, customer: User) -> None:
    response = panel.post(page_of(customer), fields() | {"confirm": "1"})
    assert "Nothing was posted: something has changed" in text_of(response)
    assert not charges(customer)


# --- Refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"quantity": ""}, "quantity", "This field is required."),
        ({"quantity": "-1"}, "quantity", "A quantity must be more than zero: -1."),
        ({"quantity": "−1"}, "quantity", "A quantity must be more than zero: −1."),
        ({"quantity": "0"}, "quantity", "A quantity must be more than zero: 0."),
        ({"quantity": "1,500"}, "quantity", "Did you mean"),
        ({"quantity": "1 5"}, "quantity", "The digits of 1 5 do not make one number."),
        ({"quantity": "ten"}, "quantity", "This is not a quantity: ten."),
        ({"quantity": "NaN"}, "quantity", "This is not a quantity: NaN."),
        ({"quantity": "1e1"}, "quantity", "This is not a quantity: 1e1."),
        ({"quantity": "0.1234567"}, "quantity", "A quantity has at most six decimals: 0.1234567."),
        ({"quantity": "9" * 13}, "quantity", "This quantity is too large"),
        ({"quantity": "0.000001"}, "quantity", "This costs nothing under the plan Business, so"),
        (
            {"quantity": "1 000"},
            "quantity",
            "Not enough money on both balances together: 300.00 needed, 7.00 available.",
        ),
        ({"service": ""}, "service", "This field is required."),
        ({"service": "nothing"}, "service", "Select a valid choice."),
        ({"service": "traffic"}, "service", "The plan Business does not offer the service Traffic"),
        ({"service": "retired"}, "service", "The service Fax is retired."),
        ({"device": "asleep"}, "device", "The subscription to the plan Dear is suspended"),
        ({"device": "a" * 101}, "device", "at most 100 characters"),
        ({"device": "turned\u202eround"}, "device", "invisible characters"),
        ({"description": "Four"}, "description", "A description has 5 to 200 characters."),
        ({"description": "Turned \u202e round"}, "description", "invisible characters"),
    ],
)
def test_a_refusal_stands_at_its_field_and_keeps_what_was_typed(  # noqa: PLR0917
    panel: Client,
    customer: User,
    traffic: Service,
    changes: dict[str, str],
    field: str,
    sentence: str,
) -> None:
    ServiceFactory(code="retired", name="Fax", is_active=False)
    subscribed(customer, PlanFactory(name="Dear", price=1000), device="asleep")
    sent = fields(**changes)
    response = panel.post(page_of(customer), sent)
    form = response.context["form"]
    assert sentence in " ".join(form.errors[field])
    assert list(form.errors) == [field]
    assert {name: form[name].value() for name in sent} == sent
    assert not charges(customer)


def test_without_a_plan_there_are_no_prices(panel: Client, sms: Service) -> None:
    user = user_with(real=5)
    page = panel.get(page_of(user))
    assert "The user has no pricing plan, so services have no price." in text_of(page)
    assert f'href="/admin/users/user/{user.pk}/subscriptions/add/"' in page.content.decode()
    response = panel.post(page_of(user), fields())
    assert response.context["form"].errors["device"] == [
        "The user has no pricing plan, so services have no price."
    ]


# --- Services on offer --------------------------------------------------------------------------


def test_services_priced_under_some_plan_of_the_user_are_offered(
    panel: Client, customer: User, traffic: Service
) -> None:
    fax = ServiceFactory(code="fax", name="Fax", is_active=False)
    other = ServiceFactory(code="call", name="Phone call")
    subscribed(customer, plan_with({traffic: "1", fax: "1"}), device="9000")
    plan_with({other: "1"})  # a plan that the user does not have
    gone = subscribed(customer, plan_with({other: "1"}, price=0), device="gone")
    subscriptions.cancel(gone, day=date(2026, 4, 2), **BY_API)
    page = panel.get(page_of(customer)).content.decode()
    select = page.split('name="service"')[1].split("</select>")[0]
    assert re.findall(r'<option value="(\w*)"[^>]*>([^<]*)', select) == [
        ("", "Choose a service …"),
        ("outgoing_sms", "Outgoing SMS"),
        ("traffic", "Traffic, per MB"),
    ]
    devices = page.split('<datalist id="devices">')[1].split("</datalist>")[0]
    assert re.findall('value="([^"]*)"', devices) == ["8617", "9000"]


def test_names_are_text(panel: Client, customer: User) -> None:
    evil = "<script>alert(1)</script>"
    Subscription.objects.filter(device="8617").update(device=evil)
    Service.objects.update(name="<b>SMS</b>")
    for response in (
        panel.get(page_of(customer)),
        panel.post(page_of(customer), fields(device=evil, description="<i>Words</i>")),
    ):
        page = response.content.decode()
        assert "&lt;script&gt;" in page
        assert not [word for word in (evil, "<b>SMS", "<i>Words") if word in page]


# --- Permissions --------------------------------------------------------------------------------


def test_it_takes_the_permission(customer: User) -> None:
    client = client_of(operator_with("billing.view_transaction", "billing.change_subscription"))
    assert client.get(page_of(customer)).status_code == 403
    assert client.post(page_of(customer), fields()).status_code == 403
    allowed = client_of(operator_with("billing.change_balance"))
    assert allowed.get(page_of(customer)).status_code == 200


def test_operators_and_nobody_have_no_such_page(panel: Client, administrator: User) -> None:
    assert panel.get(page_of(administrator)).status_code == 404
    assert panel.get("/admin/users/user/999999/charge-service/").status_code == 404


# --- The page of a transaction ------------------------------------------------------------------


def explanation(panel: Client, row: Transaction) -> list[tuple[str, str]]:
    page = panel.get(f"/admin/billing/transaction/{row.pk}/change/")
    assert page.status_code == 200
    told: list[tuple[str, str]] = page.context["explanation"]
    assert all(value in text_of(page) for _, value in told)
    return told


def test_a_transactions_page_tells_how_a_charge_came_about(panel: Client, customer: User) -> None:
    used = services.charge_service(customer, service="outgoing_sms", quantity="2.5", **BY_API)
    assert explanation(panel, used) == [
        ("Quantity × unit price", "2.5 × 0.30"),
        ("Plan", "Business"),
    ]
    paid = Transaction.objects.get(user=customer, number=2)
    assert explanation(panel, paid) == [
        ("Period", "April 2026 (30 days, UTC)"),
        ("Plan", "Business"),
    ]


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"from": "yesterday", "through": None},
        {"from": ["2026-04-01"], "through": "2026-04-30"},
        {"pricing": {"price": "NaN", "quantity": "1"}},
        {"pricing": {"price": "1", "quantity": "1e999999999"}},
        {"pricing": {"price": [], "quantity": "1"}},
        {"pricing": "1"},
    ],
)
def test_metadata_of_others_is_left_as_it_is(
    panel: Client, customer: User, metadata: dict[str, Any]
) -> None:
    entries = [
        ledger.service_entry(
            customer, service="sms", cost="1", description="Imported", metadata=metadata
        ),
        ledger.subscription_entry(
            customer, cycle="monthly", price="1", description="Imported", metadata=metadata
        ),
    ]
    for result in ledger.post_batch(entries, **BY_API):
        assert result.transaction is not None
        assert explanation(panel, result.transaction) == []


def test_the_parts_of_a_charge_are_exact(panel: Client, customer: User) -> None:
    preview = panel.post(page_of(customer), fields(quantity="7.654321"))
    assert "Cost 7.654321 × 0.30 = 2.2963" in text_of(preview)
    confirm(panel, page_of(customer), second_step(preview))
    [posted] = charges(customer)
    assert (posted.bonus_amount, posted.amount) == (-2, Decimal("-0.2963"))
