"""A transaction's page, its reversal, and the list of all users' transactions in the admin."""

import json
from datetime import date
from typing import Any, Final, cast
from urllib.parse import urlencode

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    QueryDict,
)
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from billing import ledger, operations, reports
from billing.admin.amounts import QuantityField, TypedField
from billing.admin.move import move_page
from billing.admin.navigation import may_change_balance
from billing.admin.pages import (
    PanelForm,
    confirmation_key,
    outages_shown_in,
    page_context,
    page_of_form,
    row_or_404,
)
from billing.admin.reason_choice import wordings
from billing.admin.transactions import list_page
from billing.descriptions import DESCRIPTION_MAX_LENGTH, DESCRIPTION_MIN_LENGTH
from billing.errors import AlreadyReversed, BillingError, InvalidDescription, NotReversible
from billing.models import (
    Channel,
    Plan,
    Transaction,
    TransactionType,
)
from billing.money import NotMoney, decimals_for, format_money, to_money
from billing.plans import services
from billing.plans.pricing import format_period, format_quantity, to_quantity
from users.admin.base import PanelAdmin
from users.ids import id_in
from users.models import User


class ReversalForm(PanelForm):
    """The form to reverse a transaction, with a description.

    `paid_back` has the numbers of the paybacks that the page showed. If there are others now, the
    operator has not seen them, and the reversal is refused.
    """

    description = forms.CharField(
        label="Transaction description",
        min_length=DESCRIPTION_MIN_LENGTH,
        max_length=DESCRIPTION_MAX_LENGTH,
        error_messages={"min_length": InvalidDescription.sentence},
        widget=forms.TextInput({"list": "standard-descriptions"}),
    )
    amount = TypedField(
        label="Amount", required=False, help_text="Only this part. Empty: all that is left."
    )
    quantity = QuantityField(
        label="Quantity", required=False, help_text="Or only so many units of the service."
    )
    key = forms.CharField(widget=forms.HiddenInput, max_length=64)
    paid_back = forms.CharField(widget=forms.HiddenInput, required=False)

    def __init__(self, reversed_one: Transaction, actor: User, data: QueryDict | None) -> None:
        self.reversed_one = reversed_one
        self.actor = actor
        super().__init__(data, initial={"key": confirmation_key()})
        if not _has_quantity(reversed_one):
            del self.fields["quantity"]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        amount = cleaned.get("amount")
        if amount is not None and amount <= 0:
            self.add_error("amount", "Enter more than zero, or nothing.")
        if amount is not None and cleaned.get("quantity") is not None:
            self.add_error("quantity", "Enter an amount or a quantity, not both.")
        return cleaned

    def save(self) -> Transaction:
        """Reverses or refunds. Raises BillingError like `ledger.reverse`."""
        shown = self.cleaned_data["paid_back"].split()
        amount, quantity = self.cleaned_data["amount"], self.cleaned_data.get("quantity")
        said: dict[str, Any] = {
            "number": self.reversed_one.number,
            "description": self.cleaned_data["description"],
            "seen_paid_back": [int(each) for each in shown if id_in(each) is not None],
            "idempotency_key": f"panel:{self.cleaned_data['key']}",
            "actor": self.actor,
            "channel": Channel.PANEL,
        }
        user_id = self.reversed_one.user_id
        if amount is None and quantity is None:
            return operations.money.reverse(user_id, **said)
        return operations.money.refund(user_id, amount=amount, quantity=quantity, **said)

    def show(self, paid_back: list[Transaction]) -> None:
        """Stores in the form which paybacks the page shows, also when it is shown again."""
        shown = numbers_of(paid_back)
        self.initial["paid_back"] = shown
        if self.is_bound:
            self.data = cast(QueryDict, self.data).copy()
            self.data["paid_back"] = shown


def _has_quantity(row: Transaction) -> bool:
    return row.type == TransactionType.SERVICE and services.PRICING in row.metadata


def numbers_of(transactions: list[Transaction]) -> str:
    return " ".join(str(each.number) for each in transactions)


