"""The page on which a person is forgotten."""

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from django.utils.text import capfirst
from unfold.admin import ModelAdmin

from billing import ledger, operations
from billing.admin.pages import (
    PanelForm,
    customer_or_404,
    outages_shown_in,
    page_context,
    page_of_form,
)
from billing.errors import BillingError, NotClosed
from billing.models import Channel
from users.models import User


class ForgetForm(PanelForm):
    """A form that demands the user's e-mail address, so that nobody is forgotten by mistake."""

    confirmation = forms.CharField(max_length=254)

    def __init__(self, user: User, data: Any) -> None:
        self.user = user
        super().__init__(data)
        self.fields["confirmation"].label = "The user's e-mail address"
        self.fields["confirmation"].help_text = f"Type {user.email} to confirm."

    def clean_confirmation(self) -> str:
        typed: str = self.cleaned_data["confirmation"]
        if not User.objects.with_mailbox(typed).filter(pk=self.user.pk).exists():
            raise forms.ValidationError("This is not the user's e-mail address.")
        return typed


def _profile(user: User) -> list[tuple[str, str]]:
    """Returns the fields of a user that have a value and are erased."""
    return [
        (capfirst(str(field.verbose_name)), getattr(user, field.name))
        for field in User._meta.concrete_fields
        if field.name in User.texts() and field.name != "legal_type" and getattr(user, field.name)
    ]


def forget_page(request: HttpRequest, user_id: int, model_admin: ModelAdmin) -> HttpResponseBase:
    """Shows what is erased and what stays, and forgets the user once that is confirmed."""
    actor = request.user
    if not actor.has_perm("users.forget_user") or not isinstance(actor, User):
        raise PermissionDenied
    user = customer_or_404(user_id)
    own_page = reverse("admin:users_user_change", args=[user.pk])
    if user.forgotten_at is not None:
        return HttpResponseRedirect(own_page)  # says when
    form = ForgetForm(user, request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            with outages_shown_in(form):
                done = operations.forgetting.forget(user.pk, actor=actor, channel=Channel.PANEL)
        except BillingError as refusal:
            form.add_error(None, str(refusal))
        if not form.errors:
            messages.success(request, f"{done.user}: {done.sentence}")
            return HttpResponseRedirect(own_page)
    context = page_context(request, model_admin, title="Forget this person", user=user) | {
        "form": form,
        "problem": _problem(user),
        "profile": _profile(user),
        "duplicates": operations.forgetting.duplicates_of(user.pk),
        "last_number": ledger.balance(user).number,
        "back": own_page,
    }
    return page_of_form(request, "billing/forget.html", context, form)


def _problem(user: User) -> NotClosed | None:
    """Returns what stands in the way of forgetting the user."""
    try:
        operations.forgetting.refuse_open(user)
    except NotClosed as problem:
        return problem
    return None
