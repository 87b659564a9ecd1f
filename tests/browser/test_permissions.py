"""The panel as operators without all permissions see it."""

import pytest
from playwright.sync_api import Page, expect

from billing.models import Transaction
from tests.browser.conftest import PHONE, Windows
from tests.browser.panel import (
    change_balance,
    confirm,
    fill_change,
    member_of,
    notice,
    numbers,
    tab,
    transaction_page,
)
from tests.factories import PASSWORD, OperatorFactory, user_with

pytestmark = pytest.mark.browser


def status(page: Page, path: str) -> int:
    response = page.goto(path)
    assert response
    return response.status


def test_a_viewer_reads_but_cannot_change(windows: Windows) -> None:
    user = user_with(real=100)
    transaction = Transaction.objects.get(user=user)
    page = windows(member_of("Viewer"), tab(user))
    assert numbers(page) == [1]
    buttons = page.get_by_role("link", name="Change balance")
    expect(buttons).to_have_count(0)
    assert status(page, f"/admin/users/user/{user.pk}/change/") == 200
    expect(page.locator(".panel-card .figure").first).to_contain_text("100.00")
    expect(buttons).to_have_count(0)
    assert status(page, transaction_page(transaction.pk)) == 200
    expect(page.get_by_role("link", name="Reverse")).to_have_count(0)

    assert status(page, change_balance(user)) == 403
    expect(page.locator("body")).to_contain_text("have no permission for this page")
    assert status(page, transaction_page(transaction.pk, "reverse")) == 403


def test_a_billing_operator_changes_balances_on_a_phone(windows: Windows) -> None:
    user = user_with(real=100)
    page = windows(member_of("Billing operator"), tab(user), viewport=PHONE)
    button = page.get_by_role("link", name="Change balance")
    expect(button).to_be_in_viewport(ratio=1)
    page.goto(f"/admin/users/user/{user.pk}/change/")
    expect(button.locator("visible=true").first).to_be_in_viewport(ratio=1)
    button.locator("visible=true").first.click()
    fill_change(page, "Paid at the desk", "10")
    confirm(page)
    expect(notice(page)).to_contain_text("Balance 100.00 → 110.00 USD.")


def test_an_operator_without_any_right_is_told_so(windows: Windows) -> None:
    user = user_with(real=100)
    page = windows(OperatorFactory(), "/admin/")
    expect(page.get_by_text("You are logged in, but may see nothing yet.")).to_be_visible()
    for path in (tab(user), change_balance(user), "/admin/billing/transaction/"):
        assert status(page, path) == 403


def test_who_is_not_logged_in_comes_to_the_login_page_and_then_on(windows: Windows) -> None:
    user = user_with(real=100)
    operator = member_of("Billing operator")
    page = windows(None, change_balance(user))
    page.locator("[name=username]").fill(operator.email)
    page.locator("[name=password]").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_label("Balance changes")).to_be_visible()
