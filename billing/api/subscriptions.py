"""Calls about users' subscriptions: what there is, and to start, change or cancel one.

Days are UTC days, and what is done is done as of today. A preview does the very thing, answers what
it came to, and undoes it.
"""

from datetime import date
from typing import Any, Literal

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from ninja import Query, Router
from ninja.responses import Status

from billing import ledger, representations, sentences
from billing.api import cursors, etags
from billing.api.history import note
from billing.api.keys import Needs, actor
from billing.api.problems import Problem
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
from billing.api.users import customer, customer_id
from billing.models import Channel, Plan, Subscription
from billing.plans import forecast, subscriptions
from users.models import User

router = Router(tags=["Subscriptions"])

REFUSED = {402: ProblemOut, 404: ProblemOut, 409: ProblemOut}


class SubscriptionFilters(Parameters):
    status: Literal["active", "suspended", "cancelled", "live"] | None = None
    device: Device | None = None
    limit: Limit = 50
    cursor: CursorIn = None


@router.get(
    "/users/{int:user_id}/subscriptions",
    auth=Needs("billing.view_subscription"),
    response={200: SubscriptionPage, 404: ProblemOut},
    summary="List a user's subscriptions, newest first",
    description="`live` are the active and the suspended ones.",
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
    auth=Needs("billing.view_subscription", tagged=True),
    response={200: SubscriptionOut, 404: ProblemOut},
    summary="Read a subscription",
)
def read_subscription(
    request: HttpRequest, user_id: PathId, subscription_id: PathId, response: HttpResponse
) -> dict[str, Any]:
    answer = shown(_subscription(customer_id(user_id), subscription_id), utc_today())
    etags.show(request, response, _tag(answer))
    return answer


# --- Starting -----------------------------------------------------------------------------------


@router.post(
    "/users/{int:user_id}/subscriptions",
    auth=Needs("billing.add_subscription", writes=True),
    response={201: SubscriptionChangeOut, **REFUSED},
    summary="Start a subscription",
    description="Subscribes the user, or one device of the user's, from today on, and charges it. "
    "A device, and the account as a whole, has one live subscription at most.",
)
def start_subscription(
    request: HttpRequest, user_id: PathId, new: SubscriptionIn, response: HttpResponse
) -> Status[Any]:
    with transaction.atomic():
        user = customer(request, user_id)
        changed = _start(request, user, new)
        _note(request, user, sentences.subscribed(*changed))
    subscription = changed.subscription
    response["Location"] = reverse("api-v1:read_subscription", args=[user.pk, subscription.pk])
    return Status(201, _tagged(request, response, changed))


@router.post(
    "/users/{int:user_id}/subscriptions/preview",
    auth=Needs("billing.add_subscription"),
    response={200: SubscriptionPreviewOut, **REFUSED},
    summary="Preview a subscription",
    description="Answers what starting it would come to now, and does nothing. It is refused just "
    "as that would be.",
)
def preview_subscription(
    request: HttpRequest, user_id: PathId, new: SubscriptionIn
) -> dict[str, Any]:
    with ledger.dry_run():
        answer = _answer(_start(request, customer(request, user_id), new))
    answer["subscription"]["id"] = None  # another one will have the ID that was rehearsed
    return answer


def _start(request: HttpRequest, user: User, new: SubscriptionIn) -> subscriptions.Changed:
    return subscriptions.start(
        user,
        _plan(new.plan_id),
        day=utc_today(),
        device=new.device,
        wait_for_money=new.wait_for_money,
        actor=actor(request),
        channel=Channel.API,
    )


# --- Changing the plan --------------------------------------------------------------------------


