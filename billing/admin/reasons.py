"""The pages of reasons, and how a page offers them."""

from datetime import date
from typing import Any, NamedTuple

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from unfold.decorators import display

from billing.admin.configuration import ConfigurationAdmin
from billing.expiry import days_from_today
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


class Offered(NamedTuple):
    """A reason as a page offers it; `last_day` is that of a bonus given today."""

    reason: Reason
    last_day: date | None

    @property
    def what(self) -> str:
        """What the reason allows, beside its label: "adds, real balance"."""
        terms = []
        if self.reason.direction != Reason.Direction.BOTH:
            terms.append(self.reason.get_direction_display().lower())
        if self.reason.balances != Reason.Balances.BOTH:
            terms.append(f"{self.reason.get_balances_display().lower()} balance")
        return ", ".join(terms)


def offered() -> list[Offered]:
    """Returns the reasons that can be chosen, in their order."""
    return [Offered(each, last_day(each)) for each in Reason.objects.filter(is_active=True)]


def last_day(reason: Reason) -> date | None:
    """Returns the last day of a bonus that is given today for this reason; None: it has none."""
    return days_from_today(reason.bonus_days) if reason.bonus_days else None


def wordings() -> list[str]:
    """Returns the templates of reasons that can be used as they are."""
    reasons = Reason.objects.filter(is_active=True, is_comment_required=False)
    return [reason.template for reason in reasons if not reason.fields]


class ReasonField(forms.CharField):
    """A field for a reason, by its label or code; the browser offers labels as one types.

    Its value is the reason, or None.
    """

    def __init__(self) -> None:
        super().__init__(
            required=False,
            max_length=100,
            help_text="Type a part of it; its description is filled in.",
            widget=forms.TextInput({"list": "reasons"}),
        )

    def clean(self, value: Any) -> Reason | None:
        typed = super().clean(value).strip()
        if not typed:
            return None
        active = Reason.objects.filter(is_active=True)
        found = active.filter(label__iexact=typed).first() or active.filter(code=typed).first()
        if found is None:
            raise forms.ValidationError(f"There is no reason “{typed}”. Choose one from the list.")
        return found
