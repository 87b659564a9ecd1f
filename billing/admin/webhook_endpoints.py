"""The pages of webhook endpoints: addresses, state, and secrets."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final, cast

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminTextInputWidget

from billing import operations, reports, webhooks
from billing.admin.configuration import ConfigurationAdmin, ConfigurationForm
from billing.admin.pages import page_context, row_or_404
from billing.admin.transactions import cursor_of
from billing.models import Channel, EventType, Subject, WebhookDelivery, WebhookEndpoint
from users.admin.base import titled
from users.models import User

Status = WebhookDelivery.Status

COUNTED_MAX: Final = 1_000
FIGURES_MAX_SECONDS: Final = 2


# --- How an endpoint does -----------------------------------------------------------------------


@dataclass(frozen=True)
class EndpointReport:
    """An endpoint with what pages show of it. Counts end at COUNTED_MAX; None: took too long."""

    endpoint: WebhookEndpoint
    waiting: int | None
    given_up: int | None
    last_delivered_at: datetime | None

    @property
    def state(self) -> str:
        if not self.endpoint.is_active:
            return "inactive"
        return "failing" if self.endpoint.failures else "active"

    @property
    def events(self) -> str:
        return events_in_words(self.endpoint.events)

    @property
    def waiting_shown(self) -> str:
        return _shown(self.waiting)

    @property
    def given_up_shown(self) -> str:
        return _shown(self.given_up)


def _shown(count: int | None) -> str:
    if count is None:
        return "many"
    return f"{COUNTED_MAX:,}+" if count > COUNTED_MAX else f"{count:,}"


def report(endpoint: WebhookEndpoint) -> EndpointReport:
    deliveries = WebhookDelivery.objects.filter(endpoint=endpoint)
    try:
        with reports.time_limit(FIGURES_MAX_SECONDS):
            waiting = deliveries.filter(status=Status.PENDING)[: COUNTED_MAX + 1].count()
            given_up = deliveries.filter(status=Status.FAILED)[: COUNTED_MAX + 1].count()
            # The last delivered one: the highest ID, unless an older one was sent again.
            delivered = deliveries.filter(status=Status.DELIVERED).order_by("-id")
            last = delivered.values_list("finished_at", flat=True).first()
    except reports.TooSlow:
        return EndpointReport(endpoint, None, None, None)
    return EndpointReport(endpoint, waiting, given_up, last)


def events_in_words(codes: list[str]) -> str:
    labels = dict(EventType.choices)
    return ", ".join(str(labels.get(code, code)) for code in codes)


@dataclass(frozen=True)
class Counted:
    """A count up to a limit."""

    count: int

    def __str__(self) -> str:
        return _shown(self.count)


def counted(rows: QuerySet[WebhookDelivery]) -> Counted:
    return Counted(rows[: COUNTED_MAX + 1].count())


# --- Pages --------------------------------------------------------------------------------------


class WebhookEndpointForm(ConfigurationForm):
    url = forms.URLField(
        label="Address",
        max_length=500,
        assume_scheme="https",
        widget=UnfoldAdminTextInputWidget({"inputmode": "url", "autocomplete": "off"}),
        help_text="Events are sent here, by POST. https:// only, except for your own networks.",
    )
    events = forms.MultipleChoiceField(
        label="Events",
        choices=EventType.choices,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        error_messages={"required": "Choose at least one event."},
        help_text="Events of these types are sent to this endpoint from now on.",
    )

    def clean_url(self) -> str:
        url: str = self.cleaned_data["url"]
        if not self.instance.pk or url != self.initial.get("url"):
            webhooks.check_url(url)
        return url

    def clean_events(self) -> list[str]:
        """Returns the events in the offered order, so that another order is no change."""
        return [code for code in EventType.values if code in self.cleaned_data["events"]]


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(ConfigurationAdmin):
    history_subject = Subject.WEBHOOK_ENDPOINT
    form = WebhookEndpointForm
    change_form_template = "billing/webhook_endpoint.html"
    fields = ["name", "url", "events", "is_active"]
    readonly_preprocess_fields: ClassVar[dict[str, Any]] = {
        "events": lambda codes: events_in_words(codes.split(", "))
    }

    def get_urls(self) -> list[URLPattern]:
        views = {"test": self.test_view, "secret": self.secret_view}
        return [
            *(
                path(
                    f"<str:endpoint_id>/{name}/",
                    self.admin_site.admin_view(view),
                    name=f"billing_webhookendpoint_{name}",
                )
                for name, view in views.items()
            ),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        found = reports.page_by_id(WebhookEndpoint.objects.all(), cursor_of(request))
        context = page_context(request, self, title="Webhooks", user=None) | {
            "page": found,
            "rows": [report(endpoint) for endpoint in found.rows],
            "now": timezone.now(),
            "may_add": self.has_add_permission(request),
        }
        return TemplateResponse(request, "billing/webhook_endpoints.html", context)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        obj = kwargs.get("obj")
        if obj is not None:
            # A refused form leaves the entered values in `obj`.
            context["report"] = report(WebhookEndpoint.objects.get(pk=obj.pk))
            context["now"] = timezone.now()
        return super().render_change_form(request, context, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:  # noqa: FBT001 - Django's signature
        operations.webhook_endpoints.save(
            obj, actor=cast(User, request.user), channel=Channel.PANEL
        )

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        """Redirects to the secret, which the receiver needs next."""
        if not self.has_change_permission(request, obj):
            response: HttpResponse = super().response_add(request, obj, post_url_continue)
            return response
        self.message_user(
            request,
            f"“{obj}” was added. Events from now on are sent to it, signed with its secret.",
            messages.SUCCESS,
        )
        return HttpResponseRedirect(self._address(obj, "secret"))

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Also lists the deliveries, which are deleted later, in the background."""
        shown, counts, lacking, protected = super().get_deleted_objects(objs, request)
        for endpoint in objs:
            shown.append("The record of all its deliveries and attempts")
            found = report(endpoint)
            if found.waiting is None or found.waiting:
                shown.append(f"Waiting events that will not be sent: {found.waiting_shown}")
        return shown, counts, lacking, protected

    def test_view(self, request: HttpRequest, endpoint_id: str) -> HttpResponseBase:
        """Sends a test message, and shows the result."""
        endpoint = self._endpoint(request, endpoint_id)
        if request.method != "POST":
            return HttpResponseRedirect(self._address(endpoint, "change"))
        answer = webhooks.send_test(endpoint)
        if answer.is_delivered and endpoint.paused_until is not None:
            WebhookEndpoint.objects.filter(pk=endpoint.pk).update(paused_until=None)
            webhooks.wake(endpoint.pk)
        context = page_context(request, self, title=titled(endpoint, "Test event"), user=None) | {
            "original": endpoint,
            "answer": answer,
        }
        return TemplateResponse(request, "billing/webhook_test.html", context)

    def secret_view(self, request: HttpRequest, endpoint_id: str) -> HttpResponseBase:
        """Shows the secret, or makes a new one.

        Only the response to a POST shows it, so that no browser history leads to it.
        """
        endpoint = self._endpoint(request, endpoint_id)
        wanted = request.POST.get("do", "") if request.method == "POST" else ""
        actor, secret = cast(User, request.user), ""
        if wanted == "renew":
            secret = operations.webhook_endpoints.renew_secret(
                endpoint.pk, actor=actor, channel=Channel.PANEL
            ).secret
        elif wanted == "show":
            secret = operations.webhook_endpoints.show_secret(
                endpoint.pk, actor=actor, channel=Channel.PANEL
            )
        context = page_context(request, self, title=titled(endpoint, "Secret"), user=None) | {
            "original": endpoint,
            "secret": secret,
            "is_new": wanted == "renew",
            "asks": wanted == "ask",
        }
        return TemplateResponse(request, "billing/webhook_secret.html", context)

    def _endpoint(self, request: HttpRequest, endpoint_id: str) -> WebhookEndpoint:
        """Returns the endpoint. Raises PermissionDenied without the right to change it."""
        if not self.has_change_permission(request) or not isinstance(request.user, User):
            raise PermissionDenied
        return row_or_404(WebhookEndpoint.objects.all(), endpoint_id)

    @staticmethod
    def _address(endpoint: WebhookEndpoint, page: str) -> str:
        return reverse(f"admin:billing_webhookendpoint_{page}", args=[endpoint.pk])
