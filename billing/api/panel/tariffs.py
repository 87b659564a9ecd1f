"""Calls about pricing plans, which the Panel API calls tariffs."""

from collections.abc import Iterator
from typing import Any, Final

from django.db.models import CharField, F, Func, QuerySet, Value
from django.db.models.functions import Cast, Concat

from billing.api.panel.calls import Call
from billing.api.panel.errors import NOT_FOUND, Refused
from billing.api.panel.parameters import MAX_ROWS
from billing.models import Plan
from billing.plans.pricing import Cycle
from users.search import Folded, query_words

DEVICE_TYPE: Final = "tracker"
DEVICE_TYPES: Final = ("tracker", "camera", "socket")
# Columns that are the same for all plans sort by ID.
ORDERS: Final = {
    "id": "pk",
    "name": "name",
    "group_id": "pk",
    "active": "is_active",
    "type": "cycle",
    "cycle": "cycle",
    "price": "price",
    "early_change_price": "pk",
    "device_limit": "pk",
    "has_reports": "pk",
    "store_period": "pk",
    "proportional_charge": "proportional_charge",
    "auto_prolong": "pk",
    "device_type": "pk",
}


def list_tariffs(call: Call) -> dict[str, Any]:
    parameters = call.parameters
    plans = Plan.objects.all()
    if parameters.has("device_type"):
        device_type = parameters.choice("device_type", DEVICE_TYPES)
        plans = plans if device_type == DEVICE_TYPE else plans.none()
    if parameters.has("filter"):
        plans = _filtered(plans, parameters.text("filter", longest=200))
    order = parameters.choice("order_by", ORDERS) if parameters.has("order_by") else "id"
    descending = "" if parameters.flag("ascending", default=True) else "-"
    offset = parameters.whole("offset", lowest=0, highest=MAX_ROWS, default=0)
    limit = parameters.whole("limit", lowest=0, highest=MAX_ROWS, default=MAX_ROWS)
    shown = plans.order_by(descending + ORDERS[order], f"{descending}pk")[offset : offset + limit]
    return {
        "list": list(_shown(shown)),
        "wholesale_service_prices": {},  # the dealer is not charged
        "count": plans.count(),
    }


def read_tariff(call: Call) -> dict[str, Any]:
    plans = Plan.objects.filter(pk=call.parameters.whole("tariff_id"))
    for value in _shown(plans):
        return {"value": value}
    raise Refused(NOT_FOUND)


def _filtered(plans: QuerySet[Plan], text: str) -> QuerySet[Plan]:
    """Keeps plans in which every word is found in ID, name, price or device type."""
    spaced = Value(" ")
    price = Func(F("price"), function="trim_scale")
    words = Concat(
        Cast("pk", CharField()),
        spaced,
        F("name"),
        spaced,
        Cast(price, CharField()),
        spaced,
        Value(DEVICE_TYPE),
        output_field=CharField(),
    )
    plans = plans.alias(searched=Folded(words))
    for word in query_words(text):
        for folded in word.folded:
            plans = plans.filter(searched__contains=folded)
    return plans


def _shown(plans: QuerySet[Plan]) -> Iterator[dict[str, Any]]:
    for plan in plans.prefetch_related("service_prices__service"):
        yield {
            "id": plan.pk,
            "name": plan.name,
            "group_id": 1,
            "active": plan.is_active,
            "type": "activeday" if plan.cycle == Cycle.ACTIVE_DAY else "monthly",
            "cycle": plan.cycle,  # our addition: there are more cycles than these two types
            "price": plan.price,
            "early_change_price": None,
            "device_limit": MAX_ROWS,
            "has_reports": True,
            "store_period": "100y",
            "proportional_charge": plan.proportional_charge,
            "auto_prolong": True,
            "features": [],
            "map_filter": {"exclusion": True, "values": []},
            "service_prices": {row.service.code: row.price for row in plan.service_prices.all()},
            "device_type": DEVICE_TYPE,
        }
