"""The list of all users' subscriptions. Changes are made on the page of the user."""

from typing import Any, NamedTuple

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from billing import reports
from billing.admin.pages import PanelForm, ReadOnlyAdmin, page_context, row_or_404, utc_today
from billing.admin.transactions import SEARCH_MAX_SECONDS, cursor_of
from billing.models import Plan, Subscription
from billing.plans import forecast
from billing.plans.pricing import Cycle


class SubscriptionFilters(PanelForm):
    plan = forms.TypedChoiceField(required=False, coerce=int, empty_value=None)
    status = forms.ChoiceField(
        required=False,
        choices=[
            ("", "All"),
            ("live", "Live: active or suspended"),
            *Subscription.Status.choices,
        ],
    )
    cycle = forms.ChoiceField(
        label="Billing cycle", required=False, choices=[("", "All cycles"), *Cycle.choices]
    )
    q = forms.CharField(label="User or device", required=False, max_length=200)

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        plans = [(plan.pk, f"{plan}") for plan in Plan.objects.only("name")]
        self.fields["plan"].choices = [("", "All plans"), *plans]  # type: ignore[attr-defined]
        self.fields["q"].widget.attrs |= {"placeholder": "Name, e-mail, ID or device"}

    def listed(self) -> QuerySet[Subscription]:
        """Returns the filtered rows; none if a filter is invalid, which shows its error."""
        if not self.is_valid():
            return Subscription.objects.none()
        chosen = self.cleaned_data
        return reports.SubscriptionListing(
            plan_id=chosen["plan"],
            status=chosen["status"],
            cycle=chosen["cycle"],
            text=chosen["q"],
        ).rows


class Row(NamedTuple):
    subscription: Subscription
    upcoming: forecast.Upcoming | None


@admin.register(Subscription)
class SubscriptionAdmin(ReadOnlyAdmin):
    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        if not self.has_view_permission(request):
            raise PermissionDenied
        form = SubscriptionFilters(request.GET)
        listed = form.listed()
        context = page_context(request, self, title="Subscriptions", user=None)
        found: reports.Page[Subscription]
        try:
            with reports.time_limit(SEARCH_MAX_SECONDS):
                found = reports.page_by_id(listed, cursor_of(request))
        except reports.TooSlow:
            found = reports.Page([], has_newer=False, has_older=False)
            context["is_too_slow"] = True
        today = utc_today()
        context |= {
            "form": form,
            "page": found,
            "rows": [Row(each, forecast.upcoming(each, today)) for each in found.rows],
            "has_conditions": any(form.cleaned_data.values()) or bool(form.errors),
        }
        return TemplateResponse(request, "billing/subscriptions_of_all.html", context)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponseBase:
        """Redirects to the subscriptions of the user."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        subscription = row_or_404(Subscription.objects.all(), object_id)
        return HttpResponseRedirect(
            reverse("admin:users_user_subscriptions", args=[subscription.user_id])
        )
