"""Deletes what is over: old events, and deliveries of endpoints that were deleted."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from django.db import connection, transaction
from django.db.models import Exists, OuterRef, QuerySet

from billing.models import WebhookDelivery, WebhookEvent
from billing.webhooks.deliveries import PENDING

KEPT_FOR: Final = timedelta(days=30)
ROWS_AT_ONCE: Final = 1_000


def delete_old(now: datetime, *, should_stop: Callable[[], bool] = lambda: False) -> int:
    """Deletes old events that nobody waits for, and deliveries of deleted endpoints.

    Commits after each ROWS_AT_ONCE. Returns the number of deleted rows.
    """
    deleted = 0
    while not should_stop() and (some := _delete_some(now)):
        deleted += some
    return deleted


def _delete_some(now: datetime) -> int:
    with transaction.atomic():
        return _delete_orphans() or _delete_old_events(now)


_ENDPOINTS_DELETED: Final = """
WITH RECURSIVE named AS (
    (SELECT endpoint_id FROM billing_webhookdelivery ORDER BY endpoint_id LIMIT 1)
    UNION ALL
    SELECT (
        SELECT d.endpoint_id FROM billing_webhookdelivery d
        WHERE d.endpoint_id > named.endpoint_id ORDER BY d.endpoint_id LIMIT 1
    ) FROM named WHERE named.endpoint_id IS NOT NULL
)
SELECT endpoint_id FROM named WHERE endpoint_id IS NOT NULL
    AND NOT EXISTS (SELECT FROM billing_webhookendpoint e WHERE e.id = named.endpoint_id)
"""


def _delete_orphans() -> int:
    with connection.cursor() as cursor:
        cursor.execute(_ENDPOINTS_DELETED)
        deleted = [endpoint_id for (endpoint_id,) in cursor.fetchall()]
    nobodys = WebhookDelivery.objects.filter(endpoint_id__in=deleted)
    return _delete_deliveries(nobodys.order_by("endpoint_id", "pk")[:ROWS_AT_ONCE])


def _delete_old_events(now: datetime) -> int:
    still_waits = WebhookDelivery.objects.filter(event=OuterRef("pk"), status=PENDING)
    old = WebhookEvent.objects.filter(~Exists(still_waits), created_at__lte=now - KEPT_FOR)
    events = list(old.order_by("created_at").values_list("pk", flat=True)[:ROWS_AT_ONCE])
    # Asks again, because an operator may have just put one back to be sent again.
    _delete_deliveries(WebhookDelivery.objects.filter(event__in=events).exclude(status=PENDING))
    told = WebhookDelivery.objects.filter(event=OuterRef("pk"))
    count, _ = WebhookEvent.objects.filter(~Exists(told), pk__in=events).delete()
    return count


def _delete_deliveries(deliveries: "QuerySet[WebhookDelivery]") -> int:
    """Deletes deliveries and their attempts, except those locked by others. Returns how many."""
    locked = deliveries.select_for_update(skip_locked=True, of=("self",))
    some = list(locked.values_list("pk", flat=True))
    WebhookDelivery.objects.filter(pk__in=some).delete()
    return len(some)
