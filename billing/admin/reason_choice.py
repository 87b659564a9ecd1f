"""How pages offer the reasons of balance changes."""

from datetime import date
from typing import Any, NamedTuple

from django import forms

from billing.expiry import days_from_today
from billing.models import Reason


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
