"""An operator sends a form after the session has ended, and logs in again."""

import pytest
from django.contrib.sessions.models import Session
from playwright.sync_api import expect

from billing.models import Transaction
from tests.browser.conftest import Windows
from tests.browser.panel import scrolls_sideways
from tests.factories import PASSWORD, user_with
from users.models import User

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("width", [1440, 390])
def test_what_was_typed_is_there_after_the_login(
    windows: Windows, operator: User, width: int
) -> None:
    customer = user_with("5")
    path = f"/admin/users/user/{customer.pk}/change-balance/"
    page = windows(operator, path)
    page.set_viewport_size({"width": width, "height": 900})
    page.locator("[name=description]").fill("Bank transfer “4711”")
    page.locator("[name=amount]").fill("12.50")
    Session.objects.all().delete()
    page.locator("[name=amount]").press("Enter")

    notice = page.get_by_text("Your session had ended. Nothing was done or posted.")
    expect(notice).to_be_visible()
    assert not scrolls_sideways(page)
    page.locator("[name=username]").fill(operator.email)
    page.locator("[name=password]").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Please enter the e-mail address and password")).to_be_visible()
    page.locator("[name=password]").fill(PASSWORD)
    page.keyboard.press("Enter")

    expect(page.get_by_text("Your session had ended before this form was sent.")).to_be_visible()
    expect(page.locator("[name=description]")).to_have_value("Bank transfer “4711”")
    expect(page.locator("[name=amount]")).to_have_value("12.50")
    assert not scrolls_sideways(page)
    assert Transaction.objects.filter(user=customer).count() == 1  # the refill
    page.locator("[name=amount]").press("Enter")
    expect(page.locator("#posted")).to_be_visible()
    posted = Transaction.objects.filter(user=customer).order_by("number").last()
    assert posted is not None
    assert (posted.amount, posted.description) == (12.5, "Bank transfer “4711”")
