"""Reads IDs that people and programs write."""

from typing import Final

MAX_ID: Final = 2**63 - 1  # the largest bigint of the database


def id_in(text: str) -> int | None:
    """Returns the ID that a text spells, or None if it cannot be one."""
    # The length is checked first: int() raises for thousands of digits.
    if len(text) > len(str(MAX_ID)) or not (text.isascii() and text.isdigit()):
        return None
    number = int(text)
    return number if number <= MAX_ID else None
