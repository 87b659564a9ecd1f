"""Texts that people read, in the panel and in files."""

import re
from typing import Final

# Control characters, line breaks, and those that turn the direction of what follows: they would
# garble what stands beside a text on a page, and the lines of an export.
UNREADABLE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
