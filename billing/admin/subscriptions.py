"""The Subscriptions tab of a user, and the pages to add, change and cancel a subscription."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, ClassVar, Final
from urllib.parse import urlencode

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.forms.boundfield import BoundField
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.admin import ModelAdmin

from billing import ledger, operations
from billing.admin.confirmation import ConfirmedForm, Effect, advance
from billing.admin.pages import (
    PanelForm,
    customer_or_404,
    page_context,
    page_of_form,
    utc_today,
)
from billing.errors import (
    BillingError,
    InsufficientFunds,
    InvalidEntry,
    PlanRetired,
    SamePlan,
    SubscriptionCancelled,
    SubscriptionExists,
)
from billing.models import Channel, Plan, Subscription
from billing.money import ZERO, format_money
from billing.operations.subscriptions import SubscriptionChange
from billing.plans import due, forecast
from billing.plans.pricing import Cycle, format_period
from users.ids import id_in
from users.models import User

PER_PAGE: Final = 50
CANCELLED_SHOWN: Final = 20
# The tab has filters from this number of subscriptions on.
FILTERED_FROM: Final = 10

STATUS: Final = Subscription.Status
REASON: Final = Subscription.SuspensionReason


# --- In words -----------------------------------------------------------------------------------


def plan_in_words(plan: Plan) -> str:
    """Returns a plan in one line: "Business · Monthly · 12.55 per month, proportional"."""
    cycle = Cycle(plan.cycle)
    is_proportional = plan.proportional_charge and cycle in (Cycle.MONTHLY, Cycle.ANNUAL)
    return (
        f"{plan.name} · {cycle.label} · {format_money(plan.price)} per {plan.price_is_per}"
        f"{', proportional' if is_proportional else ''}"
    )


def next_charge_in_words(subscription: Subscription, today: date) -> str:
    upcoming = forecast.upcoming(subscription, today)
    if upcoming is None:
        return "None"
    amount = format_money(upcoming.amount)
    if subscription.status == STATUS.SUSPENDED:
        is_deactivated = subscription.suspension_reason == REASON.USER_DEACTIVATED
        if subscription.is_by_active_day:
            once = "once the user is active again" if is_deactivated else "once there is enough"
            return f"{amount} after each active day, {once}"
        once = "the user is active again" if is_deactivated else "the balance suffices"
        return f"{amount} as soon as {once}"
    if subscription.is_by_active_day or upcoming.day is None:
        return f"{amount} after each active day"
    return f"{amount} on {_day(upcoming.day)}"


def _day(day: date) -> str:
    return day.isoformat()


def _status_in_words(subscription: Subscription) -> str:
    if subscription.status == STATUS.SUSPENDED:
        return f"Suspended {subscription.suspended_until}"
    return str(subscription.get_status_display())


def _device_in_words(device: str) -> str:
    return device or "None: the user's own pricing plan, for services that name no device"


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
        "may_add": request.user.has_perm("billing.add_subscription"),
        "may_change": request.user.has_perm("billing.change_subscription"),
        "can_change_balance": request.user.has_perm("billing.change_balance"),
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


# --- Forms --------------------------------------------------------------------------------------


class PlanField(forms.ModelChoiceField):  # type: ignore[type-arg]
    """A field for an active plan, shown with cycle and price."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            Plan.objects.none(),
            empty_label="Choose a plan …",
            error_messages={"invalid_choice": "This plan cannot be chosen any more."},
            **options,
        )

    def label_from_instance(self, plan: Any) -> str:
        return plan_in_words(plan)


