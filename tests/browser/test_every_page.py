"""Checks of all pages: on phones, in both themes, with the keyboard, and without JavaScript.

Every browser test also fails if a page reports an error or breaks its Content-Security-Policy.
"""

import re
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from playwright.sync_api import Page, expect

from billing import authority, ledger, operations, webhooks
from billing.models import (
    ApiKey,
    Batch,
    Channel,
    ChargingFailure,
    ChargingRun,
    EventType,
    Export,
    Grant,
    LowBalanceThreshold,
    Plan,
    Proof,
    Reason,
    Service,
    Subscription,
    Transaction,
    UserDefaults,
    Voucher,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
)
from billing.money import Amount
from billing.operations import batches
from tests.billing.histories import user_with_history
from tests.browser.conftest import PHONE, Windows
from tests.browser.panel import (
    change_balance,
    confirm,
    fill_change,
    many_transactions,
    notice,
    numbers,
    refill,
    scrolls_sideways,
    tab,
    transaction_page,
)
from tests.factories import (
    ServiceFactory,
    UserFactory,
    a_voucher,
    plan_with,
    subscribed,
    user_with,
)
from users.models import User

pytestmark = pytest.mark.browser

# These addresses do not return a page.
NO_PAGES = {"logout", "jsi18n", "autocomplete", "view_on_site", "search"}
# These pages are refused with 403 or 404. For example, users cannot be deleted, and transactions
# cannot be added.
REFUSED = re.compile(
    r"/(user|operator|transaction|subscription|chargingrun|userdefaults|apikey|webhookdelivery"
    r"|lowbalancethreshold|voucher|batch|export)/\d+/delete/$|/(transaction|subscription|chargingrun"
    r"|webhookdelivery|lowbalancethreshold|batch|export)/(add/|\d+/history/)$|/userdefaults/add/$"
    r"|/export/\d+/(change|file)/$"
    r"|/webhookdelivery/given-up-again/$"  # takes a POST with an endpoint
)


# A word without a place for a line break, and the largest amount that is allowed.
UNBROKEN = (
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaftsvorstand"
)
LARGEST = "499999999999999.9999"


def stand_out(user: User) -> None:
    """Gives the user long words and large amounts, which need a lot of room."""
    User.objects.filter(pk=user.pk).update(
        email=f"{'accountspayable' * 4}@{'internationalfleetmanagement' * 2}.example",
        first_name=UNBROKEN,
        last_name=UNBROKEN,
        legal_type="legal_entity",
        legal_name=UNBROKEN * 2,
    )
    refill(user, real=LARGEST, bonus=LARGEST, description=UNBROKEN * 2)
    refill(user, real=f"-{LARGEST}", description="Payment " * 20)
    refill(user, real=LARGEST, description="Paid once more")


def subscribe(user: User) -> Subscription:
    """Subscribes the user to a plan with prices.

    Adds a charging run that failed for them, and a proof of the ledger that found something.
    """
    names = [UNBROKEN[:40], "Outgoing SMS"]
    prices = {ServiceFactory(name=name, unit="1,000 look-ups"): "123456789.1234" for name in names}
    plan = plan_with(prices, name=UNBROKEN[:60], price="99.9")
    subscription = subscribed(user, plan, device=UNBROKEN)
    run = ChargingRun.objects.create(
        at=timezone.now(), started_by="command", due=1234567, charged=1234567, failed=1,
        total=LARGEST,
    )  # fmt: skip
    problem = f"The posting function billing_post({'jsonb' * 20}) refused it"
    ChargingFailure.objects.create(run=run, user=user, problem=problem)
    add_proof(problem)
    return subscription


def add_proof(problem: str = "") -> None:
    Proof.objects.create(
        kind="full", started_by="schedule", started_at=timezone.now(),
        finished_at=timezone.now(), users=1234567, transactions=123456789, problem=problem,
    )  # fmt: skip


