"""The pages of charging runs: what they did, and what failed."""

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from billing import reports
from billing.admin.pages import ReadOnlyAdmin, page_context, row_or_404
from billing.admin.transactions import cursor_of
from billing.models import ChargingRun, TransactionType


class RunReport:
    """A run with what pages show of it at `now`."""

    def __init__(self, run: ChargingRun, now: datetime) -> None:
        self.run = run
        self.state = reports.state_of(run, now)
        self.until = run.finished_at or (
            now if self.state == "running" else reports.last_progress_at(run)
        )

    @property
    def took(self) -> timedelta:
        return self.until - self.run.started_at

    @property
    def transactions(self) -> str:
        """The URL of the list of charges on the days of this run."""
        query = {
            "from_day": timezone.localtime(self.run.started_at).date(),
            "to_day": timezone.localtime(self.until).date(),
            "type": TransactionType.SUBSCRIPTION.value,
        }
        return f"{reverse('admin:billing_transaction_changelist')}?{urlencode(query)}"


@admin.register(ChargingRun)
class ChargingRunAdmin(ReadOnlyAdmin):
    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        if not self.has_view_permission(request):
            raise PermissionDenied
        now = timezone.now()
        found = reports.page_by_id(reports.charging_runs(), cursor_of(request))
        context = page_context(request, self, title="Charging runs", user=None) | {
            "page": found,
            "rows": [RunReport(run, now) for run in found.rows],
            "overdue": reports.overdue(now),
        }
        return TemplateResponse(request, "billing/runs.html", context)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponseBase:
        """Shows one run: its figures, and who could not be charged and why."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        run = row_or_404(reports.charging_runs(), object_id)
        failures = reports.page_by_id(run.failures.select_related("user"), cursor_of(request))
        context = page_context(request, self, title=f"{run}", user=None) | {
            "report": RunReport(run, timezone.now()),
            "page": failures,
            "can_view_transactions": request.user.has_perm("billing.view_transaction"),
        }
        return TemplateResponse(request, "billing/run.html", context)
