"""Reversing a transaction in the panel."""

import re

import pytest
from playwright.sync_api import Page, expect

from billing import ledger
from billing.models import Transaction
from tests.browser.conftest import Windows
from tests.browser.panel import BY_SYSTEM, notice, tab, transaction_page, transactions
from tests.factories import charge_price, user_with
from users.models import User

pytestmark = pytest.mark.browser


def reverse(page: Page, description: str) -> None:
    page.get_by_label("Transaction description").fill(description)
    page.get_by_role("button", name="Reverse or refund").click()


def first_transaction(user: User) -> Transaction:
    return Transaction.objects.get(user=user, number=1)


def test_a_transaction_is_reversed_with_a_description_and_only_once(
    windows: Windows, operator: User
) -> None:
    user = user_with(real=100, bonus=20)
    page = windows(operator, tab(user))
    late = windows(operator, transaction_page(first_transaction(user).pk, "reverse"))
    page.get_by_role("link", name="1", exact=True).click()
    page.get_by_role("link", name="Reverse").click()
    expect(page.get_by_role("row", name="The reversal will change")).to_contain_text(
        "balance −100.00, bonus −20.00"
    )
    reverse(page, "")
    expect(page.locator(".panel-field .error")).to_have_text("This field is required.")
    reverse(page, "Oops")
    expect(page.locator(".panel-field .error")).to_have_text(
        "A description has 5 to 200 characters."
    )
    assert ledger.balance(user).number == 1

    reverse(page, "Paid into the wrong account")
    expect(notice(page)).to_have_text(
        re.compile(
            r"Posted: transaction No\. 2, “Paid into the wrong account”\."
            r"\s+Balance 100\.00 → 0\.00 USD\.\s+Bonus 20\.00 → 0\.00 USD\."
        )
    )
    assert transactions(page)[0]["Type, subtype"] == "Reversal Payment"

    reverse(late, "Paid into the wrong account")
    expect(notice(late)).to_contain_text(
        "Nothing was posted. Transaction number 1 was already reversed by number 2."
    )
    page.get_by_role("link", name="1", exact=True).click()
    expect(notice(page)).to_have_text("This transaction was reversed by No. 2.")
    expect(page.get_by_role("link", name="Reverse")).to_have_count(0)
    assert ledger.balance(user).number == 2


def test_what_was_spent_meanwhile_cannot_be_taken_back(windows: Windows, operator: User) -> None:
    user = user_with(real=100)
    charge_price(user, cycle="monthly", price=60, description="November 2026", **BY_SYSTEM)
    page = windows(operator, transaction_page(first_transaction(user).pk, "reverse"))
    reverse(page, "Paid into the wrong account")
    expect(notice(page)).to_have_text(
        "Nothing was posted. Not enough money on the balance: 100.00 needed, 40.00 available."
    )
    expect(page.get_by_label("Transaction description")).to_have_value(
        "Paid into the wrong account"
    )
    assert ledger.balance(user).real == 40
