"""Lists of transactions: of one user (the Transactions tab), or of all users."""

import json
from contextlib import nullcontext
from datetime import date, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, cast

from django import forms
from django.core.exceptions import PermissionDenied
from django.core.validators import MaxValueValidator, MinValueValidator
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin

from billing import currencies, reports
from billing.admin.exports import export_response
from billing.admin.navigation import may_change_balance
from billing.admin.pages import (
    PanelForm,
    customer_or_404,
    midnight,
    page_context,
)
from billing.descriptions import DESCRIPTION_MAX_LENGTH
from billing.models import (
    Channel,
    Label,
    Subscription,
    Transaction,
    subtype_label,
)
from billing.models.transactions import SUBTYPE_LABELS
from users.ids import id_in
from users.models import User

SEARCH_MAX_SECONDS: Final = 15
SUMS_MAX_SECONDS: Final = 3

# --- Which transactions -------------------------------------------------------------------------


class DayInput(forms.DateInput):
    """A text widget for a day, with a button that opens the browser's calendar by script.

    A browser's own date field uses the order of the browser's language, such as 11/28/2026. This
    one shows 2026-11-28 to everybody.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__({"placeholder": "YYYY-MM-DD"}, **options)

    def render(self, *args: Any, **options: Any) -> SafeString:
        return format_html(
            '<span class="panel-day">{}'
            '<button type="button" data-calendar hidden>'
            '<span class="material-symbols-outlined" aria-hidden="true">calendar_month</span>'
            '<span class="hidden-words">Choose from a calendar</span></button>'
            '<input type="date" tabindex="-1" aria-hidden="true" hidden></span>',
            super().render(*args, **options),
        )


class DayField(forms.DateField):
    """A field for a day that can have transactions."""

    default_validators = [
        MinValueValidator(date(1970, 1, 1), "This day is too long ago."),
        MaxValueValidator(date(9000, 12, 31), "This day is too far in the future."),
    ]

    def __init__(self, label: str, help_text: str = "") -> None:
        super().__init__(
            label=label,
            help_text=help_text,
            required=False,
            widget=DayInput(format="%Y-%m-%d"),
            input_formats=["%Y-%m-%d"],
            error_messages={"invalid": "Write the day like 2026-11-28."},
        )


class TransactionFilters(PanelForm):
    """The filters of a list, from its URL. Days are in the operator's time zone, and inclusive."""

    from_day = DayField(label="From")
    to_day = DayField(label="To")
    type = forms.ChoiceField(required=False, choices=[("", "All types"), *Label.choices])
    subtype = forms.CharField(required=False, widget=forms.Select)
    direction = forms.ChoiceField(
        required=False,
        choices=[
            ("", "All"),
            ("refills", "Refills"),
            ("charges", "Charges"),
            ("reversals", "Reversals"),
        ],
    )
    channel = forms.ChoiceField(required=False, choices=[("", "All"), *Channel.choices])
    reason = forms.CharField(required=False, widget=forms.Select, max_length=32)
    batch = forms.IntegerField(
        required=False, min_value=1, max_value=2**63 - 1, widget=forms.HiddenInput
    )
    operator = forms.CharField(required=False, max_length=254)
    paid_from = DayField(label="Paid from")
    paid_to = DayField(label="Paid to")
    q = forms.CharField(label="Description", required=False, max_length=DESCRIPTION_MAX_LENGTH)
    device = forms.CharField(required=False, max_length=100)

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        offered = reports.choices()
        by_code = SUBTYPE_LABELS | offered.services
        known = dict(sorted(by_code.items(), key=lambda item: item[1]))
        chosen = str(data.get("subtype", ""))
        if chosen and chosen not in known:  # of a gift, or of a deleted service
            known[chosen] = subtype_label(chosen)
        widget = cast(forms.Select, self.fields["subtype"].widget)
        widget.choices = [("", "All subtypes"), *known.items()]
        reasons = [("", "All reasons"), *offered.reasons.items()]
        cast(forms.Select, self.fields["reason"].widget).choices = reasons
        self.fields["q"].widget.attrs |= {"placeholder": "Words"}
        self.fields["operator"].widget.attrs |= {"placeholder": "E-mail or ID"}

    def clean_operator(self) -> int | None:
        """Returns the ID of the operator with this ID or e-mail address."""
        typed: str = self.cleaned_data["operator"].strip()
        if not typed:
            return None
        operators = User.objects.filter(is_staff=True)
        number = id_in(typed)
        found = (
            operators.filter(pk=number)
            if number is not None
            else operators.filter(pk__in=User.objects.with_email(typed))
        )
        if (operator := found.values_list("pk", flat=True).first()) is None:
            raise forms.ValidationError("No operator has this e-mail address or ID.")
        return operator

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        first, last = cleaned.get("from_day"), cleaned.get("to_day")
        if first and last and first > last:
            self.add_error("to_day", "This day is before the first one.")
        first, last = cleaned.get("paid_from"), cleaned.get("paid_to")
        if first and last and first > last:
            self.add_error("paid_to", "This day is before the first one.")
        return cleaned

    def listing(self, user: User | None) -> reports.Listing | None:
        """Returns the filtered listing; None if a filter is invalid, which shows its error."""
        if not self.is_valid():
            return None
        chosen = self.cleaned_data
        first, last = chosen.get("from_day"), chosen.get("to_day")
        return reports.Listing(
            user_id=user.pk if user else None,
            last_number=user.balance.last_number if user else None,
            since=midnight(first) if first else None,
            until=midnight(last + timedelta(days=1)) if last else None,
            label=chosen.get("type", ""),
            subtype=chosen.get("subtype", ""),
            kind=chosen.get("direction", ""),
            channel=chosen.get("channel", ""),
            reason=chosen.get("reason", ""),
            batch=chosen.get("batch"),
            actor=chosen.get("operator"),
            paid_from=chosen.get("paid_from"),
            paid_to=chosen.get("paid_to"),
            text=chosen.get("q", "").replace("\0", ""),
            device=chosen.get("device", "").replace("\0", ""),
        )


