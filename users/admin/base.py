"""The base of all admin classes of the panel."""

from typing import Any

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import SEARCH_VAR
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.text import capfirst
from unfold.admin import ModelAdmin

from users.models import User
from users.search import in_texts


def titled(subject: Model, page: str) -> str:
    """Returns the title of a page about `subject`: the name of the subject, then that of the page.

    The subject comes first because the tab of a browser shows only the beginning. A person's name
    is the login, which is unique.
    """
    name = subject.email if isinstance(subject, User) else str(subject)
    return name if name == page else f"{name} · {page}"


class PanelAdmin(ModelAdmin):
    """Unfold's admin, with the panel's titles, and without errors for odd query strings."""

    page_of_one = ""  # the name of the page of one row, for its title; if empty, the model's name

    # `billing.operations` records what was done; Django's own log is not used.

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        return None

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        return None

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        return None

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any:
        """Returns the row. An empty `?_to_field=` is ignored; Django would look for a field ""."""
        return super().get_object(request, object_id, from_field or None)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Returns the rows that contain all words, folded as in the search for people."""
        return in_texts(queryset, search_term, *self.get_search_fields(request)), False

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Returns the list, after removing empty parameters of the address.

        A filter's form sends its empty fields too, and Django would look for rows with an empty
        value. The database takes no NUL, so filters with one are refused as incorrect; in the
        search, the form says so.
        """
        asked_for = request.GET.copy()
        for name, given in request.GET.lists():
            asked_for.setlist(name, [each for each in given if each])
            if not asked_for.getlist(name):
                del asked_for[name]
        request.GET = asked_for  # type: ignore[assignment]
        values = [
            each for name, given in request.GET.lists() if name != SEARCH_VAR for each in given
        ]
        if any("\0" in each for each in values):
            raise IncorrectLookupParameters
        return super().get_changelist_instance(request)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        title = {"title": capfirst(str(self.opts.verbose_name_plural))}
        response: HttpResponseBase = super().changelist_view(request, title | (extra_context or {}))
        return response

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        if (obj := kwargs.get("obj")) is not None:
            context["title"] = titled(
                obj, self.page_of_one or capfirst(str(self.opts.verbose_name))
            )
        response: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return response

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        response: HttpResponse = super().history_view(request, object_id, extra_context)
        return _retitled(response, "History")

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> Any:
        response: HttpResponseBase = super().delete_view(request, object_id, extra_context)
        return _retitled(response, "Delete")


def _retitled[Response: HttpResponseBase](response: Response, page: str) -> Response:
    """Sets the title of a page that Django has prepared and not yet rendered."""
    context = getattr(response, "context_data", None)
    if context and context.get("object") is not None:
        context["title"] = titled(context["object"], page)
    return response
