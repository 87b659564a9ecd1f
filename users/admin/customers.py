"""The pages of customers. `billing.admin` adds everything about money."""

from typing import Any

from django.contrib import messages
from django.contrib.admin.options import IS_POPUP_VAR
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from unfold.contrib.filters.admin import ChoicesRadioFilter

from users.admin.people import PeopleAdmin, StatusFilter
from users.models import User

# Alpine's expression for showing a field: it applies to companies, or it has a value, which must
# not be hidden. A page without a form, for viewers, has no variable legal_type and shows all
# fields; so does a page without scripts.
FOR_COMPANIES = "typeof legal_type === 'undefined' || legal_type !== 'individual' || {field}"
OF_COMPANIES = ("legal_name", "iec", "state_reg_num", "okpo_code")


class UserAdmin(PeopleAdmin):
    """The pages of customers. They log in elsewhere, so they get no password and no rights here."""

    page_of_one = "Profile"
    list_display = ["id", "name_and_email", "legal_name", "status", "created"]
    list_display_links = ["id", "name_and_email"]
    list_filter = [StatusFilter, ("legal_type", ChoicesRadioFilter)]
    offered_lookups = frozenset({"legal_type__exact"})
    fieldsets = [
        (
            "Login and name",
            {"fields": [("email", "phone"), ("first_name", "middle_name", "last_name")]},
        ),
        (
            "Legal",
            {
                "fields": [
                    "legal_type",
                    "legal_name",
                    ("tin", "iec"),
                    ("state_reg_num", "okpo_code"),
                ]
            },
        ),
        (
            "Address",
            {
                "fields": [
                    "street_address",
                    ("postal_code", "city"),
                    ("region", "country"),
                ]
            },
        ),
        (
            "Registered address",
            {
                "fields": [
                    "registered_street_address",
                    ("registered_postal_code", "registered_city"),
                    ("registered_region", "registered_country"),
                ],
                "classes": ["collapse"],  # only companies have it, and it is rarely needed
            },
        ),
        ("Settings", {"fields": ["time_zone", "comment", "is_active"]}),
    ]
    conditional_fields = {field: FOR_COMPANIES.format(field=field) for field in OF_COMPANIES}

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        customers: QuerySet[User] = super().get_queryset(request).filter(is_staff=False)
        return customers

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:  # noqa: FBT001 - Django's signature
        if not change:
            obj.set_unusable_password()
        super().save_model(request, obj, form, change)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        # Saving leads to the user's page anyway.
        context |= {"show_save_and_continue": False, "show_save_and_add_another": False}
        response: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return response

    def response_add(
        self, request: HttpRequest, obj: User, post_url_continue: str | None = None
    ) -> HttpResponse:
        return self._to_their_page(request, obj, "created") or super().response_add(
            request, obj, post_url_continue
        )

    def response_change(self, request: HttpRequest, obj: User) -> HttpResponse:
        return self._to_their_page(request, obj, "saved") or super().response_change(request, obj)

    def _to_their_page(
        self, request: HttpRequest, user: User, what_happened: str
    ) -> HttpResponse | None:
        if IS_POPUP_VAR in request.POST or not self.has_view_or_change_permission(request, user):
            return None
        self.message_user(request, format_html("{} was {}.", user, what_happened), messages.SUCCESS)
        return HttpResponseRedirect(reverse("admin:users_user_change", args=[user.pk]))
