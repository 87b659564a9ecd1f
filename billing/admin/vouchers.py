"""The pages of vouchers: the list, making and changing them, and who redeemed them."""

import uuid
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any, ClassVar, Final, NamedTuple, cast
from zoneinfo import ZoneInfo

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import DateField, DecimalField, F, Q, QuerySet
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.text import capfirst
from unfold.widgets import UnfoldAdminTextInputWidget

from billing import operations, reports
from billing.admin.configuration import (
    ConfigurationAdmin,
    ConfigurationForm,
    OwnPriceField,
    shown_money,
)
from billing.admin.pages import PanelForm, page_context, row_or_404
from billing.admin.transactions import DayField, cursor_of
from billing.files.exports import csv_table
from billing.models import Channel, Subject, Transaction, Voucher, VoucherRedemption
from billing.models.vouchers import normalised_code
from billing.money import ZERO
from billing.operations.configuration import KEPT
from billing.operations.vouchers import MADE_AT_ONCE
from users.admin.base import titled
from users.models import User
from users.search import in_texts

LAST_OF_CODE: Final = 4
# What can be changed once somebody has redeemed a voucher.
ALWAYS_OPEN: Final = ("title", "uses_max", "valid_until", "is_active")
COLUMNS: Final = (
    *("code", "title", "amount", "bonus", "bonus_days", "bonus_until", "plan"),
    *("uses_max", "uses", "valid_until", "status"),
)

USED_UP: Final = Q(uses_max__isnull=False, uses__gte=F("uses_max"))


def today_here() -> date:
    """Returns today's date in the installation's time zone, which vouchers use."""
    return timezone.localdate(timezone=ZoneInfo(settings.TIME_ZONE))


class State(NamedTuple):
    """The state of a voucher, and the class of its badge."""

    label: str
    badge: str


STATES: Final = {
    "open": State("Open", "active"),
    "used_up": State("Used up", "ended"),
    "ended": State("Ended", "ended"),
    "inactive": State("Inactive", "suspended"),
}


def state_of(voucher: Voucher, today: date) -> str:
    """Returns a key of STATES."""
    if not voucher.is_active:
        return "inactive"
    if voucher.is_used_up:
        return "used_up"
    return "ended" if voucher.last_day is not None and voucher.last_day < today else "open"


def in_state(state: str, today: date) -> Q:
    """Returns the condition for vouchers in a state: `state_of` for the database."""
    ended = Q(valid_until__lt=today) | Q(bonus_until__lt=today)
    active = Q(is_active=True)
    return {
        "open": active & ~USED_UP & ~ended,
        "used_up": active & USED_UP,
        "ended": active & ~USED_UP & ended,
        "inactive": ~active,
    }[state]


# --- The list -----------------------------------------------------------------------------------


class VoucherFilters(PanelForm):
    """The filters of the list, from its URL. Of a code, the last four characters are enough."""

    q = forms.CharField(label="Title or code", required=False, max_length=200)
    state = forms.ChoiceField(
        required=False,
        choices=[("", "All"), *((key, state.label) for key, state in STATES.items())],
    )
    uses = forms.ChoiceField(
        required=False,
        choices=[("", "All"), ("none", "Never redeemed"), ("some", "Redeemed")],
    )
    series = forms.UUIDField(required=False, widget=forms.HiddenInput)

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self.fields["q"].widget.attrs |= {"placeholder": "A code’s last 4 are enough"}

    def listed(self, today: date) -> QuerySet[Voucher]:
        """Returns the filtered rows; none if a filter is invalid, which shows its error."""
        if not self.is_valid():
            return Voucher.objects.none()
        rows = Voucher.objects.select_related("plan", "created_by")
        chosen = self.cleaned_data
        if chosen["q"]:
            rows = rows.filter(_named(chosen["q"]))
        if chosen["state"]:
            rows = rows.filter(in_state(chosen["state"], today))
        if chosen["uses"]:
            rows = rows.filter(uses__gt=0) if chosen["uses"] == "some" else rows.filter(uses=0)
        return rows.filter(series=chosen["series"]) if chosen["series"] else rows


def _named(typed: str) -> Q:
    code = normalised_code(typed)
    by_code = Q(code__endswith=code) if len(code) == LAST_OF_CODE else Q(code=code)
    return by_code | Q(pk__in=in_texts(Voucher.objects.all(), typed, "title").values("pk"))


class Row(NamedTuple):
    """A voucher as the list shows it."""

    voucher: Voucher
    code: str
    state: State


