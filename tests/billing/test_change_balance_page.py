"""Sends forms to the Change balance page; tests/browser/ clicks through it."""

import re
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from billing import ledger
from billing.models import Channel, Reason, Transaction
from tests.factories import PlanFactory, subscribed, user_with
from users.models import User

BY_API: dict[str, Any] = {"actor": None, "channel": Channel.API}


@pytest.fixture
def customer(db: None) -> User:
    return user_with(real=100, bonus=20)


def address(user: User) -> str:
    return reverse("admin:users_user_change_balance", args=[user.pk])


def hidden(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, f"no {name} on the page"
    return found[1]


def filled_in(panel: Client, user: User, **fields: str) -> dict[str, str]:
    """Returns the form as a browser sends it: the page's hidden fields and the typed values."""
    page = panel.get(address(user)).content.decode()
    state = {name: hidden(page, name) for name in ("key", "expected_number")}
    return state | {"description": "Correction by hand", "amount": "", "bonus_amount": ""} | fields


def count(user: User) -> int:
    return Transaction.objects.filter(user=user).count()


def test_both_changes_are_one_transaction_by_the_operator(
    panel: Client, administrator: User, customer: User
) -> None:
    sent = filled_in(panel, customer, amount="+25.5", bonus_amount="−3.01")
    response = panel.post(address(customer), sent)
    assert response.status_code == 302
    assert response["Location"].endswith(f"/users/user/{customer.pk}/transactions/?posted=2")
    posted = Transaction.objects.get(user=customer, number=2)
    assert (posted.amount, posted.bonus_amount) == (Decimal("25.5"), Decimal("-3.01"))
    assert (posted.type, posted.subtype, posted.channel) == ("payment", "partner", "panel")
    assert posted.actor == administrator
    page = panel.get(response["Location"]).content.decode()
    assert "Posted: transaction No. 2" in page
    assert "100.00 → <strong>125.50</strong>" in page
    assert "20.00 → <strong>16.99</strong>" in page
    assert 'class="marked" id="posted"' in page


@pytest.mark.parametrize(
    ("amount", "price", "is_said"), [("5", "500", True), ("-5", "500", False), ("5", "1", False)]
)
def test_a_refill_says_that_what_is_suspended_may_be_charged_next(
    panel: Client, customer: User, amount: str, price: str, is_said: bool
) -> None:
    subscribed(customer, PlanFactory(cycle="monthly", price=price))
    response = panel.post(address(customer), filled_in(panel, customer, amount=amount))
    page = panel.get(response["Location"]).content.decode()
    assert ("resume in a moment if this is enough" in page) is is_said


def test_the_same_form_sent_again_posts_nothing_and_shows_the_transaction(
    panel: Client, customer: User
) -> None:
    sent = filled_in(panel, customer, amount="5")
    first = panel.post(address(customer), sent)
    again = panel.post(address(customer), sent)
    assert again["Location"] == first["Location"] + "&again=1"
    assert count(customer) == 2
    assert "Sent twice, posted once" in panel.get(again["Location"]).content.decode()


def test_another_transaction_in_between_asks_for_a_second_confirmation(
    panel: Client, customer: User
) -> None:
    sent = filled_in(panel, customer, amount="-60", description="Goodwill taken back")
    ledger.change_balance(customer, amount=-50, description="Meanwhile, by the API", **BY_API)
    page = panel.post(address(customer), sent)
    assert page.status_code == 200
    assert count(customer) == 2
    shown = page.content.decode()
    assert "Nothing was posted: another transaction came in" in shown
    assert 'data-now="50.0000"' in shown  # the new balance
    assert 'value="Goodwill taken back"' in shown
    confirmed = sent | {name: hidden(shown, name) for name in ("key", "expected_number")}
    confirmed |= {"amount": "-20"}
    assert panel.post(address(customer), confirmed).status_code == 302
    assert ledger.balance(customer).real == 30


def test_a_form_posted_already_asks_before_it_posts_other_content(
    panel: Client, customer: User
) -> None:
    sent = filled_in(panel, customer, amount="5")
    panel.post(address(customer), sent)
    page = panel.post(address(customer), sent | {"amount": "6"})
    assert count(customer) == 2
    shown = page.content.decode()
    assert "This form was posted already, as transaction No. 2" in shown
    confirmed = sent | {"amount": "6"}
    confirmed |= {name: hidden(shown, name) for name in ("key", "expected_number")}
    assert panel.post(address(customer), confirmed).status_code == 302
    assert ledger.balance(customer).real == 111


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"amount": "-100.01"}, "amount", "Not enough money on the balance: 100.01 needed"),
        ({"bonus_amount": "-20.01"}, "bonus_amount", "Not enough money on the bonus balance"),
        ({"amount": "1.00001"}, "amount", "An amount has at most four decimals: 1.00001."),
        ({"bonus_amount": "NaN"}, "bonus_amount", "This is not a number: NaN."),
        ({"amount": "ten"}, "amount", "This is not a number: ten."),
        ({"amount": "1e3"}, "amount", "This is not a number: 1e3."),
        ({"amount": "10 50"}, "amount", "The digits of 10 50 do not make one number."),
        ({"amount": "50 EUR"}, "amount", "write the amount in USD, without EUR."),
        ({"amount": "1,500"}, "amount", "Did you mean"),
        ({"amount": "1.2345"}, "amount", "1.2345 has more decimals than the currency: USD has 2"),
        ({"amount": "1" + "0" * 15}, "amount", "at most 15 digits before the decimal point"),
        ({"amount": "999999999999999.99"}, "amount", "The new balance would have more than 15"),
        ({"amount": "1" * 41}, "amount", "at most 40 characters"),
        ({}, "amount", "Nothing would change"),
        ({"amount": "0", "bonus_amount": "-0"}, "amount", "Nothing would change"),
        ({"amount": "1", "description": "Four"}, "description", "5 to 200 characters"),
        ({"amount": "1", "description": "a" * 201}, "description", "at most 200 characters"),
        ({"amount": "1", "description": ""}, "description", "This field is required."),
        ({"amount": "1", "description": "  abc  "}, "description", "5 to 200 characters"),
        ({"amount": "1", "description": "Null\0character"}, "description", "Null characters"),
    ],
)
def test_a_refusal_stands_at_its_field_and_keeps_what_was_typed(
    panel: Client, customer: User, fields: dict[str, str], field: str, sentence: str
) -> None:
    sent = filled_in(panel, customer, **fields)
    response = panel.post(address(customer), sent)
    assert response.status_code == 200
    form = response.context["form"]
    assert sentence in " ".join(form.errors[field])
    assert not form.non_field_errors()
    assert {name: form[name].value() for name in sent} == sent
    assert count(customer) == 1


