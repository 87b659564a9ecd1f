"""Calls about users, that is, customers; and the Panel API's names of their fields."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from tempfile import TemporaryFile
from typing import Any, Final, NamedTuple
from unicodedata import category

from django.core.exceptions import ValidationError
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import FileResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from billing import operations, reports
from billing.api.panel.answers import moment
from billing.api.panel.calls import Call
from billing.api.panel.errors import LOGIN_IN_USE, NOT_FOUND, Invalid, Refused
from billing.api.panel.parameters import MAX_ROWS, Parameters
from billing.api.panel.transactions import DEALER_ID
from billing.errors import EmailTaken
from billing.files.exports import Cell, TooManyRows, csv_table, write_xlsx_table
from billing.models import Channel, Plan, Subscription, UserDefaults
from users.addresses import validate_address
from users.models import User, validate_time_zone
from users.search import LONGEST_SEARCH, search
from users.texts import has_invisible

SEARCH_SECONDS: Final = 10
LONGEST_COMMENT: Final = 255
FETCHED_TOGETHER: Final = 1_000
SEES_MONEY: Final = "billing.view_balance"
OF_MONEY: Final = frozenset({"balance", "bonus"})

LONGEST_TEXT: Final = 1_000_000  # more than a body holds, so that what was read can be sent back
NO_DISCOUNT: Final[Mapping[str, Any]] = {
    # First as the Panel API describes it, then as its console reads it.
    "percent": 0,
    "device_limit": None,
    "value": 0,
    "min_trackers": 0,
    "end_date": None,
    "strategy": "no_summing",
}
EXPORTED: Final = ("id", "login", "first_name", "middle_name", "last_name", "phone")


# --- What a user is, field by field -------------------------------------------------------------

NAME_CHARACTERS: Final = frozenset(" -'\".,:/\u200c\u200d")  # has_invisible checks the joiners


UNSEEN: Final = "Contains invisible characters"


def not_a_name(value: str) -> str | None:
    # Category M: marks that combine with letters.
    if all(each.isalnum() or each in NAME_CHARACTERS or category(each)[0] == "M" for each in value):
        return None
    return "Should have letters, digits, spaces and - ' \" . , : / only"


def not_digits(value: str) -> str | None:
    return None if not value or (value.isascii() and value.isdigit()) else "Should be digits only"


def not_an_okpo_code(value: str) -> str | None:
    return not_digits(value) or (None if len(value) in (0, 8, 10) else "Should have 8 or 10 digits")


def not_printable(value: str) -> str | None:
    return UNSEEN if has_invisible(value) else None


def not_an_email(value: str) -> str | None:
    try:
        validate_address(value)
    except ValidationError:
        return "Should be an e-mail address"
    return None


class Field(NamedTuple):
    """A text field of the profile: its name in the database, and a function that finds errors."""

    attribute: str
    longest: int
    wrong: Callable[[str], str | None] = not_a_name


FIELDS: Final[Mapping[str, Field]] = {
    "login": Field("email", 254, not_an_email),
    "first_name": Field("first_name", 100),
    "middle_name": Field("middle_name", 100),
    "last_name": Field("last_name", 100),
    "phone": Field("phone", 15, not_digits),
    "post_country": Field("country", 100),
    "post_index": Field("postal_code", 20, not_printable),
    "post_region": Field("region", 100),
    "post_city": Field("city", 100),
    "post_street_address": Field("street_address", 200),
    "registered_country": Field("registered_country", 100),
    "registered_index": Field("registered_postal_code", 20, not_printable),
    "registered_region": Field("registered_region", 100),
    "registered_city": Field("registered_city", 100),
    "registered_street_address": Field("registered_street_address", 200),
    "legal_name": Field("legal_name", 255),
    "tin": Field("tin", 255),
    "iec": Field("iec", 255),
    "state_reg_num": Field("state_reg_num", 15, not_digits),
    "okpo_code": Field("okpo_code", 10, not_an_okpo_code),
}
# Lists can be sorted by each column; columns that are the same for all users sort by ID.
ORDERS: Final[Mapping[str, str]] = {
    "id": "pk",
    "dealer_id": "pk",
    "activated": "is_active",
    "verified": "is_active",
    "phone_verified": "pk",
    "legal_type": "legal_type",
    **{name: field.attribute for name, field in FIELDS.items()},
    "balance": "balance__real",
    "bonus": "balance__bonus",
    "trackers_count": "devices",
    "menu_preset_id": "pk",
    "mfa_allowed": "pk",
    "creation_date": "created_at",
    "comment": "comment",
}
_POST: Final = {name for name in FIELDS if name.startswith("post_")}
_REGISTERED: Final = {name for name in FIELDS if name.startswith("registered_")}
_NAMES: Final = {"login", "first_name", "middle_name", "last_name", "phone"}

# Each legal type requires more than the one before; companies leave no address blank.
REQUIRED: Final[Mapping[str, frozenset[str]]] = {
    "individual": frozenset(_NAMES | _POST),
    "sole_trader": frozenset(_NAMES | _POST | _REGISTERED | {"tin"}),
    "legal_entity": frozenset(_NAMES | _POST | _REGISTERED | {"tin", "legal_name", "iec"}),
}
NOT_BLANK: Final[Mapping[str, frozenset[str]]] = {
    "individual": frozenset(),
    "sole_trader": frozenset(_POST | _REGISTERED),
    "legal_entity": frozenset(_POST | _REGISTERED | {"legal_name"}),
}


def shown_text(user: User, name: str) -> str:
    value: str = getattr(user, FIELDS[name].attribute)
    # The panel accepts "+49 (176) 123", Navixy's programs expect digits.
    return "".join(filter(str.isdigit, value)) if name == "phone" else value


# --- Reading ------------------------------------------------------------------------------------


def list_users(call: Call) -> dict[str, Any]:
    with _in_time(call):
        found, ids = _wanted(call)
        count = found.count()
    rows = (_shown(user, with_money=call.may(SEES_MONEY)) for user in _in_order(ids))
    # Few users at once; many users as they are read, in constant memory.
    return {"list": list(rows) if len(ids) <= FETCHED_TOGETHER else rows, "count": count}


def read_user(call: Call) -> dict[str, Any]:
    user = call.customer()
    [value] = _in_order([user.pk])
    return {
        "value": _shown(value, with_money=call.may(SEES_MONEY)),
        "discount": dict(NO_DISCOUNT),
        "default_tariff_id": _default_plan_id(call, user),
        "block_parameters": None,
        "dealer_mfa_settings": None,
    }


def _default_plan_id(call: Call, user: User) -> int | None:
    """Returns the ID of the user's own plan, or of the plan for new users."""
    if not call.may("billing.view_subscription"):
        return None
    own = operations.customers.own_subscription(user)
    if own is not None:
        return own.plan_id
    return UserDefaults.objects.values_list("plan", flat=True).first()


