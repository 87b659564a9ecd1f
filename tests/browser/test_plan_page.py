"""The page of a plan: adding and changing it with its prices, and its history."""

import pytest
from playwright.sync_api import Locator, Page, expect

from billing.models import Plan, Subscription
from tests.browser.conftest import PHONE, Windows
from tests.browser.panel import member_of, scrolls_sideways
from tests.factories import PlanFactory, ServiceFactory, plan_with, subscribed, user_with
from users.models import User

pytestmark = pytest.mark.browser

PLANS = "/admin/billing/plan/"


def page_of(plan: Plan) -> str:
    return f"{PLANS}{plan.pk}/change/"


def price_field(page: Page, service: str) -> Locator:
    return page.get_by_role("textbox", name=f"Price of {service}")


def save(page: Page) -> None:
    page.get_by_role("button", name="Save", exact=True).click()


def latest_change(page: Page) -> Locator:
    page.get_by_role("link", name="History").click()
    page.wait_for_url("**/history/")
    return page.locator("table tbody tr").first


def test_a_plan_is_added_and_its_price_changed_as_the_history_tells(
    windows: Windows, operator: User
) -> None:
    ServiceFactory(name="Outgoing SMS", code="outgoing_sms")
    ServiceFactory(name="Phone call", code="phone_call", unit="min")
    ServiceFactory(name="Traffic", code="traffic", unit="MB")
    page = windows(operator, PLANS)
    page.get_by_role("link", name="Add plan").first.click()
    page.get_by_role("textbox", name="Name").fill("Business")
    page.get_by_role("textbox", name="Price*").fill("12.55")
    page.get_by_label("Proportional charge").check()
    price_field(page, "Outgoing SMS").fill("0.30")
    price_field(page, "Phone call").fill("1,500")
    save(page)
    # The typed values stay, and the page explains the mistake.
    question = page.locator(".panel-prices .error")
    expect(question).to_contain_text("Did you mean 1.5 or 1500?")
    expect(price_field(page, "Outgoing SMS")).to_have_value("0.30")
    question.get_by_role("button", name="1.5", exact=True).click()
    row = page.locator("#result_list tbody tr")
    expect(row).to_contain_text("Business")
    expect(row).to_contain_text("12.55 per month")

    page.locator("#result_list").get_by_role("link", name="Business", exact=True).click()
    expect(page.locator(".panel-card").last).to_contain_text("12.55 USD per month")
    expect(page.get_by_text("A new price applies from the next charge on").first).to_be_visible()
    expect(price_field(page, "Phone call")).to_have_value("1.50")
    expect(price_field(page, "Traffic")).to_have_value("")
    page.get_by_role("textbox", name="Price*").fill("13")
    price_field(page, "Outgoing SMS").fill("0.25")
    price_field(page, "Phone call").fill("")
    save(page)
    page.wait_for_url(f"**{PLANS}")
    page.locator("#result_list").get_by_role("link", name="Business", exact=True).click()
    change = latest_change(page)
    expect(change).to_contain_text("Olga Operator")
    expect(change).to_contain_text(
        "Price changed from 12.55 to 13.00; Price of Outgoing SMS changed from 0.30 to 0.25; "
        "Price of Phone call changed from 1.50 to nothing."
    )
    plan = Plan.objects.get()
    assert [f"{each}: {each.price}" for each in plan.service_prices.all()] == [
        "Outgoing SMS: 0.2500"
    ]


def test_a_plan_in_use_keeps_its_cycle_and_leads_to_who_has_it(
    windows: Windows, operator: User
) -> None:
    plan, unused = PlanFactory(name="Business"), PlanFactory(name="Unused")
    user = user_with(real=100, first_name="Ada", last_name="Lovelace")
    subscribed(user, plan, device="8617")
    subscribed(user, unused, device="9001")
    Subscription.objects.filter(plan=unused).update(plan=plan, status="cancelled", due_on=None)
    page = windows(operator, page_of(unused))
    expect(page.locator("select[name=cycle]")).to_have_count(1)
    expect(page.get_by_role("link", name="Delete plan")).to_be_visible()
    page.goto(page_of(plan))
    expect(page.locator("select[name=cycle]")).to_have_count(0)
    expect(
        page.get_by_text("It cannot be changed, because subscribers have paid for")
    ).to_be_visible()
    expect(page.get_by_text("Retire it instead")).to_be_visible()
    expect(page.get_by_role("link", name="Delete plan")).to_have_count(0)
    page.goto(f"{PLANS}{plan.pk}/delete/")
    expect(page.get_by_text("cannot be deleted: it has had subscriptions").first).to_be_visible()

    page.goto(PLANS)
    page.get_by_role("link", name="Live subscriptions of Business").click()
    row = page.locator(".panel-table tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("8617")
    expect(page.get_by_label("Plan")).to_have_value(f"{plan.pk}")
    row.get_by_role("link", name="Ada Lovelace").click()
    page.wait_for_url(f"**/admin/users/user/{user.pk}/subscriptions/")


def test_two_operators_on_one_plan_do_not_undo_each_other_unseen(
    windows: Windows, operator: User
) -> None:
    sms = ServiceFactory(name="Outgoing SMS")
    plan = plan_with({sms: "0.30"}, price="10")
    first, second = (windows(operator, page_of(plan)) for _ in range(2))
    price_field(first, "Outgoing SMS").fill("0.25")
    save(first)
    first.wait_for_url(f"**{PLANS}")
    second.get_by_role("textbox", name="Price*").fill("11")
    save(second)
    expect(second.get_by_text("Nothing was saved: somebody has changed this")).to_contain_text(
        "(Olga Operator: Price of Outgoing SMS changed from 0.30 to 0.25)"
    )
    price_field(second, "Outgoing SMS").fill("0.25")
    save(second)
    second.wait_for_url(f"**{PLANS}")
    plan.refresh_from_db()
    assert (plan.price, plan.service_prices.get().price) == (11, sms.prices.get().price)
    assert f"{sms.prices.get().price}" == "0.2500"


def test_prices_are_set_on_a_phone(windows: Windows, operator: User) -> None:
    sms = ServiceFactory(name="Geographical lookup of addresses", unit="1,000 look-ups")
    plan = plan_with({sms: "0.30"})
    page = windows(operator, page_of(plan), viewport=PHONE)
    assert not scrolls_sideways(page)
    field = price_field(page, "Geographical lookup of addresses")
    field.scroll_into_view_if_needed()
    box = field.bounding_box()
    assert box
    assert box["width"] >= 120
    field.fill("0.35")
    save(page)
    page.wait_for_url(f"**{PLANS}")
    assert not scrolls_sideways(page)
    # On a phone the row is a card, and fits on the screen.
    count = page.get_by_role("link", name="Live subscriptions of")
    expect(count).to_be_in_viewport(ratio=1)
    assert f"{plan.service_prices.get().price}" == "0.3500"


def test_a_viewer_sees_prices_and_no_fields(windows: Windows) -> None:
    plan = plan_with({ServiceFactory(name="Outgoing SMS"): "0.30"}, name="Business", price="12.55")
    page = windows(member_of("Viewer"), page_of(plan))
    expect(page.locator(".panel-prices")).to_contain_text("0.30")
    expect(page.locator(".panel-card").last).to_contain_text("12.55 USD per month")
    expect(page.locator("#plan_form input:visible")).to_have_count(0)
    expect(page.get_by_role("button", name="Save")).to_have_count(0)
