"""The pages of batches: what was posted together, and taking it back."""

from typing import Any, Final, NamedTuple

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from unfold.admin import ModelAdmin

from billing import operations, reports
from billing.admin.pages import (
    PanelForm,
    ReadOnlyAdmin,
    outages_shown_in,
    page_context,
    page_of_form,
    row_or_404,
)
from billing.admin.transactions import cursor_of
from billing.descriptions import DESCRIPTION_MAX_LENGTH, LENGTHS
from billing.errors import BatchReversed, BillingError, InvalidDescription
from billing.models import Batch, Channel, Transaction
from billing.money import ZERO
from billing.operations.batches import PostedBatch
from users.models import User

SHOWN: Final = 100  # refusals on the page


@admin.register(Batch)
class BatchAdmin(ReadOnlyAdmin):
    def get_urls(self) -> list[URLPattern]:
        reverse_view = self.admin_site.admin_view(self.reverse_view)
        return [
            path("<path:batch_id>/reverse/", reverse_view, name="billing_batch_reverse"),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        if not self.has_view_permission(request):
            raise PermissionDenied
        found = reports.page_by_id(Batch.objects.with_state(), cursor_of(request))
        context = page_context(request, self, title="Batches", user=None) | {"page": found}
        return TemplateResponse(request, "billing/batches.html", context)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponseBase:
        """Shows one batch: its figures, and how to take it back."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        batch = row_or_404(Batch.objects.select_related("reverses"), object_id)
        context = page_context(request, self, title=f"{batch}", user=None) | {
            "batch": batch,
            "reversals": batch.reversals.all(),
            "can_view_transactions": request.user.has_perm("billing.view_transaction"),
            "can_reverse": request.user.has_perm("billing.change_balance")
            and batch.kind != Batch.Kind.REVERSAL,
        }
        return TemplateResponse(request, "billing/batch.html", context)

    def reverse_view(self, request: HttpRequest, batch_id: str) -> HttpResponseBase:
        """Shows the form, then what would be reversed, and reverses the batch."""
        actor = request.user
        if not actor.has_perm("billing.change_balance") or not isinstance(actor, User):
            raise PermissionDenied
        return reverse_page(request, self, row_or_404(Batch.objects.all(), batch_id), actor)


class ReversalForm(PanelForm):
    """Reverses what is left of a batch: all of it or, if that is confirmed, what can be."""

    description = forms.CharField(
        label="Transaction description",
        max_length=DESCRIPTION_MAX_LENGTH,
        help_text=f"{LENGTHS}, for the history of each user.",
    )
    skip_refused = forms.BooleanField(
        label="Reverse the others", required=False, widget=forms.HiddenInput
    )

    def __init__(self, batch: Batch, actor: User, data: Any = None) -> None:
        self.batch = batch
        self.actor = actor
        super().__init__(data)

    def perform(self, *, skip_refused: bool, dry_run: bool) -> PostedBatch | None:
        """Reverses. Returns None if all of it was refused; the errors then say why."""
        try:
            with outages_shown_in(self):
                return operations.batches.reverse(
                    self.batch.pk,
                    description=self.cleaned_data["description"],
                    skip_refused=skip_refused,
                    dry_run=dry_run,
                    actor=self.actor,
                    channel=Channel.PANEL,
                )
        except InvalidDescription as refusal:
            self.add_error("description", str(refusal))
        except BatchReversed as refusal:
            self.add_error(None, str(refusal))
        except BillingError as refusal:
            self.add_error(
                None,
                f"Nothing was reversed: something has changed since the preview. {refusal}",
            )
        return None


class RefusedRow(NamedTuple):
    """A transaction that cannot be reversed, and why."""

    transaction: Transaction
    why: BillingError


class Preview(NamedTuple):
    """What reversing a batch would do now."""

    reversible: int
    real: Any
    bonus: Any
    refused: list[RefusedRow]
    refused_count: int


def reverse_page(
    request: HttpRequest, model_admin: ModelAdmin, batch: Batch, actor: User
) -> HttpResponseBase:
    form = ReversalForm(batch, actor, request.POST if request.method == "POST" else None)
    preview = None
    if form.is_valid() and "edit" not in request.POST:
        if "confirm" in request.POST:
            skip_refused = form.cleaned_data["skip_refused"]
            done = form.perform(skip_refused=skip_refused, dry_run=False)
            if done is not None and done.batch is not None:
                address = reverse("admin:billing_batch_change", args=[done.batch.pk])
                return HttpResponseRedirect(address)
        tried = form.perform(skip_refused=True, dry_run=True)
        preview = None if tried is None else _preview(tried)
    context = page_context(request, model_admin, title=f"Reverse batch {batch.pk}", user=None) | {
        "form": form,
        "batch": batch,
        "preview": preview,
        "shown": SHOWN,
    }
    return page_of_form(request, "billing/batch_reverse.html", context, form)


def _preview(tried: PostedBatch) -> Preview:
    posted = [result.transaction for result in tried.results if result.transaction is not None]
    refused = tried.refused
    rows = []
    for place, why in refused[:SHOWN]:
        entry = tried.entries[place - 1]
        of_user = Transaction.objects.select_related("user").filter(user=entry.user_id)
        rows.append(RefusedRow(of_user.get(number=str(entry.reverses)), why))
    return Preview(
        len(posted),
        sum((row.amount for row in posted), ZERO),
        sum((row.bonus_amount for row in posted), ZERO),
        rows,
        len(refused),
    )