# --- The form -----------------------------------------------------------------------------------


class VoucherForm(ConfigurationForm):
    """A voucher; or several at once, which give the same.

    `made_as` identifies a filled-in form, so that its vouchers are made once however often it is
    sent.
    """

    count = forms.IntegerField(
        label="How many",
        min_value=1,
        max_value=MADE_AT_ONCE,
        initial=1,
        widget=UnfoldAdminTextInputWidget({"inputmode": "numeric", "autocomplete": "off"}),
        help_text=f"Each gets a code of its own. At most {MADE_AT_ONCE:,} at once.",
    )
    made_as = forms.UUIDField(widget=forms.HiddenInput, required=False)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.instance.pk:
            del self.fields["count"], self.fields["made_as"]
        else:
            self.initial["made_as"] = uuid.uuid4()

    def clean_amount(self) -> Decimal:
        return self.cleaned_data["amount"] or ZERO

    def clean_bonus(self) -> Decimal:
        return self.cleaned_data["bonus"] or ZERO

    def clean_uses_max(self) -> int | None:
        uses_max: int | None = self.cleaned_data["uses_max"]
        if uses_max is not None and uses_max < self.instance.uses:
            raise forms.ValidationError(f"{self.instance.uses:,} users have redeemed it already.")
        return uses_max

    def clean_valid_until(self) -> date | None:
        return self._not_over("valid_until")

    def clean_bonus_until(self) -> date | None:
        return self._not_over("bonus_until")

    def _not_over(self, name: str) -> date | None:
        day: date | None = self.cleaned_data[name]
        if day is not None and day < today_here() and name in self.changed_data:
            raise forms.ValidationError("This day has passed.")
        return day


@admin.register(Voucher)
class VoucherAdmin(ConfigurationAdmin):
    history_subject = Subject.VOUCHER
    form = VoucherForm
    change_form_template = "billing/voucher.html"
    fields = list(KEPT[Voucher])
    readonly_preprocess_fields: ClassVar[dict[str, Any]] = {
        "amount": shown_money,
        "bonus": shown_money,
    }

    def get_urls(self) -> list[URLPattern]:
        redemptions = self.admin_site.admin_view(self.redemptions_view)
        return [
            path("<path:voucher_id>/redemptions/", redemptions, name="billing_voucher_redemptions"),
            *super().get_urls(),
        ]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def _sees_codes(self, request: HttpRequest) -> bool:
        """Returns whether the operator sees whole codes: whoever has one can redeem it."""
        return bool(self.has_change_permission(request) or self.has_add_permission(request))

    # --- The list -------------------------------------------------------------------------------

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        today, sees_codes = today_here(), self._sees_codes(request)
        form = VoucherFilters(request.GET)
        listed = form.listed(today)
        if request.GET.get("export") == "csv" and form.is_valid():
            if not sees_codes:
                raise PermissionDenied
            return _as_file(listed, today)
        found = reports.page_by_id(listed, cursor_of(request))
        context = page_context(request, self, title="Vouchers", user=None) | {
            "form": form,
            "page": found,
            "rows": [
                Row(
                    each,
                    each.shown_code if sees_codes else each.hidden_code,
                    STATES[state_of(each, today)],
                )
                for each in found.rows
            ],
            "has_conditions": any(form.cleaned_data.values()) or bool(form.errors),
            "sees_codes": sees_codes,
            "zone": settings.TIME_ZONE,
            "may_add": self.has_add_permission(request),
        }
        return TemplateResponse(request, "billing/vouchers.html", context)

    # --- Making and changing --------------------------------------------------------------------

    def get_fields(self, request: HttpRequest, obj: Voucher | None = None) -> list[str]:
        return [*self.fields] if obj else ["count", *self.fields]

    def get_readonly_fields(self, request: HttpRequest, obj: Voucher | None = None) -> list[str]:
        if obj is None or not obj.uses:
            return []
        return [name for name in self.fields if name not in ALWAYS_OPEN]

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        label = capfirst(str(db_field.verbose_name))
        if isinstance(db_field, DecimalField):
            return OwnPriceField(
                label=label,
                help_text=db_field.help_text,
                negative="A voucher cannot take money.",
                required=False,
            )
        if isinstance(db_field, DateField):
            field = DayField(label=label, help_text=str(db_field.help_text))
            field.widget.attrs |= {"class": "panel-input", "autocomplete": "off"}
            return field
        if db_field.name == "plan":
            # The chosen plan is offered even if it is retired.
            kwargs["limit_choices_to"] = Q(is_active=True) | Q(
                pk__in=Voucher.objects.filter(plan__isnull=False).values("plan")
            )
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name == "plan":
            field.empty_label = "No plan"
            field.widget = field.widget.widget  # without links to the pages of plans
        return field

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:  # noqa: FBT001 - Django's signature
        if change:
            super().save_model(request, obj, form, change)
            return
        made = operations.vouchers.make(
            form.cleaned_data["count"],
            series=form.cleaned_data["made_as"],
            actor=cast(User, request.user),
            channel=Channel.PANEL,
            **{name: getattr(obj, name) for name in KEPT[Voucher]},
        )
        obj.pk, obj.series = made[0].pk, made[0].series
        request.made = len(made)  # type: ignore[attr-defined]

    def response_add(
        self, request: HttpRequest, obj: Voucher, post_url_continue: str | None = None
    ) -> HttpResponse:
        """Leads to the list of the vouchers that were just made, with their codes."""
        made: int = request.made  # type: ignore[attr-defined]
        told = "1 voucher was made." if made == 1 else f"{made:,} vouchers were made."
        self.message_user(request, f"{told} Here are the codes.", messages.SUCCESS)
        address = reverse("admin:billing_voucher_changelist")
        return HttpResponseRedirect(f"{address}?series={obj.series}")

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        obj = kwargs.get("obj")
        if obj is None:
            context["title"] = "Add vouchers"
        else:
            # A refused form leaves the entered values in `obj`.
            saved = Voucher.objects.get(pk=obj.pk)
            context |= {
                "show_delete": False,
                "saved": saved,
                "code": saved.shown_code if self._sees_codes(request) else saved.hidden_code,
                "state": STATES[state_of(saved, today_here())],
            }
        return super().render_change_form(request, context, *args, **kwargs)

    # --- Who redeemed it ------------------------------------------------------------------------

    def redemptions_view(self, request: HttpRequest, voucher_id: str) -> HttpResponseBase:
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        voucher = row_or_404(Voucher.objects.all(), voucher_id)
        redeemed = VoucherRedemption.objects.filter(voucher=voucher).select_related("user")
        found = reports.page_by_id(redeemed, cursor_of(request))
        context = page_context(request, self, title=titled(voucher, "Redeemed by"), user=None) | {
            "original": voucher,
            "page": found,
            "rows": list(_with_links(request, found.rows)),
        }
        return TemplateResponse(request, "billing/voucher_redemptions.html", context)


