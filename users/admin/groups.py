"""The pages of groups. A group is a named set of rights; its members are operators."""

from typing import Any, cast

from django import forms
from django.contrib import admin
from django.contrib.auth import admin as auth_admin
from django.contrib.auth.models import Group, Permission
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from unfold.decorators import display
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from users.admin.base import PanelAdmin
from users.authority import may_manage_group, permissions_of
from users.models import User

# Django makes permissions for all models, and for deleting people. The panel has pages only for
# those that IN_THE_PANEL selects and WITHOUT_A_PAGE does not.
IN_THE_PANEL = Q(content_type__app_label__in=("users", "billing")) | Q(
    content_type__app_label="auth", content_type__model="group"
)
WITHOUT_A_PAGE = Q(content_type__app_label="users", codename__startswith="delete_")


class PermissionsField(forms.ModelMultipleChoiceField):  # type: ignore[type-arg]
    def __init__(self, queryset: QuerySet[Permission], **options: Any) -> None:
        shown = queryset.filter(IN_THE_PANEL).exclude(WITHOUT_A_PAGE)
        in_order = shown.select_related("content_type").order_by(
            "content_type__app_label", "content_type__model", "codename"
        )
        super().__init__(in_order, **options)

    def label_from_instance(self, obj: Any) -> str:
        return cast(Permission, obj).name.removeprefix("Can ").capitalize()


admin.site.unregister(Group)

# The declared types of Django's class do not fit Unfold's classes, which have none.
DjangoGroupAdmin: Any = auth_admin.GroupAdmin


class GroupAdmin(DjangoGroupAdmin, PanelAdmin):
    list_display = ["name", "members"]
    fields = ["name", "permissions"]
    filter_horizontal = ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Group]:
        groups: QuerySet[Group] = super().get_queryset(request)
        return groups.annotate(member_count=Count("user", distinct=True))

    def has_change_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        allowed: bool = super().has_change_permission(request, obj)
        return allowed and self._may_manage(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        allowed: bool = super().has_delete_permission(request, obj)
        return allowed and self._may_manage(request, obj)

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "permissions":
            kwargs["form_class"] = PermissionsField
            kwargs["queryset"] = permissions_of(cast(User, request.user))
            kwargs["widget"] = UnfoldAdminCheckboxSelectMultipleWidget()
            kwargs["help_text"] = (
                "What the members of this group may do. You can give only permissions "
                "that you have."
            )
        return super().formfield_for_manytomany(db_field, request=request, **kwargs)

    @display(description="operators", ordering="member_count")
    def members(self, group: Group) -> int:
        return cast(int, group.member_count)  # type: ignore[attr-defined]

    @staticmethod
    def _may_manage(request: HttpRequest, group: Group | None) -> bool:
        return group is None or may_manage_group(cast(User, request.user), group)
