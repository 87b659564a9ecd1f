"""The list of API keys."""

import pytest
from playwright.sync_api import expect

from billing import authority
from tests.browser.conftest import Windows
from tests.factories import AdministratorFactory

pytestmark = pytest.mark.browser


def test_a_whole_key_gets_into_no_address_and_its_beginning_finds_it(windows: Windows) -> None:
    operator = AdministratorFactory()
    key, secret = authority.issue_key(name="Gateway", owner=operator, created_by=operator)
    authority.issue_key(name="Shop", owner=operator, created_by=operator)
    page = windows(operator, "/admin/billing/apikey/")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    field = page.get_by_label("Name, owner or first characters")
    for typed in (secret, f" the gateway's {secret} "):
        field.fill(typed)
        page.get_by_role("button", name="Filter").click()
        field.press("Enter")
        assert field.evaluate("field => field.validity.patternMismatch")
    field.fill(key.prefix)
    field.press("Enter")
    expect(page.get_by_role("link", name="Gateway")).to_be_visible()
    expect(page.get_by_role("link", name="Shop")).to_have_count(0)
    assert any(key.prefix in address for address in asked)
    assert not any(secret in address for address in asked)