@pytest.mark.parametrize(
    "damage", [{"key": ""}, {"expected_number": "x"}, {"expected_number": "-1"}]
)
def test_a_damaged_form_is_said_to_be_damaged(
    panel: Client, customer: User, damage: dict[str, str]
) -> None:
    sent = filled_in(panel, customer, amount="1") | damage
    response = panel.post(address(customer), sent)
    assert "This page was damaged on its way" in response.content.decode()
    assert count(customer) == 1


def test_standard_descriptions_are_offered_in_their_order(panel: Client, customer: User) -> None:
    Reason.objects.create(code="second", label="Second", template="Second <one>", position=2)
    Reason.objects.create(code="first", label="First", template="First one", position=1)
    page = panel.get(address(customer)).content.decode()
    options = re.findall(r'<option value="([^"]*)">', page.split('id="wordings"')[1])
    assert options == ["First one", "Second &lt;one&gt;"]


def test_the_page_shows_who_and_how_much(panel: Client, customer: User) -> None:
    page = panel.get(address(customer)).content.decode()
    for text in (str(customer.pk), customer.email, str(customer), "100.00", "20.00", "USD"):
        assert text in page


def test_it_takes_the_permission(client: Client, operator: User, customer: User) -> None:
    client.force_login(operator)
    assert client.get(address(customer)).status_code == 403
    assert client.post(address(customer), {"amount": "1"}).status_code == 403
    assert count(customer) == 1


