"""The Redeem voucher page: shows what a code gives, then gives it."""

from collections.abc import Iterator
from typing import ClassVar, Final

from django import forms
from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from unfold.admin import ModelAdmin

from billing import ledger, operations
from billing.admin.confirmation import ConfirmedForm, Effect, advance
from billing.admin.gift import last_day_of
from billing.admin.pages import customer_or_404, page_context, page_of_form
from billing.admin.subscription_forms import plan_in_words
from billing.admin.transaction_page import redirect_to_posted
from billing.errors import (
    BillingError,
    UnknownVoucher,
    VoucherExpired,
    VoucherRedeemed,
    VoucherUsedUp,
)
from billing.models import Channel
from billing.money import format_money
from billing.operations.vouchers import Redeemed
from users.models import User

LONGEST_TYPED: Final = 40  # with spaces and hyphens


class RedeemForm(ConfirmedForm):
    """Redeems a voucher for `user`."""

    code = forms.CharField(
        max_length=LONGEST_TYPED,
        help_text="As the user has it: small letters, spaces and hyphens do not matter.",
        widget=forms.TextInput({"autocapitalize": "characters", "spellcheck": "false"}),
    )

    fields_of_refusals: ClassVar[dict[type[BillingError], str]] = {
        UnknownVoucher: "code",
        VoucherExpired: "code",
        VoucherUsedUp: "code",
        VoucherRedeemed: "code",
    }
    done_before = (VoucherRedeemed,)
    gives_plan = False  # set when it is performed

    def perform(self) -> Effect:
        redeemed = operations.vouchers.redeem(
            self.user.pk,
            self.cleaned_data["code"],
            now=timezone.now(),
            actor=self.actor,
            channel=Channel.PANEL,
        )
        self.gives_plan = redeemed.subscription is not None
        return Effect(redeemed.posted, list(_facts(redeemed)), redeemed.sentence)


def _facts(redeemed: Redeemed) -> Iterator[tuple[str, str]]:
    voucher, posted = redeemed.voucher, redeemed.transaction
    yield "Voucher", voucher.title
    if voucher.amount:
        yield "Balance", f"{format_money(voucher.amount, signed=True)}"
    if voucher.bonus and posted is not None:
        last_day = last_day_of(posted.bonus_expires_at)
        until = (
            f"until the end of {last_day} ({settings.TIME_ZONE})" if last_day else "never expires"
        )
        yield "Bonus", f"{format_money(voucher.bonus, signed=True)}, {until}"
    if redeemed.subscription is not None:
        yield "Plan", plan_in_words(redeemed.subscription.plan)


def redeem_voucher(request: HttpRequest, user_id: int, model_admin: ModelAdmin) -> HttpResponseBase:
    """Shows the form, the preview, and redeems. Then redirects to what was posted."""
    actor = request.user
    if not actor.has_perm("billing.change_balance") or not isinstance(actor, User):
        raise PermissionDenied
    user = customer_or_404(user_id)
    form = RedeemForm(user, actor, request.POST if request.method == "POST" else None)
    step = advance(form)
    if step.done is not None:
        if form.gives_plan:  # the tab tells only of the transaction
            messages.success(request, step.done.sentence)
        if step.done.posted:
            return redirect_to_posted(step.done.posted[0])
        return HttpResponseRedirect(reverse("admin:users_user_change", args=[user.pk]))
    if step.done_before is not None:
        messages.warning(request, f"Nothing more was done. {step.done_before}")
        return HttpResponseRedirect(reverse("admin:users_user_change", args=[user.pk]))
    context = page_context(request, model_admin, title="Redeem voucher", user=user) | {
        "form": form,
        "step": step,
        "balance": ledger.balance(user),
        "back": reverse("admin:users_user_change", args=[user.pk]),
    }
    return page_of_form(request, "billing/redeem_voucher.html", context, form)
