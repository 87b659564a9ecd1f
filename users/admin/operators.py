"""The operators of the panel: who works here, and what they may do."""

from typing import Any

from django.contrib.admin.widgets import RelatedFieldWidgetWrapper
from django.contrib.auth import admin as auth_admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.timezone import localtime
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from users.admin.base import titled
from users.admin.groups import PermissionsField
from users.admin.people import PeopleAdmin, StatusFilter
from users.authority import groups_given_by, may_manage_operator, permissions_of
from users.forms import NewOperatorForm, PersonForm
from users.ids import id_in
from users.models import User

ONLY_SUPERUSERS_GIVE = ("is_superuser", "user_permissions")
# Operators can neither lock themselves out nor give themselves rights.
NOT_ABOUT_ONESELF = ("is_active", "groups", *ONLY_SUPERUSERS_GIVE)

# The declared types of Django's class do not fit Unfold's classes, which have none.
DjangoUserAdmin: Any = auth_admin.UserAdmin


class OperatorAdmin(PeopleAdmin, DjangoUserAdmin):
    form = PersonForm
    add_form = NewOperatorForm
    add_form_template = None
    change_password_form = AdminPasswordChangeForm
    list_display = ["id", "name_and_email", "in_groups", "status", "last_seen", "created"]
    list_display_links = ["id", "name_and_email"]
    list_filter = [StatusFilter]
    search_help_text = "ID, name, e-mail or phone"
    ordering = ["email"]
    filter_horizontal = ()
    readonly_fields = ["password_state", "last_seen"]
    fieldsets = [
        ("Login", {"fields": ["email", "password_state", "last_seen"]}),
        ("Name", {"fields": [("first_name", "middle_name", "last_name"), "phone"]}),
        ("Rights", {"fields": ["groups", "is_superuser", "user_permissions"]}),
        ("Settings", {"fields": ["time_zone", "comment", "is_active"]}),
    ]
    add_fieldsets = [
        ("Login", {"fields": ["email", "password1", "password2"]}),
        ("Name", {"fields": [("first_name", "last_name"), "phone"]}),
        ("Rights", {"fields": ["groups"]}),
        ("Settings", {"fields": ["time_zone", "comment"]}),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        operators: QuerySet[User] = super().get_queryset(request).filter(is_staff=True)
        return operators.prefetch_related("groups")

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        allowed: bool = super().has_change_permission(request, obj)
        return allowed and (obj is None or may_manage_operator(_actor(request), obj))

    def get_fieldsets(self, request: HttpRequest, obj: User | None = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        if _actor(request).is_superuser:
            return fieldsets
        return [
            (
                name,
                options
                | {"fields": [f for f in options["fields"] if f not in ONLY_SUPERUSERS_GIVE]},
            )
            for name, options in fieldsets
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> list[str]:
        fields = list(super().get_readonly_fields(request, obj))
        if obj is not None and obj.pk == request.user.pk:
            fields += NOT_ABOUT_ONESELF
        return fields

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "groups":
            kwargs["queryset"] = groups_given_by(_actor(request)).order_by("name")
            kwargs["widget"] = UnfoldAdminCheckboxSelectMultipleWidget()
            kwargs["help_text"] = "The operator has the permissions of all these groups together."
        elif db_field.name == "user_permissions":
            kwargs["form_class"] = PermissionsField
            kwargs["queryset"] = permissions_of(_actor(request))
            kwargs["widget"] = UnfoldAdminCheckboxSelectMultipleWidget()
            kwargs["help_text"] = "Permissions in addition to those of the groups."
        return super().formfield_for_manytomany(db_field, request, **kwargs)

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name == "comment":
            field.help_text = "For people who manage operators."
        if isinstance(field.widget, RelatedFieldWidgetWrapper):
            field.widget = field.widget.widget  # groups are made on their own page
        return field

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:  # noqa: FBT001 - Django's signature
        obj.is_staff = True
        super().save_model(request, obj, form, change)

    def changeable(self, request: HttpRequest, queryset: QuerySet[User]) -> QuerySet[User]:
        actor = _actor(request)
        allowed = [
            operator.pk
            for operator in queryset
            if operator.pk != actor.pk and may_manage_operator(actor, operator)
        ]
        return queryset.filter(pk__in=allowed)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> Any:  # noqa: A002 - Django's
        # For one's own password, the other page asks for the old one: somebody else may be sitting
        # at an unattended browser.
        if id_in(id) == request.user.pk:
            return HttpResponseRedirect(reverse("admin:password_change"))
        response = super().user_change_password(request, id, form_url)
        if isinstance(response, TemplateResponse) and response.context_data:
            original = response.context_data["original"]
            response.context_data["title"] = titled(original, "Change password")
        return response

    @display(description="groups")
    def in_groups(self, operator: User) -> str:
        names = sorted(group.name for group in operator.groups.all())
        if operator.is_superuser:
            names.insert(0, "Superuser")
        return ", ".join(names)

    @display(description="last login", ordering="last_login", empty_value="Never")
    def last_seen(self, operator: User) -> str | None:
        if operator.last_login is None:
            return None
        return date_format(localtime(operator.last_login), "Y-m-d H:i")

    @display(description="password")
    def password_state(self, operator: User) -> str:
        state = "Set" if operator.has_usable_password() else "None: cannot log in"
        link = reverse("admin:auth_user_password_change", args=[operator.pk])
        return format_html(
            '{} · <a class="text-primary-600 dark:text-primary-500 underline" href="{}">'
            "Set a new password</a>",
            state,
            link,
        )


def _actor(request: HttpRequest) -> User:
    """Returns the operator who asks. Django's admin lets nobody in who is not logged in."""
    assert isinstance(request.user, User)  # noqa: S101 - for the type checker
    return request.user