def answers(page: str) -> list[tuple[str, str]]:
    """Returns the names and values of the buttons that answer a question."""
    return re.findall(r'<button [^>]*name="(\w+_meant)" value="([^"]*)"', page)


@pytest.mark.parametrize(
    ("typed", "chosen", "posted"),
    [("1,500", 0, "1.5"), ("1,500", 1, "1500"), ("1.234", 0, "1.234"), ("1.234", 1, "1234")],
)
def test_what_could_be_two_amounts_is_asked_about_once_and_answered_by_a_click(
    panel: Client, customer: User, typed: str, chosen: int, posted: str
) -> None:
    sent = filled_in(panel, customer, amount=typed, bonus_amount="2.50")
    page = panel.post(address(customer), sent).text
    assert count(customer) == 1
    assert len(answers(page)) == 2
    click = dict([answers(page)[chosen]])
    assert panel.post(address(customer), sent | click).status_code == 302
    balance = ledger.balance(customer)
    assert (balance.real, balance.bonus) == (100 + Decimal(posted), Decimal("22.50"))


def test_an_answer_is_kept_where_something_else_is_refused(panel: Client, customer: User) -> None:
    sent = filled_in(panel, customer, amount="1.234", description="")
    click = dict([answers(panel.post(address(customer), sent).text)[0]])
    page = panel.post(address(customer), sent | click).text
    assert answers(page) == []
    taken = hidden(page, "amount_taken")
    assert f'name="amount" value="{taken}"' in page
    shown_again = sent | {"amount": taken, "amount_taken": taken, "description": "Bank transfer"}
    assert panel.post(address(customer), shown_again).status_code == 302
    assert ledger.balance(customer).real == Decimal("101.234")


@pytest.mark.parametrize(
    ("currency", "typed"), [("JPY", "100.55"), ("USD", "1.2345"), ("KWD", "1.2345")]
)
def test_an_amount_finer_than_money_is_asked_about_once(
    panel: Client, customer: User, settings: Any, currency: str, typed: str
) -> None:
    settings.BILLING_CURRENCY = currency
    sent = filled_in(panel, customer, amount=typed)
    page = panel.post(address(customer), sent).text
    assert f"{typed} has more decimals than the currency: {currency} has" in page
    assert count(customer) == 1
    [answer] = answers(page)
    assert answer == ("amount_meant", typed)
    assert panel.post(address(customer), sent | dict([answer])).status_code == 302
    assert ledger.balance(customer).real == 100 + Decimal(typed)


@pytest.mark.parametrize("typed", ["1,234.50 USD", "1.234,50", "1 234,50", "1’234.50"])
def test_what_the_panel_shows_and_what_others_write_is_taken(
    panel: Client, customer: User, typed: str
) -> None:
    assert (
        panel.post(address(customer), filled_in(panel, customer, amount=typed)).status_code == 302
    )
    assert ledger.balance(customer).real == Decimal("1334.50")


def test_spaces_between_thousands_are_no_mistake(panel: Client, customer: User) -> None:
    panel.post(address(customer), filled_in(panel, customer, amount="+ 1\u00a0234 567.5"))
    assert ledger.balance(customer).real == Decimal("1234667.5")


def test_what_cannot_be_seen_is_no_description(panel: Client, customer: User) -> None:
    for text in ("Turned \u202e round", "Two\nlines", "A bell \x07 rings"):
        sent = filled_in(panel, customer, amount="1", description=text)
        response = panel.post(address(customer), sent)
        assert response.context["form"].errors["description"]
    assert count(customer) == 1


def test_operators_have_no_such_page(panel: Client, administrator: User) -> None:
    assert panel.get(address(administrator)).status_code == 404
    assert panel.get(f"/admin/users/user/{administrator.pk}/transactions/").status_code == 404


def test_there_is_no_page_for_nobody(panel: Client) -> None:
    assert panel.get("/admin/users/user/999999/change-balance/").status_code == 404
    assert panel.get(f"/admin/users/user/{2**70}/change-balance/").status_code == 404
