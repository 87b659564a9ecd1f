"""Checks accessibility: with axe, with the keyboard, and by what a screen reader reads.

axe (https://github.com/dequelabs/axe-core) runs on every kind of page and in each of its states,
light and dark, on a desktop and on a phone. No rule and no element is exempt.
"""

import re
from collections.abc import Callable, Sequence

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from django.contrib.auth.models import Group
from django.template.loader import render_to_string
from django.utils import timezone
from playwright.sync_api import Browser, Page, Route, expect

from billing import authority, ledger, operations
from billing.models import (
    ApiKey,
    ChargingRun,
    Reason,
    Transaction,
    UserDefaults,
)
from tests.billing.histories import user_with_history
from tests.browser.conftest import DESKTOP, PHONE, Windows
from tests.browser.panel import (
    BY_SYSTEM,
    change_balance,
    confirm,
    fill_change,
    member_of,
    tab,
    transaction_page,
)
from tests.browser.test_every_page import (
    add_proof,
    ask_for_exports,
    focused,
    integrate,
    redeemed_voucher,
    subscribe,
)
from tests.factories import OperatorFactory, PlanFactory, UserFactory, user_with
from users.models import User

pytestmark = pytest.mark.browser

type Step = Callable[[Page], object]

# Returns the violations that axe finds. Also checks that a page has one h1, one main, a name for
# each nav, and a title. The colour rules take three quarters of the time. Only they depend on the
# theme, so the other rules run in the first theme only. The colour rules skip elements that still
# look as they did in the same theme, in the other size or before a click.
FIND = """async ({ theme, isFirstTheme }) => {
    const COLOURS = ["color-contrast", "link-in-text-block"];
    const found = [];
    const ask = async (context, options) => {
        const results = await axe.run(context, { resultTypes: ["violations"], ...options });
        for (const { id, nodes } of results.violations) {
            found.push(...nodes.map(({ html, failureSummary }) =>
                `${id}: ${html.slice(0, 200)} (${failureSummary.replace(/\\s+/g, " ")})`));
        }
    };
    if (isFirstTheme) {
        await ask(document, {
            rules: Object.fromEntries(COLOURS.map((rule) => [rule, { enabled: false }])),
        });
        for (const [selector, count] of [["h1", 1], ["main", 1], ["nav:not([aria-label])", 0]]) {
            const all = [...document.querySelectorAll(selector)];
            const there = all.filter((each) => each.checkVisibility()).length;
            if (there !== count) found.push(`${there} of ${selector}`);
        }
        if (document.title.trim() === "") found.push("no title");
    }
    const known = ((window.looks ??= {})[theme] ??= new WeakMap());
    const old = [];
    // Whether the element and all within it look as they did, or are hidden: not asked about again.
    const isKnown = (element, behind) => {
        const style = getComputedStyle(element);
        behind = `${behind} ${style.backgroundColor} ${style.backgroundImage} ${style.opacity}`;
        const hasText = element.value || [...element.childNodes].some(
            (node) => node.nodeType === Node.TEXT_NODE && node.data.trim()
        );
        const look = [
            behind, style.color, style.fontSize, style.fontWeight, style.textDecorationLine,
            element.matches(":disabled"), Boolean(hasText),
        ].join();
        const isHidden = !element.checkVisibility({ visibilityProperty: true });
        const inner = [...element.children].map((child) => [child, isKnown(child, behind)]);
        const isSame = isHidden || known.get(element) === look;
        const isOld = isSame && inner.every(([, isOld]) => isOld);
        if (!isHidden) known.set(element, look);
        if (!isOld) old.push(...inner.filter(([, isOld]) => isOld).map(([child]) => child));
        return isOld;
    };
    if (!isKnown(document.documentElement, "")) {
        await ask(old.length ? { exclude: old } : document, { runOnly: COLOURS });
    }
    return found;
}"""