class SubscriptionForm(ConfirmedForm):
    """A form for an action on a user's subscriptions, today in UTC."""

    fields_of_refusals: ClassVar[dict[type[BillingError], str]] = {
        PlanRetired: "plan",
        SamePlan: "plan",
        SubscriptionExists: "device",
        InvalidEntry: "device",
    }

    def __init__(self, user: User, actor: User, data: Any = None) -> None:
        self.today = utc_today()
        self.subscription: Subscription | None = None
        super().__init__(user, actor, data)

    def _outcome(self, change: SubscriptionChange, facts: Sequence[tuple[str, str]]) -> Effect:
        subscription = self.subscription = change.subscription
        if subscription.is_live:
            facts = [*facts, *self._how_it_goes_on(subscription)]
        return Effect(change.posted, facts, change.sentence)

    def _how_it_goes_on(self, subscription: Subscription) -> list[tuple[str, str]]:
        paid = subscription.charged_through
        return [
            ("Status", _status_in_words(subscription)),
            *([("Charged through", _day(paid))] if paid else []),
            ("Next charge", next_charge_in_words(subscription, self.today)),
        ]


class AddForm(SubscriptionForm):
    """The form to subscribe a user, or a device, from today on."""

    plan = PlanField()
    device = forms.CharField(
        required=False,
        max_length=100,
        help_text="Empty: the user's own pricing plan, for services that name no device.",
    )
    wait_for_money = forms.BooleanField(
        label="Start suspended, and wait for money",
        required=False,
        help_text="Nothing is charged now. It resumes by itself, and pays as of that day, soon "
        "after the balance suffices.",
    )

    done_before = (SubscriptionExists,)

    def __init__(self, user: User, actor: User, data: Any = None) -> None:
        super().__init__(user, actor, data)
        self.lacks_money = False
        self._plans.queryset = Plan.objects.filter(is_active=True)

    @property
    def _plans(self) -> PlanField:
        field = self.fields["plan"]
        assert isinstance(field, PlanField)  # noqa: S101 - it is declared so above
        return field

    @property
    def offers_waiting(self) -> bool:
        """Returns whether to offer waiting: only if there is not enough money."""
        return self.lacks_money or self["wait_for_money"].value() is True

    def asked(self) -> Sequence[BoundField]:
        return [
            field
            for field in self.visible_fields()
            if field.name != "wait_for_money" or self.offers_waiting
        ]

    def refuse(self, refusal: BillingError) -> None:
        self.lacks_money = isinstance(refusal, InsufficientFunds)
        super().refuse(refusal)

    def perform(self) -> Effect:
        change = operations.subscriptions.start(
            self.user.pk,
            self.cleaned_data["plan"].pk,
            day=self.today,
            device=self.cleaned_data["device"],
            wait_for_money=self.cleaned_data["wait_for_money"],
            actor=self.actor,
            channel=Channel.PANEL,
        )
        subscription = change.subscription
        facts = [
            ("Plan", plan_in_words(subscription.plan)),
            ("Device", _device_in_words(subscription.device)),
            ("Starts", f"{_day(self.today)}, today (UTC)"),
        ]
        return self._outcome(change, facts)


class ExistingForm(SubscriptionForm):
    """A form for an action on an existing subscription."""

    def __init__(
        self, user: User, actor: User, subscription: Subscription, data: Any = None
    ) -> None:
        super().__init__(user, actor, data)
        self.subscription = self.before = subscription

    def _note_before(self, subscription: Subscription) -> None:
        """Remembers the subscription as it is when it is locked."""
        self.before = copy(subscription)

    @property
    def remainder(self) -> Decimal:
        """The unused rest of what was paid, for the form; the preview computes it exactly."""
        ahead = forecast.paid_ahead(self.before, self.today)
        return sum((each.rest.amount for each in ahead), ZERO)

    def _not_paid_back(self, change: SubscriptionChange) -> list[tuple[str, str]]:
        """Returns what the user loses if payments for today and later are not paid back."""
        new = {row.number for row in change.posted if row.channel == Channel.PANEL}
        return [
            (
                "Not paid back",
                f"{format_money(rest.amount)}, paid for {format_period(rest.first, rest.last)}",
            )
            for number, _, rest in forecast.paid_ahead(change.subscription, self.today)
            if rest.amount and number not in new
        ]


