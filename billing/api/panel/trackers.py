"""Calls about trackers: devices with a subscription of their own.

The panel knows a device only by the name in its subscription. Fields about its model or connection
say that they are unknown.
"""

from collections.abc import Mapping
from typing import Any, Final

from django.db.models import BigIntegerField, Case, DecimalField, F, Q, QuerySet, When
from django.db.models.functions import Cast

from billing.api.panel.calls import Call
from billing.api.panel.errors import NOT_FOUND, Refused
from billing.api.panel.parameters import MAX_ROWS
from billing.api.panel.transactions import DEALER_ID
from billing.models import Subscription
from billing.reports import subscriptions_with
from users.ids import MAX_ID
from users.search import LONGEST_SEARCH

# Columns that are the same for all trackers sort by ID.
ORDERS: Final[Mapping[str, str]] = {
    "id": "tracker_id",
    "label": "device",
    "group_id": "tracker_id",
    "user_id": "user",
    "dealer_id": "tracker_id",
    "owner_name": "user__email",
    "model_name": "tracker_id",
    "clone": "tracker_id",
    "deleted": "tracker_id",
    "creation_date": "started_on",
    "last_connection": "tracker_id",
    "device_id": "device",
    "tariff_id": "plan",
    "tariff_end_date": "charged_through",
    "blocked": "status",
}


def list_trackers(call: Call) -> dict[str, Any]:
    parameters = call.parameters
    found = _trackers()
    if parameters.has("user_id"):
        found = found.filter(user=parameters.whole("user_id"))
    if parameters.has("tariff_id"):
        found = found.filter(plan=parameters.whole("tariff_id"))
    if parameters.has("filter"):
        words = parameters.text("filter", longest=LONGEST_SEARCH)
        found = found.filter(subscriptions_with(words))
    order = parameters.choice("order_by", ORDERS) if parameters.has("order_by") else "id"
    descending = "" if parameters.flag("ascending", default=True) else "-"
    offset = parameters.whole("offset", lowest=0, highest=MAX_ROWS, default=0)
    limit = parameters.whole("limit", lowest=0, highest=MAX_ROWS, default=MAX_ROWS)
    rows = found.order_by(f"{descending}{ORDERS[order]}", f"{descending}pk")
    shown = rows.select_related("user")[offset : offset + limit]
    return {"list": [_shown(each) for each in shown], "count": found.count()}


def read_tracker(call: Call) -> dict[str, Any]:
    tracker_id = call.parameters.whole("tracker_id", lowest=-MAX_ID)
    rows = _trackers().select_related("user").order_by("pk")
    found = rows.filter(Q(("tracker_id", tracker_id))).first()
    if found is None:
        raise Refused(NOT_FOUND)
    return {"value": _shown(found)}


def _trackers() -> QuerySet[Subscription]:
    """Returns the live subscriptions of devices, each with `tracker_id`, as in transactions.

    A device whose name is not a number has no ID in transactions. Its ID is the negated ID of its
    subscription, which is no other device's number.
    """
    number = Case(
        When(
            device__regex=r"^[0-9]{1,19}$",
            then=Cast("device", DecimalField(max_digits=20, decimal_places=0)),
        )
    )
    return (
        Subscription.objects.live()
        .exclude(device="")
        .filter(user__is_staff=False)
        .alias(number=number)
        .annotate(
            tracker_id=Case(
                When(number__gt=0, number__lte=MAX_ID, then=Cast("number", BigIntegerField())),
                default=-F("pk"),
            )
        )
    )


def _shown(subscription: Subscription) -> dict[str, Any]:
    is_suspended = subscription.status == Subscription.Status.SUSPENDED
    paid_through = subscription.charged_through
    creation_date = f"{subscription.started_on}"
    return {
        "id": getattr(subscription, "tracker_id"),  # noqa: B009 - an annotation
        "label": subscription.device,
        "group_id": 0,
        "user_id": subscription.user_id,
        "dealer_id": DEALER_ID,
        "owner_name": f"{subscription.user}",
        "source": {
            "id": subscription.pk,
            "device_id": subscription.device,
            "model": "",
            "blocked": is_suspended,
            "phone": None,
            "tariff_id": subscription.plan_id,
            "tariff_end_date": None if paid_through is None else f"{paid_through}",
            "connection_status": "unknown",
            "creation_date": creation_date,
        },
        "model_name": "",
        "clone": False,
        "deleted": False,
        "creation_date": creation_date,
        "last_connection": None,
    }
