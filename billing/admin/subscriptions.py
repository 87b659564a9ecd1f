"""The Subscriptions tab of a user, and the pages to add, change and cancel a subscription."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlencode

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.admin import ModelAdmin

from billing import ledger
from billing.admin.confirmation import advance
from billing.admin.navigation import may_change_balance
from billing.admin.pages import (
    PanelForm,
    customer_or_404,
    page_context,
    page_of_form,
    utc_today,
)
from billing.admin.subscription_forms import (
    STATUS,
    AddForm,
    CancelForm,
    ChangePlanForm,
    ExistingForm,
    SubscriptionForm,
    plan_in_words,
)
from billing.errors import (
    BillingError,
    SubscriptionCancelled,
    SubscriptionExists,
)
from billing.models import Subscription
from billing.money import ZERO
from billing.plans import forecast
from users.ids import id_in
from users.models import User

PER_PAGE: Final = 50
CANCELLED_SHOWN: Final = 20
# The tab has filters from this number of subscriptions on.
FILTERED_FROM: Final = 10


# --- The tab ------------------------------------------------------------------------------------


class SubscriptionFilters(PanelForm):
    """The filters of the tab, from its URL."""

    device = forms.CharField(required=False, max_length=100)
    status = forms.ChoiceField(
        required=False,
        choices=[("", "All"), *(each for each in STATUS.choices if each[0] != STATUS.CANCELLED)],
    )

    def chosen(self) -> dict[str, str]:
        """The valid filters."""
        self.is_valid()
        return {name: value for name, value in self.cleaned_data.items() if value}


@dataclass(frozen=True)
class ShownSubscription:
    """A subscription as the tab shows it: with its next charge or, if suspended, the gap."""

    subscription: Subscription
    next_day: date | None
    amount: Decimal | None
    missing: Decimal


def _line(subscription: Subscription, today: date, real: Decimal) -> ShownSubscription:
    upcoming = forecast.upcoming(subscription, today)
    if upcoming is None:
        return ShownSubscription(subscription, None, None, ZERO)
    missing = ZERO
    if subscription.status == STATUS.SUSPENDED:
        missing = max(ZERO, upcoming.amount - real)
    return ShownSubscription(subscription, upcoming.day, upcoming.amount, missing)


def user_subscriptions(
    request: HttpRequest, user_id: int, model_admin: ModelAdmin
) -> HttpResponseBase:
    """Shows the tab: live subscriptions, the user's own plan first, then the last cancelled."""
    if not request.user.has_perm("billing.view_subscription"):
        raise PermissionDenied
    user = customer_or_404(user_id)
    today = utc_today()
    balance = ledger.balance(user)
    mine = Subscription.objects.filter(user=user)
    live = mine.live()
    suspended_count, needed = forecast.needed_to_resume(user, today)
    live_count = live.count()

    form = SubscriptionFilters(request.GET)
    chosen = form.chosen()
    of_device = Q(device__icontains=chosen["device"]) if "device" in chosen else Q()
    listed = live.filter(of_device, **({"status": chosen["status"]} if "status" in chosen else {}))
    if form.errors:  # an invalid filter finds nothing
        mine, listed = mine.none(), listed.none()
    paginator = Paginator(listed.select_related("plan").order_by("device"), PER_PAGE)
    changed = _changed(request, mine)
    page = paginator.get_page(request.GET.get("page") or _page_of(changed, listed))
    cancelled = mine.filter(of_device, status=STATUS.CANCELLED).select_related("plan")
    cancelled_count = cancelled.count()
    latest = cancelled.order_by("-status_since", "-pk")[:CANCELLED_SHOWN]

    context = page_context(request, model_admin, title="Subscriptions", user=user) | {
        "balance": balance,
        "today": today,
        "live_count": live_count,
        "suspended_count": suspended_count,
        "needed": needed,
        "missing": max(ZERO, needed - balance.real),
        "form": form if live_count > FILTERED_FROM or chosen or form.errors else None,
        "is_filtered": bool(chosen) or bool(form.errors),
        "page": page,
        "lines": [_line(each, today, balance.real) for each in page],
        "cancelled": latest,
        "cancelled_count": cancelled_count,
        "changed": changed,
        "may_add": request.user.has_perm("billing.add_subscription") and not user.is_closed,
        "may_change": request.user.has_perm("billing.change_subscription"),
        "can_change_balance": may_change_balance(request, user),
        "can_view_transactions": request.user.has_perm("billing.view_transaction"),
    }
    return TemplateResponse(request, "billing/subscriptions.html", context)


def _changed(request: HttpRequest, mine: QuerySet[Subscription]) -> Subscription | None:
    """Returns the subscription that was just changed."""
    key = id_in(request.GET.get("changed", ""))
    return None if key is None else mine.filter(pk=key).first()