class RedeemedRow(NamedTuple):
    """A redemption, and the page of its transaction."""

    redemption: VoucherRedemption
    link: str


def _with_links(request: HttpRequest, rows: Any) -> Iterator[RedeemedRow]:
    """Yields redemptions with links to their transactions, if the operator may see these."""
    ids: dict[tuple[int, int], int] = {}
    if request.user.has_perm("billing.view_transaction"):
        places = Q(pk__in=[])
        for row in rows:
            places |= Q(user=row.user_id, number=row.number)
        found = Transaction.objects.filter(places).values_list("user_id", "number", "pk")
        ids = {(user_id, number): pk for user_id, number, pk in found}
    for row in rows:
        pk = ids.get((row.user_id, row.number))
        link = reverse("admin:billing_transaction_change", args=[pk]) if pk else ""
        yield RedeemedRow(row, link)


# --- The file -----------------------------------------------------------------------------------


def _as_file(listed: QuerySet[Voucher], today: date) -> HttpResponseBase:
    rows = (_cells(each, today) for each in listed.iterator(chunk_size=1000))
    lines = csv_table(COLUMNS, rows, for_people=True)
    response = StreamingHttpResponse(
        ("\ufeff" * (place == 0) + line for place, line in enumerate(lines)),
        content_type="text/csv; charset=utf-8",
    )
    response["Content-Disposition"] = 'attachment; filename="vouchers.csv"'
    return response


def _cells(voucher: Voucher, today: date) -> tuple[Any, ...]:
    return (
        voucher.shown_code,
        voucher.title,
        voucher.amount,
        voucher.bonus,
        voucher.bonus_days,
        voucher.bonus_until,
        voucher.plan.name if voucher.plan else "",
        voucher.uses_max,
        voucher.uses,
        voucher.valid_until,
        STATES[state_of(voucher, today)].label,
    )
