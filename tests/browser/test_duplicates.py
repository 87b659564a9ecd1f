"""Marking a duplicate and forgetting a person, from the search to the last page."""

from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from billing import ledger, operations
from billing.models import Subject
from tests.browser.conftest import DESKTOP, PHONE, Windows
from tests.browser.panel import BY_SYSTEM
from tests.factories import PlanFactory, UserFactory, subscribed, user_with
from users.models import User


@pytest.fixture
def twins(committed_db: None) -> tuple[User, User]:
    """A user with money, gifts and subscriptions, and the same person's other account."""
    user = user_with(25, email="ada@old-mail.example", first_name="Ada", last_name="Byron")
    kept = user_with(3, email="ada@new-mail.example", first_name="Ada", last_name="Lovelace")
    now = timezone.now()
    for days, amount in ((30, 4), (10, 2)):
        ledger.give_bonus(
            user,
            amount=amount,
            description="Gift for a good year",
            bonus_expires_at=now + timedelta(days=days),
            **BY_SYSTEM,
        )
    fleet = PlanFactory(name="Fleet", price=5)
    for device in ("", "8617"):
        subscribed(user, fleet, device=device, day=now.date())
    subscribed(kept, PlanFactory(name="Basic", price=1), day=now.date())
    return user, kept


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_duplicate_is_marked_from_the_search_on(
    windows: Windows, operator: User, twins: tuple[User, User], viewport: dict[str, int]
) -> None:
    user, kept = twins
    page = windows(operator, f"/admin/users/user/{user.pk}/change/", viewport=viewport)
    page.get_by_role("link", name="Mark as duplicate").click()
    page.get_by_label("User to keep").fill("ada@new-mail.example")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_text(f"Balance of No. {kept.pk}")).to_be_visible()
    page.get_by_role("button", name="Mark as duplicate").click()
    expect(page.get_by_text(f"User No. {user.pk} was marked as a duplicate")).to_be_visible()
    assert ledger.balance(kept)[:2] == (22, 6)
    page.goto("/admin/users/user/?q=ada@old-mail.example")
    expect(page.get_by_text("also ada@old-mail.example")).to_be_visible()
    page.goto(f"/admin/users/user/{user.pk}/transactions/")
    page.get_by_role("link", name=f"Ada Lovelace (No. {kept.pk})").click()
    expect(page).to_have_url(f"{windows.url}/admin/users/user/{kept.pk}/change/")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_person_is_forgotten_with_the_keyboard(
    windows: Windows, operator: User, viewport: dict[str, int]
) -> None:
    user = UserFactory(email="ada@old-mail.example", phone="+49 176 5551234", city="Strelsau")
    operations.customers.set_active(Subject.USER, [user.pk], is_active=False, **BY_SYSTEM)
    page = windows(operator, f"/admin/users/user/{user.pk}/change/", viewport=viewport)
    page.get_by_role("link", name="Forget this person…").click()
    expect(page.get_by_text("Strelsau")).to_be_visible()
    page.get_by_label("The user's e-mail address").fill("ada@old-mail.example")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Forgotten on")).to_be_visible()
    expect(page.get_by_text("Strelsau")).to_have_count(0)