def export_users(call: Call) -> HttpResponseBase:
    parameters = call.parameters
    kind = parameters.choice("format", ("csv", "xlsx")) if parameters.has("format") else "xlsx"
    columns = parameters.names("columns", COLUMNS) if parameters.has("columns") else list(EXPORTED)
    if OF_MONEY & set(columns):
        call.needs(SEES_MONEY)
    with _in_time(call):
        _, ids = _wanted(call)
    rows = _exported(columns, ids)
    name = f"users-{call.today}"
    if kind == "csv":
        lines = StreamingHttpResponse(
            csv_table(columns, rows), content_type="text/csv; charset=utf-8"
        )
        lines["Content-Disposition"] = f'attachment; filename="{name}.csv"'
        lines["Content-Encoding"] = "identity"  # compression would delay lines
        return lines
    workbook = TemporaryFile()  # noqa: SIM115 - the response closes it
    try:
        write_xlsx_table("Users", columns, rows, workbook)
    except TooManyRows:
        workbook.close()
        raise parameters.wrong(
            "format", "A spreadsheet cannot hold so many users: choose csv, or filter"
        ) from None
    workbook.seek(0)
    return FileResponse(workbook, as_attachment=True, filename=f"{name}.xlsx")


def _exported(columns: Sequence[str], ids: Sequence[int]) -> Iterator[list[Cell]]:
    for user in _in_order(ids):
        shown = _shown(user, with_money=True)
        yield [shown[column] for column in columns]


@contextmanager
def _in_time(call: Call) -> Iterator[None]:
    """Limits the time of a search: many words read all fields of all users repeatedly."""
    try:
        with reports.time_limit(SEARCH_SECONDS) if call.parameters.has("filter") else nullcontext():
            yield
    except reports.TooSlow:
        raise call.parameters.wrong(
            "filter", "The search takes too long: use fewer words"
        ) from None


