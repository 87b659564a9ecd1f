"""Lists of transactions, of one user (the Transactions tab) or of all, and a transaction's page."""

import json
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from tempfile import TemporaryFile
from typing import Any, Final, Literal, NamedTuple, cast
from urllib.parse import urlencode

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.core.validators import MaxValueValidator, MinValueValidator
from django.http import (
    FileResponse,
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    QueryDict,
    StreamingHttpResponse,
)
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin

from billing import currencies, ledger, operations, reports
from billing.admin.pages import (
    PanelForm,
    confirmation_key,
    customer_or_404,
    midnight,
    outages_told_in,
    page_context,
    page_of_form,
    row_or_404,
)
from billing.descriptions import DESCRIPTION_MAX_LENGTH, DESCRIPTION_MIN_LENGTH
from billing.errors import AlreadyReversed, BillingError, InvalidDescription, NotReversible
from billing.files.exports import TooManyRows, csv_lines, write_xlsx
from billing.models import (
    Channel,
    Label,
    Plan,
    Service,
    StandardDescription,
    Subscription,
    Transaction,
    TransactionType,
    subtype_label,
)
from billing.models.transactions import SUBTYPE_LABELS
from billing.money import NotMoney, format_money, to_money
from billing.plans import services
from billing.plans.pricing import format_period, format_quantity, to_quantity
from users.admin.base import PanelAdmin
from users.ids import id_in
from users.models import User

