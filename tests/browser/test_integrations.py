"""API keys, webhooks and low balance thresholds, as an operator uses them."""

from typing import Any

import pytest
from django.utils import timezone
from playwright.sync_api import Error, Locator, Page, expect

from billing import authority, webhooks
from billing.models import ApiKey, EventType, LowBalanceThreshold, WebhookDelivery, WebhookEndpoint
from tests.browser.conftest import DESKTOP, PHONE, Windows
from tests.browser.panel import member_of, notice, scrolls_sideways
from tests.factories import user_with
from users.models import User

pytestmark = pytest.mark.browser

KEYS = "/admin/billing/apikey/"
# Nothing listens at this address, and the panel sends no webhooks to it.
OUT_OF_REACH = "https://127.0.0.1:9/receive"


def state(page: Page) -> Locator:
    return page.locator("tr:has(th:text-is('State')) td")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_key_is_made_copied_and_revoked(
    windows: Windows, operator: User, viewport: dict[str, Any]
) -> None:
    page = windows(operator, KEYS, viewport=viewport)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("link", name="Add API key").click()
    page.get_by_label("Name").fill("Payment gateway")
    expect(page.get_by_label("Owner")).to_contain_text("Olga Operator")
    page.get_by_role("button", name="Add API key").click()

    expect(notice(page)).to_contain_text("This is the only time that the key is shown.")
    secret = page.get_by_label("API key", exact=True).input_value()
    key = authority.find_key(secret, timezone.now())
    assert key == ApiKey.objects.get()
    assert not scrolls_sideways(page)
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == secret
    assert secret not in page.url

    # Reloading sends the form again. It makes no second key, and shows no secret.
    page.reload()
    expect(notice(page)).to_contain_text("You have added “Payment gateway” just now")
    assert secret not in page.content()
    assert ApiKey.objects.count() == 1

    page.get_by_role("link", name="revoke it").click()
    expect(state(page)).to_have_text("Working")
    page.get_by_role("link", name="Revoke").click()
    expect(notice(page)).to_contain_text("refused from their next request on")
    page.get_by_role("button", name="Revoke").click()
    page.wait_for_url(f"**{KEYS}{ApiKey.objects.get().pk}/change/")
    expect(state(page)).to_have_text("Revoked")
    expect(page.get_by_role("link", name="Revoke")).to_have_count(0)
    assert authority.find_key(secret, timezone.now()) is None


def test_going_back_shows_no_key(windows: Windows, operator: User) -> None:
    page = windows(operator, f"{KEYS}add/")
    page.get_by_label("Name").fill("Payment gateway")
    page.get_by_role("button", name="Add API key").click()
    secret = page.get_by_label("API key", exact=True).input_value()
    page.get_by_role("link", name="I have it").click()
    page.wait_for_url("**/change/")
    # The browser did not keep the page. To show it, it would have to send the form again.
    with pytest.raises(Error, match="ERR_CACHE_MISS"):
        page.go_back()
    # The browser's error page loads after the exception, so this waits for it before reading.
    expect(page.get_by_text("ERR_CACHE_MISS")).to_be_attached()
    assert secret not in page.content()


