"""The pages of plans with their prices, and of the defaults for new users."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple, cast

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import BooleanRadioFilter, ChoicesRadioFilter
from unfold.decorators import display

from billing import operations
from billing.admin.configuration import (
    ConfigurationAdmin,
    ConfigurationForm,
    OwnPriceField,
    PriceField,
)
from billing.admin.pages import one_number_of_decimals
from billing.models import Channel, Plan, Service, ServicePrice, Subject, Subscription, UserDefaults
from billing.money import ZERO, format_money
from users.models import User

LIVE = ~Q(subscriptions__status=Subscription.Status.CANCELLED)


class ServiceRow(NamedTuple):
    """A service on a plan's page: its price and the field to change it."""

    service: Service
    price: Decimal | None
    field: forms.BoundField


class PlanForm(ConfigurationForm):
    """A plan and its prices: one field per service, empty if the plan does not offer it.

    A retired service has a field only if it has a price.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        instance = options.get("instance")
        self.prices: dict[int, ServicePrice] = {}
        if instance is not None and instance.pk:
            self.prices = {price.service_id: price for price in instance.service_prices.all()}
        self.services = list(Service.objects.filter(Q(is_active=True) | Q(pk__in=self.prices)))
        super().__init__(*args, **options)
        for service in self.services:
            name = self._field_of(service)
            self.fields[name] = PriceField(label=f"Price of {service}", required=False)
            self.fields[name].widget.attrs["aria-label"] = self.fields[name].label
            if price := self.prices.get(service.pk):
                self.initial[name] = price.price

    def service_rows(self) -> Iterator[ServiceRow]:
        for service in self.services:
            price = self.prices.get(service.pk)
            field = self[self._field_of(service)]
            yield ServiceRow(service, price.price if price else None, field)

    def stored(self) -> Any:
        prices = [
            (service.pk, price.price if (price := self.prices.get(service.pk)) else None)
            for service in self.services
        ]
        return super().stored(), prices

    def entered_prices(self) -> dict[int, Decimal | None]:
        """The entered prices by ID of the service."""
        return {service.pk: self.cleaned_data[self._field_of(service)] for service in self.services}

    @staticmethod
    def _field_of(service: Service) -> str:
        return f"service_{service.pk}"


@admin.register(Plan)
class PlanAdmin(ConfigurationAdmin):
    history_subject = Subject.PLAN
    form = PlanForm
    change_form_template = "billing/plan.html"
    list_display = [
        "name",
        "cycle",
        "price_and_period",
        "is_proportional",
        "state",
        "live_subscriptions",
    ]
    list_filter = [("is_active", BooleanRadioFilter), ("cycle", ChoicesRadioFilter)]
    list_filter_submit = True
    search_fields = ["name"]
    fields = ["name", "cycle", "price", "proportional_charge", "is_active"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Plan]:
        plans: QuerySet[Plan] = super().get_queryset(request)
        if request.resolver_match and request.resolver_match.url_name == "billing_plan_changelist":
            plans = plans.annotate(live_count=Count("subscriptions", filter=LIVE))
        return plans

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        one_number_of_decimals(changelist.result_list, "price")
        return changelist

    def get_readonly_fields(self, request: HttpRequest, obj: Plan | None = None) -> list[str]:
        return ["cycle"] if obj and obj.subscriptions.exists() else []

    def get_form(
        self,
        request: HttpRequest,
        obj: Plan | None = None,
        change: bool = False,  # noqa: FBT001, FBT002 - Django's signature
        **kwargs: Any,
    ) -> Any:
        if obj and self.get_readonly_fields(request, obj):
            kwargs["help_texts"] = {
                "cycle": "It cannot be changed, because subscribers have paid for periods of it. "
                "For another cycle retire this plan and add a new one."
            }
        return super().get_form(request, obj, change, **kwargs)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        obj = kwargs.get("obj")
        context["currency_name"] = settings.BILLING_CURRENCY
        if obj is not None:
            # A refused form leaves the entered values in `obj`.
            saved = Plan.objects.get(pk=obj.pk) if request.method == "POST" else obj
            context["saved"] = saved
            context["live_count"] = Subscription.objects.live().filter(plan=obj).count()
            why = self.why_kept(saved)
            context["show_delete"] = why is None
            context["notes"] = [why] if why else []
        return super().render_change_form(request, context, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:  # noqa: FBT001 - Django's signature
        operations.configuration.save(
            obj,
            prices=form.entered_prices(),
            actor=cast(User, request.user),
            channel=Channel.PANEL,
        )

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:  # noqa: FBT001 - Django's signature
        super().save_related(request, form, formsets, change)
        plan = form.instance
        if not plan.is_active and UserDefaults.objects.filter(plan=plan).exists():
            self.message_user(
                request,
                f"“{plan}” is the default plan of new users. It is retired now, so they get no plan"
                " until you choose another under New users.",
                messages.WARNING,
            )

    def why_kept(self, obj: Plan) -> str | None:
        retire = "Retire it instead: clear “Active”. Users who have it keep it."
        if obj.subscriptions.exists():
            return f"“{obj}” cannot be deleted: it has had subscriptions. {retire}"
        if UserDefaults.objects.filter(plan=obj).exists():
            return (
                f"“{obj}” cannot be deleted: it is the default plan of new users. "
                "Choose another under New users first."
            )
        return None

    @display(description="price", ordering="price")
    def price_and_period(self, plan: Plan) -> SafeString:
        return format_html(
            '<span class="money">{}</span> per {}',
            format_money(plan.price, decimals=plan.decimals["price"]),  # type: ignore[attr-defined]
            plan.price_is_per,
        )

    @display(description="proportional", ordering="proportional_charge")
    def is_proportional(self, plan: Plan) -> str:
        return "Yes" if plan.proportional_charge else "No"

    @display(
        description="status",
        ordering="is_active",
        label={"Active": "success", "Retired": "warning"},
    )
    def state(self, plan: Plan) -> str:
        return "Active" if plan.is_active else "Retired"

    @display(description="live subscriptions", ordering="live_count")
    def live_subscriptions(self, plan: Plan) -> SafeString:
        return format_html(
            '<a href="{}?plan={}&amp;status=live" aria-label="{}">{}</a>',
            reverse("admin:billing_subscription_changelist"),
            plan.pk,
            f"Live subscriptions of {plan}",
            f"{plan.live_count:,}",  # type: ignore[attr-defined]
        )


class UserDefaultsForm(ConfigurationForm):
    def clean_bonus(self) -> Decimal:
        return self.cleaned_data["bonus"] or ZERO

    def clean_plan(self) -> Plan | None:
        plan: Plan | None = self.cleaned_data["plan"]
        if plan is not None and not plan.is_active:
            raise forms.ValidationError(
                f"“{plan}” is retired, so new users do not get it. Choose another plan, or none."
            )
        return plan


@admin.register(UserDefaults)
class UserDefaultsAdmin(ConfigurationAdmin):
    """A single page for the single row, which is created when it is first saved."""

    history_subject = Subject.USER_DEFAULTS

    form = UserDefaultsForm
    fields = ["bonus", "plan"]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        return HttpResponseRedirect(self._address())

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any:
        obj = super().get_object(request, object_id, from_field)
        if obj is None and object_id == str(UserDefaults.ONLY_ID):
            return UserDefaults(pk=UserDefaults.ONLY_ID)
        return obj

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "bonus":
            return OwnPriceField(
                label="Bonus on registration",
                help_text=db_field.help_text,
                negative="A gift cannot be negative.",
                required=False,
            )
        if db_field.name == "plan":
            # The chosen plan is offered even if it is retired.
            kwargs["limit_choices_to"] = Q(is_active=True) | Q(
                pk__in=UserDefaults.objects.filter(plan__isnull=False).values("plan")
            )
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name == "plan":
            field.empty_label = "No plan"
            field.widget = field.widget.widget  # without links to the pages of plans
        return field

    def response_change(self, request: HttpRequest, obj: UserDefaults) -> HttpResponse:
        self.message_user(request, "The defaults for new users were saved.", messages.SUCCESS)
        return HttpResponseRedirect(self._address())

    @staticmethod
    def _address() -> str:
        return reverse("admin:billing_userdefaults_change", args=[UserDefaults.ONLY_ID])
