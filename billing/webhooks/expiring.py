"""Tells programs of gifts that expire soon: one event for each gift and expiry."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import batched
from typing import Final

from django.db import transaction

from billing import representations
from billing.models import EventType, Grant, WebhookDelivery, WebhookEndpoint, WebhookEvent

GRANTS_AT_ONCE: Final = 500
EXPIRING: Final = EventType.BONUS_EXPIRING


def tell_of_expiring(now: datetime, days: int) -> int:
    """Stores an event for each grant that expires within `days` and was not told of yet.

    Returns the number of events. Stores none if no endpoint wants them. Events are kept for 30
    days, so `days` has to be at most as many: older ones are told of again.
    """
    if not _wanting():
        return 0
    soon = Grant.objects.filter(
        is_open=True, expires_at__gt=now, expires_at__lte=now + timedelta(days=days)
    ).order_by("expires_at", "user_id", "number")
    return sum(_tell(grants, now) for grants in batched(soon.iterator(), GRANTS_AT_ONCE))


def _wanting() -> list[int]:
    wanted = WebhookEndpoint.objects.filter(is_active=True, events__contains=[EXPIRING])
    return list(wanted.values_list("pk", flat=True))


@transaction.atomic
def _tell(grants: Iterable[Grant], now: datetime) -> int:
    grants = list(grants)
    events = WebhookEvent.objects.filter(
        type=EXPIRING, user__in={grant.user_id for grant in grants}
    )
    told = {(event.user_id, *_of(event.data["grant"])) for event in events}
    new = []
    for grant in grants:
        figures = representations.grant(grant)
        if (grant.user_id, *_of(figures)) not in told:
            new.append(
                WebhookEvent(
                    type=EXPIRING, user_id=grant.user_id, data={"grant": figures}, created_at=now
                )
            )
    stored = WebhookEvent.objects.bulk_create(new)
    endpoints = _wanting()
    WebhookDelivery.objects.bulk_create(
        WebhookDelivery(event=event, endpoint_id=endpoint_id, user_id=event.user_id)
        for event in stored
        for endpoint_id in endpoints
    )
    return len(stored)


def _of(figures: dict[str, object]) -> tuple[object, object]:
    """Returns what makes it another event: after a change of its date, a gift is told of again."""
    return figures["number"], figures["expires_at"]
