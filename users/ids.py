"""IDs as people and programs write them."""

from typing import Final

MAX_ID: Final = 2**63 - 1  # of the database's bigint


def id_in(text: str) -> int | None:
    """The ID that a text is; None for what can be none, however long it is."""
    # Python refuses to read numbers of thousands of digits.
    if len(text) > len(str(MAX_ID)) or not (text.isascii() and text.isdigit()):
        return None
    number = int(text)
    return number if number <= MAX_ID else None