def integrate(user: User, operator: User) -> WebhookDelivery:
    """Makes a key and an endpoint with long names, and a threshold.

    Returns the delivery of an event that the endpoint refused.
    """
    name = UNBROKEN[:60]
    authority.issue_key(name=name, owner=operator, created_by=operator)
    LowBalanceThreshold.objects.create(user=user, amount=LARGEST)
    url = f"https://webhooks.international-fleet-management.example/{'receive/' * 20}"
    endpoint = WebhookEndpoint.objects.create(
        name=name, url=url, secret=webhooks.new_secret(), events=EventType.values,
        failures=3, failing_since=timezone.now() - timedelta(hours=1),
    )  # fmt: skip
    refill(user, real="1.5")
    delivery = WebhookDelivery.objects.get(endpoint=endpoint)
    WebhookAttempt.objects.create(
        delivery=delivery, at=timezone.now(), milliseconds=10_000, status_code=503,
        problem="It answered 503.", answer="<html>" + "unbroken" * 40,
    )  # fmt: skip
    WebhookDelivery.objects.filter(pk=delivery.pk).update(
        status="failed", attempt_count=1, finished_at=timezone.now()
    )
    return delivery


def post_batch(user: User) -> None:
    """Posts a batch with a long title and large sums."""
    sheet = batches.Sheet(kind=Batch.Kind.REQUEST, title=UNBROKEN * 2)
    entry = ledger.balance_change_entry(user, amount="-12345678901.2345", description=UNBROKEN)
    batches.post([entry], sheet, actor=None, channel=Channel.API)


def ask_for_exports(user: User, operator: User) -> None:
    """Adds exports with long titles: one that failed, and one under way."""
    asked = {
        "operator": operator, "user": user, "title": f"{user}; Description: {UNBROKEN}",
        "listing": {}, "time_zone": "UTC", "file_name": f"transactions-user-{user.pk}.xlsx",
    }  # fmt: skip
    Export.objects.create(**asked, state=Export.State.FAILED, problem=UNBROKEN * 2)
    Export.objects.create(
        **asked, state=Export.State.RUNNING, total=1_234_567, done=123_456,
        started_at=timezone.now() - timedelta(minutes=2),
    )  # fmt: skip


def redeemed_voucher(user: User, amount: Amount) -> Voucher:
    """Makes a voucher with a long title, which the user redeems."""
    voucher = a_voucher(title=UNBROKEN[:90], amount=Decimal(amount), uses_max=123_456)
    operations.vouchers.redeem(
        user.pk, voucher.code, now=timezone.now(), actor=None, channel=Channel.PANEL
    )
    return voucher


def addresses(user: User, operator: User) -> Sequence[str]:
    """Returns the addresses of all pages of the panel."""
    transaction = Transaction.objects.filter(user=user).earliest("number")
    objects: dict[str, Any] = {
        "users_user": user.pk,
        "users_operator": operator.pk,
        "auth_group": Group.objects.earliest("pk").pk,
        "billing_reason": Reason.objects.earliest("pk").pk,
        "billing_batch": Batch.objects.earliest("pk").pk,
        "billing_voucher": Voucher.objects.earliest("pk").pk,
        "billing_transaction": transaction.pk,
        "billing_export": Export.objects.earliest("pk").pk,
        "billing_plan": Plan.objects.earliest("pk").pk,
        "billing_service": Service.objects.earliest("pk").pk,
        "billing_subscription": Subscription.objects.earliest("pk").pk,
        "billing_chargingrun": ChargingRun.objects.earliest("pk").pk,
        "billing_userdefaults": UserDefaults.ONLY_ID,
        "auth_user": operator.pk,
        "billing_apikey": ApiKey.objects.earliest("pk").pk,
        "billing_webhookendpoint": WebhookEndpoint.objects.earliest("pk").pk,
        "billing_webhookdelivery": WebhookDelivery.objects.earliest("pk").pk,
        "billing_lowbalancethreshold": LowBalanceThreshold.objects.earliest("pk").pk,
    }
    gift = Grant.objects.filter(user=user).earliest("number")
    within = {"users_user_gift_expiry": gift.number}  # the others are about a subscription
    found = []
    for pattern in admin.site.get_urls():
        for name in [
            each.name for each in getattr(pattern, "url_patterns", [pattern]) if each.name
        ]:
            if name in NO_PAGES:
                continue
            known = [pk for model, pk in objects.items() if name.startswith(f"{model}_")]
            second = within.get(name, objects["billing_subscription"])
            for arguments in ([], known[:1], [*known[:1], second]):
                try:
                    found.append(reverse(f"admin:{name}", args=arguments))
                except NoReverseMatch:
                    continue
                break
    # The pages of the apps are not found above, because their addresses need the name of an app.
    return [*found, "/admin/users/", "/admin/billing/", tab(user, "?direction=charges")]


