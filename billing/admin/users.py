"""The pages of customers: the list, the profile, and the further pages of a user."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Final, cast

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.forms.utils import ErrorList
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.timezone import localtime
from unfold.contrib.filters.admin import ChoicesRadioFilter
from unfold.decorators import display

from billing import operations, reports, thresholds
from billing.admin.amounts import AdminNumberInput, Question, TypedField, links
from billing.admin.change_balance import change_balance
from billing.admin.charge_service import charge_service
from billing.admin.forget import forget_page
from billing.admin.gift import gift_expiry
from billing.admin.history import WithHistory
from billing.admin.low_balance import low_balance
from billing.admin.merge import merge_page
from billing.admin.navigation import header_actions, may_change_balance
from billing.admin.pages import one_number_of_decimals, utc_today
from billing.admin.redeem_voucher import redeem_voucher
from billing.admin.subscriptions import (
    add_subscription,
    cancel_subscription,
    change_plan,
    user_subscriptions,
)
from billing.admin.transactions import user_transactions
from billing.errors import EmailTaken
from billing.models import Channel, Subject, Subscription, Transaction
from billing.money import decimals_for, format_money
from billing.typed import shown, unambiguous
from users.admin.customers import UserAdmin
from users.admin.people import StatusFilter
from users.links import address_of
from users.models import User


class AmountBound(TypedField):
    """A field for one end of a range of amounts; empty: no bound."""

    def __init__(self, label: str) -> None:
        attrs = {"placeholder": label, "aria-label": label}
        super().__init__(label=label, required=False, widget=AdminNumberInput(attrs))


class AmountRangeFilter(admin.ListFilter):
    """A filter from one amount to another, both included. Errors are shown beside what was typed.

    If an end is ambiguous, the page asks which number is meant, and lists nobody until then.
    """

    template = "billing/amount_range_filter.html"
    field: str
    parameter_name: str  # Unfold requires one

    def __init__(
        self, request: HttpRequest, params: dict[str, list[str]], model: Any, model_admin: Any
    ) -> None:
        super().__init__(request, params, model, model_admin)
        for name in self._bounds():
            if name in params:
                self.used_parameters[name] = params.pop(name)[-1]
        self.questions: dict[str, SafeString] = {}
        lower, upper = self._bounds()
        self.form = forms.Form(self.used_parameters)
        self.form.fields = {lower: AmountBound("From"), upper: AmountBound("To")}
        if self.form.is_valid():
            first, last = (self.form.cleaned_data[name] for name in (lower, upper))
            if first is not None and last is not None and first > last:
                self.form.add_error(upper, "This is less than the first amount.")
        for name, problems in self.form.errors.as_data().items():
            if isinstance(problems[0], Question):
                self.questions[name] = self._question(request, name, problems[0])
        for name, question in self.questions.items():
            self.form.errors[name] = ErrorList([question])

    @staticmethod
    def _question(request: HttpRequest, name: str, problem: Question) -> SafeString:
        """Returns the question; its answers are links that keep the other filters."""
        query = request.GET.copy()
        query.pop("p", None)  # the page number
        answers = []
        for reading in problem.readings:
            query[name] = unambiguous(reading)
            answers.append((shown(reading), f"?{query.urlencode()}"))
        return links(answers)

    def expected_parameters(self) -> list[str | None]:
        return [*self._bounds()]

    def _bounds(self) -> tuple[str, str]:
        return f"{self.field}_from", f"{self.field}_to"

    def has_output(self) -> bool:
        return True

    @property
    def has_mistake(self) -> bool:
        return bool(self.form.errors)

    def choices(self, changelist: Any) -> Iterator[dict[str, Any]]:
        yield {"form": self.form}

    def queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> QuerySet[User]:
        for name, question in self.questions.items():
            told = format_html(
                "Filter by {}, “{}”: no users are listed yet. {}",
                self.title,
                self.form.fields[name].label,
                question,
            )
            messages.warning(request, told)
        if self.questions:
            queryset = queryset.none()
        for name in self.form.errors.keys() - self.questions.keys():
            why = " ".join(str(problem) for problem in self.form.errors[name])
            end = self.form.fields[name].label
            messages.error(request, f"Filter by {self.title}, “{end}”: {why} No users are shown.")
        if self.has_mistake:
            return queryset.none()
        for name, lookup in zip(self._bounds(), ("gte", "lte"), strict=True):
            amount = self.form.cleaned_data.get(name)
            if amount is not None:
                queryset = queryset.filter(**{f"balance__{self.field}__{lookup}": amount})
        return queryset


class RealRangeFilter(AmountRangeFilter):
    title = "balance"
    field = parameter_name = "real"


class BonusRangeFilter(AmountRangeFilter):
    title = "bonus balance"
    field = parameter_name = "bonus"


MONEY = ("real_balance", "bonus_balance", "last_transaction", RealRangeFilter, BonusRangeFilter)


# Further pages of a user: path, view, and the end of the URL name.
PAGES: Final = (
    ("transactions", user_transactions, "transactions"),
    ("subscriptions", user_subscriptions, "subscriptions"),
    ("subscriptions/add", add_subscription, "subscription_add"),
    ("subscriptions/<int:subscription_id>/change-plan", change_plan, "subscription_plan"),
    ("subscriptions/<int:subscription_id>/cancel", cancel_subscription, "subscription_cancel"),
    ("change-balance", change_balance, "change_balance"),
    ("charge-service", charge_service, "charge_service"),
    ("redeem-voucher", redeem_voucher, "redeem_voucher"),
    ("low-balance", low_balance, "low_balance"),
    ("gifts/<int:number>/expiry", gift_expiry, "gift_expiry"),
    ("merge", merge_page, "merge"),
    ("forget", forget_page, "forget"),
)


def actor(request: HttpRequest) -> User:
    return cast(User, request.user)


def sees_money(request: HttpRequest) -> bool:
    return request.user.has_perm("billing.view_balance")


def money(amount: Decimal, decimals: int) -> SafeString:
    shown = format_money(amount, decimals=decimals)
    return mark_safe(f'<span class="money">{shown}</span>')  # noqa: S308 - a number


def _gifts(request: HttpRequest, user: User) -> dict[str, Any]:
    """Returns what can be spent of a user's grants, with links to the transactions that gave it."""
    grants = reports.spendable_grants(user.pk, timezone.now())
    ids: dict[int, int] = {}
    if request.user.has_perm("billing.view_transaction"):
        numbers = [grant.number for grant in grants]
        rows = Transaction.objects.filter(user=user.pk, number__in=numbers)
        ids = dict(rows.values_list("number", "pk"))
    rows_shown = [
        {
            "number": grant.number,
            "amount": grant.amount,
            "remaining": grant.remaining,
            "expires_at": grant.expires_at,
            "link": grant.number in ids
            and reverse("admin:billing_transaction_change", args=[ids[grant.number]]),
        }
        for grant in grants
    ]
    amounts = [amount for grant in grants for amount in (grant.amount, grant.remaining)]
    return {"grants": rows_shown, "grant_decimals": decimals_for(*amounts)}


