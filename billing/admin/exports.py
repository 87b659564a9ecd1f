"""Transactions as files, and the page of the workbooks that workers write."""

from collections.abc import Iterator
from datetime import timedelta
from tempfile import TemporaryFile
from typing import Any, Final, NamedTuple, cast

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import (
    FileResponse,
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from unfold.admin import ModelAdmin

from billing import heartbeat, operations, reports
from billing.admin.pages import PanelForm, ReadOnlyAdmin, page_context, row_or_404
from billing.files import exports as files
from billing.models import Export
from billing.operations.exports import OWN_MAX, TOO_MANY_ROWS, TooManyExports
from users.models import User

# Up to so many transactions, a workbook takes about a second: nobody has to wait for a worker.
AT_ONCE_ROWS: Final = 10_000
COUNTING_MAX_SECONDS: Final = 15
XLSX_TYPE: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


def export_response(
    request: HttpRequest,
    model_admin: ModelAdmin,
    listing: reports.Listing,
    *,
    user: User | None,
    form: PanelForm,
) -> HttpResponseBase:
    """Returns the file, or lets a worker write it if it is a large workbook.

    A GET changes nothing: if the workbook is large, it returns a page that asks.
    """
    name = f"transactions-user-{user.pk}" if user else "transactions"
    name += f"-{timezone.localdate().isoformat()}"
    if request.GET["export"] == "csv":
        return _csv(listing, f"{name}.csv")
    total = _count(listing)
    if total is not None and total <= AT_ONCE_ROWS:
        return _xlsx(listing, f"{name}.xlsx")
    if total is not None and total > files.XLSX_MAX_ROWS:
        return _refusal()
    if request.method != "POST":
        context = page_context(request, model_admin, title="Export", user=user) | {"total": total}
        return TemplateResponse(request, "billing/export_ask.html", context)
    here = reverse("admin:billing_export_changelist")
    try:
        operations.exports.request(
            listing,
            operator=cast(User, request.user),
            title=_title(form, user),
            file_name=f"{name}.xlsx",
            total=total,
            now=timezone.now(),
        )
    except TooManyExports:
        sentence = f"No file was begun: you have {OWN_MAX} already. Remove one of them first."
        messages.error(request, sentence)
    return HttpResponseRedirect(here)


def _csv(listing: reports.Listing, name: str) -> HttpResponseBase:
    zone = timezone.get_current_timezone()

    def pieces() -> Iterator[bytes]:
        # The response is streamed after the middleware has reset the time zone.
        with timezone.override(zone):
            yield from files.csv_pieces(listing)

    response = StreamingHttpResponse(pieces(), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["Content-Encoding"] = "identity"  # compression would delay pieces
    return response


def _xlsx(listing: reports.Listing, name: str) -> HttpResponseBase:
    workbook = TemporaryFile()  # noqa: SIM115 - the response closes it
    try:
        files.write_xlsx(listing, workbook)
    except files.TooManyRows:
        workbook.close()
        return _refusal()
    workbook.seek(0)
    return FileResponse(workbook, as_attachment=True, filename=name)


def _refusal() -> HttpResponse:
    return HttpResponse(TOO_MANY_ROWS, status=400, content_type="text/plain; charset=utf-8")


def _count(listing: reports.Listing) -> int | None:
    """Returns how many transactions there are, or that there are too many; None if that is slow."""
    try:
        with reports.time_limit(COUNTING_MAX_SECONDS):
            return reports.count(listing, at_most=files.XLSX_MAX_ROWS + 1)
    except reports.TooSlow:
        return None


def _title(form: PanelForm, user: User | None) -> str:
    """Returns which transactions the filters leave, in words."""
    chosen = [f"{user}" if user else "All users"]
    for name, field in form.fields.items():
        value = form.cleaned_data.get(name)
        if not value:
            continue
        if isinstance(field.widget, forms.Select):
            value = {str(key): shown for key, shown in field.widget.choices}.get(str(value), value)
        label = field.label or name.capitalize()
        chosen.append(f"{label}: {value}")
    return "; ".join(chosen)


# --- The page -----------------------------------------------------------------------------------


class Row(NamedTuple):
    """An export as the page shows it."""

    export: Export
    left: timedelta | None

    @property
    def percent(self) -> int:
        """How much is done, of 100."""
        total = self.export.total
        return min(100, 100 * self.export.done // total) if total else 0


@admin.register(Export)
class ExportAdmin(ReadOnlyAdmin):
    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm(operations.exports.PERMISSION)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("<path:export_id>/file/", view(self.file_view), name="billing_export_file"),
            path("<path:export_id>/again/", view(self.again_view), name="billing_export_again"),
            path("<path:export_id>/remove/", view(self.remove_view), name="billing_export_remove"),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        if not self.has_view_permission(request):
            raise PermissionDenied
        now = timezone.now()
        rows = [Row(each, each.left(now)) for each in self._own(request)]
        is_waited_for = any(row.export.is_under_way for row in rows)
        context = page_context(request, self, title="Exports", user=None) | {
            "rows": rows,
            "kept_hours": Export.KEPT_FOR // timedelta(hours=1),
            "no_worker": is_waited_for and _no_worker(),
        }
        return TemplateResponse(request, "billing/exports.html", context)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponseBase:
        raise Http404("An export has no page of its own.")

    def file_view(self, request: HttpRequest, export_id: str) -> HttpResponseBase:
        export = self._find(request, export_id)
        if not export.is_finished:
            raise Http404("There is no file.")
        response = StreamingHttpResponse(operations.exports.content(export), content_type=XLSX_TYPE)
        response["Content-Disposition"] = f'attachment; filename="{export.file_name}"'
        # A client that gets fewer bytes knows that something is missing.
        response["Content-Length"] = str(export.size)
        response["Content-Encoding"] = "identity"
        return response

    def again_view(self, request: HttpRequest, export_id: str) -> HttpResponseBase:
        export = self._find(request, export_id)
        if request.method == "POST":
            operations.exports.try_again(export, timezone.now())
        return HttpResponseRedirect(reverse("admin:billing_export_changelist"))

    def remove_view(self, request: HttpRequest, export_id: str) -> HttpResponseBase:
        export = self._find(request, export_id)
        if request.method == "POST":
            operations.exports.remove(export)
            self.message_user(request, f"{export.file_name} was removed.", messages.SUCCESS)
        return HttpResponseRedirect(reverse("admin:billing_export_changelist"))

    def _own(self, request: HttpRequest) -> QuerySet[Export]:
        return operations.exports.own(cast(User, request.user), timezone.now())

    def _find(self, request: HttpRequest, export_id: str) -> Export:
        """Returns one of the operator's own exports. Those of others do not exist for them."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return row_or_404(self._own(request), export_id)


def _no_worker() -> bool:
    """Returns whether no worker has done anything for long, so that nothing will be written."""
    age = heartbeat.age()
    return age is None or age > heartbeat.SILENT_AFTER
