"""How sending goes: what of it is news to operators. Reads only."""

from datetime import datetime, timedelta
from typing import Final

from django.db.models import Min, OuterRef, QuerySet, Subquery

from billing.models import WebhookAttempt, WebhookDelivery, WebhookEndpoint, WebhookEvent
from billing.webhooks.sending import next_due

# A receiver that was restarted is no news.
FAILING_IS_NEWS_AFTER: Final = timedelta(minutes=5)
GIVEN_UP_IS_NEWS_FOR: Final = timedelta(days=7)
# Where cron starts workers, up to some minutes pass before anything is sent.
WAITING_IS_NEWS_AFTER: Final = timedelta(minutes=15)
WAITING_LOOKED_AT: Final = 1_000


def failing(now: datetime) -> QuerySet[WebhookEndpoint]:
    """Those that nothing has got through to for some time."""
    endpoints = WebhookEndpoint.objects.filter(is_active=True, failures__gt=0)
    return endpoints.filter(failing_since__lte=now - FAILING_IS_NEWS_AFTER)


def given_up_lately(now: datetime) -> QuerySet[WebhookDelivery]:
    return WebhookDelivery.objects.filter(
        endpoint_id__in=WebhookEndpoint.objects.values("pk"),
        status=WebhookDelivery.Status.FAILED,
        finished_at__gt=now - GIVEN_UP_IS_NEWS_FOR,
    )


def waiting() -> QuerySet[WebhookDelivery]:
    """What is still to be delivered. An endpoint that is not active gets nothing."""
    return WebhookDelivery.objects.filter(
        endpoint_id__in=WebhookEndpoint.objects.filter(is_active=True).values("pk"),
        status=WebhookDelivery.Status.PENDING,
    )


def oldest_waiting() -> datetime | None:
    """When the oldest event happened that is still to be delivered."""
    of_endpoint = WebhookDelivery.objects.filter(
        endpoint_id=OuterRef("pk"), status=WebhookDelivery.Status.PENDING
    )
    first = Subquery(of_endpoint.order_by("pk").values("event__created_at")[:1])
    active = WebhookEndpoint.objects.filter(is_active=True)
    oldest: datetime | None = active.aggregate(at=Min(first))["at"]
    return oldest


def unsent_since(now: datetime) -> datetime | None:
    """Since when what could be sent has been waiting, where nobody sends anything.

    While something is sent, what waits for its turn is no news.
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
