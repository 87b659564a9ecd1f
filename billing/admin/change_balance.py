"""The Change balance page."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, cast

from django import forms
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase, QueryDict
from unfold.admin import ModelAdmin

from billing import ledger, operations
from billing.admin.amounts import NumberInput, TypedField
from billing.admin.pages import (
    PanelForm,
    confirmation_key,
    customer_or_404,
    outages_shown_in,
    page_context,
    page_of_form,
)
from billing.admin.reason_choice import ReasonField, last_day, offered, wordings
from billing.admin.transaction_page import redirect_to_posted
from billing.admin.transactions import DayField
from billing.descriptions import DESCRIPTION_MAX_LENGTH, LENGTHS
from billing.errors import (
    BalanceMoved,
    BalanceOutOfRange,
    BillingError,
    ClockBehind,
    IdempotencyConflict,
    InsufficientFunds,
    InvalidDescription,
    InvalidExpiry,
    InvalidPaymentDate,
    ReasonRefused,
    ReasonRequired,
    UnknownReason,
)
from billing.expiry import usual_last_day
from billing.models import Channel, Reason, Transaction
from billing.money import ZERO
from users.models import User

AMOUNT_HINT: Final = "Amount to add (positive) or subtract (negative)."

# Where the page shows a refusal; None: above the form.
FIELDS: Final[Mapping[type[BillingError], str | None]] = {
    ClockBehind: None,
    InvalidDescription: "description",
    InvalidExpiry: "bonus_expires_on",
    InvalidPaymentDate: "payment_date",
    ReasonRefused: "reason",
    ReasonRequired: "reason",
    UnknownReason: "reason",
}


class AmountField(TypedField):
    """A field for a signed amount: +10, −25.50, 1 234.5. Empty is zero."""

    may_be_finer = False

    def __init__(self, **options: Any) -> None:
        super().__init__(
            required=False,
            help_text=AMOUNT_HINT,
            widget=NumberInput({"inputmode": "text"}),  # number keyboards of phones have no minus
            **options,
        )

    def clean(self, value: Any) -> Decimal:
        amount: Decimal | None = super().clean(value)
        return ZERO if amount is None else amount


class ChangeBalanceForm(PanelForm):
    """Changes both balances of `user` in one transaction, in the state that the operator saw.

    `key` identifies this filled-in form, so that it is posted once however often it is sent.
    `expected_number` is the number of the last transaction when the form was shown. Both are
    renewed when the operator has to confirm again.
    """

    reason = ReasonField()
    description = forms.CharField(
        label="Transaction description",
        max_length=DESCRIPTION_MAX_LENGTH,
        help_text=f"{LENGTHS} for the user's history.",
        widget=forms.TextInput({"list": "wordings"}),
    )
    amount = AmountField(label="Balance changes")
    bonus_amount = AmountField(label="Bonus changes")
    bonus_expires_on = DayField(
        label="Bonus expires on",
        help_text="The last day of an added bonus. Empty: it never expires.",
    )
    payment_date = DayField(
        label="Payment date", help_text="The day of the payment, if it was made earlier."
    )
    key = forms.CharField(widget=forms.HiddenInput, max_length=64)
    expected_number = forms.IntegerField(widget=forms.HiddenInput, min_value=0)

    def __init__(self, user: User, actor: User, data: Any = None) -> None:
        self.user = user
        self.actor = actor
        self.seen = ledger.balance(user)
        self.usual_last_day = usual_last_day()
        super().__init__(
            data,
            initial={
                "key": confirmation_key(),
                "expected_number": self.seen.number,
                "bonus_expires_on": self.usual_last_day,
            },
        )

        self.fields["reason"].required = settings.REASON_REQUIRED
        if self.data.get("reason"):
            self.fields["description"].required = False  # the reason has one

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        reason = cleaned.get("reason")
        if reason is None and "reason" not in self.errors:
            reason = operations.reasons.of_wording(cleaned.get("description", ""))
            cleaned["reason"] = reason
        # The usual last day, or that of the reason, is filled in before anybody types an amount. It
        # does not count if no bonus is added. That of the reason counts more than the usual one.
        adds_bonus = cleaned.get("bonus_amount", ZERO) > 0
        own_day = None if reason is None else last_day(reason)
        last = cleaned.get("bonus_expires_on")
        if (not adds_bonus and last in (own_day, self.usual_last_day)) or (
            own_day is not None and last == self.usual_last_day
        ):
            cleaned["bonus_expires_on"] = None
        return cleaned

    def save(self) -> Transaction | None:
        """Posts. Returns the transaction, or None if it was refused; the errors then say why."""
        posted = None
        with outages_shown_in(self):
            posted = self._post()
        return None if self.outage else posted

    def _post(self) -> Transaction | None:
        reason: Reason | None = self.cleaned_data["reason"]
        try:
            return operations.money.change_balance(
                self.user.pk,
                description=self.cleaned_data["description"],
                amount=self.cleaned_data["amount"],
                bonus_amount=self.cleaned_data["bonus_amount"],
                bonus_expires_at=self.cleaned_data["bonus_expires_on"],
                payment_date=self.cleaned_data["payment_date"],
                reason=reason.code if reason else None,
                idempotency_key=f"panel:{self.cleaned_data['key']}",
                expected_number=self.cleaned_data["expected_number"],
                actor=self.actor,
                channel=Channel.PANEL,
            )
        except BalanceMoved as refusal:
            self._ask_again(
                "Nothing was posted: another transaction came in since you opened this page. "
                "The balances above are the new ones; confirm again to post the change. (The "
                f"last transaction is now No. {refusal.data['number']}.)"
            )
        except IdempotencyConflict as refusal:
            self._ask_again(
                f"This form was posted already, as transaction No. {refusal.data['number']}, and "
                "its content is now different. Nothing was posted; confirm again to post it as "
                "another transaction."
            )
        except BillingError as refusal:
            if isinstance(refusal, ReasonRefused) and reason is not None:
                self._show_template(reason)
            self.add_error(self._field_of(refusal), str(refusal))
        return None

    def _show_template(self, reason: Reason) -> None:
        """Fills in the reason's description, if there is none, so that it can be completed."""
        if not self.cleaned_data["description"]:
            self.data = cast(QueryDict, self.data).copy()
            self.data["description"] = reason.template

    def _ask_again(self, message: str) -> None:
        self.seen = ledger.balance(self.user)
        shown_again = cast(QueryDict, self.data).copy()
        shown_again["expected_number"] = str(self.seen.number)
        shown_again["key"] = confirmation_key()
        self.data = shown_again
        self.add_error(None, message)

    @staticmethod
    def _field_of(refusal: BillingError) -> str | None:
        if isinstance(refusal, ReasonRefused) and refusal.data["why"] in ("fields", "comment"):
            return "description"
        if isinstance(refusal, InsufficientFunds | BalanceOutOfRange):
            return "bonus_amount" if refusal.data["balance"] == "bonus" else "amount"
        if type(refusal) in FIELDS:
            return FIELDS[type(refusal)]
        field = str(refusal.data.get("field"))
        return field if field in ("description", "bonus_amount") else "amount"


def change_balance(request: HttpRequest, user_id: int, model_admin: ModelAdmin) -> HttpResponseBase:
    """Shows and posts the form. Then redirects to the tab, which marks the new row."""
    actor = request.user
    if not actor.has_perm("billing.change_balance") or not isinstance(actor, User):
        raise PermissionDenied
    user = customer_or_404(user_id)
    form = ChangeBalanceForm(user, actor, request.POST if request.method == "POST" else None)
    if form.is_valid() and (posted := form.save()):
        return redirect_to_posted(posted)
    context = page_context(request, model_admin, title="Change balance", user=user) | {
        "form": form,
        "balance": form.seen,
        "reasons": offered(),
        "wordings": wordings(),
    }
    return page_of_form(request, "billing/change_balance.html", context, form)
