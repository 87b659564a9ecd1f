"""Texts: what people cannot read, and what the database cannot hold."""

import re
from typing import Final

# Control characters, line breaks, and those that turn the direction of what follows: they would
# garble what stands beside a text on a page, and the lines of an export.
UNREADABLE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def unstorable(text: str) -> str | None:
    """Why the database cannot hold a text, if it cannot: what it does, without a subject."""
    if "\0" in text:
        return "contains a null character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains half a character"
    return None
