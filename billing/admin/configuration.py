"""Common parts of the pages of services, plans and defaults for new users."""

import hashlib
from decimal import Decimal
from typing import Any, ClassVar, cast

from django import forms
from django.contrib import messages
from django.contrib.admin import ShowFacets
from django.contrib.admin.utils import unquote
from django.db import IntegrityError, connection
from django.db.models import DecimalField, QuerySet
from django.db.models.deletion import ProtectedError
from django.forms.models import model_to_dict
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.urls import reverse
from django.utils.text import capfirst

from billing import events, operations
from billing.admin.amounts import AdminNumberInput, TypedField
from billing.admin.history import WithHistory
from billing.models import Channel, Event
from billing.money import format_money
from users import database
from users.models import User


class PriceField(TypedField):
    """A field for an amount of zero or more: 12.55, 1 234.5. Empty is None."""

    def __init__(self, *, negative: str = "A price cannot be negative.", **options: Any) -> None:
        self.negative = negative
        super().__init__(**{"widget": AdminNumberInput} | options)

    def clean(self, value: Any) -> Decimal | None:
        amount: Decimal | None = super().clean(value)
        if amount is not None and amount < 0:
            raise forms.ValidationError(self.negative)
        return amount


class OwnPriceField(PriceField):
    """A field for an amount that is charged as it is: asks if it has too many decimals."""

    may_be_finer = False


def shown_money(contents: str) -> str:
    """Returns a read-only amount of Django's in the panel's format."""
    return format_money(Decimal(contents))


class ConfigurationForm(forms.ModelForm):  # type: ignore[type-arg]
    """A form that does not overwrite what somebody else saved meanwhile.

    `seen` is a digest of everything that the form showed, and the number of the last event then. If
    either has changed, the form says who changed what, and has to be sent again.
    """

    seen = forms.CharField(widget=forms.HiddenInput, required=False, max_length=100)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for name, field in self.fields.items():
            if isinstance(field, OwnPriceField):
                field.accepted = getattr(self.instance, name, None)
        if self.instance.pk:
            digest = hashlib.sha256(repr(self.stored()).encode()).hexdigest()
            last = self._history().first()
            self.initial["seen"] = f"{digest}-{last.number if last else 0}"

    def stored(self) -> Any:
        """Returns the present values of everything that the page can change."""
        return sorted(model_to_dict(self.instance, list(self.fields)).items())

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        now = self.initial.get("seen", "")
        digest, _, last_id = cleaned.pop("seen", "").partition("-")
        if digest != now.partition("-")[0]:
            shown_again = cast(QueryDict, self.data).copy()
            shown_again[self.add_prefix("seen")] = now
            self.data = shown_again
            self.add_error(None, self._what_happened_since(last_id))
        return cleaned

    def _history(self) -> "QuerySet[Event]":
        return events.of_subject(
            operations.configuration.subject_of(self.instance), self.instance.pk
        )

    def _what_happened_since(self, last_number: str) -> str:
        known = int(last_number) if last_number.isascii() and last_number.isdigit() else 0
        since = self._history().filter(number__gt=known)[:3]
        told = "; ".join(
            f"{each.actor or 'System'}: {events.sentence(each).removesuffix('.')}" for each in since
        )
        told = f" ({told})" if told else ""
        return (
            f"Nothing was saved: somebody has changed this since you opened the page{told}. Below "
            "is what you entered. Save again to replace the other change, or reload the page."
        )


class ConfigurationAdmin(WithHistory):
    """Pages of important rows: changes are recorded, and rows in use cannot be deleted."""

    form = ConfigurationForm
    change_form_template = "billing/configuration.html"
    actions = None
    readonly_preprocess_fields: ClassVar[dict[str, Any]] = {
        "price": shown_money,
        "bonus": shown_money,
    }
    show_full_result_count = False
    show_facets = ShowFacets.NEVER

    def why_kept(self, obj: Any) -> str | None:
        """Returns a sentence why this cannot be deleted; None if it can."""
        return None

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any:
        """Returns the row, locked while a form is saved, so that what was checked stays true."""
        obj = super().get_object(request, object_id, from_field)
        if obj is not None and request.method == "POST" and connection.in_atomic_block:
            rows = self.model._default_manager.filter(pk=obj.pk)
            return database.lock_row(rows, obj.pk, no_key=False)
        return obj

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            response: HttpResponse = super().changeform_view(request, *args, **kwargs)
        except IntegrityError:
            # Two operators chose the same name at once, or one clicked twice. The second request
            # now gets the form's own message.
            response = super().changeform_view(request, *args, **kwargs)
        return response

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if isinstance(db_field, DecimalField):
            return OwnPriceField(
                label=capfirst(str(db_field.verbose_name)), help_text=db_field.help_text
            )
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    # --- Saving: an operation, which records it --------------------------------------------------

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:  # noqa: FBT001 - Django's signature
        operations.configuration.save(obj, actor=cast(User, request.user), channel=Channel.PANEL)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        operations.configuration.delete(obj, actor=cast(User, request.user), channel=Channel.PANEL)

    # --- Deleting: only what was never used -----------------------------------------------------

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        context |= {"show_save_and_continue": False, "show_save_and_add_another": False}
        if not self.has_delete_permission(request):
            context["notes"] = []  # they concern only operators who may change this
        response: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return response

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> Any:
        obj = self.get_object(request, unquote(object_id))
        if obj is None or not self.has_delete_permission(request, obj):
            return super().delete_view(request, object_id, extra_context)
        why = self.why_kept(obj)
        if why is None:
            try:
                return super().delete_view(request, object_id, extra_context)
            except (ProtectedError, IntegrityError):
                why = f"“{obj}” cannot be deleted: it has just come into use."
        self.message_user(request, why, messages.ERROR)
        address = f"admin:{self.opts.app_label}_{self.opts.model_name}_change"
        return HttpResponseRedirect(reverse(address, args=[obj.pk]))
