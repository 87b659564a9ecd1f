"""What the pages that set prices have in common: services, plans, defaults for new users."""

import hashlib
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, ClassVar, cast

from django import forms
from django.contrib import messages
from django.contrib.admin import ShowFacets
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import unquote
from django.db import IntegrityError, connection
from django.db.models import DecimalField, Model, QuerySet
from django.db.models.deletion import ProtectedError
from django.forms.models import model_to_dict
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.urls import reverse
from django.utils.text import capfirst

from billing.admin.amounts import AdminNumberInput, TypedField
from billing.money import format_money
from users import database
from users.admin.histories import AdminWithHistory


class PriceField(TypedField):
    """An amount of zero or more, as people type or paste it: 12.55, 1 234.5. Empty is None."""

    def __init__(self, *, negative: str = "A price cannot be negative.", **options: Any) -> None:
        self.negative = negative
        super().__init__(**{"widget": AdminNumberInput} | options)

    def clean(self, value: Any) -> Decimal | None:
        amount: Decimal | None = super().clean(value)
        if amount is not None and amount < 0:
            raise forms.ValidationError(self.negative)
        return amount


class OwnPriceField(PriceField):
    """An amount that is charged or given as it stands: finer than money it is asked about."""

    may_be_finer = False


def shown_money(contents: str) -> str:
    """A read-only amount as Django shows it, in the panel's own way."""
    return format_money(Decimal(contents))


class ConfigurationForm(forms.ModelForm):  # type: ignore[type-arg]
    """Saves what the operator saw: not in place of what somebody else saved meanwhile.

    `seen` is a digest of everything that the form showed, and the ID of the last entry of the
    history then. If that is not how things are any more, the form says who changed what, and is to
    be sent once more.
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
            self.initial["seen"] = f"{digest}-{last.pk if last else 0}"

    def stored(self) -> Any:
        """Everything that the page lets be changed, as it is in the database now."""
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

    def _history(self) -> "QuerySet[LogEntry]":
        meta = self.instance._meta
        return LogEntry.objects.filter(
            content_type__app_label=meta.app_label,
            content_type__model=meta.model_name,
            object_id=str(self.instance.pk),
        ).order_by("-pk")

    def _what_happened_since(self, last_id: str) -> str:
        known = int(last_id) if last_id.isascii() and last_id.isdigit() else 0
        changes = self._history().filter(pk__gt=known).select_related("user")[:3]
        told = "; ".join(
            f"{each.user}: {each.get_change_message().removesuffix('.')}" for each in changes
        )
        told = f" ({told})" if told else ""
        return (
            f"Nothing was saved: this has changed since you opened the page{told}. "
            "Below is what you entered. Save once more to put it in place of that, or open the "
            "page anew."
        )

    def changes(self) -> Iterator[str]:
        """What was entered and is new, with the old and the new value."""
        for name in self.changed_data:
            if name != "seen":
                field = self.fields[name]
                old, new = self._shown(name, self.initial.get(name)), self._entered(name)
                yield f"{capfirst(str(field.label))} changed from {old} to {new}"

    def entered(self) -> Iterator[str]:
        """Everything that was entered for something new."""
        for name, field in self.fields.items():
            if name != "seen" and self.cleaned_data.get(name) not in (None, ""):
                yield f"{capfirst(str(field.label))}: {self._entered(name)}"

    def _entered(self, name: str) -> str:
        return self._shown(name, self.cleaned_data.get(name))

    def _shown(self, name: str, value: Any) -> str:
        field = self.fields[name]
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, Decimal):
            return format_money(value)
        if value in (None, ""):
            return "nothing"
        if isinstance(field, forms.ModelChoiceField) and not isinstance(value, Model):
            value = field.queryset.model._default_manager.filter(pk=value).first() or value  # type: ignore[union-attr]
        elif isinstance(field, forms.ChoiceField) and not isinstance(value, Model):
            return str(dict(field.choices).get(value, value))  # type: ignore[arg-type]
        return f"“{value}”"


class ConfigurationAdmin(AdminWithHistory):
    """Few rows, which much hangs on: the history says what was changed, and nothing in use goes."""

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
        """Why this cannot be deleted, as a sentence; None if it can."""
        return None

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any:
        """The row; while a form is saved, held, so that what was checked stays true."""
        obj = super().get_object(request, object_id, from_field)
        if obj is not None and request.method == "POST" and connection.in_atomic_block:
            rows = self.model._default_manager.filter(pk=obj.pk)
            return database.held(rows, obj.pk, no_key=False)
        return obj

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            response: HttpResponse = super().changeform_view(request, *args, **kwargs)
        except IntegrityError:
            # Two operators took the same name at once, or one of them clicked twice. The one who
            # came second now gets the form's own message.
            response = super().changeform_view(request, *args, **kwargs)
        return response

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if isinstance(db_field, DecimalField):
            return OwnPriceField(
                label=capfirst(str(db_field.verbose_name)), help_text=db_field.help_text
            )
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    # --- History: who changed what, from what to what -------------------------------------------

    def construct_change_message(
        self,
        request: HttpRequest,
        form: Any,
        formsets: Any,
        add: bool = False,  # noqa: FBT001, FBT002 - Django's signature
    ) -> Any:
        if add:
            return f"Added. {'; '.join(form.entered())}."
        return "; ".join(form.changes()) + "." if form.has_changed() else ""

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Saving without a change leaves no trace."""
        return super().log_change(request, obj, message) if message else None

    # --- Deleting: only what was never used -----------------------------------------------------

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        context |= {"show_save_and_continue": False, "show_save_and_add_another": False}
        if not self.has_delete_permission(request):
            context["notes"] = []  # they are about what this operator cannot do anyway
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
                why = f"“{obj}” cannot be deleted: it came into use just now."
        self.message_user(request, why, messages.ERROR)
        address = f"admin:{self.opts.app_label}_{self.opts.model_name}_change"
        return HttpResponseRedirect(reverse(address, args=[obj.pk]))
