"""Cursors: the place where the next page of a list begins, as a text for callers to send back.

A cursor names its list and its order, so that no list accepts the cursor of another one and
silently skips rows.
"""

import base64
import binascii
import json

from billing.api.problems import Problem


def to_text(of: str, *place: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([of, *place]).encode()).decode().rstrip("=")


def from_text(of: str, text: str, length: int) -> list[int]:
    """Returns the numbers in a cursor made by `to_text` for this list. Raises Problem otherwise."""
    try:
        cursor = json.loads(base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        cursor = None
    if not isinstance(cursor, list) or cursor[:1] != [of]:
        raise not_one()
    place = cursor[1:]
    if len(place) != length or not all(type(each) is int and abs(each) < 2**63 for each in place):
        raise not_one()
    return place


def not_one() -> Problem:
    reason = "This is not a cursor from an earlier response of this list."
    return Problem(
        "invalid_request", reasons=reason, errors=[{"field": "cursor", "reason": reason}]
    )
