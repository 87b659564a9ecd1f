"""Calls that list, start, change and cancel subscriptions.

Days are UTC days; operations take effect today. A preview does the operation, answers with the
result, and undoes it.
"""

from collections.abc import Callable
from datetime import date
from typing import Any, Literal

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from ninja import Query, Router
from ninja.responses import Status

from billing import ledger, operations, representations
from billing.api import cursors, etags
from billing.api.keys import RequiresPermission, actor
from billing.api.schemas import (
    CancellationIn,
    CursorIn,
    Device,
    Limit,
    Parameters,
    PathId,
    PlanChangeIn,
    ProblemOut,
    SubscriptionChangeOut,
    SubscriptionIn,
    SubscriptionOut,
    SubscriptionPage,
    SubscriptionPreviewOut,
)
from billing.api.today import utc_today
from billing.models import Channel, Subscription
from billing.operations.customers import customer_id
from billing.operations.subscriptions import SubscriptionChange, find_subscription
from billing.plans import forecast

router = Router(tags=["Subscriptions"])

REFUSED = {402: ProblemOut, 404: ProblemOut, 409: ProblemOut}


class SubscriptionFilters(Parameters):
    status: Literal["active", "suspended", "cancelled", "live"] | None = None
    device: Device | None = None
    limit: Limit = 50
    cursor: CursorIn = None


@router.get(
    "/users/{int:user_id}/subscriptions",
    auth=RequiresPermission("billing.view_subscription"),
    response={200: SubscriptionPage, 404: ProblemOut},
    summary="List a user's subscriptions, newest first",
    description="`live` subscriptions are active or suspended.",
)
def list_subscriptions(
    request: HttpRequest, user_id: PathId, filters: Query[SubscriptionFilters]
) -> dict[str, Any]:
    rows = Subscription.objects.filter(user=customer_id(user_id)).select_related("plan")
    if filters.status == "live":
        rows = rows.live()
    elif filters.status is not None:
        rows = rows.filter(status=filters.status)
    if filters.device is not None:
        rows = rows.filter(device=ledger.checked_device(filters.device))
    if filters.cursor is not None:
        [last] = cursors.from_text("subscriptions", filters.cursor, 1)
        rows = rows.filter(pk__lt=last)
    found = list(rows.order_by("-pk")[: filters.limit + 1])
    page, today = found[: filters.limit], utc_today()
    has_more = len(found) > filters.limit
    return {
        "subscriptions": [shown(row, today) for row in page],
        "next_cursor": cursors.to_text("subscriptions", page[-1].pk) if has_more else None,
    }


@router.get(
    "/users/{int:user_id}/subscriptions/{int:subscription_id}",
    auth=RequiresPermission("billing.view_subscription", tagged=True),
    response={200: SubscriptionOut, 404: ProblemOut},
    summary="Read a subscription",
)
def read_subscription(
    request: HttpRequest, user_id: PathId, subscription_id: PathId, response: HttpResponse
) -> dict[str, Any]:
    answer = shown(find_subscription(customer_id(user_id), subscription_id), utc_today())
    etags.show(request, response, _tag(answer))
    return answer


# --- Starting -----------------------------------------------------------------------------------


@router.post(
    "/users/{int:user_id}/subscriptions",
    auth=RequiresPermission("billing.add_subscription", writes=True),
    response={201: SubscriptionChangeOut, **REFUSED},
    summary="Start a subscription",
    description="Starts a subscription of the user or of one device from today on, and charges "
    "it. A device, and the account as a whole, has at most one live subscription.",
)
def start_subscription(
    request: HttpRequest, user_id: PathId, new: SubscriptionIn, response: HttpResponse
) -> Status[Any]:
    changed = _start(request, user_id, new)
    subscription = changed.subscription
    response["Location"] = reverse("api-v1:read_subscription", args=[user_id, subscription.pk])
    return Status(201, _tagged(request, response, changed))


@router.post(
    "/users/{int:user_id}/subscriptions/preview",
    auth=RequiresPermission("billing.add_subscription"),
    response={200: SubscriptionPreviewOut, **REFUSED},
    summary="Preview a subscription",
    description="Returns what starting it would come to now and does nothing. It is refused "
    "exactly when the start would be.",
)
def preview_subscription(
    request: HttpRequest, user_id: PathId, new: SubscriptionIn
) -> dict[str, Any]:
    answer = _answer(_start(request, user_id, new, dry_run=True))
    answer["subscription"]["id"] = None  # the real one will have another ID
    return answer


def _start(
    request: HttpRequest, user_id: int, new: SubscriptionIn, *, dry_run: bool = False
) -> SubscriptionChange:
    return operations.subscriptions.start(
        user_id,
        new.plan_id,
        day=utc_today(),
        device=new.device,
        wait_for_money=new.wait_for_money,
        actor=actor(request),
        channel=Channel.API,
        dry_run=dry_run,
    )


