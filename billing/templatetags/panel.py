"""How the panel's templates write money and transactions."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

from django import template
from django.conf import settings
from django.db.models import Model
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from billing.models import TransactionType
from billing.money import format_money

register = template.Library()

BADGES = {
    TransactionType.PAYMENT: "payments",
    TransactionType.BONUS_REFILL: "redeem",
    TransactionType.SUBSCRIPTION: "event_repeat",
    TransactionType.SERVICE: "bolt",
    TransactionType.REVERSAL: "undo",
}


@register.filter
def money(amount: Decimal) -> str:
    """1,234.50"""
    return format_money(amount)


@register.filter
def change(amount: Decimal) -> SafeString:
    """An amount that was added or taken: with its sign, and coloured besides."""
    if not amount:
        return mark_safe('<span class="money zero">0.00</span>')
    kind = "refill" if amount > 0 else "charge"
    return format_html('<span class="money {}">{}</span>', kind, format_money(amount, signed=True))


@register.filter
def opposite(amount: Decimal) -> Decimal:
    return -amount


@register.filter
def taken(amount: Decimal) -> SafeString:
    """The sum of charges, a positive figure, as what it does to a balance."""
    return change(-amount)


@register.filter
def duration(time: timedelta) -> str:
    """3.4 s, 12 min 5 s, 1 h 2 min"""
    seconds = max(0.0, time.total_seconds())
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@register.simple_tag
def currency() -> str:
    """The name of the installation's currency."""
    return str(settings.BILLING_CURRENCY)


@register.filter
def type_badge(code: str) -> SafeString:
    """The type of a transaction: a label with a symbol of its own."""
    kind = TransactionType(code)
    return format_html(
        '<span class="panel-badge {}"><span class="material-symbols-outlined" aria-hidden="true">'
        "{}</span>{}</span>",
        code.replace("_", "-"),
        BADGES[kind],
        kind.label,
    )


@register.simple_tag(takes_context=True)
def page_heading(context: dict[str, Any]) -> str:
    """What the page is, for its h1: the page's title; where Django's own title names no object,
    the object.
    """
    title, row = str(context.get("title") or ""), context.get("original") or context.get("object")
    if listed := context.get("cl"):
        return capfirst(str(listed.opts.verbose_name_plural))
    if isinstance(row, Model):
        name = row._meta.verbose_name
        if title in (_("Change %s") % name, _("View %s") % name):
            return str(row)
        if title == _("Delete"):
            return f"{title} {row}"
    return title


@register.simple_tag(takes_context=True)
def with_query(context: dict[str, Any], **changes: object) -> str:
    """The page's own query string with some parameters changed; None removes one."""
    query = context["request"].GET.copy()
    for name, value in changes.items():
        query.pop(name, None)
        if value is not None:
            query[name] = str(value)
    return f"?{query.urlencode()}"
