"""The forms to add, change and cancel a subscription, and how pages word subscriptions."""

from collections.abc import Sequence
from copy import copy
from datetime import date
from decimal import Decimal
from typing import Any, ClassVar, Final

from django import forms
from django.db.models import Q
from django.forms.boundfield import BoundField

from billing import operations
from billing.admin.confirmation import ConfirmedForm, Effect
from billing.admin.pages import (
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
from users.models import User

STATUS: Final = Subscription.Status
REASON: Final = Subscription.SuspensionReason


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


class PlanField(forms.ModelChoiceField):  # type: ignore[type-arg]
    """A field for an active plan, shown with cycle and price."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            Plan.objects.none(),
            empty_label="Choose a plan …",
            error_messages={"invalid_choice": "This plan can no longer be chosen."},
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
        label="Start suspended until there is money",
        required=False,
        help_text="Nothing is charged now. It resumes automatically soon after there is enough "
        "money, and is charged from that day on.",
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
        help_text="Everything paid for today and later, under any plan.",
    )
    charge_now = forms.BooleanField(
        label="Charge the new plan now",
        required=False,
        initial=True,
        help_text="From today on. Otherwise the new plan is charged once the paid days are used up "
        "or, if they are paid back, from its next regular day; nothing is charged until "
        "then. If no days were paid ahead and nothing is paid back, it is charged from "
        "today on in any case.",
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
            ("Its fee applies from", _day(subscription.plan_since)),
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
        help_text="Everything paid for today and later.",
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
