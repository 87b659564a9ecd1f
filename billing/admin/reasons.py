"""The pages of reasons."""

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from unfold.decorators import display

from billing.admin.configuration import ConfigurationAdmin
from billing.models import Reason, Subject, Transaction


class PositionForm(forms.ModelForm):  # type: ignore[type-arg]
    """The form of a row in the list; its label contains the reason."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["position"].widget.attrs["aria-label"] = f"Position of “{self.instance.label}”"


@admin.register(Reason)
class ReasonAdmin(ConfigurationAdmin):
    history_subject = Subject.REASON
    list_display = [
        "label",
        "reason_code",
        "template",
        "direction",
        "balances",
        "state",
        "position",
    ]
    list_editable = ["position"]
    search_fields = ["label", "code", "template"]
    fields = [
        *("label", "code", "template", "direction", "balances"),
        *("bonus_days", "is_comment_required", "is_active", "position"),
    ]

    def get_readonly_fields(self, request: HttpRequest, obj: Reason | None = None) -> list[str]:
        return ["code"] if obj else []

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> Any:
        return super().get_changelist_form(request, **kwargs | {"form": PositionForm})

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return False  # there are no filters; a URL cannot add a lookup

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        obj = kwargs.get("obj")
        if obj and (why := self.why_kept(obj)):
            context |= {"show_delete": False, "notes": [why]}
        return super().render_change_form(request, context, *args, **kwargs)

    def why_kept(self, obj: Reason) -> str | None:
        if not Transaction.objects.filter(reason=obj).exists():
            return None
        return (
            f"Transactions have the reason “{obj}”, so it cannot be deleted. Clear “Active” to "
            "retire it: then it is no longer offered or accepted."
        )

    @display(description="code", ordering="code")
    def reason_code(self, reason: Reason) -> str:
        return reason.code

    @display(
        description="status",
        ordering="is_active",
        label={"Active": "success", "Retired": "warning"},
    )
    def state(self, reason: Reason) -> str:
        return "Active" if reason.is_active else "Retired"
