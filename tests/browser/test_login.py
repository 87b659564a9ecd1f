"""Logging in, and finding a user."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Windows
from tests.factories import PASSWORD, UserFactory
from users.models import User

pytestmark = pytest.mark.browser


def log_in(page: Page, email: str, password: str) -> None:
    page.goto("/")
    page.locator("[name=username]").fill(email)
    page.locator("[name=password]").fill(password)
    page.keyboard.press("Enter")


def test_a_wrong_password_is_answered_with_a_sentence(windows: Windows, operator: User) -> None:
    page = windows()
    log_in(page, operator.email, "not the password")
    expect(page.get_by_text("Please enter the e-mail address and password")).to_be_visible()
    expect(page.locator("[name=username]")).to_have_value(operator.email)
    page.locator("[name=password]").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Start page")).to_be_visible()


def test_the_login_has_no_upper_and_lower_case(windows: Windows, operator: User) -> None:
    page = windows()
    log_in(page, operator.email.upper(), PASSWORD)
    expect(page.get_by_role("heading", name="Start page")).to_be_visible()


def test_a_customer_cannot_log_in(windows: Windows, operator: User) -> None:
    customer = UserFactory()
    customer.set_password(PASSWORD)
    customer.save()
    page = windows()
    log_in(page, customer.email, PASSWORD)
    expect(page.get_by_text("Please enter the e-mail address and password")).to_be_visible()


@pytest.mark.parametrize("words", ["lovel", "ada@ANALYT", "555 0147"])
def test_a_user_is_found_by_part_of_name_email_or_phone(
    windows: Windows, operator: User, words: str
) -> None:
    UserFactory.create_batch(3)
    UserFactory(
        first_name="Augusta",
        last_name="Lovelace",
        email="ada@analytical.example",
        phone="+1 202 555 0147",
    )
    page = windows(operator, "/admin/users/user/")
    page.locator("#searchbar").fill(words)
    page.keyboard.press("Enter")
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    page.get_by_role("link", name="Augusta Lovelace").click()
    page.get_by_role("link", name="Transactions").last.click()
    expect(page.get_by_text("Augusta Lovelace has no transactions yet.")).to_be_visible()