# Finds visible words, figures, fields and charts that overlap each other or stick out of the page.
OVERLAPS = """() => {
    const seen = (rectangle, element) => {
        let { left, top, right, bottom } = rectangle;
        for (let box = element; box && box !== document.body; box = box.parentElement) {
            const style = getComputedStyle(box);
            if (style.position === "fixed" || style.position === "sticky") return null;
            if (style.clipPath !== "none" || style.visibility === "hidden") return null;
            if (style.overflowX === "visible") continue;
            const clip = box.getBoundingClientRect();
            [left, right] = [Math.max(left, clip.left), Math.min(right, clip.right)];
            [top, bottom] = [Math.max(top, clip.top), Math.min(bottom, clip.bottom)];
        }
        return right - left > 1 && bottom - top > 1 && { left, top, right, bottom, element };
    };
    const main = document.querySelector("main");
    const places = [];
    const NO_WORDS = "select, datalist, script, style, noscript, .material-symbols-outlined";
    const words = document.createTreeWalker(main, NodeFilter.SHOW_TEXT);
    while (words.nextNode()) {
        const { parentElement, data } = words.currentNode;
        if (!data.trim() || parentElement.closest(NO_WORDS)) continue;
        if (!parentElement.checkVisibility()) continue;
        const range = document.createRange();
        range.selectNodeContents(words.currentNode);
        const lines = [...range.getClientRects()].map((line) => seen(line, parentElement));
        places.push({ name: data.trim().slice(0, 40), lines: lines.filter(Boolean) });
    }
    for (const it of main.querySelectorAll("input, select, textarea, canvas")) {
        const line = it.checkVisibility() && seen(it.getBoundingClientRect(), it);
        if (line) places.push({ name: it.id || it.name || it.tagName, lines: [line] });
    }
    const lines = places.flatMap((place) => place.lines.map((line) => ({ ...line, place })));
    lines.sort((one, other) => one.top - other.top);
    const found = new Set();
    const width = document.documentElement.clientWidth;
    lines.forEach((one, index) => {
        if (one.right > width + 1) found.add(`${one.place.name} sticks out`);
        for (const other of lines.slice(index + 1)) {
            if (other.top > one.bottom - 4) break;
            if (other.place === one.place) continue;
            const across = Math.min(one.right, other.right) - Math.max(one.left, other.left);
            // Lines of text are as high as their font, which is more than the letters are.
            if (across > 2 && Math.min(one.bottom, other.bottom) - other.top > 6) {
                found.add(`${one.place.name} / ${other.place.name}`);
            }
        }
    });
    return [...found].slice(0, 10);
}"""


LAID_OUT = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def misplaced(page: Page) -> list[str]:
    """Returns the faults of the layout: sideways scrolling, overlaps, parts that stick out."""
    sideways = ["the page scrolls sideways"] if scrolls_sideways(page) else []
    return sideways + page.evaluate(OVERLAPS)


