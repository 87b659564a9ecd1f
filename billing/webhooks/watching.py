"""What operators should know about the sending of webhooks. Reads only."""

from datetime import datetime, timedelta
from typing import Final

from django.db.models import Min, OuterRef, QuerySet, Subquery

from billing.models import WebhookAttempt, WebhookDelivery, WebhookEndpoint, WebhookEvent
from billing.webhooks.deliveries import next_due

# A receiver that restarts is not worth a warning.
FAILING_IS_NEWS_AFTER: Final = timedelta(minutes=5)
GIVEN_UP_IS_NEWS_FOR: Final = timedelta(days=7)
# Workers started by cron may send only after some minutes.
WAITING_IS_NEWS_AFTER: Final = timedelta(minutes=15)
WAITING_LOOKED_AT: Final = 1_000


def failing(now: datetime) -> QuerySet[WebhookEndpoint]:
    """Returns active endpoints to which nothing got through for FAILING_IS_NEWS_AFTER."""
    endpoints = WebhookEndpoint.objects.filter(is_active=True, failures__gt=0)
    return endpoints.filter(failing_since__lte=now - FAILING_IS_NEWS_AFTER)


def given_up_lately(now: datetime) -> QuerySet[WebhookDelivery]:
    return WebhookDelivery.objects.filter(
        endpoint_id__in=WebhookEndpoint.objects.values("pk"),
        status=WebhookDelivery.Status.FAILED,
        finished_at__gt=now - GIVEN_UP_IS_NEWS_FOR,
    )


def waiting() -> QuerySet[WebhookDelivery]:
    """Returns the deliveries that still have to be sent, to active endpoints."""
    return WebhookDelivery.objects.filter(
        endpoint_id__in=WebhookEndpoint.objects.filter(is_active=True).values("pk"),
        status=WebhookDelivery.Status.PENDING,
    )


def oldest_waiting() -> datetime | None:
    """Returns when the oldest event happened that still has to be delivered, if any."""
    of_endpoint = WebhookDelivery.objects.filter(
        endpoint_id=OuterRef("pk"), status=WebhookDelivery.Status.PENDING
    )
    first = Subquery(of_endpoint.order_by("pk").values("event__created_at")[:1])
    active = WebhookEndpoint.objects.filter(is_active=True)
    oldest: datetime | None = active.aggregate(at=Min(first))["at"]
    return oldest


def stalled_since(now: datetime) -> datetime | None:
    """Returns since when deliveries that could be sent have waited while nothing was sent.

    None while something is being sent: the others just wait for their turn.
    """
    lately = now - WAITING_IS_NEWS_AFTER
    latest = WebhookAttempt.objects.order_by("-pk").values_list("at", flat=True).first()
    if latest is not None and latest > lately:
        return None
    due = {
        each.event_id: each.next_attempt_at for each in next_due(lately, users=WAITING_LOOKED_AT)
    }
    events = WebhookEvent.objects.filter(pk__in=due, created_at__lte=lately)
    times = events.values_list("pk", "created_at")
    return min((max(at, due[pk] or at) for pk, at in times), default=None)