@router.post(
    "/users/{int:user_id}/subscriptions/{int:subscription_id}/change-plan",
    auth=Needs("billing.change_subscription", writes=True, tagged=True),
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
    with transaction.atomic():
        user = customer(request, user_id)
        before = _held(request, user, subscription_id)
        changed = _change_plan(request, before, change)
        _note(
            request, user, sentences.changed_plan(changed.subscription, before.plan, changed.posted)
        )
    return _tagged(request, response, changed)


@router.post(
    "/users/{int:user_id}/subscriptions/{int:subscription_id}/change-plan/preview",
    auth=Needs("billing.change_subscription"),
    response={200: SubscriptionPreviewOut, **REFUSED},
    summary="Preview a change of plan",
    description="Answers what the change would come to now, and does nothing. It is refused just "
    "as the change would be.",
)
def preview_plan_change(
    request: HttpRequest, user_id: PathId, subscription_id: PathId, change: PlanChangeIn
) -> dict[str, Any]:
    with ledger.dry_run():
        user = customer(request, user_id)
        return _answer(_change_plan(request, _held(request, user, subscription_id), change))


def _change_plan(
    request: HttpRequest, before: Subscription, change: PlanChangeIn
) -> subscriptions.Changed:
    return subscriptions.change_plan(
        before,
        _plan(change.plan_id),
        day=utc_today(),
        pay_back=change.pay_back,
        charge_now=change.charge_now,
        actor=actor(request),
        channel=Channel.API,
    )


# --- Cancelling ---------------------------------------------------------------------------------


@router.post(
    "/users/{int:user_id}/subscriptions/{int:subscription_id}/cancel",
    auth=Needs("billing.change_subscription", writes=True, tagged=True),
    response={200: SubscriptionChangeOut, **REFUSED},
    summary="Cancel a subscription",
    description="Ends it today. The days before are charged, as far as the money goes.",
)
def cancel_subscription(
    request: HttpRequest,
    user_id: PathId,
    subscription_id: PathId,
    how: CancellationIn,
    response: HttpResponse,
) -> dict[str, Any]:
    with transaction.atomic():
        user = customer(request, user_id)
        changed = _cancel(request, _held(request, user, subscription_id), how)
        _note(request, user, sentences.cancelled(*changed))
    return _tagged(request, response, changed)


@router.post(
    "/users/{int:user_id}/subscriptions/{int:subscription_id}/cancel/preview",
    auth=Needs("billing.change_subscription"),
    response={200: SubscriptionPreviewOut, **REFUSED},
    summary="Preview a cancellation",
    description="Answers what cancelling would come to now, and does nothing.",
)
def preview_cancellation(
    request: HttpRequest, user_id: PathId, subscription_id: PathId, how: CancellationIn
) -> dict[str, Any]:
    with ledger.dry_run():
        user = customer(request, user_id)
        return _answer(_cancel(request, _held(request, user, subscription_id), how))


def _cancel(
    request: HttpRequest, before: Subscription, how: CancellationIn
) -> subscriptions.Changed:
    return subscriptions.cancel(
        before,
        day=utc_today(),
        pay_back=how.pay_back,
        actor=actor(request),
        channel=Channel.API,
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


def _answer(changed: subscriptions.Changed) -> dict[str, Any]:
    return {
        "subscription": shown(changed.subscription, utc_today()),
        "transactions": [representations.transaction(row) for row in changed.posted],
    }


def _tagged(
    request: HttpRequest, response: HttpResponse, changed: subscriptions.Changed
) -> dict[str, Any]:
    answer = _answer(changed)
    etags.show(request, response, _tag(answer["subscription"]))
    return answer


def _tag(answer: dict[str, Any]) -> str:
    """The next charge is told beside it: that changes with the day, and with the plan."""
    return etags.tag_of(answer | {"next_charge": None}, besides=answer["next_charge"])


def _plan(plan_id: int) -> Plan:
    plan = Plan.objects.filter(pk=plan_id).first()
    if plan is None:
        raise Problem("unknown_plan", plan_id=plan_id)
    return plan


def _subscription(user_id: int, subscription_id: int) -> Subscription:
    rows = Subscription.objects.filter(user=user_id).select_related("plan")
    row = rows.filter(pk=subscription_id).first()
    if row is None:
        raise Problem("unknown_subscription", subscription_id=subscription_id)
    return row


def _held(request: HttpRequest, user: User, subscription_id: int) -> Subscription:
    """The subscription while nobody else can do anything to it, if it is what the caller knows."""
    ledger.lock_balances([user.pk])
    row = _subscription(user.pk, subscription_id)
    etags.check(request, _tag(shown(row, utc_today())))
    return row


def _note(request: HttpRequest, user: User, sentence: str) -> None:
    note(actor(request), user, f"{sentence} By the API.")