def _find_duplicates(users: Iterable[User]) -> None:
    """Sets `known_duplicates` on each user, with one query for all."""
    by_user: dict[int | None, list[User]] = {}
    rows = User.objects.filter(duplicate_of__in=[user.pk for user in users])
    for each in rows.only("email", "duplicate_of_id").order_by("pk"):
        by_user.setdefault(each.duplicate_of_id, []).append(each)
    for user in users:
        user.known_duplicates = by_user.get(user.pk, [])  # type: ignore[attr-defined]


@admin.register(User)
class BillingUserAdmin(WithHistory, UserAdmin):
    history_subject = Subject.USER
    list_display = [
        "id",
        "name_and_email",
        "legal_name",
        "real_balance",
        "bonus_balance",
        "status",
        "last_transaction",
        "created",
    ]
    list_filter = [
        StatusFilter,
        RealRangeFilter,
        BonusRangeFilter,
        ("legal_type", ChoicesRadioFilter),
    ]
    change_form_template = "billing/user.html"
    change_form_outer_before_template = "billing/user_summary.html"

    class Media:
        css = {"all": ["billing/users.css"]}

    def get_urls(self) -> list[URLPattern]:
        pages = [
            path(f"<int:user_id>/{address}/", self._view_of_user(view), name=f"users_user_{name}")
            for address, view, name in PAGES
        ]
        return [*pages, *super().get_urls()]

    def _view_of_user(self, view: Callable[..., HttpResponseBase]) -> Callable[..., Any]:
        def with_admin(request: HttpRequest, user_id: int, **kwargs: int) -> HttpResponseBase:
            return view(request, user_id, self, **kwargs)

        wrapped: Callable[..., Any] = self.admin_site.admin_view(with_admin)
        return wrapped

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:  # noqa: FBT001 - Django's signature
        """Saves the user by operations, within the admin's database transaction."""
        if change:
            entered = {name: form.cleaned_data[name] for name in form.changed_data}
            operations.customers.edit(
                obj.pk,
                lambda user: entered,
                is_validated=True,
                day=utc_today(),
                actor=actor(request),
                channel=Channel.PANEL,
            )
        else:
            request.added = operations.customers.create(  # type: ignore[attr-defined]
                obj,
                is_validated=True,
                day=utc_today(),
                actor=actor(request),
                channel=Channel.PANEL,
            )

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except EmailTaken:
            # Two operators chose the same address at once; the second gets the form's own message.
            return super().changeform_view(request, *args, **kwargs)

    def response_add(
        self, request: HttpRequest, obj: User, post_url_continue: str | None = None
    ) -> HttpResponse:
        response = super().response_add(request, obj, post_url_continue)
        said: str = request.added.sentence  # type: ignore[attr-defined]
        if given := said.removeprefix("Added.").strip():
            self.message_user(request, given, messages.SUCCESS)
        return response

    def set_active(self, request: HttpRequest, ids: Sequence[int], *, active: bool) -> int:
        return operations.customers.set_active(
            Subject.USER, ids, is_active=active, actor=actor(request), channel=Channel.PANEL
        )

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return super().get_queryset(request).select_related("balance", "duplicate_of")

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Returns False for a forgotten user, whose page can only be read."""
        allowed: bool = super().has_change_permission(request, obj)
        return allowed and (obj is None or obj.forgotten_at is None)

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        _find_duplicates(changelist.result_list)
        if sees_money(request):
            one_number_of_decimals(changelist.result_list, "balance.real", "balance.bonus")
        return changelist

    def get_list_display(self, request: HttpRequest) -> list[str]:
        return [each for each in self.list_display if each not in MONEY or sees_money(request)]

    def get_list_filter(self, request: HttpRequest) -> list[Any]:
        return [each for each in self.list_filter if each not in MONEY or sees_money(request)]

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        obj = kwargs.get("obj")
        if obj is not None:
            if request.user.has_perm("billing.view_subscription"):
                suspended = Subscription.objects.filter(
                    user=obj, status=Subscription.Status.SUSPENDED
                )
                context["suspended_count"] = suspended.count()
            if request.user.has_perm("billing.view_lowbalancethreshold"):
                context["threshold"] = thresholds.of(obj.pk)
            context |= {
                "closed": obj if obj.is_closed else None,
                "duplicates": obj.duplicates.order_by("pk"),
                "may_merge": request.user.has_perm("users.merge_user") and not obj.is_closed,
                "may_forget": request.user.has_perm("users.forget_user")
                and not obj.is_active
                and obj.forgotten_at is None,
                "actions_detail": header_actions(request, obj),
                "balance": obj.balance if sees_money(request) else None,
                **(_gifts(request, obj) if sees_money(request) else {}),
                "can_change_balance": may_change_balance(request, obj),
                "can_view_transactions": request.user.has_perm("billing.view_transaction"),
                "can_view_subscriptions": request.user.has_perm("billing.view_subscription"),
            }
        return super().render_change_form(request, context, *args, **kwargs)

    @display(description="name", header=True, ordering="last_name")
    def name_and_email(self, user: User) -> list[str]:
        """Returns name and address, and whose duplicate it is or which duplicates there are."""
        name, email = super().name_and_email(user)
        if user.duplicate_of is not None:
            email += f" · duplicate of {user.duplicate_of} (No. {user.duplicate_of_id})"
        for each in user.known_duplicates:  # type: ignore[attr-defined]
            email += f" · also {each.email} (No. {each.pk})"
        return [name, email]

    @display(
        description="status",
        ordering="is_active",
        label={"Active": "success", "Inactive": "danger", "Duplicate": "danger"}
        | {"Forgotten": "danger"},
    )
    def status(self, user: User) -> str:
        if user.forgotten_at is not None:
            return "Forgotten"
        return super().status(user) if user.duplicate_of_id is None else "Duplicate"

    @display(description="balance", ordering="balance__real", formatting="price")
    def real_balance(self, user: User) -> SafeString:
        return money(user.balance.real, user.decimals["balance.real"])  # type: ignore[attr-defined]

    @display(description="bonus", ordering="balance__bonus", formatting="price")
    def bonus_balance(self, user: User) -> SafeString:
        return money(user.balance.bonus, user.decimals["balance.bonus"])  # type: ignore[attr-defined]

    @display(description="last transaction", ordering="balance__last_at", empty_value="–")
    def last_transaction(self, user: User) -> SafeString | None:
        if user.balance.last_at is None:
            return None
        address = address_of("admin:users_user_transactions", user.pk)
        moment = localtime(user.balance.last_at)
        return mark_safe(f'<a href="{address}">{moment:%Y-%m-%d %H:%M}</a>')  # noqa: S308 - ours