def test_a_key_is_made_on_a_page_without_scripts(windows: Windows, operator: User) -> None:
    page = windows(operator, f"{KEYS}add/", java_script_enabled=False)
    page.get_by_label("Name").fill("Payment gateway")
    page.get_by_role("button", name="Add API key").click()
    secret = page.get_by_label("API key", exact=True).input_value()
    assert authority.find_key(secret, timezone.now())
    expect(page.locator("[data-copy]")).to_be_hidden()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_an_endpoint_is_added_tried_and_given_a_new_secret(
    windows: Windows, operator: User, viewport: dict[str, Any]
) -> None:
    page = windows(operator, "/admin/billing/webhookendpoint/", viewport=viewport)
    page.get_by_role("link", name="Add endpoint").click()
    page.get_by_role("textbox", name="Name").fill("CRM")
    page.get_by_role("textbox", name="Address").fill(OUT_OF_REACH)
    page.get_by_label("Transaction posted").check()
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("127.0.0.1 is neither a public address")).to_be_visible()
    expect(page.get_by_label("Transaction posted")).to_be_checked()
    page.get_by_role("textbox", name="Address").fill("https://93.184.215.14/receive")
    page.get_by_role("button", name="Save", exact=True).click()

    page.wait_for_url("**/secret/")
    endpoint = WebhookEndpoint.objects.get()
    page.get_by_role("button", name="Show the secret").click()
    expect(page.get_by_label("Secret", exact=True)).to_have_value(endpoint.secret)
    page.get_by_role("button", name="Make a new secret").click()
    expect(notice(page)).to_contain_text("The new secret signs")
    page.get_by_role("button", name="Make a new secret").click()
    expect(notice(page)).to_contain_text("A new secret was made.")
    new = WebhookEndpoint.objects.get().secret
    assert new != endpoint.secret
    expect(page.get_by_label("Secret", exact=True)).to_have_value(new)
    assert not scrolls_sideways(page)

    # Now the endpoint has an address that webhooks may not be sent to.
    WebhookEndpoint.objects.update(url=OUT_OF_REACH)
    page.get_by_role("link", name="I have it").click()
    page.get_by_role("button", name="Send test event").click()
    expect(notice(page)).to_contain_text("The test event was not delivered. 127.0.0.1")
    assert not scrolls_sideways(page)
    page.get_by_role("link", name="Back to the endpoint").click()
    page.get_by_role("link", name="History").click()
    expect(page.locator(".panel-table .description")).to_contain_text(
        ["A new secret was made.", "The secret was shown.", "Added."]
    )


def test_a_delivery_is_looked_at_and_sent_again(windows: Windows, operator: User) -> None:
    endpoint = WebhookEndpoint.objects.create(
        name="CRM", url=OUT_OF_REACH, secret=webhooks.new_secret(),
        events=[EventType.TRANSACTION_POSTED],
    )  # fmt: skip
    user = user_with(real=5)
    WebhookDelivery.objects.update(status="failed", finished_at=timezone.now())
    page = windows(operator, "/admin/")
    page.get_by_role("link", name="See which.").click()
    page.get_by_role("link", name="Transaction posted").click()
    expect(page.locator(".panel-body")).to_contain_text('"amount": "5.0000"')
    page.get_by_role("button", name="Send again").click()
    expect(page.get_by_text("It is sent again in a moment.")).to_be_visible()
    assert WebhookDelivery.objects.get(user_id=user.pk).status == "pending"
    page.get_by_role("link", name="CRM").click()
    expect(page.locator(".panel-card", has_text="Waiting")).to_contain_text("1")
    page.get_by_role("link", name="Deliveries", exact=True).click()
    page.wait_for_url(f"**?endpoint={endpoint.pk}")
    expect(page.locator(".panel-table tbody tr")).to_have_count(1)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_low_balance_is_set_for_a_user(windows: Windows, viewport: dict[str, Any]) -> None:
    user = user_with(real=5)
    operator = member_of("Billing operator")
    page = windows(operator, "/admin/billing/lowbalancethreshold/", viewport=viewport)
    page.get_by_label("Tell programs").select_option("Below an amount")
    page.get_by_label("Amount").fill("10")
    page.get_by_role("button", name="Save the default").click()
    expect(page.get_by_text("By default, programs are told below 10.00.")).to_be_visible()
    page.goto(f"/admin/users/user/{user.pk}/change/")
    summary = page.locator(".user-summary")
    expect(summary).to_contain_text("when the balance is low: below 10.00, by default.")
    summary.get_by_role("link", name="Change", exact=True).click()
    page.get_by_label("Tell programs").select_option("Never")
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_url(f"**/user/{user.pk}/change/")
    expect(summary).to_contain_text("when the balance is low: never.")
    assert LowBalanceThreshold.objects.get(user=user).amount is None
    assert not scrolls_sideways(page)
