"""The pages of users and operators."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Windows
from tests.browser.panel import member_of
from tests.factories import AdministratorFactory, user_with
from users.models import User

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("kind", ["user", "operator"])
def test_saving_a_page_does_not_undo_what_happened_since_it_was_opened(
    windows: Windows, kind: str
) -> None:
    person = user_with() if kind == "user" else member_of("Viewer")
    person.comment = "First line\n\n Second line"
    person.save()
    page = windows(AdministratorFactory(), f"/admin/users/{kind}/{person.pk}/change/")
    User.objects.filter(pk=person.pk).update(is_active=False, phone="1234", comment="Left")
    page.locator("[name=first_name]").fill("Grace")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text(re.compile(r"was (saved|changed)")).first).to_be_visible()
    person.refresh_from_db()
    assert (person.first_name, person.phone, person.comment) == ("Grace", "1234", "Left")
    assert not person.is_active