def _page_of(changed: Subscription | None, listed: QuerySet[Subscription]) -> int:
    if changed is None:
        return 1
    return listed.filter(device__lt=changed.device).count() // PER_PAGE + 1


# --- Pages --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Words:
    """The title of a page, and the label of its last button."""

    title: str
    icon: str
    confirm: str
    is_danger: bool = False


ADD: Final = Words("Add subscription", "add", "Subscribe")
CHANGE_PLAN: Final = Words("Change plan", "swap_horiz", "Change plan")
CANCEL: Final = Words("Cancel subscription", "cancel", "Cancel subscription", is_danger=True)


def add_subscription(
    request: HttpRequest, user_id: int, model_admin: ModelAdmin
) -> HttpResponseBase:
    actor = _actor(request, "billing.add_subscription")
    user = customer_or_404(user_id)
    form = AddForm(user, actor, _sent(request))
    return _page(request, model_admin, form, ADD)


def change_plan(
    request: HttpRequest, user_id: int, model_admin: ModelAdmin, subscription_id: int
) -> HttpResponseBase:
    return _page_of_existing(
        request, user_id, model_admin, subscription_id, ChangePlanForm, CHANGE_PLAN
    )


def cancel_subscription(
    request: HttpRequest, user_id: int, model_admin: ModelAdmin, subscription_id: int
) -> HttpResponseBase:
    return _page_of_existing(request, user_id, model_admin, subscription_id, CancelForm, CANCEL)


def _page_of_existing(  # noqa: PLR0917 - what the two pages differ by comes last
    request: HttpRequest,
    user_id: int,
    model_admin: ModelAdmin,
    subscription_id: int,
    make_form: Callable[..., ExistingForm],
    words: Words,
) -> HttpResponseBase:
    actor = _actor(request, "billing.change_subscription")
    user = customer_or_404(user_id)
    mine = Subscription.objects.select_related("plan").filter(user=user)
    subscription = get_object_or_404(mine, pk=subscription_id)
    form = make_form(user, actor, subscription, _sent(request))
    if not subscription.is_live:
        return _done_before(
            request, form, SubscriptionCancelled(day=f"{subscription.status_since}")
        )
    if isinstance(form, CancelForm) and not form.is_bound and not form.remainder:
        # There is nothing to fill in: the page begins with the preview.
        form = CancelForm(user, actor, subscription, {"pay_back": ""})
    return _page(request, model_admin, form, words)


def _page(
    request: HttpRequest, model_admin: ModelAdmin, form: SubscriptionForm, words: Words
) -> HttpResponseBase:
    """Shows the form, the preview, and does it. Then redirects to the tab with a message."""
    step = advance(form)
    if step.done is not None:
        messages.success(request, step.done.sentence)
        return _to_tab(request, form)
    if step.done_before is not None:
        return _done_before(request, form, step.done_before)
    existing = form.before if isinstance(form, ExistingForm) else None
    user = form.user
    context = page_context(request, model_admin, title=words.title, user=user) | {
        "form": form,
        "step": step,
        "words": words,
        "balance": ledger.balance(user),
        "existing": existing,
        "existing_plan": plan_in_words(existing.plan) if existing else "",
        "today": form.today,
        "back": _tab(request, user),
        "has_no_plans": "plan" in form.fields and len([*form.fields["plan"].widget.choices]) < 2,
        "can_change_balance": may_change_balance(request, user),
    }
    return page_of_form(request, "billing/subscription_action.html", context, form)


def _done_before(
    request: HttpRequest, form: SubscriptionForm, refusal: BillingError
) -> HttpResponseBase:
    """Redirects to the tab if it was already done, usually by the first of two clicks."""
    messages.warning(request, f"Nothing more was done. {refusal}")
    if isinstance(refusal, SubscriptionExists):
        form.subscription = Subscription(pk=refusal.data["subscription"])
    return _to_tab(request, form)


def _to_tab(request: HttpRequest, form: SubscriptionForm) -> HttpResponseRedirect:
    address = _tab(request, form.user)
    if form.subscription is not None:
        address += "?" + urlencode({"changed": form.subscription.pk})
    return HttpResponseRedirect(address)


def _tab(request: HttpRequest, user: User) -> str:
    """Returns the URL of the tab or, without permission for it, of the user or the start page."""
    for permission, name in (
        ("billing.view_subscription", "users_user_subscriptions"),
        ("users.view_user", "users_user_change"),
    ):
        if request.user.has_perm(permission):
            return reverse(f"admin:{name}", args=[user.pk])
    return reverse("admin:index")


def _sent(request: HttpRequest) -> Any:
    return request.POST if request.method == "POST" else None


def _actor(request: HttpRequest, permission: str) -> User:
    actor = request.user
    if not actor.has_perm(permission) or not isinstance(actor, User):
        raise PermissionDenied
    return actor
