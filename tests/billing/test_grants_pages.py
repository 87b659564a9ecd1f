"""Gifts, refunds and payment dates on the pages."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from billing import ledger, operations
from billing.models import Event, Grant, Transaction
from tests.billing.histories import BY_PANEL
from tests.factories import (
    ServiceFactory,
    UserFactory,
    charge_cost,
    plan_with,
    subscribed,
    user_with,
)
from tests.operators import client_of, operator_with
from users.models import User

pytestmark = pytest.mark.django_db


@pytest.fixture
def panel() -> Client:
    return client_of(
        operator_with(
            "billing.view_transaction",
            "billing.change_balance",
            "billing.view_balance",
            "users.view_user",
            "users.change_user",
        )
    )


def page_of(user: User, name: str) -> str:
    return f"/admin/users/user/{user.pk}/{name}/"


def page_of_row(row: Transaction, name: str = "change") -> str:
    return f"/admin/billing/transaction/{row.pk}/{name}/"


def shown_form(panel: Client, address: str) -> dict[str, Any]:
    initial = panel.get(address).context["form"].initial
    return {name: value for name, value in initial.items() if value is not None}


def last(user: User) -> Transaction:
    return Transaction.objects.filter(user=user).latest("number")


def test_change_balance_takes_a_last_day_and_a_payment_date(panel: Client) -> None:
    user, day = UserFactory(), timezone.now().date()
    address = page_of(user, "change-balance")
    sent = shown_form(panel, address) | {
        "description": "Transfer and a gift",
        "amount": "10",
        "bonus_amount": "2",
        "bonus_expires_on": f"{day + timedelta(days=30)}",
        "payment_date": f"{day - timedelta(days=3)}",
    }
    assert panel.post(address, sent).status_code == 302
    row = last(user)
    assert row.payment_date == day - timedelta(days=3)
    assert row.bonus_expires_at is not None
    assert row.bonus_expires_at.date() == day + timedelta(days=31)  # the first moment after it
    page = panel.get(page_of_row(row)).text
    assert f"{row.payment_date}" in page
    assert "Left of this gift: 2.00 of 2.00" in page
    profile = panel.get(page_of(user, "change")).text
    assert f'href="{page_of_row(row)}"' in profile
    assert f"{row.bonus_expires_at:%Y-%m-%d %H:%M}" in profile


@pytest.mark.parametrize(
    ("fields", "name", "said"),
    [
        ({"bonus_expires_on": "2020-01-01"}, "bonus_expires_on", "expired already"),
        (
            {"bonus_amount": "", "amount": "1", "bonus_expires_on": "2999-01-01"},
            "bonus_expires_on",
            "needs an amount that is added to the bonus",
        ),
        ({"bonus_expires_on": "31.12.2030"}, "bonus_expires_on", "Write the day like"),
        ({"payment_date": "2999-01-01"}, "payment_date", "is in the future"),
        ({"payment_date": "1999-12-31"}, "payment_date", "before 2000"),
    ],
)
def test_a_wrong_date_is_said_at_its_field_and_nothing_is_lost(
    panel: Client, fields: dict[str, str], name: str, said: str
) -> None:
    user = UserFactory()
    address = page_of(user, "change-balance")
    sent = shown_form(panel, address) | {"description": "Typed in full", "bonus_amount": "2"}
    page = panel.post(address, sent | fields)
    assert page.status_code == 200
    assert said in " ".join(page.context["form"].errors[name])
    assert 'value="Typed in full"' in page.text
    assert not Transaction.objects.filter(user=user).exists()


def test_the_usual_last_day_is_filled_in_and_does_not_hinder_a_payment(
    panel: Client, settings: Any
) -> None:
    settings.BONUS_DAYS = 30
    user, day = UserFactory(), timezone.now().date() + timedelta(days=30)
    address = page_of(user, "change-balance")
    sent = shown_form(panel, address)
    assert sent["bonus_expires_on"] == day
    sent |= {"description": "Only a payment", "amount": "5", "bonus_expires_on": f"{day}"}
    assert panel.post(address, sent).status_code == 302
    assert last(user).bonus_expires_at is None


def test_a_part_is_refunded_on_the_page_as_an_amount_or_a_quantity(panel: Client) -> None:
    user = user_with(real=100)
    subscribed(user, plan_with({ServiceFactory(code="outgoing_sms"): "0.3"}))
    charge = operations.money.charge_service(
        user.pk, service="outgoing_sms", quantity=40, **BY_PANEL
    )
    address = page_of_row(charge, "reverse")
    for fields, amount in (({"amount": "2.4"}, "2.4"), ({"quantity": "1"}, "0.3"), ({}, "9.3")):
        sent = shown_form(panel, address) | {"description": "Not delivered"} | fields
        assert panel.post(address, sent).status_code == 302
        assert str(last(user).amount) == f"{amount}000"
    page = panel.get(page_of_row(charge)).text
    assert page.count("A part of this transaction was refunded by") == 3
    assert "Reverse or refund" not in page
    rows = panel.get(page_of(user, "transactions")).text
    assert rows.count("Refunded in part by") == 3
    assert rows.count("Refunds a part of") == 3


@pytest.mark.parametrize(
    ("fields", "name", "said"),
    [
        ({"amount": "0"}, "amount", "more than zero"),
        ({"amount": "-1"}, "amount", "more than zero"),
        ({"amount": "a lot"}, "amount", "not a number"),
        ({"amount": "1", "quantity": "1"}, "quantity", "not both"),
    ],
)
def test_what_is_no_part_is_refused_at_its_field(
    panel: Client, fields: dict[str, str], name: str, said: str
) -> None:
    user = user_with(real=100)
    subscribed(user, plan_with({ServiceFactory(code="outgoing_sms"): "0.3"}))
    charge = operations.money.charge_service(
        user.pk, service="outgoing_sms", quantity=40, **BY_PANEL
    )
    address = page_of_row(charge, "reverse")
    sent = shown_form(panel, address) | {"description": "Not delivered"} | fields
    page = panel.post(address, sent)
    assert said in " ".join(page.context["form"].errors[name])
    assert last(user) == charge


def test_more_than_is_left_is_refused_with_the_figures(panel: Client) -> None:
    user = user_with(real=10)
    charge = charge_cost(user, service="traffic", cost=5, description="Traffic", **BY_PANEL)
    address = page_of_row(charge, "reverse")
    sent = shown_form(panel, address) | {"description": "Too much", "amount": "6"}
    assert "5.0000 is left to take back, not 6.0000" in panel.post(address, sent).text
    assert last(user) == charge


def test_a_transaction_shows_its_gifts_and_a_gift_the_transactions_that_used_it(
    panel: Client,
) -> None:
    user = UserFactory()
    gift = ledger.give_bonus(user, amount=5, description="A gift", **BY_PANEL)
    charge = charge_cost(user, service="traffic", cost=2, description="Traffic", **BY_PANEL)
    page = panel.get(page_of_row(charge)).text
    assert f'from <a href="{page_of_row(gift)}">No. 1</a>' in page
    page = panel.get(page_of_row(gift)).text
    assert "Left of this gift: 3.00 of 5.00" in page
    assert f'<a href="{page_of_row(charge)}">No. 2</a>' in page


def test_the_date_of_a_gift_is_changed_on_its_page(panel: Client) -> None:
    user = UserFactory()
    gift = ledger.give_bonus(user, amount=5, description="A gift", **BY_PANEL)
    address = page_of(user, f"gifts/{gift.number}/expiry")
    day = timezone.now().date() + timedelta(days=9)
    assert panel.post(address, {"last_day": f"{day}"}).status_code == 302
    assert shown_form(panel, address)["last_day"] == day
    event = Event.objects.get(subject="user", subject_id=user.pk)
    assert event.action == "grant_expiry_changed"
    assert "left of gift No. 1 expire on" in panel.get(page_of(user, "history")).text
    page = panel.post(address, {"last_day": "2020-01-01"})
    assert "expired already" in " ".join(page.context["form"].errors["last_day"])
    assert panel.get(page_of(user, "gifts/7/expiry")).status_code == 404


def test_who_may_not_change_balances_may_not_change_dates() -> None:
    user = UserFactory()
    gift = ledger.give_bonus(user, amount=5, description="A gift", **BY_PANEL)
    address = page_of(user, f"gifts/{gift.number}/expiry")
    client = client_of(operator_with("billing.view_transaction", "billing.view_balance"))
    assert client.get(address).status_code == 403
    assert client.post(address, {"last_day": ""}).status_code == 403


def test_saving_the_date_of_a_gift_unchanged_keeps_its_time_of_day(panel: Client) -> None:
    user, until = UserFactory(), timezone.now().replace(hour=18) + timedelta(days=9)
    ledger.give_bonus(
        user, amount=2, description="Until the evening", bonus_expires_at=until, **BY_PANEL
    )
    address = page_of(user, "gifts/1/expiry")
    day = shown_form(panel, address)["last_day"]
    assert panel.post(address, {"last_day": f"{day}"}).status_code == 302
    assert Grant.objects.get(user=user).expires_at == until
    assert not Event.objects.filter(action="grant_expiry_changed").exists()
