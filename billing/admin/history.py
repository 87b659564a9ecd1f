"""The History tab: who did what and when, latest first."""

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.text import capfirst

from billing import reports
from billing.admin.pages import page_context
from billing.models import Subject
from billing.reports import Before
from users.admin.base import PanelAdmin, titled
from users.ids import id_in


class WithHistory(PanelAdmin):
    """A Django admin whose History tab shows events instead of Django's log entries."""

    history_subject: Subject

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        row = self.get_object(request, object_id) if id_in(object_id) is not None else None
        if row is None:
            raise Http404
        if not self.has_view_or_change_permission(request, row):
            raise PermissionDenied
        is_user = self.history_subject == Subject.USER
        sees_money = is_user and request.user.has_perm("billing.view_transaction")
        page = reports.history_of(
            self.history_subject, row.pk, _before(request), with_money=sees_money
        )
        context = page_context(request, self, title="History", user=row if is_user else None) | {
            "title": titled(row, "History"),
            "original": row,
            "object": row,
            "page": page,
            "is_first": not {"event", "transaction"} & set(request.GET),
            "leaves_out_money": is_user and not sees_money,
            "transactions": reverse("admin:users_user_transactions", args=[row.pk])
            if sees_money
            else "",
            "module_name": capfirst(str(self.opts.verbose_name_plural)),
        }
        return TemplateResponse(request, "admin/object_history.html", context)


def _before(request: HttpRequest) -> Before:
    """Returns the place where the page begins, from its URL; ignores invalid values."""
    return Before(id_in(request.GET.get("event", "")), id_in(request.GET.get("transaction", "")))