# --- Changing the plan --------------------------------------------------------------------------


@router.post(
    "/users/{int:user_id}/subscriptions/{int:subscription_id}/change-plan",
    auth=RequiresPermission("billing.change_subscription", writes=True, tagged=True),
    response={200: SubscriptionChangeOut, **REFUSED},
    summary="Change the plan of a subscription",
    description="From today on. The days before are charged first, under the old plan.",
)
def change_plan(
    request: HttpRequest,
    user_id: PathId,
    subscription_id: PathId,
    change: PlanChangeIn,
    response: HttpResponse,
) -> dict[str, Any]:
    return _tagged(request, response, _change_plan(request, user_id, subscription_id, change))


@router.post(
    "/users/{int:user_id}/subscriptions/{int:subscription_id}/change-plan/preview",
    auth=RequiresPermission("billing.change_subscription"),
    response={200: SubscriptionPreviewOut, **REFUSED},
    summary="Preview a change of plan",
    description="Returns what the change would come to now and does nothing. It is refused exactly "
    "when the change would be.",
)
def preview_plan_change(
    request: HttpRequest, user_id: PathId, subscription_id: PathId, change: PlanChangeIn
) -> dict[str, Any]:
    return _answer(_change_plan(request, user_id, subscription_id, change, dry_run=True))


def _change_plan(
    request: HttpRequest,
    user_id: int,
    subscription_id: int,
    change: PlanChangeIn,
    *,
    dry_run: bool = False,
) -> SubscriptionChange:
    return operations.subscriptions.change_plan(
        user_id,
        subscription_id,
        change.plan_id,
        day=utc_today(),
        pay_back=change.pay_back,
        charge_now=change.charge_now,
        actor=actor(request),
        channel=Channel.API,
        if_unchanged=_check(request),
        dry_run=dry_run,
    )


# --- Cancelling ---------------------------------------------------------------------------------


@router.post(
    "/users/{int:user_id}/subscriptions/{int:subscription_id}/cancel",
    auth=RequiresPermission("billing.change_subscription", writes=True, tagged=True),
    response={200: SubscriptionChangeOut, **REFUSED},
    summary="Cancel a subscription",
    description="Ends it today. The days before are charged as far as there is money.",
)
def cancel_subscription(
    request: HttpRequest,
    user_id: PathId,
    subscription_id: PathId,
    how: CancellationIn,
    response: HttpResponse,
) -> dict[str, Any]:
    return _tagged(request, response, _cancel(request, user_id, subscription_id, how))


@router.post(
    "/users/{int:user_id}/subscriptions/{int:subscription_id}/cancel/preview",
    auth=RequiresPermission("billing.change_subscription"),
    response={200: SubscriptionPreviewOut, **REFUSED},
    summary="Preview a cancellation",
    description="Returns what cancelling would come to now and does nothing.",
)
def preview_cancellation(
    request: HttpRequest, user_id: PathId, subscription_id: PathId, how: CancellationIn
) -> dict[str, Any]:
    return _answer(_cancel(request, user_id, subscription_id, how, dry_run=True))


def _cancel(
    request: HttpRequest,
    user_id: int,
    subscription_id: int,
    how: CancellationIn,
    *,
    dry_run: bool = False,
) -> SubscriptionChange:
    return operations.subscriptions.cancel(
        user_id,
        subscription_id,
        day=utc_today(),
        pay_back=how.pay_back,
        actor=actor(request),
        channel=Channel.API,
        if_unchanged=_check(request),
        dry_run=dry_run,
    )


# --- How it is done -----------------------------------------------------------------------------


def shown(row: Subscription, today: date) -> dict[str, Any]:
    upcoming = forecast.upcoming(row, today)
    return {
        **representations.subscription(row),
        "next_charge": upcoming
        and {
            "day": representations.day(upcoming.day),
            "amount": representations.amount(upcoming.amount),
        },
    }


def _answer(changed: SubscriptionChange) -> dict[str, Any]:
    return {
        "subscription": shown(changed.subscription, utc_today()),
        "transactions": [representations.transaction(row) for row in changed.posted],
    }


def _tagged(
    request: HttpRequest, response: HttpResponse, changed: SubscriptionChange
) -> dict[str, Any]:
    answer = _answer(changed)
    etags.show(request, response, _tag(answer["subscription"]))
    return answer


def _tag(answer: dict[str, Any]) -> str:
    """Returns the ETag. Its second part is the next charge, which changes with day and plan."""
    return etags.tag_of(answer | {"next_charge": None}, besides=answer["next_charge"])


def _check(request: HttpRequest) -> Callable[[Subscription], None]:
    """Returns a check that refuses a subscription that has changed since (`If-Match`)."""
    return lambda row: etags.check(request, _tag(shown(row, utc_today())))
