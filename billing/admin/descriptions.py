"""The standard descriptions that the Change balance page offers."""

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest

from billing.models import StandardDescription
from users.admin.histories import AdminWithHistory


class PositionForm(forms.ModelForm):  # type: ignore[type-arg]
    """A row of the list, whose field is told from the others' by its name."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["position"].widget.attrs["aria-label"] = f"Position of “{self.instance.text}”"


@admin.register(StandardDescription)
class StandardDescriptionAdmin(AdminWithHistory):
    list_display = ["text", "position"]
    list_editable = ["position"]
    search_fields = ["text"]
    fields = ["text", "position"]
    show_full_result_count = False

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> Any:
        return super().get_changelist_form(request, **kwargs | {"form": PositionForm})

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return False  # there is no filter; an address cannot bring a pattern of its own