class Preset(NamedTuple):
    """A period that can be chosen with one click."""

    label: str
    from_day: date
    to_day: date
    is_chosen: bool


def presets(form: TransactionFilters) -> list[Preset]:
    today = timezone.localdate()
    month = today.replace(day=1)
    last_month_end = month - timedelta(days=1)
    periods = [
        ("Today", today, today),
        ("7 days", today - timedelta(days=6), today),
        ("30 days", today - timedelta(days=29), today),
        ("This month", month, today),
        ("Last month", last_month_end.replace(day=1), last_month_end),
    ]
    chosen = None
    if not form.errors:
        chosen = (form.cleaned_data.get("from_day"), form.cleaned_data.get("to_day"))
    return [Preset(name, first, last, chosen == (first, last)) for name, first, last in periods]


# --- Lists --------------------------------------------------------------------------------------


def list_page(request: HttpRequest, model_admin: ModelAdmin, user: User | None) -> HttpResponseBase:
    """Returns the page of one user's transactions, or of all users'."""
    form = TransactionFilters(request.GET)
    listing = form.listing(user)
    if listing is not None:
        listing = listing.with_whole_device()
        if wanted := request.GET.get("goto", "").strip():
            return _go_to(request, listing, wanted)
        if request.GET.get("export") in ("csv", "xlsx"):
            return export_response(request, model_admin, listing, user=user, form=form)
    context = page_context(request, model_admin, title="Transactions", user=user)
    if listing is not None:
        context |= _listed(request, user, listing)
    context |= {
        "form": form,
        "presets": presets(form),
        "has_conditions": any(form.cleaned_data.values()) or bool(form.errors),
        "can_change_balance": may_change_balance(request, user),
        "goto_failed": request.GET.get("missed", ""),
    }
    return TemplateResponse(request, "billing/transactions.html", context)


