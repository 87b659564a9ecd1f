"""The pages about the API: the calls, which can be tried out with a key, and the problems."""

import re

import pytest
from playwright.sync_api import Route, expect

from billing import authority
from tests.browser.conftest import Windows
from tests.factories import UserFactory
from users.models import User

pytestmark = pytest.mark.browser


def test_a_call_is_tried_out_with_a_key_and_asks_nobody_else(
    windows: Windows, operator: User
) -> None:
    UserFactory(email="ada@analytical.example")
    _, secret = authority.issue_key(name="Trial", owner=operator, created_by=operator)
    page = windows()
    elsewhere: list[str] = []

    def note(route: Route) -> None:
        if not route.request.url.startswith((windows.url, "data:")):
            elsewhere.append(route.request.url)
        route.continue_()

    page.route("**/*", note)
    page.goto("/api/v1/docs")
    page.locator("button.authorize").click()
    page.locator(".auth-container input").fill(secret)
    page.locator(".auth-btn-wrapper button.authorize").click()
    page.locator(".auth-btn-wrapper button.btn-done").click()
    call = page.locator("#operations-Users-list_users")
    call.locator(".opblock-summary-control").click()
    call.locator("button.try-out__btn").click()
    call.locator("button.execute").click()
    answer = call.locator(".live-responses-table")
    expect(answer).to_contain_text("ada@analytical.example")
    assert elsewhere == []


def test_the_documentation_leads_to_the_problems_and_back(windows: Windows) -> None:
    page = windows(path="/api/v1/docs")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="what each means").click()
    problems = opened.value
    expect(problems.get_by_role("heading", name="Problems")).to_be_visible()
    problems.goto("/api/v1/problems#insufficient_funds")
    expect(problems.locator("tr:target")).to_contain_text("Not enough money on the balance")
    problems.get_by_role("link", name="The calls of the Billing API").click()
    expect(problems).to_have_url(re.compile(r"/api/v1/docs$"))
