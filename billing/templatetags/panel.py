"""Template tags: how pages show money, times and transactions."""

from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from functools import cache
from html import escape
from typing import Any

from django import template
from django.db.models import Model
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from billing import currencies
from billing.models import Channel, Label, Transaction
from billing.money import decimals_for, format_money
from users.links import address_of
from users.models import User

register = template.Library()

BADGES = {
    Label.PAYMENT: "payments",
    Label.DEDUCTION: "remove_circle",
    Label.GIFT: "redeem",
    Label.EXPIRY: "event_busy",
    Label.SUBSCRIPTION: "event_repeat",
    Label.SERVICE: "bolt",
    Label.REVERSAL: "undo",
}


@register.simple_tag
def decimals_in(rows: Iterable[Any], names: str = "") -> int:
    """Returns the decimals with which the amounts of a column line up.

    The amounts are found in each row by these names ("run.total"); without names, the rows are the
    amounts.
    """
    paths = [name.split(".") for name in names.split()]
    amounts = [_led_to(row, path) for row in rows for path in paths] if paths else rows
    return decimals_for(*(each for each in amounts if isinstance(each, Decimal)))


def _led_to(row: Any, path: list[str]) -> Any:
    for name in path:
        row = getattr(row, name, None)
    return row


@register.filter
def money(amount: Decimal, decimals: int | None = None) -> str:
    """Returns 1,234.50; in a column, with the decimals of the column."""
    return format_money(amount, decimals=decimals)


@register.filter
def change(amount: Decimal, decimals: int | None = None) -> SafeString:
    """Returns an added or taken amount, with sign and colour."""
    kind = "refill" if amount > 0 else "charge" if amount else "zero"
    shown = format_money(amount, signed=True, decimals=decimals)
    return mark_safe(f'<span class="money {kind}">{shown}</span>')  # noqa: S308 - both are ours


@register.filter
def opposite(amount: Decimal) -> Decimal:
    return -amount


@register.filter
def taken(amount: Decimal, decimals: int | None = None) -> SafeString:
    """Returns a sum of charges, a positive figure, as a negative change."""
    return change(-amount, decimals)


@register.filter
def duration(time: timedelta) -> str:
    """Returns a duration: 3.4 s, 12 min 5 s, 1 h 2 min."""
    seconds = max(0.0, time.total_seconds())
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@register.simple_tag
def currency() -> str:
    """Returns the code of the installation's currency."""
    return currencies.own()


@register.simple_tag
def currency_decimals() -> int:
    """Returns the decimals of that currency."""
    return currencies.own_decimals()


@register.filter
def type_badge(row: Transaction) -> SafeString:
    """Returns the label of a transaction, with its icon."""
    return _badge(row.label)


@cache
def _badge(kind: Label) -> SafeString:
    return format_html(
        '<span class="panel-badge {}"><span class="material-symbols-outlined" aria-hidden="true">'
        "{}</span>{}</span>",
        kind.value.replace("_", "-"),
        BADGES[kind],
        kind.label,
    )


@register.filter
def ties(row: Transaction) -> SafeString:
    """Returns links to what a transaction reverses, and to what reversed it."""
    if row.reversed_one is None and not row.reversed_by:
        return mark_safe("")
    found = []
    if (original := row.reversed_one) is not None:
        words = "Refunds a part of" if original.is_part else "Reverses"
        found.append((words, _transaction_page(original.id), original.number))
    for each in row.reversed_by:
        words = "Refunded in part by" if each.is_part else "Reversed by"
        found.append((words, _transaction_page(each.id), each.number))
    return format_html_join("", ' <span class="tie">{} <a href="{}">No. {}</a></span>', found)


def _transaction_page(transaction_id: int) -> str:
    return address_of("admin:billing_transaction_change", transaction_id)


@register.simple_tag
def transaction_cells(
    row: Transaction, real_decimals: int, bonus_decimals: int, *, all_users: bool
) -> SafeString:
    """Returns the cells of a transaction in a list; `all_users`: with the user as a column.

    Fifty rows of a template with a dozen tags and filters each would take most of the page's time.
    """
    moment = timezone.localtime(row.created_at)
    paid = ""
    if row.payment_date:
        paid = f' <span class="tie">paid {row.payment_date.isoformat()}</span>'
    user = ""
    if all_users:
        address = address_of("admin:users_user_transactions", row.user_id)
        link = f'<a href="{address}">{escape(str(row.user))}</a>'
        user = f'<td class="who" data-label="User">{link}</td>'
    actor = "System" if row.actor is None else row.actor.person_name or row.actor.email
    real = _moves(row.amount, row.old_balance, row.new_balance, real_decimals, "Balance")
    bonus = _moves(row.bonus_amount, row.old_bonus, row.new_bonus, bonus_decimals, "Bonus balance")
    return mark_safe(  # noqa: S308 - texts of people are escaped
        f'<td class="number" data-label="No.">'
        f'<a href="{_transaction_page(row.pk)}">{row.number}</a></td>{user}'
        f'<td class="date" data-label="Date"><time datetime="{moment.isoformat()}">'
        f"{moment:%Y-%m-%d} <span>{moment:%H:%M:%S}</span></time>{paid}</td>"
        f'<td class="description" data-label="Description">{escape(row.description)}'
        f"{ties(row)}</td>"
        f'<td class="type" data-label="Type">{type_badge(row)} '
        f'<span class="subtype">{escape(row.subtype_label)}</span></td>'
        f'<td class="device{"" if row.device else " empty"}" data-label="Device">'
        f"{escape(row.device)}</td>"
        f'<td class="amount" data-label="Amount">{change(row.amount, real_decimals)}</td>{real}'
        f'<td class="amount bonus{"" if row.bonus_amount else " none"}" data-label="Bonus">'
        f"{change(row.bonus_amount, bonus_decimals)}</td>{bonus}"
        f'<td class="who" data-label="Who"><span>{escape(actor)}</span> '
        f'<span class="channel">{Channel(row.channel).label}</span></td>'
    )


def _moves(amount: Decimal, old: Decimal, new: Decimal, decimals: int, label: str) -> str:
    """Returns the cell of a balance before and after; only after if it did not change."""
    before = f'<span class="old money">{format_money(old, decimals=decimals)} →</span> '
    return (
        f'<td class="moves{"" if amount else " none"}" data-label="{label}">'
        f"{before if amount else ''}"
        f'<span class="new money">{format_money(new, decimals=decimals)}</span></td>'
    )


@register.simple_tag(takes_context=True)
def page_heading(context: dict[str, Any]) -> str:
    """Returns the page's h1: its title or, if Django's title names no object, the object."""
    title, row = str(context.get("title") or ""), context.get("original") or context.get("object")
    if listed := context.get("cl"):
        return capfirst(str(listed.opts.verbose_name_plural))
    if isinstance(row, Model):
        name = row._meta.verbose_name
        if title in (_("Change %s") % name, _("View %s") % name):
            return str(row)
        if title == _("Delete"):
            return f"{title} {row}"
        if isinstance(row, User):
            # Titles name people by login; the h1 has room for the name.
            return title.replace(row.email, str(row), 1)
    return title


@register.simple_tag(takes_context=True)
def with_query(context: dict[str, Any], **changes: object) -> str:
    """Returns the page's query string with changed parameters; None removes one."""
    query = context["request"].GET.copy()
    for name, value in changes.items():
        query.pop(name, None)
        if value is not None:
            query[name] = str(value)
    return f"?{query.urlencode()}"


@register.simple_tag
def time_zone() -> str:
    """Returns the time zone in which times are shown: Europe/Berlin."""
    return str(timezone.get_current_timezone())
