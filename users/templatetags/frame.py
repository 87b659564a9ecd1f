"""Parts of the frame around each page that templates would draw again for each."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

register = template.Library()

Entry = tuple[str, str, str, bool]  # title, icon, address, and whether it is the page that is open


@register.simple_tag
def navigation(groups: Iterable[Mapping[str, Any]]) -> SafeString:
    """Returns the entries of the sidebar, by group."""
    return _navigation(
        tuple(
            (group["title"], tuple((e["title"], e["icon"], e["link"], e["active"]) for e in items))
            for group in groups
            if (items := group["items"])
        )
    )


@lru_cache(maxsize=1000)
def _navigation(groups: tuple[tuple[str, tuple[Entry, ...]], ...]) -> SafeString:
    return format_html_join("\n", "{}{}", ((_heading(title), _list(of)) for title, of in groups))


def _heading(title: str) -> SafeString:
    return format_html("<hr><h2>{}</h2>", title) if title else SafeString()


def _list(entries: tuple[Entry, ...]) -> SafeString:
    return format_html("<ol>{}</ol>", format_html_join("", "{}", ([_entry(*e)] for e in entries)))


def _entry(title: str, icon: str, address: str, is_open: bool) -> SafeString:  # noqa: FBT001
    return format_html(
        '<li><a href="{}"{}><span class="material-symbols-outlined" aria-hidden="true">{}</span>'
        "{}</a></li>",
        address,
        SafeString(' class="active" aria-current="page"' if is_open else ""),
        icon,
        title,
    )
