"""The Subscriptions tab with its two-step pages, and Charge service, as operators use them."""

import re
from datetime import UTC, date

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from billing import ledger
from billing.models import Plan, Subscription, Transaction
from tests.browser.conftest import DESKTOP, PHONE, Windows
from tests.browser.panel import BY_SYSTEM, member_of, notice, refill, scrolls_sideways
from tests.browser.panel import tab as transactions_tab
from tests.browser.test_every_page import CONTRASTS
from tests.factories import PlanFactory, ServiceFactory, plan_with, subscribed, user_with
from users.models import User

pytestmark = pytest.mark.browser

SIZES = pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])


@pytest.fixture(autouse=True)
def one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops the clock, so that no UTC day begins during a test: subscriptions use UTC days."""
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)


@pytest.fixture
def business(committed_db: None) -> Plan:
    """A plan for 30 a month, charged in full from any day. An SMS costs 0.30."""
    sms = ServiceFactory(code="outgoing_sms", name="Outgoing SMS")
    return plan_with({sms: "0.30"}, name="Business", price=30)


@pytest.fixture
def basic(committed_db: None) -> Plan:
    return PlanFactory(name="Basic", price=3)


@pytest.fixture
def customer(committed_db: None) -> User:
    """A user with a real balance of 100 and a bonus balance of 2, from one transaction."""
    return user_with(real=100, bonus=2, first_name="Ada", last_name="Lovelace")


def tab(user: User) -> str:
    return f"/admin/users/user/{user.pk}/subscriptions/"


def today() -> date:
    return timezone.now().astimezone(UTC).date()


def press(page: Page, name: str) -> None:
    """Presses a button, and waits for the page that it leads to."""
    with page.expect_navigation():
        page.get_by_role("button", name=name, exact=True).click()


def choose_plan(page: Page, name: str) -> None:
    """Selects the plan whose line in the list begins with `name`."""
    options = page.locator("select[name=plan] option")
    value = options.filter(has_text=re.compile(rf"^{name} ·")).get_attribute("value")
    page.locator("select[name=plan]").select_option(value)


def preview(page: Page) -> list[tuple[str, str]]:
    """Returns the description and the real amount of each transaction that will be posted."""
    expect(page.get_by_role("heading", name="What will be posted")).to_be_visible()
    rows = page.locator(".panel-preview tbody tr")
    return [
        (
            row.locator(".description").inner_text(),
            row.locator(".amount:not(.bonus)").inner_text(),
        )
        for row in rows.all()
    ]


def posted(user: User) -> int:
    return Transaction.objects.filter(user=user).count()


def money(user: User) -> tuple[str, str]:
    balance = ledger.balance(user)
    return f"{balance.real:.2f}", f"{balance.bonus:.2f}"


@SIZES
def test_a_device_is_subscribed_moved_to_another_plan_and_cancelled(  # noqa: PLR0917
    windows: Windows,
    operator: User,
    customer: User,
    business: Plan,
    basic: Plan,
    viewport: dict[str, int],
) -> None:
    page = windows(operator, f"/admin/users/user/{customer.pk}/change/", viewport=viewport)
    page.get_by_role("link", name="Subscriptions", exact=True).locator("visible=true").last.click()
    expect(page.get_by_text("has no subscriptions yet.")).to_be_visible()
    page.get_by_role("link", name="Add subscription").click()
    choose_plan(page, "Basic")
    page.get_by_label("Device").fill("8617")
    press(page, "Preview")
    [(description, amount)] = preview(page)
    assert description.endswith("device 8617")
    assert amount == "−3.00"
    expect(page.locator(".panel-card").first).to_contain_text("Afterwards: 97.00")
    assert not scrolls_sideways(page)
    assert posted(customer) == 1
    press(page, "Subscribe")
    sentence = "Subscribed device 8617 to plan Basic; 3.00 charged."
    expect(page.get_by_text(sentence)).to_be_visible()
    row = page.locator("tr.marked")
    expect(row).to_contain_text("8617")
    expect(row).to_contain_text("Active")
    assert not scrolls_sideways(page)
    assert money(customer) == ("97.00", "2.00")

    row.get_by_role("link", name="Change plan").click()
    choose_plan(page, "Business")
    page.get_by_label("Pay back the remainder").uncheck()
    press(page, "Preview")
    assert [each[1] for each in preview(page)] == ["−30.00"]
    press(page, "Back")
    expect(page.get_by_label("Pay back the remainder")).not_to_be_checked()
    expect(page.get_by_label("Charge the new plan now")).to_be_checked()
    page.get_by_label("Charge the new plan now").uncheck()
    press(page, "Preview")
    expect(page.get_by_text("Nothing: no money moves now.")).to_be_visible()
    assert not scrolls_sideways(page)
    press(page, "Change plan")
    expect(page.locator("tr.marked")).to_contain_text("Business")
    assert money(customer) == ("97.00", "2.00")

    page.locator("tr.marked").get_by_role("link", name="Cancel").click()
    press(page, "Preview")
    expect(page.get_by_text("Nothing: no money moves now.")).to_be_visible()
    press(page, "Cancel subscription")
    expect(page.locator("details.panel-folded")).to_have_attribute("open", "")
    expect(page.locator("details.panel-folded tr.marked")).to_contain_text("Cancelled")
    assert not scrolls_sideways(page)
    assert Subscription.objects.get().status == "cancelled"


def test_a_refusal_for_lack_of_money_offers_to_wait_for_it(
    windows: Windows, operator: User, business: Plan
) -> None:
    poor = user_with(real=20, bonus=50)
    page = windows(operator, f"{tab(poor)}add/")
    choose_plan(page, "Business")
    page.get_by_label("Device").fill("8617")
    waiting = page.get_by_label("Start suspended until there is money")
    expect(waiting).to_have_count(0)
    press(page, "Preview")
    expect(notice(page)).to_contain_text(
        "Not enough money on the balance: 30.00 needed, 20.00 available."
    )
    expect(page.get_by_label("Device")).to_have_value("8617")
    waiting.check()
    press(page, "Preview")
    expect(page.get_by_text("Nothing: no money moves now.")).to_be_visible()
    press(page, "Subscribe")
    expect(page.locator("tr.marked")).to_contain_text("Suspended")
    expect(page.locator("tr.marked")).to_contain_text("30.00 needed now, 10.00 missing")
    assert money(poor) == ("20.00", "50.00")


def test_what_came_in_between_preview_and_confirmation_is_shown_first(
    windows: Windows, operator: User, customer: User, basic: Plan
) -> None:
    page = windows(operator, f"{tab(customer)}add/")
    choose_plan(page, "Basic")
    press(page, "Preview")
    assert [each[1] for each in preview(page)] == ["−3.00"]
    refill(customer, real=-50, description="Meanwhile, by another")
    press(page, "Subscribe")
    expect(notice(page)).to_contain_text("Nothing was posted: something has changed")
    expect(page.locator(".panel-preview")).to_contain_text("50.00 →")
    assert not Subscription.objects.exists()
    press(page, "Subscribe")
    expect(page.locator("tr.marked")).to_contain_text("Own pricing plan")
    assert money(customer) == ("47.00", "2.00")


def test_what_another_window_did_already_is_not_done_again(
    windows: Windows, operator: User, customer: User, basic: Plan
) -> None:
    pages = [windows(operator, f"{tab(customer)}add/") for _ in range(2)]
    for page in pages:
        choose_plan(page, "Basic")
        press(page, "Preview")
    for page in pages:
        press(page, "Subscribe")
        expect(page.locator("tr.marked")).to_contain_text("Own pricing plan")
    expect(pages[1].get_by_text("Nothing more was done. The user already has a")).to_be_visible()
    assert money(customer) == ("97.00", "2.00")


def test_clicking_twice_subscribes_once(
    windows: Windows, operator: User, customer: User, basic: Plan
) -> None:
    page = windows(operator, f"{tab(customer)}add/")
    choose_plan(page, "Basic")
    press(page, "Preview")
    page.get_by_role("button", name="Subscribe", exact=True).dblclick()
    expect(page.get_by_text("Subscribed the user to plan Basic")).to_be_visible()
    assert posted(customer) == 2


@SIZES
def test_a_service_is_charged_with_what_each_balance_pays(
    windows: Windows, operator: User, customer: User, business: Plan, viewport: dict[str, int]
) -> None:
    subscribed(customer, business, day=today())
    subscribed(customer, business, day=today(), device="8617")
    page = windows(operator, transactions_tab(customer), viewport=viewport)
    page.get_by_role("link", name="Charge service").click()
    page.get_by_label("Service").select_option("outgoing_sms")
    page.get_by_label("Quantity").fill("1 5")
    page.get_by_label("Device").fill("8617")
    press(page, "Preview")
    expect(page.locator(".panel-field.quantity .error")).to_have_text(
        "The digits of 1 5 do not make one number. Write it like 1234.50 or 1,234.50."
    )
    expect(page.get_by_label("Device")).to_have_value("8617")
    offered = page.get_by_label("Device").evaluate("i => [...i.list.options].map((o) => o.value)")
    assert offered == ["8617"]
    page.get_by_label("Quantity").fill("10")
    press(page, "Preview")
    assert preview(page) == [("Outgoing SMS × 10, plan Business, device 8617", "−1.00")]
    details = page.locator(".panel-details")
    expect(details).to_contain_text(re.compile(r"The bonus balance pays\s*2\.00"))
    expect(details).to_contain_text(re.compile(r"The real balance pays\s*1\.00"))
    assert not scrolls_sideways(page)
    assert posted(customer) == 3
    press(page, "Charge service")
    expect(page.locator("tr.marked")).to_contain_text("Outgoing SMS × 10")
    assert money(customer) == ("39.00", "0.00")


def test_it_all_works_without_javascript(
    windows: Windows, customer: User, business: Plan, basic: Plan
) -> None:
    page = windows(member_of("Billing operator"), f"{tab(customer)}add/", java_script_enabled=False)
    choose_plan(page, "Business")
    press(page, "Preview")
    press(page, "Subscribe")
    expect(page.locator("tr.marked")).to_contain_text("Own pricing plan")
    page.get_by_role("link", name="Charge service").click()
    page.get_by_label("Service").select_option("outgoing_sms")
    page.get_by_label("Quantity").fill("1")
    press(page, "Preview")
    press(page, "Charge service")
    expect(page.locator("tr.marked")).to_contain_text("Outgoing SMS × 1")
    page.goto(tab(customer))
    page.get_by_role("link", name="Cancel").click()
    press(page, "Preview")
    press(page, "Cancel subscription")
    expect(page.get_by_text("Cancelled the user's own pricing plan")).to_be_visible()


def test_many_devices_are_found_by_the_filter(
    windows: Windows, operator: User, basic: Plan
) -> None:
    fleet = user_with(real=1000)
    for number in range(60):
        subscribed(fleet, basic, day=today(), device=f"Lorry {number:02}")
    page = windows(operator, tab(fleet))
    expect(page.locator(".panel-table tbody tr")).to_have_count(50)
    page.get_by_role("link", name="Next ›").click()
    expect(page.locator(".panel-table tbody tr")).to_have_count(10)
    page.get_by_role("textbox", name="Device").fill("lorry 4")
    press(page, "Filter")
    expect(page.locator(".panel-table tbody tr")).to_have_count(10)
    page.get_by_label("Status").select_option("suspended")
    press(page, "Filter")
    expect(page.get_by_text("No subscriptions match these filters.")).to_be_visible()


def test_a_viewer_sees_the_tab_without_buttons(
    windows: Windows, customer: User, basic: Plan
) -> None:
    subscribed(customer, basic, day=today(), **BY_SYSTEM)
    page = windows(member_of("Viewer"), tab(customer))
    expect(page.locator(".panel-table")).to_contain_text("Own pricing plan")
    for name in ("Add subscription", "Change plan", "Cancel", "Charge service"):
        expect(page.get_by_role("link", name=name)).to_have_count(0)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everything_is_readable_in_both_themes(
    windows: Windows, operator: User, customer: User, business: Plan, theme: str
) -> None:
    dear = PlanFactory(name="Dear", price=1000)
    subscribed(customer, business, day=today())
    subscribed(customer, dear, day=today(), device="8617")
    page = windows(operator, tab(customer), color_scheme=theme)
    parts = page.locator(".money, .panel-badge, .subtype, .missing, .panel-details th, .help")

    def assert_readable() -> None:
        contrasts = parts.evaluate_all(CONTRASTS)
        assert contrasts
        assert [each for each in contrasts if each[1] < 4.5] == []

    assert_readable()
    with page.expect_navigation():
        page.locator("tr", has_text="8617").get_by_role("link", name="Change plan").click()
    assert_readable()
    choose_plan(page, "Business")
    press(page, "Preview")
    assert [each[1] for each in preview(page)] == ["−30.00"]
    assert_readable()
