"""How sending goes: what of it is news to operators. Reads only."""

from datetime import datetime, timedelta
from typing import Final

from django.db.models import QuerySet

from billing.models import WebhookDelivery, WebhookEndpoint

# A receiver that was restarted is no news.
FAILING_IS_NEWS_AFTER: Final = timedelta(minutes=5)
GIVEN_UP_IS_NEWS_FOR: Final = timedelta(days=7)


def failing(now: datetime) -> QuerySet[WebhookEndpoint]:
    """Those that nothing has got through to for some time."""
    endpoints = WebhookEndpoint.objects.filter(is_active=True)
    return endpoints.filter(failing_since__lte=now - FAILING_IS_NEWS_AFTER)


def given_up_lately(now: datetime) -> QuerySet[WebhookDelivery]:
    return WebhookDelivery.objects.filter(
        endpoint_id__in=WebhookEndpoint.objects.values("pk"),
        status=WebhookDelivery.Status.FAILED,
        finished_at__gt=now - GIVEN_UP_IS_NEWS_FOR,
    )
