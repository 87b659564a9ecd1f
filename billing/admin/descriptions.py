"""The list of standard descriptions, which the Change balance page suggests."""

from typing import Any, cast

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from billing import operations
from billing.admin.history import WithHistory
from billing.models import Channel, StandardDescription, Subject
from users.models import User


class PositionForm(forms.ModelForm):  # type: ignore[type-arg]
    """The form of a row in the list; its label contains the description."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["position"].widget.attrs["aria-label"] = f"Position of “{self.instance.text}”"


@admin.register(StandardDescription)
class StandardDescriptionAdmin(WithHistory):
    history_subject = Subject.DESCRIPTION
    list_display = ["text", "position"]
    list_editable = ["position"]
    search_fields = ["text"]
    fields = ["text", "position"]
    show_full_result_count = False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:  # noqa: FBT001 - Django's signature
        operations.configuration.save(obj, actor=cast(User, request.user), channel=Channel.PANEL)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        operations.configuration.delete(obj, actor=cast(User, request.user), channel=Channel.PANEL)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for row in queryset:
            self.delete_model(request, row)

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> Any:
        return super().get_changelist_form(request, **kwargs | {"form": PositionForm})

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return False  # there are no filters; a URL cannot add a lookup
