"""The customers' pages with their money: the list, the profile, and what hangs on a user's page."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import URLPattern, path, reverse
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import localtime
from unfold.contrib.filters.admin import ChoicesRadioFilter
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextInputWidget

from billing.admin.change_balance import change_balance
from billing.admin.navigation import header_actions
from billing.admin.transactions import user_transactions
from billing.errors import InvalidAmount
from billing.money import NotMoney, format_money, to_money
from users.admin.customers import UserAdmin
from users.admin.people import StatusFilter
from users.models import User

DAY_AND_TIME = "Y-m-d H:i"


class AmountBound(forms.CharField):
    """One end of a range of amounts; empty is no bound."""

    def __init__(self, label: str) -> None:
        super().__init__(
            label=label,
            required=False,
            widget=UnfoldAdminTextInputWidget(
                attrs={"placeholder": label, "inputmode": "decimal", "aria-label": label}
            ),
        )

    def clean(self, value: Any) -> Decimal | None:
        text = super().clean(value).replace(" ", "").replace(",", "").replace("−", "-")
        try:
            return to_money(text) if text else None
        except NotMoney as problem:
            why = InvalidAmount(field="amount", reason=problem.reason, value=text)
            raise forms.ValidationError(str(why)) from None


class AmountRangeFilter(admin.ListFilter):
    """From one amount to another, both included. A mistake is told, and what was typed stays."""

    template = "billing/amount_range_filter.html"
    field: str
    parameter_name: str  # Unfold asks every filter for one

    def __init__(
        self, request: HttpRequest, params: dict[str, list[str]], model: Any, model_admin: Any
    ) -> None:
        super().__init__(request, params, model, model_admin)
        for name in self._bounds():
            if name in params:
                self.used_parameters[name] = params.pop(name)[-1]
        lower, upper = self._bounds()
        self.form = forms.Form(self.used_parameters)
        self.form.fields = {lower: AmountBound("From"), upper: AmountBound("To")}
        if self.form.is_valid():
            first, last = (self.form.cleaned_data[name] for name in (lower, upper))
            if first is not None and last is not None and first > last:
                self.form.add_error(upper, "This is less than the amount it begins with.")

    def expected_parameters(self) -> list[str | None]:
        return [*self._bounds()]

    def _bounds(self) -> tuple[str, str]:
        return f"{self.field}_from", f"{self.field}_to"

    def has_output(self) -> bool:
        return True

    def choices(self, changelist: Any) -> Iterator[dict[str, Any]]:
        yield {"form": self.form}

    def queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> QuerySet[User]:
        for name in self.form.errors:
            why = " ".join(str(problem) for problem in self.form.errors[name])
            end = self.form.fields[name].label
            messages.error(request, f"Filter by {self.title}, “{end}” is left out. {why}")
        for name, lookup in zip(self._bounds(), ("gte", "lte"), strict=True):
            amount = self.form.cleaned_data.get(name)
            if amount is not None:
                queryset = queryset.filter(**{f"balance__{self.field}__{lookup}": amount})
        return queryset


class RealRangeFilter(AmountRangeFilter):
    title = "balance"
    field = parameter_name = "real"


class BonusRangeFilter(AmountRangeFilter):
    title = "bonus balance"
    field = parameter_name = "bonus"


MONEY = ("real_balance", "bonus_balance", "last_transaction", RealRangeFilter, BonusRangeFilter)


def sees_money(request: HttpRequest) -> bool:
    return request.user.has_perm("billing.view_balance")


def money(amount: Decimal) -> SafeString:
    return format_html('<span class="money">{}</span>', format_money(amount))


@admin.register(User)
class BillingUserAdmin(UserAdmin):
    list_display = [
        "id",
        "name_and_email",
        "legal_name",
        "real_balance",
        "bonus_balance",
        "status",
        "last_transaction",
        "created",
    ]
    list_filter = [
        StatusFilter,
        RealRangeFilter,
        BonusRangeFilter,
        ("legal_type", ChoicesRadioFilter),
    ]
    change_form_template = "billing/user.html"
    change_form_outer_before_template = "billing/user_summary.html"

    class Media:
        css = {"all": ["billing/users.css"]}

    def get_urls(self) -> list[URLPattern]:
        return [
            path(
                "<int:user_id>/transactions/",
                self._view_of_user(user_transactions),
                name="users_user_transactions",
            ),
            path(
                "<int:user_id>/change-balance/",
                self._view_of_user(change_balance),
                name="users_user_change_balance",
            ),
            *super().get_urls(),
        ]

    def _view_of_user(self, view: Callable[..., HttpResponseBase]) -> Callable[..., Any]:
        def with_admin(request: HttpRequest, user_id: int) -> HttpResponseBase:
            return view(request, user_id, self)

        wrapped: Callable[..., Any] = self.admin_site.admin_view(with_admin)
        return wrapped

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return super().get_queryset(request).select_related("balance")

    def get_list_display(self, request: HttpRequest) -> list[str]:
        return [each for each in self.list_display if each not in MONEY or sees_money(request)]

    def get_list_filter(self, request: HttpRequest) -> list[Any]:
        return [each for each in self.list_filter if each not in MONEY or sees_money(request)]

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        obj = kwargs.get("obj")
        if obj is not None:
            context |= {
                "actions_detail": header_actions(request, obj.pk),
                "balance": obj.balance if sees_money(request) else None,
                "can_change_balance": request.user.has_perm("billing.change_balance"),
                "can_view_transactions": request.user.has_perm("billing.view_transaction"),
            }
        return super().render_change_form(request, context, *args, **kwargs)

    @display(description="balance", ordering="balance__real", formatting="price")
    def real_balance(self, user: User) -> SafeString:
        return money(user.balance.real)

    @display(description="bonus", ordering="balance__bonus", formatting="price")
    def bonus_balance(self, user: User) -> SafeString:
        return money(user.balance.bonus)

    @display(description="last transaction", ordering="balance__last_at", empty_value="–")
    def last_transaction(self, user: User) -> SafeString | None:
        if user.balance.last_at is None:
            return None
        return format_html(
            '<a class="whitespace-nowrap" href="{}">{}</a>',
            reverse("admin:users_user_transactions", args=[user.pk]),
            date_format(localtime(user.balance.last_at), DAY_AND_TIME),
        )
