"""The deliveries that wait to be sent: which are due, in which order, and sending some again."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Final

from django.db import connection, transaction
from django.db.models import Q, QuerySet

from billing.models import WebhookDelivery, WebhookEndpoint

PENDING, DELIVERED, FAILED = WebhookDelivery.Status

USERS_AT_ONCE: Final = 64
EVENTS_PER_USER_AT_ONCE: Final = 20
AGAIN_AT_ONCE: Final = 10_000


def wake(endpoint_id: int) -> None:
    """Queues the job that sends to an endpoint, unless it is queued already."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT billing_wake_webhooks(%s)", [endpoint_id])


def endpoints_to_wake(now: datetime) -> list[int]:
    """Returns the IDs of endpoints that something is due for."""
    return [delivery.endpoint_id for delivery in next_due(now, users=1)]


def next_due(now: datetime, *, users: int) -> list[WebhookDelivery]:
    """Returns the next delivery of up to `users` users, for each active endpoint."""
    return [
        delivery
        for endpoint in WebhookEndpoint.objects.filter(is_ready(now), is_active=True)
        for delivery in due_deliveries(endpoint, now, users=users, each=1)
    ]


def is_ready(now: datetime) -> Q:
    return Q(paused_until=None) | Q(paused_until__lte=now)


def ready_endpoint(endpoint_id: int, now: datetime) -> WebhookEndpoint | None:
    return WebhookEndpoint.objects.filter(is_ready(now), pk=endpoint_id, is_active=True).first()


# Goes from user to user by the index: each costs one lookup, however many events wait.
_DUE: Final = """
WITH RECURSIVE head AS (
    (
        SELECT user_id, next_attempt_at FROM billing_webhookdelivery
        WHERE endpoint_id = %(endpoint)s AND status = 'pending' AND user_id > %(after)s
        ORDER BY user_id, id LIMIT 1
    )
    UNION ALL
    SELECT following.* FROM head CROSS JOIN LATERAL (
        SELECT d.user_id, d.next_attempt_at FROM billing_webhookdelivery d
        WHERE d.endpoint_id = %(endpoint)s AND d.status = 'pending' AND d.user_id > head.user_id
        ORDER BY d.user_id, d.id LIMIT 1
    ) following
), due AS (
    SELECT user_id FROM head
    WHERE next_attempt_at IS NULL OR next_attempt_at <= %(now)s
    LIMIT %(users)s
)
SELECT waiting.* FROM due CROSS JOIN LATERAL (
    SELECT d.* FROM billing_webhookdelivery d
    WHERE d.endpoint_id = %(endpoint)s AND d.status = 'pending' AND d.user_id = due.user_id
    ORDER BY d.id LIMIT %(each)s
) waiting
ORDER BY waiting.user_id, waiting.id
"""


def due_deliveries(
    endpoint: WebhookEndpoint,
    now: datetime,
    after: int = 0,
    *,
    users: int = USERS_AT_ONCE,
    each: int = EVENTS_PER_USER_AT_ONCE,
) -> list[WebhookDelivery]:
    """Returns what may be sent now to users with IDs above `after`, in the order to send it in.

    At most `each` deliveries of at most `users` users.
    """
    given = {
        "endpoint": endpoint.pk,
        "now": now,
        "after": after,
        "users": users,
        "each": each,
    }
    return list(WebhookDelivery.objects.raw(_DUE, given))


def not_held(deliveries: Sequence[WebhookDelivery]) -> list[WebhookDelivery]:
    """Returns the deliveries of users whose first delivery is not locked by somebody else.

    The result of a locked one could not be stored, so it would be sent again and again.
    """
    heads = [delivery.pk for delivery in first_of_each_user(deliveries)]
    with transaction.atomic():
        free = lock_deliveries(heads)
        users = {delivery.user_id for delivery in deliveries if delivery.pk in free}
    return [delivery for delivery in deliveries if delivery.user_id in users]


def lock_deliveries(ids: Sequence[int]) -> set[int]:
    """Locks the deliveries that still exist and that nobody else has locked. Returns their IDs."""
    rows = WebhookDelivery.objects.filter(pk__in=ids)
    locked = rows.select_for_update(of=("self",), no_key=True, skip_locked=True)
    return set(locked.values_list("pk", flat=True))


def by_user(deliveries: Iterable[WebhookDelivery]) -> list[list[WebhookDelivery]]:
    return [list(of_user) for _, of_user in groupby(deliveries, attrgetter("user_id"))]


def first_of_each_user(deliveries: Iterable[WebhookDelivery]) -> list[WebhookDelivery]:
    return [of_user[0] for of_user in by_user(deliveries)]


def waiting_for(endpoint: WebhookEndpoint) -> "QuerySet[WebhookDelivery]":
    return WebhookDelivery.objects.filter(endpoint=endpoint, status=PENDING)


def begin_again(deliveries: "QuerySet[WebhookDelivery]") -> None:
    deliveries.update(next_attempt_at=None, refusal_count=0)


# --- What operators do --------------------------------------------------------------------------


def forget_failures(endpoint: WebhookEndpoint) -> None:
    """Forgets the endpoint's failures, after it got another address or secret, or was switched."""
    with transaction.atomic():
        same = WebhookEndpoint.objects.filter(pk=endpoint.pk)
        same.update(failures=0, paused_until=None, failing_since=None)
        begin_again(waiting_for(endpoint).filter(refusal_count__gt=0))


def send_again(delivery: WebhookDelivery) -> None:
    """Sends a delivery again, in whatever state it is, before others of the same user."""
    with transaction.atomic():
        WebhookDelivery.objects.filter(pk=delivery.pk).update(
            status=PENDING, next_attempt_at=None, finished_at=None
        )
        wake(delivery.endpoint_id)
    delivery.refresh_from_db()


def send_given_up_again(endpoint: WebhookEndpoint) -> int:
    """Sends again what was given up for an endpoint, oldest first, at most AGAIN_AT_ONCE.

    Returns the number of deliveries.
    """
    with transaction.atomic():
        given_up = WebhookDelivery.objects.filter(endpoint=endpoint, status=FAILED)
        oldest = list(given_up.order_by("pk").values_list("pk", flat=True)[:AGAIN_AT_ONCE])
        count = WebhookDelivery.objects.filter(pk__in=oldest, status=FAILED).update(
            status=PENDING, next_attempt_at=None, finished_at=None
        )
        wake(endpoint.pk)
    return count