# Themes and sizes are changed without loading the page again. Meanwhile STILL stops all movement.
STILL = "*, *::before, *::after { transition: none !important; animation: none !important; }"
TAKE_THEME = """async (isDark) => {
    if (window.Alpine) document.documentElement.classList.toggle("dark", isDark);
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""


def problems(page: Page, themes: Sequence[str] = ("light", "dark")) -> list[str]:
    """Returns the faults of the page in its present state, in these themes and in both sizes."""
    page.add_style_tag(content=STILL)
    found = []
    for size, viewport in (("desktop", DESKTOP), ("phone", PHONE)):
        page.set_viewport_size(viewport)  # type: ignore[arg-type]
        for theme in themes:
            page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            page.evaluate(TAKE_THEME, theme == "dark")
            answers = page.evaluate(FIND, {"theme": theme, "isFirstTheme": theme == themes[0]})
            found += [f"{theme}, {size}: {each}" for each in answers]
    page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]
    page.emulate_media(color_scheme="light")
    return found


COLOURED = """<!doctype html><html lang="en"><title>Colours</title>
<style>
    :root { color: black; background: white }
    .phone { display: none }
    #later { color: #888 }
    @media (max-width: 600px) { .phone { display: block } .desktop { display: none } }
    @media (prefers-color-scheme: dark) { :root { color: white; background: black } }
