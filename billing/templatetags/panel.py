"""Template tags: how pages show money, times and transactions."""

from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django import template
from django.db.models import Model
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from billing import currencies
from billing.models import Label, Transaction
from billing.money import decimals_for, format_money
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
    return format_html('<span class="money {}">{}</span>', kind, shown)


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
    kind = row.label
    return format_html(
        '<span class="panel-badge {}"><span class="material-symbols-outlined" aria-hidden="true">'
        "{}</span>{}</span>",
        kind.value.replace("_", "-"),
        BADGES[kind],
        kind.label,
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
