"""Addresses of pages that are linked from every page, or from every row of a list."""

from functools import cache

from django.urls import get_script_prefix, reverse


def address(name: str) -> str:
    """Returns `reverse(name)`. The URLs are searched once per process."""
    return _reversed(name, get_script_prefix())


def address_of(name: str, row_id: int | str) -> str:
    """Returns `reverse(name, args=[row_id])`. The URLs are searched once per process."""
    before, after = _around(name, get_script_prefix())
    return f"{before}{row_id}{after}"


@cache
def _reversed(name: str, script_prefix: str) -> str:
    return reverse(name)


@cache
def _around(name: str, script_prefix: str) -> tuple[str, str]:
    before, _, after = reverse(name, args=[0]).rpartition("/0/")
    return f"{before}/", f"/{after}"
