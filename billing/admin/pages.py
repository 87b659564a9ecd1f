"""Common parts of the panel's own pages."""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time
from operator import attrgetter
from typing import Any

from django import forms
from django.db import DatabaseError
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.admin import ModelAdmin

from billing import operations
from billing.errors import UnknownUser
from billing.money import decimals_for
from users.admin.base import PanelAdmin, titled
from users.database import UNAVAILABLE, Outage, may_have_written, outage_of
from users.ids import id_in
from users.models import User


def page_context(
    request: HttpRequest, model_admin: ModelAdmin, *, title: str, user: User | None
) -> dict[str, Any]:
    """Returns the context that the admin's frame needs: sidebar and breadcrumbs.

    With a `user`, the page gets the user's tabs.
    """
    request.current_app = model_admin.admin_site.name
    # For the sidebar and the tabs, which get only the request.
    request.subject_id = user.pk if user else None  # type: ignore[attr-defined]
    frame: dict[str, Any] = model_admin.admin_site.each_context(request)
    return frame | {
        "title": titled(user, title) if user else title,
        "opts": User._meta if user else model_admin.opts,
        "original": user,
        "subject": user,
        "closed": user if user and user.is_closed else None,
        "model_admin": model_admin,
    }


def midnight(day: date) -> datetime:
    """Returns when a day begins in the operator's time zone."""
    return timezone.make_aware(datetime.combine(day, time.min))


def utc_today() -> date:
    """Returns today's date in UTC, which subscriptions use."""
    return timezone.now().astimezone(UTC).date()


def confirmation_key() -> str:
    """Returns a key for one filled-in form, so that it is posted once however often it is sent."""
    return secrets.token_hex(16)


def customer_or_404(user_id: int, *, with_balance: bool = False) -> User:
    """Returns the customer of a page, or raises Http404, also for an operator's own account."""
    try:
        return operations.customers.find_customer(user_id, with_balance=with_balance)
    except UnknownUser:
        raise Http404 from None


def row_or_404[Row: Model](rows: QuerySet[Row], object_id: object) -> Row:
    """Returns the row with an ID from a URL, or raises Http404."""
    row_id = id_in(str(object_id))
    if row_id is None:
        raise Http404
    return get_object_or_404(rows, pk=row_id)


def one_number_of_decimals(rows: Iterable[Model], *paths: str) -> None:
    """Sets `decimals` on each row of a list: the decimals of each column of amounts, by its path.

    So the amounts of a column line up.
    """
    rows = list(rows)
    readers = {path: attrgetter(path) for path in paths}
    decimals = {path: decimals_for(*(read(row) for row in rows)) for path, read in readers.items()}
    for row in rows:
        row.decimals = decimals  # type: ignore[attr-defined]


@contextmanager
def outages_shown_in(form: "PanelForm") -> Iterator[None]:
    """Shows outages during posting in the form, as it was typed, if the database can be read.

    Other outages become a page of their own (config/outages.py).
    """
    try:
        yield
    except DatabaseError as error:
        outage = outage_of(error)
        if outage in (None, UNAVAILABLE) or may_have_written():
            raise
        form.outage = outage
        form.add_error(
            None, f"{outage.sentence} Nothing was posted. Send the form again in some seconds."
        )


def page_of_form(
    request: HttpRequest, template: str, context: dict[str, Any], form: "PanelForm"
) -> TemplateResponse:
    """Returns the page with a form, the first time or again with errors."""
    response = TemplateResponse(request, template, context)
    if form.outage is not None:
        response.status_code = 503
        response["Retry-After"] = str(form.outage.retry_after_seconds)
    return response


class ReadOnlyAdmin(PanelAdmin):
    """An admin for rows that nobody edits, without Django's own change pages."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        raise Http404("Nobody edits these, so they have no history.")


class CustomerField(forms.CharField):
    """A customer, typed as an ID or an e-mail address."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("help_text", "The ID or the e-mail address.")
        super().__init__(max_length=254, **options)

    def clean(self, value: Any) -> User:
        typed = super().clean(value).strip()
        user_id = id_in(typed.lstrip("#"))
        customers = User.objects.customers()
        found = (
            customers.filter(pk=user_id)
            if user_id is not None
            else customers.filter(pk__in=User.objects.with_email(typed))
        ).first()
        if found is None:
            raise forms.ValidationError(f"There is no user {typed}.")
        return found


class PanelForm(forms.Form):
    """A form in the panel's look, with errors beside the fields."""

    required_css_class = "required"
    error_css_class = "invalid"
    outage: Outage | None = None  # the outage of the database that prevented posting
    use_required_attribute = False  # the panel's message is clearer than the browser's

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for field in self.fields.values():
            if not field.widget.is_hidden:
                field.widget.attrs.setdefault("class", "panel-input")
                field.widget.attrs.setdefault("autocomplete", "off")