</style>
<main><h1>Colours</h1><p class="phone">Small</p><p class="desktop">Large</p><p id="later"></p>
</main>
"""


@pytest.mark.parametrize("size", ["phone", "desktop"])
@pytest.mark.parametrize(("theme", "colour"), [("light", "#eee"), ("dark", "#222")])
def test_colours_are_looked_at_in_each_size_and_theme(
    chromium: Browser, size: str, theme: str, colour: str
) -> None:
    page = chromium.new_page()
    page.set_content(COLOURED)
    page.evaluate(AXE_SCRIPT)
    assert problems(page) == []
    wrong = f"{{ .{size} {{ color: {colour} !important }} }}"
    page.add_style_tag(content=f"@media (prefers-color-scheme: {theme}) {wrong}")
    assert [each.split(": ")[:2] for each in problems(page)] == [
        [f"{theme}, {size}", "color-contrast"]
    ]
    page.close()


@pytest.mark.parametrize("change", ["innerHTML = '<b>Later</b>'", "textContent = 'Later'"])
def test_what_came_after_a_look_at_the_colours_is_looked_at_in_the_next(
    chromium: Browser, change: str
) -> None:
    page = chromium.new_page()
    page.set_content(COLOURED)
    page.evaluate(AXE_SCRIPT)
    assert problems(page) == []
    page.evaluate(f"later.{change}")
    assert [each.split(": ")[0] for each in problems(page)] == ["light, desktop"]
    page.close()


def press(name: str) -> Step:
    return lambda page: page.get_by_role("button", name=name, exact=True).click()


def refuse_change(page: Page) -> None:
    fill_change(page, "", "nonsense", "-1000000")
    confirm(page)
    expect(page.locator(".panel-field .error").first).to_be_visible()


def preview_change(page: Page) -> None:
    fill_change(page, "Paid at the desk", "-1000")
    expect(page.locator("[data-after=amount]")).to_be_visible()


def preview_merge(page: Page) -> None:
    page.get_by_label("User to keep").fill("other@example.com")
    press("Preview")(page)


def preview_service(page: Page) -> None:
    page.locator("[name=service]").select_option(index=1)
    page.get_by_role("button", name="Preview").click()
    expect(page.locator(".panel-preview, .panel-field .error, .panel-notice").first).to_be_visible()


def preview_subscription(page: Page) -> None:
    page.locator("[name=plan]").select_option(index=1)
    page.get_by_role("button", name="Preview").click()
    expect(page.locator(".panel-preview, .panel-field .error, .panel-notice").first).to_be_visible()


def refuse_user(page: Page) -> None:
    page.get_by_label("E-mail").fill("nobody")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".errornote")).to_be_visible()


def open_account_menu(page: Page) -> None:
    page.get_by_role("button", name="Olga Operator").click()
    expect(page.get_by_role("navigation", name="Account")).to_be_visible()


def refuse_password(page: Page) -> None:
    page.locator("main form [type=submit]").click()
    expect(page.locator(".errornote").first).to_be_visible()


def select_rows(page: Page) -> None:
    page.locator("input.action-select").first.check()
    expect(page.locator("#changelist-actions-wrapper")).to_be_visible()


def test_axe_finds_nothing_on_any_kind_of_page(
    windows: Windows, operator: User, subtests: pytest.Subtests
) -> None:
    user = user_with_history()
    subscription = subscribe(user)
    PlanFactory(name="Another plan")
    add_proof()
    delivery = integrate(user, operator)
    Reason.objects.create(code="cash", label="Paid in cash", template="Paid in cash")
    first, reversed_one = (Transaction.objects.get(user=user, number=n) for n in (1, 3))
    closed, forgotten = (UserFactory(is_active=False) for _ in range(2))
    duplicate, _ = UserFactory(), UserFactory(email="other@example.com")
    day = timezone.now().date()
    operations.duplicates.merge(duplicate.pk, user.pk, day=day, **BY_SYSTEM)
    operations.forgetting.forget(forgotten.pk, **BY_SYSTEM)
    person = f"/admin/users/user/{user.pk}"
    subscribed_to = f"{person}/subscriptions/{subscription.pk}"
    plan = f"/admin/billing/plan/{subscription.plan_id}"
    text = f"/admin/billing/reason/{Reason.objects.latest('pk').pk}"
    voucher = f"/admin/billing/voucher/{redeemed_voucher(user, amount=10).pk}"
    ask_for_exports(user, operator)
    group = f"/admin/auth/group/{Group.objects.earliest('pk').pk}"
    key = f"/admin/billing/apikey/{ApiKey.objects.get().pk}"
    endpoint = f"/admin/billing/webhookendpoint/{delivery.endpoint_id}"
    colleague = f"/admin/users/operator/{OperatorFactory().pk}"
    pages: list[tuple[str, *tuple[Step, ...]]] = [
        ("/admin/",),
        ("/admin/", open_account_menu),
        ("/admin/users/",),
        ("/admin/users/user/",),
        ("/admin/users/user/", press("Filters")),
        ("/admin/users/user/?q=nobody&real_from=nonsense",),
        ("/admin/users/user/", select_rows),
        ("/admin/users/user/add/",),
        ("/admin/users/user/add/", refuse_user),
        (f"{person}/change/",),
        (tab(user, "?posted=7"),),
        (tab(user, "?from_day=2026-02-30&goto=nowhere"),),
        (tab(user, "?from_day=2020-01-01&to_day=2020-01-02"),),
        (f"{person}/subscriptions/",),
        (f"{person}/subscriptions/add/",),
        (f"{person}/subscriptions/add/", press("Preview")),
        (f"{subscribed_to}/change-plan/", preview_subscription),
        (f"{subscribed_to}/cancel/",),
        (f"{person}/history/",),
        (change_balance(user),),
        (change_balance(user), preview_change),
        (change_balance(user), refuse_change),
        (f"{person}/charge-service/",),
        (f"{person}/charge-service/", preview_service),
        (f"{person}/low-balance/",),
        (f"{person}/merge/",),
        (f"{person}/merge/", press("Preview")),
        (f"{person}/merge/", preview_merge),
        (f"/admin/users/user/{closed.pk}/forget/",),
        (f"/admin/users/user/{closed.pk}/forget/", press("Forget this person")),
        (f"/admin/users/user/{duplicate.pk}/change/",),
        (f"/admin/users/user/{duplicate.pk}/transactions/",),
        (f"/admin/users/user/{forgotten.pk}/change/",),
        ("/admin/billing/transaction/",),
        ("/admin/billing/export/",),
        (transaction_page(first.pk),),
        (transaction_page(reversed_one.pk),),
        (transaction_page(first.pk, "reverse"),),
        (transaction_page(first.pk, "reverse"), press("Reverse or refund")),
        ("/admin/billing/plan/",),
        (f"{plan}/change/",),
        (f"{plan}/delete/",),
        (f"{plan}/history/",),
        ("/admin/billing/service/",),
        (
            f"/admin/billing/service/{subscription.plan.service_prices.earliest('pk').service_id}/change/",
        ),
        ("/admin/billing/subscription/",),
        ("/admin/billing/chargingrun/",),
        (f"/admin/billing/chargingrun/{ChargingRun.objects.get().pk}/change/",),
        (f"/admin/billing/userdefaults/{UserDefaults.ONLY_ID}/change/",),
        ("/admin/billing/reason/",),
        (f"{text}/change/",),
        (f"{text}/delete/",),
        ("/admin/billing/voucher/",),
        ("/admin/billing/voucher/add/",),
        ("/admin/billing/voucher/add/", press("Save")),
        (f"{voucher}/change/",),
        (f"{voucher}/redemptions/",),
        (f"{person}/redeem-voucher/",),
        (f"{person}/redeem-voucher/", press("Preview")),
        ("/admin/billing/apikey/",),
        ("/admin/billing/apikey/add/", press("Add API key")),
        (f"{key}/change/",),
        (f"{key}/revoke/",),
        ("/admin/billing/webhookendpoint/",),
        (f"{endpoint}/change/",),
        (f"{endpoint}/secret/", press("Show the secret")),
        ("/admin/billing/webhookdelivery/",),
        (f"/admin/billing/webhookdelivery/{delivery.pk}/change/",),
        ("/admin/billing/lowbalancethreshold/",),
        ("/admin/users/operator/",),
        ("/admin/users/operator/add/",),
        (f"{colleague}/change/",),
        ("/admin/auth/group/",),
        (f"{group}/change/",),
        (f"{group}/delete/",),
        ("/admin/my-time-zone/",),
        ("/admin/password_change/",),
        ("/admin/password_change/", refuse_password),
        ("/nowhere/",),
        ("/api/v1/problems",),
    ]
    page = windows(operator)
    page.add_init_script(AXE_SCRIPT)
    for path, *steps in pages:
        doing = [getattr(step, "__name__", "") for step in steps]
        with subtests.test(path=path, doing=doing):
            page.goto(path)
            for step in steps:
                step(page)
            page.wait_for_load_state()
            assert "\n".join(problems(page)) == ""


def test_axe_finds_nothing_where_somebody_is_kept_out(
    windows: Windows, committed_db: None, subtests: pytest.Subtests
) -> None:
    """Checks the login, the error pages, and the pages of an operator who may change nothing."""
    page = windows()
    page.add_init_script(AXE_SCRIPT)
    page.goto("/admin/login/")
    with subtests.test("login"):
        assert "\n".join(problems(page)) == ""
    page.get_by_role("button", name="Theme").click()
    with subtests.test("theme"):
        assert "\n".join(problems(page)) == ""
    page.keyboard.press("Escape")
    page.locator("[name=username]").fill("nobody@example.com")
    page.locator("[name=password]").fill("nothing")
    page.keyboard.press("Enter")
    expect(page.locator(".errornote").last).to_be_focused()
    with subtests.test("login refused"):
        assert "\n".join(problems(page)) == ""

    def answer(route: Route) -> None:
        name = route.request.url.rsplit("/", maxsplit=1)[-1]
        route.fulfill(body=render_to_string(f"{name}.html"), content_type="text/html")

    page.route("**/error-page/*", answer)
    for name in ("403", "403_csrf", "500"):
        page.goto(f"/error-page/{name}")
        with subtests.test(name):
            assert "\n".join(problems(page)) == ""

    page = windows(member_of("Viewer"))
    page.add_init_script(AXE_SCRIPT)
    page.goto("/admin/")
    with subtests.test("without rights to change anything"):
        assert "\n".join(problems(page)) == ""
    page.locator("#logout-form").evaluate("form => form.submit()")
    page.wait_for_url("**/logout/")
    with subtests.test("logged out"):
        assert "\n".join(problems(page)) == ""


def test_axe_finds_nothing_where_calls_are_tried_out(
    windows: Windows, operator: User, subtests: pytest.Subtests
) -> None:
    """Checks the API documentation with a call tried out, its schema, a body, and the key dialog.

    The page has one theme. (axe takes a while, because the page has many calls.)
    """
    _, secret = authority.issue_key(name="Trial", owner=operator, created_by=operator)
    page = windows()
    page.add_init_script(AXE_SCRIPT)
    page.goto("/api/v1/docs")
    call = page.locator("#operations-Users-list_users")
    expect(call).to_be_visible()
    with subtests.test("all calls"):
        assert "\n".join(problems(page, ["light"])) == ""
    page.locator("button.authorize").first.click()
    page.locator(".auth-container input").fill(secret)
    with subtests.test("asked for a key"):
        assert "\n".join(problems(page, ["light"])) == ""
    page.locator(".auth-btn-wrapper button.authorize").click()
    page.locator(".auth-btn-wrapper button.btn-done").click()
    call.locator(".opblock-summary-control").click()
    call.locator("button.try-out__btn").click()
    call.locator("button.execute").click()
    expect(call.locator(".live-responses-table")).to_be_visible()
    with subtests.test("answered"):
        assert "\n".join(problems(page, ["light"])) == ""
    call.locator(".model-example .tab button").last.click()
    body = page.locator("[id$=change_balance]").first
    body.locator(".opblock-summary-control").click()
    body.locator("button.try-out__btn").click()
    with subtests.test("a schema and a body"):
        assert "\n".join(problems(page, ["light"])) == ""


# --- The keyboard -------------------------------------------------------------------------------


def test_the_first_tab_leads_past_the_navigation(windows: Windows, operator: User) -> None:
    user = user_with(real=10)
    page = windows(operator)
    for path in (tab(user), f"/admin/users/user/{user.pk}/change/"):
        page.goto(path)
        page.keyboard.press("Tab")
        link = page.get_by_role("link", name="Skip to the content")
        expect(link).to_be_focused()
        expect(link).to_be_in_viewport()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert focused(page) == "Profile"


@pytest.mark.parametrize("path", ["change-balance", "charge-service", "subscriptions/add"])
def test_after_a_refusal_the_keyboard_is_in_the_first_field_that_is_wrong(
    windows: Windows, operator: User, path: str
) -> None:
    user = user_with(real=10)
    subscribe(user)
    page = windows(operator, f"/admin/users/user/{user.pk}/{path}/")
    page.locator("main form [type=submit]").click()
    expect(page.locator(".panel-field .error").first).to_be_visible()
    field = page.locator("main [aria-invalid=true]").first
    expect(field).to_be_focused()
    # A screen reader reads the error together with the field.
    said = page.locator(".panel-field .error").first.inner_text()
    expect(field).to_have_accessible_description(re.compile(re.escape(said)))


def test_after_a_refusal_of_djangos_own_forms_it_is_there_too(
    windows: Windows, operator: User
) -> None:
    page = windows(operator, "/admin/users/user/add/")
    refuse_user(page)
    expect(page.get_by_label("E-mail")).to_be_focused()
    told = re.compile("Enter a valid email address")
    expect(page.get_by_label("E-mail")).to_have_accessible_description(told)


def test_a_refusal_that_is_about_no_field_takes_the_focus_itself(
    windows: Windows, operator: User
) -> None:
    user = user_with(real=10)
    first = Transaction.objects.get(user=user)
    page = windows(operator, transaction_page(first.pk, "reverse"))
    ledger.reverse(user, number=1, description="By somebody else", **BY_SYSTEM)
    page.get_by_label("Transaction description").fill("Paid twice")
    page.get_by_role("button", name="Reverse").click()
    expect(page.get_by_role("alert")).to_be_focused()


def test_a_page_that_was_not_refused_leaves_the_focus_alone(
    windows: Windows, operator: User
) -> None:
    page = windows(operator, change_balance(user_with(real=10)))
    expect(page.locator("body")).to_be_focused()


# --- Headings -----------------------------------------------------------------------------------


def test_the_heading_is_what_the_page_is_and_not_the_way_there(
    windows: Windows, operator: User
) -> None:
    user = UserFactory(first_name="Ada", last_name="Lovelace")
    page = windows(operator)
    for path, *words in (
        ("/admin/", "Start page"),
        ("/admin/users/user/", "Users"),
        ("/admin/users/user/add/", "user"),
        (f"/admin/users/user/{user.pk}/change/", "Ada Lovelace"),
        (tab(user), "Ada Lovelace", "Transactions"),
        (change_balance(user), "Ada Lovelace", "Change balance"),
        ("/admin/my-time-zone/", "My time zone"),
    ):
        page.goto(path)
        heading = page.get_by_role("heading", level=1)
        for each in words:
            expect(heading).to_contain_text(each)
        expect(heading.locator("a, .material-symbols-outlined")).to_have_count(0)
    page.goto(tab(user))
    way = page.get_by_role("navigation", name="Breadcrumb")
    way.get_by_role("link", name="Ada Lovelace").click()
    page.wait_for_url(f"**/{user.pk}/change/")
