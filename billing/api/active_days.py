"""Calls that report on which days devices were active, for plans charged by active day."""

from datetime import date
from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import Query, Router
from pydantic import Field

from billing import ledger, operations, representations
from billing.api import cursors
from billing.api.keys import RequiresPermission
from billing.api.schemas import (
    ActiveDayIn,
    ActiveDayOut,
    ActiveDayPage,
    CursorIn,
    Day,
    Device,
    Limit,
    Parameters,
    PathId,
    ProblemOut,
)
from billing.api.today import utc_today
from billing.models import ActiveDay

router = Router(tags=["Active days"])


@router.put(
    "/users/{int:user_id}/active-days",
    auth=RequiresPermission("billing.change_subscription", writes=True),
    response={200: ActiveDayOut, 404: ProblemOut},
    summary="Record an active day of a device",
    description="For today or up to 31 days ago. Repeating it changes nothing. The day is charged "
    "after it ends if the device's subscription (or, without one, the user's own) is "
    "charged by active day.",
)
def record_active_day(
    request: HttpRequest, user_id: PathId, active: ActiveDayIn, response: HttpResponse
) -> dict[str, Any]:
    row = operations.subscriptions.record_active_day(
        user_id, device=active.device, day=active.day, today=utc_today()
    )
    return _shown(row)


class ActiveDayFilters(Parameters):
    device: Device = Field(description="Only this device; empty: the account as a whole.")
    since: Day | None = Field(None, alias="from", description="From this day on, included.")
    until: Day | None = Field(None, alias="to", description="Up to this day, included.")
    limit: Limit = 50
    cursor: CursorIn = None


@router.get(
    "/users/{int:user_id}/active-days",
    auth=RequiresPermission("billing.view_subscription"),
    response={200: ActiveDayPage, 404: ProblemOut},
    summary="List the active days of a device, newest first",
)
def list_active_days(
    request: HttpRequest, user_id: PathId, filters: Query[ActiveDayFilters]
) -> dict[str, Any]:
    device = ledger.checked_device(filters.device)
    rows = ActiveDay.objects.filter(user=operations.customers.customer_id(user_id), device=device)
    if filters.since is not None:
        rows = rows.filter(day__gte=filters.since)
    if filters.until is not None:
        rows = rows.filter(day__lte=filters.until)
    if filters.cursor is not None:
        rows = rows.filter(day__lt=_day(filters.cursor))
    found = list(rows.order_by("-day")[: filters.limit + 1])
    page = found[: filters.limit]
    has_more = len(found) > filters.limit
    return {
        "active_days": [_shown(row) for row in page],
        "next_cursor": cursors.to_text("active days", page[-1].day.toordinal())
        if has_more
        else None,
    }


def _day(cursor: str) -> date:
    [ordinal] = cursors.from_text("active days", cursor, 1)
    try:
        return date.fromordinal(ordinal)
    except (ValueError, OverflowError):
        raise cursors.not_one() from None


def _shown(row: ActiveDay) -> dict[str, Any]:
    return {
        "device": row.device,
        "day": representations.day(row.day),
        "subscription_id": row.subscription_id,
        "is_charged": row.is_charged,
    }
