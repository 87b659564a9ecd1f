"""The page that moves a payment to the right user."""

from typing import Any, ClassVar

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from unfold.admin import ModelAdmin

from billing import ledger, operations
from billing.admin.confirmation import ConfirmedForm, Effect, advance
from billing.admin.pages import CustomerField, page_context, page_of_form
from billing.descriptions import DESCRIPTION_MAX_LENGTH, LENGTHS
from billing.errors import BillingError, InvalidDescription, SameUser, UnknownUser
from billing.models import Channel, Transaction
from users.models import User


class MoveForm(ConfirmedForm):
    """Moves what is left of a payment to another user, named by ID or e-mail address."""

    to_user = CustomerField(label="Right user")
    description = forms.CharField(
        label="Transaction description",
        max_length=DESCRIPTION_MAX_LENGTH,
        help_text=f"{LENGTHS}: why it is taken back. The right user gets the original description.",
    )

    fields_of_refusals: ClassVar[dict[type[BillingError], str]] = {
        UnknownUser: "to_user",
        SameUser: "to_user",
        InvalidDescription: "description",
    }

    def __init__(self, row: Transaction, actor: User, data: Any = None) -> None:
        self.row = row
        super().__init__(row.user, actor, data)

    def perform(self) -> Effect:
        right = self.cleaned_data["to_user"]
        moved = operations.money.move(
            self.row.user_id,
            number=self.row.number,
            to_user_id=right.pk,
            description=self.cleaned_data["description"],
            actor=self.actor,
            channel=Channel.PANEL,
        )
        facts = [
            ("From", f"{self.user} ({self.user.email}), ID {self.user.pk}"),
            ("To", f"{right} ({right.email}), ID {right.pk}"),
        ]
        return Effect([moved.reversal, moved.payment], facts, moved.payment.description)


def move_page(request: HttpRequest, model_admin: ModelAdmin, row: Transaction) -> HttpResponseBase:
    """Shows the form and the preview, and moves. Then redirects to the right user's tab."""
    actor = request.user
    if not actor.has_perm("billing.change_balance") or not isinstance(actor, User):
        raise PermissionDenied
    form = MoveForm(row, actor, request.POST if request.method == "POST" else None)
    step = advance(form)
    if step.done is not None:
        payment = step.done.posted[1]
        address = reverse("admin:users_user_transactions", args=[payment.user_id])
        return HttpResponseRedirect(f"{address}?posted={payment.number}")
    left = ledger.left_of(row)
    title = f"Move transaction {row.number}"
    context = page_context(request, model_admin, title=title, user=row.user) | {
        "form": form,
        "step": step,
        "transaction": row,
        "left": left,
        "can_move": ledger.is_movable(row),
    }
    return page_of_form(request, "billing/move.html", context, form)
