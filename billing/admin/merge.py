"""The page that marks a user as a duplicate of another."""

from decimal import Decimal
from typing import ClassVar

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from django.utils.timezone import localtime
from unfold.admin import ModelAdmin

from billing import ledger, operations
from billing.admin.confirmation import ConfirmedForm, Effect, advance
from billing.admin.pages import (
    CustomerField,
    customer_or_404,
    page_context,
    page_of_form,
    utc_today,
)
from billing.descriptions import DESCRIPTION_MAX_LENGTH, LENGTHS
from billing.errors import (
    BillingError,
    DuplicateUser,
    ForgottenUser,
    InvalidDescription,
    KeptUserDeactivated,
    OwnDuplicate,
    UnknownUser,
)
from billing.models import Channel
from billing.money import decimals_for, format_money
from billing.operations.duplicates import Merged
from billing.plans.handover import amounts
from users.models import User


class MergeForm(ConfirmedForm):
    """Marks the user as a duplicate of another one, named by ID or e-mail address."""

    into = CustomerField(
        label="User to keep",
        help_text="The ID or the e-mail address of the account that the person goes on with.",
    )
    description = forms.CharField(
        label="Transaction description",
        required=False,
        max_length=DESCRIPTION_MAX_LENGTH,
        help_text=f"{LENGTHS}. Empty: the transactions say which user the money goes to.",
    )

    fields_of_refusals: ClassVar[dict[type[BillingError], str]] = {
        UnknownUser: "into",
        OwnDuplicate: "into",
        DuplicateUser: "into",
        ForgottenUser: "into",
        KeptUserDeactivated: "into",
        InvalidDescription: "description",
    }

    def perform(self) -> Effect:
        merged = operations.duplicates.merge(
            self.user.pk,
            self.cleaned_data["into"].pk,
            description=self.cleaned_data["description"],
            day=utc_today(),
            actor=self.actor,
            channel=Channel.PANEL,
        )
        return Effect(merged.posted, _facts(merged), merged.sentence)


def _facts(merged: Merged) -> list[tuple[str, str]]:
    """Returns what the preview says beside the transactions."""
    facts = []
    for label, user in (("Duplicate", merged.user), ("User who is kept", merged.kept)):
        before, after = merged.before[user.pk], merged.after[user.pk]
        facts += [
            (label, f"{user} ({user.email}), No. {user.pk}"),
            (
                f"Balance of No. {user.pk}",
                f"{_change(before.real, after.real)}, bonus {_change(before.bonus, after.bonus)}",
            ),
        ]
    gifts = [row.given for row in merged.moved if row.given.bonus_amount]
    decimals = decimals_for(*(row.bonus_amount for row in gifts))
    for row in gifts:
        until = row.bonus_expires_at
        expires = f"expires {localtime(until):%Y-%m-%d %H:%M}" if until else "never expires"
        facts.append(("Gift", f"{format_money(row.bonus_amount, decimals=decimals)}, {expires}"))
    for each in merged.subscriptions:
        paid_back, _ = amounts(each)
        what = (
            "goes on with the user who is kept"
            if each.continued
            else f"ends, {format_money(Decimal(paid_back))} paid back"
        )
        facts.append(("Subscription", f"{each.before} {what}"))
    return facts


def _change(before: Decimal, after: Decimal) -> str:
    return f"{format_money(before)} → {format_money(after)}"


def merge_page(request: HttpRequest, user_id: int, model_admin: ModelAdmin) -> HttpResponseBase:
    """Shows the form and the preview, and merges. Then redirects to the user who is kept."""
    actor = request.user
    if not actor.has_perm("users.merge_user") or not isinstance(actor, User):
        raise PermissionDenied
    user = customer_or_404(user_id)
    own_page = reverse("admin:users_user_change", args=[user.pk])
    if user.is_closed:
        return HttpResponseRedirect(own_page)  # says of whom it is a duplicate
    form = MergeForm(user, actor, request.POST if request.method == "POST" else None)
    step = advance(form)
    if step.done is not None:
        messages.success(request, step.done.sentence)
        kept = form.cleaned_data["into"]
        return HttpResponseRedirect(reverse("admin:users_user_change", args=[kept.pk]))
    context = page_context(request, model_admin, title="Mark as duplicate", user=user) | {
        "form": form,
        "step": step,
        "back": own_page,
        "balance": ledger.balance(user),
    }
    return page_of_form(request, "billing/merge.html", context, form)
