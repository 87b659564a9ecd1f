"""Cursors: where the next page of a list begins, as a text that callers give back unread.

Each names its list, order included: one that is given to another list would skip rows silently.
"""

import base64
import binascii
import json

from billing.api.problems import Problem


def to_text(of: str, *place: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([of, *place]).encode()).decode().rstrip("=")


def from_text(of: str, text: str, length: int) -> list[int]:
    """The numbers of a cursor that `to_text` made for this list. Raises Problem otherwise."""
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
    reason = "This is no cursor that an answer of this list gave."
    return Problem(
        "invalid_request", reasons=reason, errors=[{"field": "cursor", "reason": reason}]
    )