class ChangePlanForm(ExistingForm):
    """The form to change a plan from today on."""

    plan = PlanField(label="New plan")
    pay_back = forms.BooleanField(
        label="Pay back the remainder",
        required=False,
        initial=True,
        help_text="Of all that was paid for today and later, under whichever plan.",
    )
    charge_now = forms.BooleanField(
        label="Charge the new plan now",
        required=False,
        initial=True,
        help_text="From today on. Otherwise when what has been paid is used up or, if that is "
        "paid back, on the new plan's next regular day; until then nothing is charged. Where "
        "nothing was paid ahead and nothing is paid back, the new plan is charged from today on "
        "in any case.",
    )

    done_before = (SamePlan, SubscriptionCancelled)

    def __init__(
        self, user: User, actor: User, subscription: Subscription, data: Any = None
    ) -> None:
        super().__init__(user, actor, subscription, data)
        plans = self.fields["plan"]
        assert isinstance(plans, PlanField)  # noqa: S101 - it is declared so above
        # The present plan is valid but not offered, so that a form sent twice can be recognised.
        plans.queryset = Plan.objects.filter(Q(is_active=True) | Q(pk=subscription.plan_id))
        offered = plans.queryset.exclude(pk=subscription.plan_id)
        plans.widget.choices = [
            ("", plans.empty_label),
            *((plan.pk, plan_in_words(plan)) for plan in offered),
        ]

    def perform(self) -> Effect:
        change = operations.subscriptions.change_plan(
            self.user.pk,
            self.before.pk,
            self.cleaned_data["plan"].pk,
            day=self.today,
            pay_back=self.cleaned_data["pay_back"],
            charge_now=self.cleaned_data["charge_now"],
            actor=self.actor,
            channel=Channel.PANEL,
            if_unchanged=self._note_before,
        )
        subscription = change.subscription
        old = self.before.plan
        facts = [
            ("Device", _device_in_words(subscription.device)),
            ("Present plan", plan_in_words(old)),
            ("New plan", plan_in_words(subscription.plan)),
            ("Its fee counts from", _day(subscription.plan_since)),
            ("Its services", "At its prices from now on"),
            *self._uncharged_days(subscription),
        ]
        if self.cleaned_data["charge_now"] and not self.cleaned_data["pay_back"]:
            facts += self._not_paid_back(change)
        return self._outcome(change, facts)

    def _uncharged_days(self, subscription: Subscription) -> list[tuple[str, str]]:
        """Returns the days from today on for which neither plan is charged."""
        paid = subscription.charged_through
        first = max(self.today, paid + due.DAY) if paid else self.today
        last = subscription.plan_since - due.DAY
        if subscription.status == STATUS.SUSPENDED or first > last:
            return []
        return [("Nothing is charged for", format_period(first, last))]


class CancelForm(ExistingForm):
    """The form to cancel a subscription today."""

    pay_back = forms.BooleanField(
        label="Pay back the remainder",
        required=False,
        help_text="Of what was paid for today and later.",
    )

    done_before = (SubscriptionCancelled,)

    def perform(self) -> Effect:
        change = operations.subscriptions.cancel(
            self.user.pk,
            self.before.pk,
            day=self.today,
            pay_back=self.cleaned_data["pay_back"],
            actor=self.actor,
            channel=Channel.PANEL,
            if_unchanged=self._note_before,
        )
        subscription = change.subscription
        facts = [
            ("Plan", plan_in_words(subscription.plan)),
            ("Device", _device_in_words(subscription.device)),
            ("Ends", f"{_day(self.today)}, today (UTC)"),
        ]
        if not self.cleaned_data["pay_back"]:
            facts += self._not_paid_back(change)
        return self._outcome(change, facts)


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
        "can_change_balance": request.user.has_perm("billing.change_balance"),
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
