"""Addresses and HTML that Python makes in place of templates."""

from typing import Any

import pytest
from django.urls import get_script_prefix, reverse, set_script_prefix
from django.utils.functional import lazystr
from django.utils.html import conditional_escape, format_html
from django.utils.translation import gettext_lazy

from users.links import address, address_of
from users.markup import escaped

ODD = "<b>\"&'</b>"
SAFE = format_html("<i>{}</i>", ODD)


@pytest.mark.parametrize(
    "value",
    [
        *(ODD, SAFE, 7, None, 1.5, ""),
        *(lazystr(ODD), lazystr(SAFE), gettext_lazy("Yes & no")),
    ],
)
def test_a_value_is_escaped_as_templates_escape_it(value: Any) -> None:
    assert escaped(value) == conditional_escape(value)


def test_addresses_are_those_of_the_panel_also_below_a_prefix() -> None:
    before = get_script_prefix()
    try:
        for prefix in ("/", "/0/billing/", before):
            set_script_prefix(prefix)
            assert address("admin:index") == reverse("admin:index")
            for name in ("admin:users_user_transactions", "admin:users_user_change"):
                assert address_of(name, 50) == reverse(name, args=[50])
    finally:
        set_script_prefix(before)
