"""The pages of low-balance thresholds: the default, and that of one user."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.admin import ModelAdmin

from billing import events, ledger, operations, reports, thresholds
from billing.admin.amounts import NumberInput
from billing.admin.configuration import PriceField
from billing.admin.pages import PanelForm, ReadOnlyAdmin, customer_or_404, page_context, row_or_404
from billing.admin.transactions import cursor_of
from billing.models import Channel, LowBalanceThreshold, Subject
from billing.thresholds import Threshold
from users.models import User

CHANGES_SHOWN = 20


class DefaultForm(PanelForm):
    """The form for the default threshold."""

    when = forms.ChoiceField(
        label="Tell programs", choices=[("never", "Never"), ("amount", "Below an amount")]
    )
    amount = PriceField(
        required=False,
        negative="A threshold cannot be negative.",
        help_text="Compared with the real balance; the bonus balance does not count.",
        widget=NumberInput,
    )

    def __init__(self, threshold: Threshold, data: Any = None) -> None:
        super().__init__(
            data, initial={"when": self.kind_of(threshold), "amount": threshold.amount}
        )

    @staticmethod
    def kind_of(threshold: Threshold) -> str:
        return "never" if threshold.amount is None else "amount"

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if "amount" in self.errors or "when" not in cleaned:
            return cleaned
        amount = cleaned["amount"]
        if cleaned["when"] != "amount":
            # The old amount need not be cleared by hand.
            if amount is not None and amount != self.initial["amount"]:
                self.add_error("amount", "To use this amount, choose “Below an amount”.")
            cleaned["amount"] = None
        elif amount is None:
            self.add_error("amount", "Enter the amount.")
        elif not amount:
            self.add_error("amount", "No balance is below zero. Choose “Never” instead.")
        return cleaned


class OwnForm(DefaultForm):
    """The form for the threshold of one user."""

    def __init__(self, threshold: Threshold, data: Any = None) -> None:
        super().__init__(threshold, data)
        if not threshold.is_own:
            self.initial["amount"] = None
        self.fields["when"].choices = [  # type: ignore[attr-defined]
            ("default", f"By default: {thresholds.default_threshold()}"),
            ("amount", "Below an amount of the user's own"),
            ("never", "Never"),
        ]

    @staticmethod
    def kind_of(threshold: Threshold) -> str:
        return DefaultForm.kind_of(threshold) if threshold.is_own else "default"

    def save(self, user: User, actor: User) -> thresholds.Change:
        if self.cleaned_data["when"] == "default":
            return operations.thresholds.unset_own(user.pk, actor=actor, channel=Channel.PANEL)
        return operations.thresholds.set_own(
            user.pk, self.cleaned_data["amount"], actor=actor, channel=Channel.PANEL
        )


def _may_view(request: HttpRequest) -> bool:
    may_view = request.user.has_perm("billing.view_lowbalancethreshold")
    return may_view or _may_change(request)


def _may_change(request: HttpRequest) -> bool:
    return request.user.has_perm("billing.change_lowbalancethreshold")


def low_balance(request: HttpRequest, user_id: int, model_admin: ModelAdmin) -> HttpResponseBase:
    """Shows and saves the threshold of one user."""
    actor = request.user
    if not _may_view(request) or not isinstance(actor, User):
        raise PermissionDenied
    user = customer_or_404(user_id)
    threshold = thresholds.of(user.pk)
    form = OwnForm(threshold, request.POST if request.method == "POST" else None)
    if request.method == "POST":
        if not _may_change(request):
            raise PermissionDenied
        if form.is_valid():
            change = form.save(user, actor)
            messages.success(request, f"Programs are told {change.after.in_words}.")
            sees_profile = request.user.has_perm("users.view_user")
            page = "users_user_change" if sees_profile else "users_user_low_balance"
            return HttpResponseRedirect(reverse(f"admin:{page}", args=[user.pk]))
    context = page_context(request, model_admin, title="Low balance", user=user) | {
        "form": form,
        "threshold": threshold,
        "may_change": _may_change(request),
        "balance": ledger.balance(user) if request.user.has_perm("billing.view_balance") else None,
    }
    return TemplateResponse(request, "billing/low_balance_of_user.html", context)


@admin.register(LowBalanceThreshold)
class LowBalanceThresholdAdmin(ReadOnlyAdmin):
    """The default threshold, and the users with their own."""

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _may_view(request)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        actor = request.user
        if not _may_view(request) or not isinstance(actor, User):
            raise PermissionDenied
        threshold = thresholds.default_threshold()
        form = DefaultForm(threshold, request.POST if request.method == "POST" else None)
        if request.method == "POST":
            if not _may_change(request):
                raise PermissionDenied
            if form.is_valid():
                change = operations.thresholds.set_default(
                    form.cleaned_data["amount"], actor=actor, channel=Channel.PANEL
                )
                self.message_user(
                    request, f"By default, programs are told {change.after}.", messages.SUCCESS
                )
                return HttpResponseRedirect(request.path)
        sees_users = request.user.has_perm("users.view_user")
        own = LowBalanceThreshold.objects.exclude(user=None).select_related("user")
        context = page_context(request, self, title="Low balance", user=None) | {
            "form": form,
            "threshold": threshold,
            "may_change": _may_change(request),
            "page": reports.page_by_id(own if sees_users else own.none(), cursor_of(request)),
            "changes": self._changes(),
        }
        return TemplateResponse(request, "billing/low_balance.html", context)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponseBase:
        """Redirects to the page where the threshold is set."""
        if not _may_view(request):
            raise PermissionDenied
        row = row_or_404(LowBalanceThreshold.objects.all(), object_id)
        if row.user_id is None:
            return HttpResponseRedirect(reverse("admin:billing_lowbalancethreshold_changelist"))
        return HttpResponseRedirect(reverse("admin:users_user_low_balance", args=[row.user_id]))

    @staticmethod
    def _changes() -> list[reports.HistoryEntry]:
        """Returns the changes of the default, latest first."""
        row = LowBalanceThreshold.objects.filter(user=None).first()
        if row is None:
            return []
        found = events.of_subject(Subject.LOW_BALANCE, row.pk)[:CHANGES_SHOWN]
        return [reports.HistoryEntry.of_event(event) for event in found]
