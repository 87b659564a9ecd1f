"""What all of the panel's admin classes have in common."""

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
    """The title of a page about something: first what it is about, then what the page is.

    Of the many tabs of a browser, each shows the beginning of its title. People are named by their
    login, which no two of them share.
    """
    name = subject.email if isinstance(subject, User) else str(subject)
    return name if name == page else f"{name} · {page}"


class PanelAdmin(ModelAdmin):
    """Django's, with the panel's titles, and without what an odd address makes fail in it."""

    page_of_one = ""  # what the page of one row is; if empty, the row's kind

    # What is done is recorded where it is done, by `billing.operations`; not by Django's admin.

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        return None

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        return None

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        return None

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any:
        """The row. `?_to_field=` names no field: Django would look for one called ""."""
        return super().get_object(request, object_id, from_field or None)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """The rows in which all words are found, compared as the words of people are."""
        return in_texts(queryset, search_term, *self.get_search_fields(request)), False

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """The list. What a filter's form leaves empty is not asked for: Django would look for rows
        in which it is empty. The database takes no NUL, with which nothing can be found anyway; in
        the search, its form says so.
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
    """A page of Django's that has read the row itself, and is not rendered yet."""
    context = getattr(response, "context_data", None)
    if context and context.get("object") is not None:
        context["title"] = titled(context["object"], page)
    return response