def test_long_words_and_large_amounts_fit_on_every_page(
    windows: Windows, operator: User, subtests: pytest.Subtests
) -> None:
    user = user_with_history()
    stand_out(user)
    Reason.objects.create(code="long", label=UNBROKEN[:90], template=UNBROKEN * 2)
    subscribe(user)
    integrate(user, operator)
    post_batch(user)
    redeemed_voucher(user, amount="12345678901.2345")
    ask_for_exports(user, operator)
    page = windows(operator, viewport=PHONE)
    walked = addresses(user, operator)
    assert change_balance(user) in walked
    its = f"/admin/users/user/{user.pk}/subscriptions/{Subscription.objects.get().pk}"
    assert {f"{its}/change-plan/", f"{its}/cancel/"} <= {*walked}
    assert f"/admin/billing/plan/{Plan.objects.get().pk}/change/" in walked
    for path in [*walked, tab(user, "?posted=8"), "/api/v1/problems"]:
        response = page.goto(path)
        assert response
        assert response.status in ((403, 404) if REFUSED.search(path) else (200,)), path
        expect(page.locator("body")).to_be_visible()
        for width in (360, 390, 1440):
            with subtests.test(path=path, width=width):
                page.set_viewport_size({"width": width, "height": 844})
                page.evaluate(LAID_OUT)
                assert "; ".join(misplaced(page)) == ""
    assert not scrolls_sideways(windows(None, "/admin/login/", viewport=PHONE))