def _wanted(call: Call) -> tuple[QuerySet[User], list[int]]:
    """Returns all users found, and the IDs of those to show, in order."""
    parameters = call.parameters
    found = User.objects.customers()
    if parameters.flag("hide_inactive", default=False):
        found = found.filter(is_active=True)
    if parameters.has("filter"):
        words = parameters.text("filter", longest=LONGEST_SEARCH)
        found = search(found, words)
    order = parameters.choice("order_by", ORDERS) if parameters.has("order_by") else "id"
    if order in OF_MONEY:
        call.needs(SEES_MONEY)
    descending = "" if parameters.flag("ascending", default=True) else "-"
    offset = parameters.whole("offset", lowest=0, highest=MAX_ROWS, default=0)
    limit = parameters.whole("limit", lowest=0, highest=MAX_ROWS, default=MAX_ROWS)
    listed = _with_devices(found) if ORDERS[order] == "devices" else found
    ids = listed.order_by(descending + ORDERS[order], f"{descending}pk").values_list(
        "pk", flat=True
    )
    return found, list(ids[offset : offset + limit])


def _in_order(ids: Sequence[int]) -> Iterator[User]:
    """Yields the users with these IDs, with balances and numbers of devices."""
    for first in range(0, len(ids), FETCHED_TOGETHER):
        together = ids[first : first + FETCHED_TOGETHER]
        by_id = _with_devices(User.objects.select_related("balance")).in_bulk(together)
        yield from (by_id[user_id] for user_id in together)


def _with_devices(users: QuerySet[User]) -> QuerySet[User]:
    """Returns the users, each with its number of subscribed devices (`devices`)."""
    devices = (
        Subscription.objects.live()
        .filter(user=OuterRef("pk"))
        .exclude(device="")
        .order_by()
        .values("user")
        .values(count=Count("pk"))
    )
    return users.annotate(devices=Coalesce(Subquery(devices), 0))


def _shown(user: User, *, with_money: bool) -> dict[str, Any]:
    balance = user.balance if with_money else None
    return {
        "id": user.pk,
        "dealer_id": DEALER_ID,
        "activated": user.is_active,
        # Addresses and numbers are not verified here.
        "verified": user.is_active,
        "phone_verified": False,
        "legal_type": user.legal_type,
        **{name: shown_text(user, name) for name in FIELDS},
        **({"balance": balance.real, "bonus": balance.bonus} if balance else {}),
        "trackers_count": getattr(user, "devices", 0),
        "menu_preset_id": None,
        "mfa_allowed": False,
        "creation_date": moment(user.created_at),
        "comment": user.comment,
    }


# All columns that the Panel API's users have.
COLUMNS: Final = (
    "id", "dealer_id", "activated", "verified", "phone_verified", "legal_type", *FIELDS,
    "balance", "bonus", "trackers_count", "mfa_allowed", "creation_date", "comment",
)  # fmt: skip


# --- Writing ------------------------------------------------------------------------------------


def create_user(call: Call) -> dict[str, Any]:
    parameters = call.parameters
    form = parameters.within("user")
    fields: dict[str, Any] = {}
    is_active = True
    with all_mistakes() as mistakes:
        with mistakes():
            fields |= _profile(form, None)
        with mistakes():
            is_active = form.flag("activated", default=True)
        with mistakes():
            fields["time_zone"] = _time_zone(parameters)
        with mistakes():
            parameters.text("locale", longest=35, shortest=2)
        with mistakes():
            fields |= _comment(parameters, None)
        with mistakes():
            _refuse_discount(parameters)
        with mistakes():
            parameters.text("password", shortest=1, longest=1_000)  # customers log in elsewhere
    plan = _plan(parameters)
    if plan is not None:
        call.needs("billing.add_subscription")
    user = User(**fields, is_active=is_active)
    with _login_in_use_told():
        new = operations.customers.create(
            user,
            plan=plan,
            is_validated=True,
            day=call.today,
            actor=call.operator,
            channel=Channel.API,
        )
    return {"id": new.user.pk}


