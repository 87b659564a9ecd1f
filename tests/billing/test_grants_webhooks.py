"""Webhooks of gifts: those that expire soon, and those that have expired."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from billing import ledger, operations, webhooks
from billing.api.messages import MESSAGES
from billing.models import WebhookDelivery, WebhookEndpoint, WebhookEvent
from billing.tasks import tell_of_expiring
from tests.billing.clock import database_clock_at
from tests.billing.histories import BY_PANEL
from tests.factories import UserFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def endpoint() -> WebhookEndpoint:
    return WebhookEndpoint.objects.create(
        name="CRM",
        url="https://crm.example.com/",
        events=["bonus.expiring", "bonus.expired"],
        secret=webhooks.new_secret(),
    )


def gift(user: Any, amount: Any, **after: float) -> Any:
    return ledger.give_bonus(
        user, amount=amount, description="A gift",
        bonus_expires_at=timezone.now() + timedelta(**after) if after else None, **BY_PANEL,
    )  # fmt: skip


def events() -> list[tuple[str, int, Any]]:
    return [
        (event.type, event.user_id, event.data["grant"]["number"])
        for event in WebhookEvent.objects.order_by("pk")
    ]


def test_a_gift_that_expires_soon_is_told_once_and_again_after_a_change_of_its_date(
    endpoint: WebhookEndpoint,
) -> None:
    user = UserFactory()
    soon, later, _never = gift(user, 5, days=6), gift(user, 3, days=8), gift(user, 1)
    tell_of_expiring(0)
    tell_of_expiring(0)
    assert events() == [("bonus.expiring", user.pk, soon.number)]
    assert WebhookDelivery.objects.filter(endpoint=endpoint).count() == 1
    operations.bonus.change_expiry(
        user.pk, soon.number, timezone.now() + timedelta(days=3), **BY_PANEL
    )
    tell_of_expiring(0)
    assert [number for _, _, number in events()] == [soon.number, soon.number]
    webhooks.tell_of_expiring(timezone.now() + timedelta(days=2), 7)
    assert [number for _, _, number in events()] == [soon.number, soon.number, later.number]
    event = WebhookEvent.objects.latest("pk")
    MESSAGES["bonus.expiring"].model_validate_json(webhooks.body_of(event))


@pytest.mark.parametrize("days", [0, 7])
def test_nobody_is_told_who_does_not_want_it(settings: Any, days: int) -> None:
    settings.BONUS_EXPIRING_DAYS = days
    gift(UserFactory(), 5, days=1)
    tell_of_expiring(0)
    assert not WebhookEvent.objects.exists()


def test_what_has_expired_is_told_with_its_transaction(endpoint: WebhookEndpoint) -> None:
    user = UserFactory()
    given = gift(user, 5, hours=1)
    gift(user, 2)
    with database_clock_at(given.bonus_expires_at):
        ledger.expire_grants([user.pk])
    [event] = WebhookEvent.objects.all()
    assert (event.type, event.number) == ("bonus.expired", 3)
    assert event.data == {"expired": "5.0000", "bonus": "2.0000"}
    MESSAGES["bonus.expired"].model_validate_json(webhooks.body_of(event))
