"""The base of the pages of customers and of operators."""

from collections.abc import Sequence
from typing import Any

from django.contrib import messages
from django.contrib.admin import ShowFacets
from django.contrib.admin.options import IncorrectLookupParameters
from django.db import IntegrityError, connection
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.timezone import localtime
from unfold.contrib.filters.admin import RadioFilter
from unfold.decorators import display
from unfold.views import ChangeList

from users import database
from users.admin.base import PanelAdmin
from users.forms import PersonForm
from users.models import User
from users.search import search


class StatusFilter(RadioFilter):
    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("active", "Active"), ("inactive", "Inactive")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> QuerySet[User]:
        if self.value() in ("active", "inactive"):
            return queryset.filter(is_active=self.value() == "active")
        return queryset


class PeopleList(ChangeList):
    has_mistake = False  # True if a filter could not be read: then nothing is listed or counted

    def get_filters(self, request: HttpRequest) -> Any:
        specs, *others, has_active_filters = super().get_filters(request)
        self.has_mistake = any(getattr(each, "has_mistake", False) for each in specs)
        return specs, *others, has_active_filters and not self.has_mistake

    def get_results(self, request: HttpRequest) -> None:
        try:
            super().get_results(request)
        except IncorrectLookupParameters:
            # A filter keeps the page number in the address, and may leave fewer pages than that.
            self.page_num = 1
            super().get_results(request)


class PeopleAdmin(PanelAdmin):
    """The pages of people, who are deactivated and never deleted: history refers to them."""

    form = PersonForm
    change_form_before_template = "users/seen.html"
    ordering = ["-created_at", "-pk"]
    show_full_result_count = False
    show_facets = ShowFacets.NEVER  # counting each choice would read the whole table each time
    search_fields = ["search_text"]  # has Django show the search field; `search` does the search
    search_help_text = "ID, name, e-mail, phone, TIN or address"
    list_per_page = 50
    list_max_show_all = 0  # no "Show all": there may be a hundred thousand
    list_filter_submit = True
    list_fullwidth = True
    list_after_template = "billing/_time_zone.html"
    actions = ["activate", "deactivate"]
    offered_lookups: frozenset[str] = frozenset()

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return False

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any:
        """Returns the person, locked while a form is saved, so that nobody else changes them."""
        person = super().get_object(request, object_id, from_field)
        if person is not None and request.method == "POST" and connection.in_atomic_block:
            return database.lock_row(self.model._default_manager.filter(pk=person.pk), person.pk)
        return person

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            response: HttpResponse = super().changeform_view(request, *args, **kwargs)
        except IntegrityError:
            # Two operators entered the same e-mail address at once, or one of them clicked twice.
            # Trying again gives the second one the form's own message.
            response = super().changeform_view(request, *args, **kwargs)
        return response

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Allows the lookups that the filters offer, and no others on columns.

        With others, one could find out values that the page does not show.
        """
        if lookup in self.offered_lookups:
            return True
        columns = {field.name for field in self.opts.get_fields()}
        return lookup.split("__", maxsplit=1)[0] not in columns

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[PeopleList]:
        return PeopleList

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name == "comment" and field is not None:
            field.widget.attrs["rows"] = 4
        return field

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[User], search_term: str
    ) -> tuple[QuerySet[User], bool]:
        return search(queryset, search_term), False

    @display(description="name", header=True, ordering="last_name")
    def name_and_email(self, user: User) -> list[str]:
        return [user.person_name or user.legal_name or user.email, user.email]

    @display(
        description="status",
        ordering="is_active",
        label={"Active": "success", "Inactive": "danger"},
    )
    def status(self, user: User) -> str:
        return "Active" if user.is_active else "Inactive"

    @display(description="created", ordering="created_at")
    def created(self, user: User) -> str:
        return localtime(user.created_at).date().isoformat()

    def activate(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        self._set_active(request, queryset, active=True)

    activate.short_description = "Activate"  # type: ignore[attr-defined]
    activate.allowed_permissions = ("change",)  # type: ignore[attr-defined]

    def deactivate(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        self._set_active(request, queryset, active=False)

    deactivate.short_description = "Deactivate"  # type: ignore[attr-defined]
    deactivate.allowed_permissions = ("change",)  # type: ignore[attr-defined]

    def changeable(self, request: HttpRequest, queryset: QuerySet[User]) -> QuerySet[User]:
        """Returns the people of `queryset` whom the operator may activate and deactivate."""
        return queryset

    def set_active(self, request: HttpRequest, ids: Sequence[int], *, active: bool) -> int:
        """Activates or deactivates these people. Returns the number that changed.

        `billing.admin` implements it.
        """
        raise NotImplementedError

    def _set_active(self, request: HttpRequest, queryset: QuerySet[User], *, active: bool) -> None:
        done = "Activated" if active else "Deactivated"
        ids = list(self.changeable(request, queryset).order_by().values_list("pk", flat=True))
        count = self.set_active(request, ids, active=active)
        skipped = queryset.count() - count
        message = f"{done}: {count}."
        if skipped:
            message += f" Left unchanged: {skipped}."
        self.message_user(request, message, messages.SUCCESS if count else messages.WARNING)