def update_user(call: Call) -> dict[str, Any]:
    parameters = call.parameters
    form = parameters.within("user")
    found = call.customer("id", within=form)

    def change(user: User) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        with all_mistakes() as mistakes:
            with mistakes():
                fields["is_active"] = form.flag("activated")
            with mistakes():
                fields |= _profile(form, user)
            with mistakes():
                fields |= _comment(parameters, user)
            with mistakes():
                _refuse_discount(parameters)
        return fields

    def plan(user: User) -> Plan | None:
        wanted = _plan(parameters)
        if wanted is None or wanted.pk == _default_plan_id(call, user):
            return None  # as user/read returned it
        present = operations.customers.own_subscription(user)
        if present is None:
            call.needs("billing.add_subscription")
        elif present.plan_id != wanted.pk:
            call.needs("billing.change_subscription")
        return wanted

    with _login_in_use_told():
        operations.customers.edit(
            found.pk,
            change,
            plan=plan,
            is_validated=True,
            day=call.today,
            actor=call.operator,
            channel=Channel.API,
        )
    return {}


@contextmanager
def _login_in_use_told() -> Iterator[None]:
    try:
        yield
    except EmailTaken:
        raise Refused(LOGIN_IN_USE) from None


@contextmanager
def all_mistakes() -> Iterator[Callable[[], Any]]:
    """Collects the errors of several parameters, and raises all of them at the end."""
    errors: list[tuple[str, str]] = []

    @contextmanager
    def noted() -> Iterator[None]:
        try:
            yield
        except Invalid as mistake:
            errors.extend(mistake.errors)

    yield noted
    if errors:
        raise Invalid(*errors)


def _profile(form: Parameters, present: User | None) -> dict[str, str]:
    """Returns the given fields of a profile, by their names in the database.

    A value that the user already has is accepted unchanged, even if the panel allowed more than the
    Panel API does. Fields of `present` that are neither given nor required stay as they are.
    """
    legal_type = form.choice("legal_type", REQUIRED)
    fields = {"legal_type": legal_type}
    with all_mistakes() as mistakes:
        for name, field in FIELDS.items():
            with mistakes():
                if not form.has(name) and name not in REQUIRED[legal_type]:
                    continue
                value = form.text(name, longest=LONGEST_TEXT)
                if (
                    present is not None
                    and value == shown_text(present, name)
                    # A blank value is not accepted for a legal type that forbids it.
                    and (value.strip() or legal_type == present.legal_type)
                ):
                    continue
                value = value.strip()
                if not value and name in NOT_BLANK[legal_type]:
                    raise form.wrong(name, "Should not be blank")
                if len(value) > field.longest:
                    raise form.wrong(name, f"Should have at most {field.longest} characters")
                if problem := UNSEEN if has_invisible(value) else field.wrong(value):
                    raise form.wrong(name, problem)
                fields[field.attribute] = value
    return fields


def _time_zone(parameters: Parameters) -> str:
    name = parameters.text("time_zone", longest=64)
    try:
        validate_time_zone(name)
    except ValidationError:
        raise parameters.wrong("time_zone", "Should be a time zone like Europe/London") from None
    return name


def _comment(parameters: Parameters, present: User | None) -> dict[str, str]:
    if not parameters.has("comment"):
        return {}
    comment = parameters.text("comment", longest=LONGEST_TEXT)
    is_kept = present is not None and comment == present.comment
    if len(comment) > LONGEST_COMMENT and not is_kept:
        raise parameters.wrong("comment", f"Should have at most {LONGEST_COMMENT} characters")
    if not is_kept and has_invisible(comment, lines=True):
        raise parameters.wrong("comment", UNSEEN)
    return {"comment": comment}


def _refuse_discount(parameters: Parameters) -> None:
    """Refuses any discount except zero percent, which consoles always send.

    The other fields of such a discount, like its last day, are ignored.
    """
    if not parameters.has("discount") or parameters.is_zero("discount"):
        return
    discount = parameters.within("discount")
    if not all(discount.is_zero(name) for name in ("percent", "value") if discount.has(name)):
        raise parameters.wrong("discount", "Discounts are not supported here")


def _plan(parameters: Parameters) -> Plan | None:
    if not parameters.has("default_tariff_id"):
        return None
    plan = Plan.objects.filter(pk=parameters.whole("default_tariff_id")).first()
    if plan is None:
        raise Refused(NOT_FOUND, ("default_tariff_id", "There is no such plan"))
    return plan