def _listed(request: HttpRequest, user: User | None, listing: reports.Listing) -> dict[str, Any]:
    """Returns a page of the list and its figures; neither if a search takes too long."""
    context: dict[str, Any] = {"is_filtered": listing.is_filtered}
    try:
        with nullcontext() if listing.is_quick else reports.time_limit(SEARCH_MAX_SECONDS):
            context["page"] = reports.page(listing, cursor_of(request))
            if user:
                context |= _of_one_user(request, user, listing)
    except reports.TooSlow:
        return {"is_filtered": listing.is_filtered, "is_too_slow": True}
    if listing.since or listing.until:
        context |= _sums_of_period(listing)
    context["whole_device"] = listing.exact_device
    return context


def _sums_of_period(listing: reports.Listing) -> dict[str, Any]:
    """Returns the sums of a period; not those for which too many rows would have to be read."""
    context: dict[str, Any] = {}
    try:
        with reports.time_limit(SUMS_MAX_SECONDS):
            if listing.user_id is None:
                context["turnover"] = reports.turnover(listing)
            if reports.has_reasons(listing):
                context["by_reason"] = reports.by_reason(listing)
    except reports.TooSlow:
        context["has_more_sums"] = True
    return context


def _of_one_user(request: HttpRequest, user: User, listing: reports.Listing) -> dict[str, Any]:
    """Returns balances, totals, chart, and the transaction that was just posted, if any."""
    totals, points = reports.overview(listing)
    posted = None
    if number := _number(request.GET.get("posted", "")):
        posted = Transaction.objects.filter(user=user, number=number).first()
    return {
        "totals": totals,
        "numbers": listing.numbers,
        "posted": posted,
        "posted_again": "again" in request.GET,
        "may_resume": posted is not None and posted.amount > 0 and _is_suspended(user),
        "chart": json.dumps(
            {
                "kind": "balances",
                "decimals": currencies.own_decimals(),
                "timeZone": str(timezone.get_current_timezone()),
                "points": [
                    [int(p.moment.timestamp() * 1000), str(p.real), str(p.bonus)] for p in points
                ],
            }
        )
        if len(points) > 1
        else "",
    }


def _is_suspended(user: User) -> bool:
    """Returns whether a subscription is suspended, so that a refill may lead to a charge."""
    suspended = Subscription.objects.filter(user=user, status=Subscription.Status.SUSPENDED)
    return user.is_active and suspended.exists()


def _number(text: str) -> int | None:
    """Returns a typed transaction number; None if the text is not one."""
    digits = text.strip().lstrip("#").replace(",", "").replace("\u00a0", "")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 18 else None


def cursor_of(request: HttpRequest) -> reports.Cursor:
    places: tuple[Literal["before", "after", "at"], ...] = ("before", "after", "at")
    for place in places:
        key = _number(request.GET.get(place, ""))
        if key is not None:
            return reports.Cursor(place, key)
    return reports.Cursor()


def _go_to(request: HttpRequest, listing: reports.Listing, wanted: str) -> HttpResponseRedirect:
    """Redirects to the page that begins with a number, or with the last transaction of a day."""
    query = request.GET.copy()
    for name in ("goto", "before", "after", "at", "missed", "posted", "again"):
        query.pop(name, None)
    try:
        day = datetime.strptime(wanted, "%Y-%m-%d").date()  # noqa: DTZ007 - a day, no moment
        cursor = reports.cursor_at(listing, midnight(day + timedelta(days=1)))
        query["at"] = str(cursor.key)
    except (ValueError, OverflowError):
        number = _number(wanted)
        query["missed" if number is None else "at"] = wanted[:40] if number is None else str(number)
    return HttpResponseRedirect(f"{request.path}?{query.urlencode()}")


def user_transactions(
    request: HttpRequest, user_id: int, model_admin: ModelAdmin
) -> HttpResponseBase:
    """Shows the Transactions tab."""
    if not request.user.has_perm("billing.view_transaction"):
        raise PermissionDenied
    return list_page(request, model_admin, customer_or_404(user_id, with_balance=True))