# Returns the text and the contrast of each visible element. A canvas computes the colours that are
# seen: it draws the backgrounds of the element and its ancestors over each other.
CONTRASTS = """elements => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const lay = (colours) => {
        canvas.clearRect(0, 0, 1, 1);
        for (const colour of ["white", ...colours]) {
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
        }
        const [red, green, blue] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => {
            const part = value / 255;
            return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    return elements.filter((element) => element.checkVisibility()).map((element) => {
        const backgrounds = [];
        for (let each = element; each; each = each.parentElement) {
            backgrounds.unshift(getComputedStyle(each).backgroundColor);
        }
        const behind = lay(backgrounds);
        const text = lay([...backgrounds, getComputedStyle(element).color]);
        const [darker, lighter] = [behind, text].sort((a, b) => a - b);
        return [element.textContent.trim(), (lighter + 0.05) / (darker + 0.05)];
    });
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_money_is_readable_in_both_themes(
    windows: Windows, operator: User, theme: str, subtests: pytest.Subtests
) -> None:
    user = user_with_history()
    transaction = Transaction.objects.get(user=user, number=3)
    plan = subscribe(user).plan
    Service.objects.filter(name="Outgoing SMS").update(is_active=False)
    run = ChargingRun.objects.get()
    delivery = integrate(user, operator)
    page = windows(operator, color_scheme=theme)
    paths = [
        tab(user, "?posted=7"),
        "/admin/",
        "/admin/billing/transaction/?from_day=2020-01-01",
        transaction_page(transaction.pk),
        change_balance(user),
        "/admin/users/user/",
        "/admin/billing/plan/",
        f"/admin/billing/plan/{plan.pk}/change/",
        "/admin/billing/subscription/",
        "/admin/billing/chargingrun/",
        f"/admin/billing/chargingrun/{run.pk}/change/",
        "/admin/billing/apikey/",
        "/admin/billing/webhookendpoint/",
        f"/admin/billing/webhookendpoint/{delivery.endpoint_id}/change/",
        "/admin/billing/webhookdelivery/",
        f"/admin/billing/webhookdelivery/{delivery.pk}/change/",
        "/admin/billing/lowbalancethreshold/",
        f"/admin/users/user/{user.pk}/low-balance/",
    ]
    for path in paths:
        with subtests.test(path=path):
            page.goto(path)
            is_dark = page.evaluate("document.documentElement.classList.contains('dark')")
            assert is_dark == (theme == "dark")
            if path == change_balance(user):
                page.get_by_label("Balance changes").fill("-1000")
            money = page.locator(
                ".money, .panel-totals td:not(:empty), .panel-notice, .panel-badge"
            )
            contrasts = money.evaluate_all(CONTRASTS)
            assert contrasts
            assert [each for each in contrasts if each[1] < 4.5] == []


def focused(page: Page) -> str:
    """Returns the name of the focused field, or the words of the focused link or button."""
    return page.evaluate(
        """() => {
            const it = document.activeElement;
            return it.name || it.ariaLabel || it.textContent.replace(/\\s+/g, " ").trim();
        }"""
    )


def test_everything_on_the_tab_is_reached_with_the_keyboard(
    windows: Windows, operator: User
) -> None:
    user = UserFactory()
    many_transactions(user, 51)
    page = windows(operator, tab(user))
    reached: list[str] = []
    while (here := focused(page)) != "51" and len(reached) < 100:
        reached.append(here)
        page.keyboard.press("Tab")
        if focused(page) == "Sidebar":
            toggle = page.get_by_role("button", name="Sidebar", exact=True)
            before = toggle.get_attribute("aria-expanded")
            page.keyboard.press("Enter")
            expect(toggle).not_to_have_attribute("aria-expanded", str(before))
            page.keyboard.press("Enter")
    fields = ["from_day", "to_day", "type", "subtype", "direction", "q", "device"]
    for stop in ("Sidebar", "Today", "Last month", *fields, "Next ›", "Last »", "goto", "Go"):
        assert stop in reached
    assert [stop for stop in reached if stop in fields] == fields
    # The first stop is the page itself.
    stops = list(enumerate(reached))[1:]
    calendars = [place for place, stop in stops if "Choose from a calendar" in stop]
    days = ["from_day", "to_day", "paid_from", "paid_to"]
    assert calendars == [reached.index(day) + 1 for day in days]
    assert any("Change balance" in stop for stop in reached)


def test_the_panel_works_without_javascript(windows: Windows, operator: User) -> None:
    user = user_with_history()
    page = windows(operator, tab(user), java_script_enabled=False)
    expect(page.locator(".panel-table")).to_be_visible()
    page.get_by_label("Direction").select_option("charges")
    page.get_by_role("button", name="Filter", exact=True).click()
    page.wait_for_url(re.compile("direction=charges"))
    expect(page.locator(".panel-table .number")).to_have_text(["7", "4", "3"])
    page.get_by_role("link", name="Change balance").click()
    fill_change(page, "Paid at the desk", "1 5")
    confirm(page)
    expect(page.locator(".panel-field .error")).to_contain_text("do not make one number")
    fill_change(page, "Paid at the desk", "1.5")
    confirm(page)
    expect(notice(page)).to_contain_text("Balance 90.00 → 91.50 USD.")
    expect(page.locator("tr.marked .number")).to_have_text("8")


def test_without_javascript_filters_and_charts_leave_their_places_to_what_works(
    windows: Windows, operator: User
) -> None:
    user = user_with_history()
    page = windows(operator, java_script_enabled=False)
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 844})
        page.goto("/admin/users/user/")
        # The filters are above the list, fit on the page, and work like any form.
        filters, rows = page.locator("#changelist-filter"), page.locator("#changelist-form")
        above, below = filters.bounding_box(), rows.bounding_box()
        assert above
        assert below
        assert above["y"] + above["height"] <= below["y"]
        assert above["x"] >= 0
        assert above["x"] + above["width"] <= width
        expect(page.get_by_role("button", name="Filters", exact=True)).to_be_hidden()
        filters.get_by_placeholder("From").first.fill("1")
        filters.get_by_role("button", name=re.compile("Apply")).click()
        expect(page.locator("#result_list tbody tr")).to_have_count(1)

        page.goto(tab(user))
        expect(page.locator("canvas")).to_be_hidden()
        expect(page.locator(".panel-chart noscript p")).to_contain_text("The list below shows both")
        page.goto("/admin/")
        expect(page.locator("canvas")).to_be_hidden()
        expect(page.locator(".panel-chart tbody tr")).to_have_count(1)
        expect(page.locator(".panel-chart tbody tr")).to_contain_text(["+102.55"])


# --- The tabs of a user -------------------------------------------------------------------------

TABS = ["Profile", "Transactions", "Subscriptions", "History"]


def tabs_seen(page: Page) -> list[str]:
    links = page.get_by_role("navigation", name="Tabs").get_by_role("link")
    return [link.inner_text().strip() for link in links.all() if link.is_visible()]


def test_all_tabs_are_there_however_narrow_the_page_was_while_it_came(
    windows: Windows, operator: User
) -> None:
    user = user_with(real=10)
    page = windows(operator)
    # Imitates a slow computer: the page is as narrow as a phone when its scripts start, and gets
    # its full width afterwards.
    page.add_init_script(
        """addEventListener("load", () => {
            document.body.style.width = "300px";
            setTimeout(() => document.body.style.removeProperty("width"));
        });"""
    )
    for path in (tab(user), f"/admin/users/user/{user.pk}/change/", change_balance(user)):
        page.goto(path)
        page.evaluate(LAID_OUT)
        assert tabs_seen(page) == TABS


def test_all_tabs_are_there_after_a_window_has_grown_and_on_a_phone(
    windows: Windows, operator: User
) -> None:
    page = windows(operator, tab(user_with(real=10)), viewport=PHONE)
    assert tabs_seen(page) == TABS
    page.set_viewport_size({"width": 1440, "height": 900})
    page.evaluate(LAID_OUT)
    assert tabs_seen(page) == TABS


def test_filters_open_on_a_phone(windows: Windows, operator: User) -> None:
    user = user_with_history()
    page = windows(operator, tab(user), viewport=PHONE)
    expect(page.get_by_label("Direction")).to_be_hidden()
    page.get_by_text("Filters", exact=True).click()
    page.get_by_label("Direction").select_option("charges")
    page.get_by_role("button", name="Filter", exact=True).click()
    page.wait_for_url(re.compile("direction=charges"))
    assert numbers(page) == [7, 4, 3]
    expect(page.get_by_label("Direction")).to_have_value("charges")


def test_the_figures_of_the_start_page_lead_to_what_is_behind_them(
    windows: Windows, operator: User
) -> None:
    poor, rich = user_with(real=100), user_with(real=200)
    refill(poor, real=-30, description="Refund in cash")
    page = windows(operator)

    def follow(name: str, figure: str) -> None:
        page.goto("/admin/")
        card = page.get_by_role("link", name=name)
        expect(card).to_contain_text(figure)
        card.click()

    follow("Users 2", "2 active")
    expect(page.locator("#result_list tbody tr")).to_have_count(2)
    follow("All balances", "270.00")
    expect(page.locator("#result_list .field-name_and_email")).to_contain_text(
        [rich.email, poor.email]
    )
    follow("Refills today", "+300.00")
    expect(page.locator(".panel-table .description")).to_have_text(["Money to start with"] * 2)
    follow("Charges today", "−30.00")
    expect(page.locator(".panel-table .description")).to_have_text(["Refund in cash"])
    expect(page.locator(".panel-totals tbody tr")).to_contain_text(["Refills", "−30.00"])
    follow("Refills +300.00", "+300.00")
    expect(page.locator(".panel-table .description")).to_have_text(["Money to start with"] * 2)
    follow("All transactions", "")
    expect(page.locator(".panel-table tbody tr")).to_have_count(3)
    page.goto("/admin/")
    page.locator(".panel-table tbody tr").first.get_by_role("link", name=str(poor)).click()
    page.wait_for_url(f"**{tab(poor)}")
