"""The Charge service page: shows what a use costs and which balance pays, then charges it."""

from decimal import Decimal
from typing import Any, ClassVar, Final

from django import forms
from django.core.exceptions import PermissionDenied
from django.db.models import Q
from django.http import HttpRequest, HttpResponseBase
from unfold.admin import ModelAdmin

from billing import ledger, operations
from billing.admin.amounts import QuantityField
from billing.admin.confirmation import ConfirmedForm, Effect, advance
from billing.admin.pages import customer_or_404, page_context, page_of_form
from billing.admin.transaction_page import redirect_to_posted
from billing.descriptions import DESCRIPTION_MAX_LENGTH
from billing.errors import (
    BillingError,
    FreeOfCharge,
    InsufficientFunds,
    InvalidDescription,
    InvalidEntry,
    InvalidQuantity,
    NoPlan,
    ServiceNotAvailable,
    ServiceRetired,
    SubscriptionSuspended,
    UnknownService,
)
from billing.models import Channel, Service, Subscription
from billing.money import format_money
from billing.plans import services
from billing.plans.pricing import format_quantity
from users.models import User

DEVICES_SUGGESTED: Final = 1000


class ServiceField(forms.ModelChoiceField):  # type: ignore[type-arg]
    """A field that accepts every service, so that a refusal can say why; the list offers fewer."""

    def __init__(self) -> None:
        super().__init__(
            Service.objects.none(), to_field_name="code", empty_label="Choose a service …"
        )

    def offer(self, user: User) -> None:
        """Offers the services that a plan of the user has a price for."""
        self.queryset = Service.objects.all()
        live = Subscription.objects.live().filter(user=user)
        offered = Service.objects.filter(
            Q(prices__plan__in=live.values("plan")), is_active=True
        ).distinct()
        self.widget.choices = [
            ("", self.empty_label),
            *(
                (service.code, f"{service}, per {service.unit}" if service.unit else f"{service}")
                for service in offered
            ),
        ]


class ChargeServiceForm(ConfirmedForm):
    """Charges `user` for a use of a service. `key` identifies a preview, which is posted once."""

    service = ServiceField()
    quantity = QuantityField(help_text="Up to six decimals.")
    device = forms.CharField(
        required=False,
        max_length=100,
        help_text="The device's own plan sets the price or, without one, the user's own pricing "
        "plan.",
        widget=forms.TextInput({"list": "devices"}),
    )
    description = forms.CharField(
        required=False,
        max_length=DESCRIPTION_MAX_LENGTH,
        help_text="Empty: written from service, quantity, plan and device.",
    )
    key = forms.CharField(required=False, widget=forms.HiddenInput, max_length=64)

    fields_of_refusals: ClassVar[dict[type[BillingError], str]] = {
        UnknownService: "service",
        ServiceRetired: "service",
        ServiceNotAvailable: "service",
        InvalidQuantity: "quantity",
        InsufficientFunds: "quantity",
        FreeOfCharge: "quantity",
        NoPlan: "device",
        SubscriptionSuspended: "device",
        InvalidDescription: "description",
    }

    def __init__(self, user: User, actor: User, data: Any = None) -> None:
        super().__init__(user, actor, data)
        services = self.fields["service"]
        assert isinstance(services, ServiceField)  # noqa: S101 - it is declared so above
        services.offer(user)

    def refuse(self, refusal: BillingError) -> None:
        if isinstance(refusal, InvalidEntry) and refusal.data["field"] in self.fields:
            self.add_error(refusal.data["field"], str(refusal))
        else:
            super().refuse(refusal)

    def perform(self) -> Effect:
        service, quantity = self.cleaned_data["service"], self.cleaned_data["quantity"]
        key = self.cleaned_data["key"]
        posted = operations.money.charge_service(
            self.user.pk,
            service=service.code,
            quantity=quantity,
            device=self.cleaned_data["device"],
            description=self.cleaned_data["description"],
            idempotency_key=f"panel:{key}" if key else None,
            actor=self.actor,
            channel=Channel.PANEL,
        )
        unit = service.unit and f" {service.unit}"
        price = Decimal(posted.metadata[services.PRICING]["price"])
        cost = -(posted.amount + posted.bonus_amount)
        plan = self._plan(posted.metadata[services.PRICING]["plan"])
        facts = [
            ("Service", f"{service}"),
            ("Device", posted.device or "None: the user's own pricing plan"),
            ("Unit price", f"{format_money(price)}{unit and ' per'}{unit}, plan {plan}"),
            (
                "Cost",
                f"{format_quantity(quantity)}{unit} × {format_money(price)} = {format_money(cost)}",
            ),
            ("The bonus balance pays", format_money(-posted.bonus_amount)),
            ("The real balance pays", format_money(-posted.amount)),
        ]
        return Effect([posted], facts, posted.description)

    def _plan(self, plan_id: int) -> str:
        subscription = Subscription.objects.filter(user=self.user, plan=plan_id)
        names = subscription.values_list("plan__name", flat=True)
        return names.first() or ""


def charge_service(request: HttpRequest, user_id: int, model_admin: ModelAdmin) -> HttpResponseBase:
    """Shows the form, the preview, and posts. Then redirects to the Transactions tab."""
    actor = request.user
    if not actor.has_perm("billing.change_balance") or not isinstance(actor, User):
        raise PermissionDenied
    user = customer_or_404(user_id)
    form = ChargeServiceForm(user, actor, request.POST if request.method == "POST" else None)
    step = advance(form)
    if step.done is not None:
        return redirect_to_posted(step.done.posted[0])
    devices = Subscription.objects.live().filter(user=user).order_by("device")
    context = page_context(request, model_admin, title="Charge service", user=user) | {
        "form": form,
        "step": step,
        "balance": ledger.balance(user),
        "devices": devices.exclude(device="").values_list("device", flat=True)[:DEVICES_SUGGESTED],
        "has_plan": devices.exists(),
        "may_add_subscription": request.user.has_perm("billing.add_subscription"),
    }
    return page_of_form(request, "billing/charge_service.html", context, form)