@admin.register(Transaction)
class TransactionAdmin(PanelAdmin):
    """The list of all transactions, and their pages, read only."""

    def get_urls(self) -> list[URLPattern]:
        return [
            path(
                "<int:transaction_id>/reverse/",
                self.admin_site.admin_view(self.reverse_view),
                name="billing_transaction_reverse",
            ),
            path(
                "<int:transaction_id>/move/",
                self.admin_site.admin_view(self.move_view),
                name="billing_transaction_move",
            ),
            *super().get_urls(),
        ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return list_page(request, self, None)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponseBase:
        """Shows one transaction: everything that its row contains."""
        row = self._row(request, object_id)
        siblings = Transaction.objects.filter(user=row.user_id)
        reports.tie_reversals([row])
        may_take_back = may_change_balance(request, row.user) and any(ledger.left_of(row))
        context = (
            page_context(request, self, title=f"Transaction {row.number}", user=row.user)
            | {
                "transaction": row,
                "previous": siblings.filter(number=row.number - 1).first(),
                "next": siblings.filter(number=row.number + 1).first(),
                "digest": bytes(row.digest).hex(),
                "explanation": _explanation(row),
                "request_id": _request_id(row),
                "metadata": json.dumps(row.metadata, indent=2, ensure_ascii=False, sort_keys=True),
                "can_reverse": may_take_back,
                "can_move": may_take_back and ledger.is_movable(row),
                "moved": _moved(row),
            }
            | _gifts_of(row)
        )
        return TemplateResponse(request, "billing/transaction.html", context)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        raise Http404("A transaction never changes, so it has no history.")

    def reverse_view(self, request: HttpRequest, transaction_id: int) -> HttpResponseBase:
        """Shows the form, and reverses a transaction."""
        row = self._row(request, transaction_id)
        actor = request.user
        if not actor.has_perm("billing.change_balance") or not isinstance(actor, User):
            raise PermissionDenied
        form = ReversalForm(row, actor, request.POST or None)
        refusal = None
        if form.is_valid():
            try:
                with outages_shown_in(form):
                    return redirect_to_posted(form.save())
            except BillingError as problem:
                refusal = problem
        reports.tie_reversals([row])
        left = ledger.left_of(row)
        is_reversible = any(left)
        if not is_reversible and refusal is None:
            refusal = _why_not(row)
        paid_back = ledger.paid_back_of(row)
        form.show(paid_back)
        context = page_context(
            request, self, title=f"Reverse or refund transaction {row.number}", user=row.user
        ) | {
            "form": form,
            "transaction": row,
            "refusal": refusal,
            "can_reverse": is_reversible,
            "left": left,
            "paid_back": paid_back,
            "balance": ledger.balance(row.user_id),
            "wordings": wordings(),
        }
        return page_of_form(request, "billing/reverse.html", context, form)

    def move_view(self, request: HttpRequest, transaction_id: int) -> HttpResponseBase:
        """Shows the form and the preview, and moves a payment to another user."""
        row = self._row(request, transaction_id)
        return move_page(request, self, row)

    def _row(self, request: HttpRequest, transaction_id: object) -> Transaction:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return row_or_404(Transaction.objects.select_related("user", "actor"), transaction_id)


def _why_not(row: Transaction) -> BillingError:
    """Returns why a transaction cannot be reversed at all."""
    if not row.reversed_by:
        return NotReversible(number=row.number)
    return AlreadyReversed(number=row.number, reversed_by=row.reversed_by[-1].number)


def _moved(row: Transaction) -> tuple[str, Transaction] | None:
    """Returns the other transaction of a move, and how this one is tied to it.

    Integrators write metadata, too: only a transaction that names this one counts.
    """
    for own, others, words in (
        (ledger.MOVED_TO, ledger.MOVED_FROM, "Moved to"),
        (ledger.MOVED_FROM, ledger.MOVED_TO, "Moved from"),
    ):
        place = row.metadata.get(own)
        if isinstance(place, dict):
            user_id, number = place.get("user_id"), place.get("number")
            if type(user_id) is int and type(number) is int:
                named = {f"metadata__{others}": {"user_id": row.user_id, "number": row.number}}
                other = Transaction.objects.filter(user=user_id, number=number, **named)
                if (found := other.select_related("user").first()) is not None:
                    return words, found
    return None


USES_SHOWN: Final = 20


def _gifts_of(row: Transaction) -> dict[str, Any]:
    """Returns the grants that a transaction used, and its own grant with its uses."""
    used = reports.grants_used(row)
    grant = reports.grant_of(row)
    uses = [] if grant is None else reports.uses_of(grant, USES_SHOWN)
    numbers = {use.grant_number for use in used} | {use.number for use in uses}
    ids = dict(
        Transaction.objects.filter(user=row.user_id, number__in=numbers).values_list("number", "pk")
    )

    def link(number: int) -> str:
        return reverse("admin:billing_transaction_change", args=[ids[number]])

    return {
        "grants_used": [
            {"amount": use.amount, "grant_number": use.grant_number, "link": link(use.grant_number)}
            for use in used
        ],
        "grant": grant,
        "grant_decimals": decimals_for(*(a for use in uses for a in (use.amount, use.remaining))),
        "grant_uses": [
            {
                "number": use.number,
                "amount": use.amount,
                "remaining": use.remaining,
                "link": link(use.number),
            }
            for use in uses
        ],
    }


def _explanation(row: Transaction) -> list[tuple[str, str]]:
    """Returns how a charge was computed, from its metadata.

    Integrators write metadata, too: what does not look like the panel's own is left to the raw
    view.
    """
    pricing = row.metadata.get(services.PRICING)
    if row.type == TransactionType.SERVICE and isinstance(pricing, dict):
        try:
            quantity, price = to_quantity(pricing["quantity"]), to_money(pricing["price"])
        except (KeyError, NotMoney):
            return []
        cost = f"{format_quantity(quantity)} × {format_money(price)}"
        return [("Quantity × unit price", cost), *_plan_of(pricing)]
    if row.type == TransactionType.SUBSCRIPTION:
        try:
            first, last = (
                date.fromisoformat(str(row.metadata[name])) for name in ("from", "through")
            )
        except (KeyError, ValueError):
            return []
        days = (last - first).days + 1
        period = f"{format_period(first, last)} ({days} {'day' if days == 1 else 'days'}, UTC)"
        return [("Period", period), *_plan_of(row.metadata)]
    return []


def _request_id(row: Transaction) -> str:
    """Returns the ID of the API request that posted it, if any."""
    request_id = row.metadata.get(ledger.REQUEST_ID)
    return request_id if isinstance(request_id, str) else ""


def _plan_of(data: dict[str, Any]) -> list[tuple[str, str]]:
    key = data.get("plan")
    plan = Plan.objects.filter(pk=key).first() if type(key) is int else None
    return [("Plan", plan.name)] if plan else []


def redirect_to_posted(posted: Transaction) -> HttpResponseRedirect:
    """Redirects to the tab, which shows what was posted and marks its row."""
    address = reverse("admin:users_user_transactions", args=[posted.user_id])
    query = {"posted": posted.number} | ({"again": 1} if posted.replayed else {})
    return HttpResponseRedirect(f"{address}?{urlencode(query)}")
