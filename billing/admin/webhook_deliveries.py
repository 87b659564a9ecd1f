"""The pages of webhook deliveries: what was sent where, with which result, and sending again."""

import json
from typing import Any, Final

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone

from billing import operations, reports, webhooks
from billing.admin.pages import PanelForm, ReadOnlyAdmin, page_context, row_or_404
from billing.admin.transactions import SEARCH_MAX_SECONDS, cursor_of
from billing.models import Channel, EventType, WebhookAttempt, WebhookDelivery, WebhookEndpoint
from users.ids import id_in
from users.models import User

Status = WebhookDelivery.Status
ATTEMPTS_SHOWN: Final = 100


def deliveries() -> QuerySet[WebhookDelivery]:
    """Returns the deliveries of existing endpoints."""
    return WebhookDelivery.objects.filter(endpoint_id__in=WebhookEndpoint.objects.values("pk"))


class DeliveryFilters(PanelForm):
    endpoint = forms.TypedChoiceField(required=False, coerce=int, empty_value=None)
    status = forms.ChoiceField(required=False, choices=[("", "All"), *Status.choices])
    event = forms.ChoiceField(required=False, choices=[("", "All events"), *EventType.choices])
    user = forms.CharField(required=False, max_length=254)

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        endpoints = [(each.pk, f"{each}") for each in WebhookEndpoint.objects.only("name")]
        self.fields["endpoint"].choices = [("", "All endpoints"), *endpoints]  # type: ignore[attr-defined]
        self.fields["user"].widget.attrs |= {"placeholder": "ID or e-mail"}

    def listed(self) -> QuerySet[WebhookDelivery]:
        """Returns the filtered rows; none if a filter is invalid, which shows its error."""
        if not self.is_valid():
            return WebhookDelivery.objects.none()
        chosen = self.cleaned_data
        rows = deliveries()
        if chosen["endpoint"] is not None:
            rows = rows.filter(endpoint=chosen["endpoint"])
        if chosen["status"]:
            rows = rows.filter(status=chosen["status"])
        if chosen["event"]:
            rows = rows.filter(event__type=chosen["event"])
        if text := chosen["user"]:
            if (user_id := id_in(text.removeprefix("#"))) is not None:
                rows = rows.filter(user_id=user_id)
            else:
                # Looked up first: with a subquery, the planner may read all deliveries.
                found = User.objects.with_email(text).values_list("pk", flat=True)
                rows = rows.filter(user_id__in=list(found))
        return rows


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(ReadOnlyAdmin):
    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Returns whether the operator may send deliveries again. Nothing else can be changed."""
        return request.user.has_perm("billing.change_webhookdelivery")

    def get_urls(self) -> list[URLPattern]:
        again = self.admin_site.admin_view(self.send_again_view)
        all_again = self.admin_site.admin_view(self.send_given_up_again_view)
        return [
            path("given-up-again/", all_again, name="billing_webhookdelivery_given_up_again"),
            path("<str:delivery_id>/again/", again, name="billing_webhookdelivery_again"),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        form = DeliveryFilters(request.GET)
        latest = WebhookAttempt.objects.filter(delivery=OuterRef("pk")).order_by("-pk")
        listed = form.listed().select_related("event__user", "endpoint")
        listed = listed.annotate(last_problem=Subquery(latest.values("problem")[:1]))
        context = page_context(request, self, title="Webhook deliveries", user=None)
        found: reports.Page[WebhookDelivery]
        try:
            with reports.time_limit(SEARCH_MAX_SECONDS):
                found = reports.page_by_id(listed, cursor_of(request))
        except reports.TooSlow:
            found = reports.Page([], has_newer=False, has_older=False)
            context["is_too_slow"] = True
        context |= {
            "form": form,
            "page": found,
            "now": timezone.now(),
            "may_send_given_up_again": self._shows_given_up(form)
            and self.has_change_permission(request),
            "has_conditions": any(form.cleaned_data.values()) or bool(form.errors),
        }
        return TemplateResponse(request, "billing/webhook_deliveries.html", context)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponseBase:
        """Shows one delivery: the message and all attempts."""
        delivery = self._delivery(request, object_id)
        event = delivery.event
        of_subscription = event.type.startswith("subscription.")
        right = "billing.view_subscription" if of_subscription else "billing.view_transaction"
        attempts = delivery.attempts.order_by("-pk")[: ATTEMPTS_SHOWN + 1]
        title = f"Webhook delivery {delivery.pk}"
        context = page_context(request, self, title=title, user=None) | {
            "original": delivery,
            "event": event,
            "body": _readable(webhooks.body_of(event)) if request.user.has_perm(right) else "",
            "attempts": attempts[:ATTEMPTS_SHOWN],
            "attempts_shown": ATTEMPTS_SHOWN,
            "has_more_attempts": len(attempts) > ATTEMPTS_SHOWN,
            "now": timezone.now(),
            "may_send_again": self.has_change_permission(request),
        }
        return TemplateResponse(request, "billing/webhook_delivery.html", context)

    def send_again_view(self, request: HttpRequest, delivery_id: str) -> HttpResponseBase:
        actor = request.user
        if not self.has_change_permission(request) or not isinstance(actor, User):
            raise PermissionDenied
        delivery = self._delivery(request, delivery_id)
        if request.method == "POST":
            operations.webhook_endpoints.send_again(delivery, actor=actor, channel=Channel.PANEL)
            self.message_user(request, "It is sent again in a moment.", messages.SUCCESS)
        address = reverse("admin:billing_webhookdelivery_change", args=[delivery.pk])
        return HttpResponseRedirect(address)

    def send_given_up_again_view(self, request: HttpRequest) -> HttpResponseBase:
        """Sends again all deliveries that were given up for one endpoint."""
        actor = request.user
        if not self.has_change_permission(request) or not isinstance(actor, User):
            raise PermissionDenied
        endpoint = row_or_404(WebhookEndpoint.objects.all(), request.POST.get("endpoint", ""))
        count = operations.webhook_endpoints.send_given_up_again(
            endpoint, actor=actor, channel=Channel.PANEL
        )
        sentence = f"{count:,} given up {'delivery is' if count == 1 else 'deliveries are'}"
        sentence += " sent again."
        self.message_user(request, sentence, messages.SUCCESS if count else messages.INFO)
        address = reverse("admin:billing_webhookdelivery_changelist")
        return HttpResponseRedirect(f"{address}?endpoint={endpoint.pk}")

    @staticmethod
    def _shows_given_up(form: DeliveryFilters) -> bool:
        """Returns whether the list shows exactly what was given up for one endpoint."""
        chosen = {name: value for name, value in form.cleaned_data.items() if value}
        return set(chosen) == {"endpoint", "status"} and chosen["status"] == Status.FAILED

    def _delivery(self, request: HttpRequest, delivery_id: object) -> WebhookDelivery:
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        return row_or_404(deliveries().select_related("event__user", "endpoint"), delivery_id)


def _readable(body: bytes) -> str:
    return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
