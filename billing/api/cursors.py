"""Cursors: where the next page of a list begins, as a text that callers give back unread."""

import base64
import binascii
import json

from billing.api.problems import Problem


def to_text(*place: int) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def from_text(text: str, length: int) -> list[int]:
    """The numbers of a cursor that `to_text` made. Raises Problem for any other text."""
    try:
        place = json.loads(base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        place = None
    if (
        not isinstance(place, list)
        or len(place) != length
        or not all(type(each) is int and abs(each) < 2**63 for each in place)
    ):
        raise not_one()
    return place


def not_one() -> Problem:
    reason = "This is no cursor that an answer gave."
    return Problem(
        "invalid_request", reasons=reason, errors=[{"field": "cursor", "reason": reason}]
    )