SEARCH_MAX_SECONDS: Final = 15

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

    def __init__(self, label: str) -> None:
        super().__init__(
            label=label,
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
    q = forms.CharField(label="Description", required=False, max_length=DESCRIPTION_MAX_LENGTH)
    device = forms.CharField(required=False, max_length=100)

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        services = dict(Service.objects.values_list("code", "name"))
        known = dict(sorted((SUBTYPE_LABELS | services).items(), key=lambda item: item[1]))
        chosen = str(data.get("subtype", ""))
        if chosen and chosen not in known:  # of a gift, or of a deleted service
            known[chosen] = subtype_label(chosen)
        widget = cast(forms.Select, self.fields["subtype"].widget)
        widget.choices = [("", "All subtypes"), *known.items()]
        self.fields["q"].widget.attrs |= {"placeholder": "Words"}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        first, last = cleaned.get("from_day"), cleaned.get("to_day")
        if first and last and first > last:
            self.add_error("to_day", "This day is before the first one.")
        return cleaned

    def listing(self, user_id: int | None) -> reports.Listing | None:
        """Returns the filtered listing; None if a filter is invalid, which shows its error."""
        if not self.is_valid():
            return None
        chosen = self.cleaned_data
        first, last = chosen.get("from_day"), chosen.get("to_day")
        return reports.Listing(
            user_id=user_id,
            since=midnight(first) if first else None,
            until=midnight(last + timedelta(days=1)) if last else None,
            label=chosen.get("type", ""),
            subtype=chosen.get("subtype", ""),
            kind=chosen.get("direction", ""),
            channel=chosen.get("channel", ""),
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
    listing = form.listing(user.pk if user else None)
    if listing is not None:
        if wanted := request.GET.get("goto", "").strip():
            return _go_to(request, listing, wanted)
        if request.GET.get("export") in ("csv", "xlsx"):
            return _export(request, listing, user)
    context = page_context(request, model_admin, title="Transactions", user=user)
    if listing is not None:
        context |= _listed(request, user, listing)
    context |= {
        "form": form,
        "presets": presets(form),
        "has_conditions": any(form.cleaned_data.values()) or bool(form.errors),
        "can_change_balance": request.user.has_perm("billing.change_balance"),
        "goto_failed": request.GET.get("missed", ""),
    }
    return TemplateResponse(request, "billing/transactions.html", context)


def _listed(request: HttpRequest, user: User | None, listing: reports.Listing) -> dict[str, Any]:
    """Returns a page of the list and its figures; neither if a search takes too long."""
    context: dict[str, Any] = {"is_filtered": listing.is_filtered}
    try:
        with reports.time_limit(SEARCH_MAX_SECONDS):
            context["page"] = reports.page(listing, cursor_of(request))
            if user:
                context |= _of_one_user(request, user, listing)
            elif listing.since or listing.until:
                context["turnover"] = reports.turnover(listing)
    except reports.TooSlow:
        context = {"is_filtered": listing.is_filtered, "is_too_slow": True}
    return context


def _of_one_user(request: HttpRequest, user: User, listing: reports.Listing) -> dict[str, Any]:
    """Returns balances, totals, chart, and the transaction that was just posted, if any."""
    points = reports.balance_points(listing)
    posted = None
    if number := _number(request.GET.get("posted", "")):
        posted = Transaction.objects.filter(user=user, number=number).first()
    return {
        "totals": reports.totals(listing),
        "numbers": listing.numbers,
        "posted": posted,
        "posted_again": "again" in request.GET,
        "may_resume": posted is not None and posted.amount > 0 and _is_suspended(user),
        "chart": json.dumps(
            {
                "kind": "balances",
                "decimals": currencies.own_decimals(),
                "timeZone": timezone.get_current_timezone_name(),
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


def _export(request: HttpRequest, listing: reports.Listing, user: User | None) -> HttpResponseBase:
    name = f"transactions-user-{user.pk}" if user else "transactions"
    name += f"-{timezone.localdate().isoformat()}"
    if request.GET["export"] == "csv":
        zone = timezone.get_current_timezone()

        def lines() -> Iterator[str]:
            # The response is streamed after the middleware has reset the time zone.
            with timezone.override(zone):
                yield from csv_lines(listing)

        response: HttpResponseBase = StreamingHttpResponse(
            lines(), content_type="text/csv; charset=utf-8"
        )
        response["Content-Disposition"] = f'attachment; filename="{name}.csv"'
        response["Content-Encoding"] = "identity"  # compression would delay lines
        return response
    workbook = TemporaryFile()  # noqa: SIM115 - the response closes it
    try:
        write_xlsx(listing, workbook)
    except TooManyRows:
        workbook.close()
        return HttpResponse(
            "A spreadsheet holds at most 1,048,575 transactions; choose a shorter period, or CSV.",
            status=400,
            content_type="text/plain; charset=utf-8",
        )
    workbook.seek(0)
    return FileResponse(workbook, as_attachment=True, filename=f"{name}.xlsx")


def user_transactions(
    request: HttpRequest, user_id: int, model_admin: ModelAdmin
) -> HttpResponseBase:
    """Shows the Transactions tab."""
    if not request.user.has_perm("billing.view_transaction"):
        raise PermissionDenied
    return list_page(request, model_admin, customer_or_404(user_id))


# --- One transaction ----------------------------------------------------------------------------


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
    key = forms.CharField(widget=forms.HiddenInput, max_length=64)
    paid_back = forms.CharField(widget=forms.HiddenInput, required=False)

    def __init__(self, reversed_one: Transaction, actor: User, data: QueryDict | None) -> None:
        self.reversed_one = reversed_one
        self.actor = actor
        super().__init__(data, initial={"key": confirmation_key()})

    def save(self) -> Transaction:
        """Reverses. Raises BillingError like `ledger.reverse`."""
        shown = self.cleaned_data["paid_back"].split()
        return operations.money.reverse(
            self.reversed_one.user_id,
            number=self.reversed_one.number,
            description=self.cleaned_data["description"],
            seen_paid_back=[int(each) for each in shown if id_in(each) is not None],
            idempotency_key=f"panel:{self.cleaned_data['key']}",
            actor=self.actor,
            channel=Channel.PANEL,
        )

    def show(self, paid_back: list[Transaction]) -> None:
        """Stores in the form which paybacks the page shows, also when it is shown again."""
        shown = numbers_of(paid_back)
        self.initial["paid_back"] = shown
        if self.is_bound:
            self.data = cast(QueryDict, self.data).copy()
            self.data["paid_back"] = shown


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
        context = page_context(request, self, title=f"Transaction {row.number}", user=row.user) | {
            "transaction": row,
            "previous": siblings.filter(number=row.number - 1).first(),
            "next": siblings.filter(number=row.number + 1).first(),
            "digest": bytes(row.digest).hex(),
            "explanation": _explanation(row),
            "request_id": _request_id(row),
            "metadata": json.dumps(row.metadata, indent=2, ensure_ascii=False, sort_keys=True),
            "can_reverse": request.user.has_perm("billing.change_balance")
            and not row.reversed_by
            and row.type != TransactionType.REVERSAL,
        }
        return TemplateResponse(request, "billing/transaction.html", context)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        raise Http404("A transaction never changes: it has no history.")

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
                with outages_told_in(form):
                    return to_posted(form.save())
            except BillingError as problem:
                refusal = problem
        reports.tie_reversals([row])
        is_reversible = not row.reversed_by and row.type != TransactionType.REVERSAL
        if not is_reversible and refusal is None:
            refusal = _why_not(row)
        paid_back = ledger.paid_back_of(row)
        form.show(paid_back)
        context = page_context(
            request, self, title=f"Reverse transaction {row.number}", user=row.user
        ) | {
            "form": form,
            "transaction": row,
            "refusal": refusal,
            "can_reverse": is_reversible,
            "paid_back": paid_back,
            "balance": ledger.balance(row.user_id),
            "standard_descriptions": StandardDescription.objects.values_list("text", flat=True),
        }
        return page_of_form(request, "billing/reverse.html", context, form)

    def _row(self, request: HttpRequest, transaction_id: object) -> Transaction:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return row_or_404(Transaction.objects.select_related("user", "actor"), transaction_id)


def _why_not(row: Transaction) -> BillingError:
    """Returns why a transaction cannot be reversed at all."""
    if row.type == TransactionType.REVERSAL:
        return NotReversible(number=row.number)
    return AlreadyReversed(number=row.number, reversed_by=row.reversed_by[0].number)


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


def to_posted(posted: Transaction) -> HttpResponseRedirect:
    """Redirects to the tab, which shows what was posted and marks its row."""
    address = reverse("admin:users_user_transactions", args=[posted.user_id])
    query = {"posted": posted.number} | ({"again": 1} if posted.replayed else {})
    return HttpResponseRedirect(f"{address}?{urlencode(query)}")
