"""ETags: a caller that would overwrite somebody else's change is refused instead.

An ETag identifies a state by its content. Its first part covers what these calls can change. After
a dot, the second part covers values that are shown beside it and change by themselves, like a
user's balance. `If-None-Match` compares both parts, so that nothing outdated counts as unmodified.
`If-Match` compares the first part only: a new balance does not prevent correcting a phone number.
"""

import hashlib
import json
import re
from typing import Final

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from billing.api.problems import Problem

COMPRESSED: Final = "-gzip"
TAG: Final = re.compile(r'(?:W/)?"([!#-~\x80-\xff]*)"')
ANY: Final = "*"
READING: Final = ("GET", "HEAD")
NOT_A_TAG: Final = 'It must be * or ETags in quotes, as in "5f0c".'

CHANGED: Final = "it no longer matches your If-Match; read it again"
UNCHANGED: Final = "it matches your If-None-Match"
NO_TAG: Final = "this call has no ETag, so it takes no If-Match"


class NotModified(Exception):
    """The caller already has the current state."""

    def __init__(self, tag: str) -> None:
        self.tag = tag


def tag_of(changeable: object, besides: object = None) -> str:
    first = _digest(changeable)
    return f'"{first}"' if besides is None else f'"{first}.{_digest(besides)}"'


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def show(request: HttpRequest, response: HttpResponse, tag: str) -> None:
    """Sets the ETag of the answer. Raises NotModified if a caller that reads has this state."""
    response["ETag"] = tag
    if request.method in READING:
        known = _tags(request, "If-None-Match")
        if ANY in known or _whole(tag) in map(_whole, known):
            raise NotModified(tag)


def check(request: HttpRequest, tag: str) -> None:
    """Raises a problem if the caller's `If-Match` does not match the present state, `tag`.

    Call it after locking what the call changes.
    """
    wanted = _tags(request, "If-Match")
    if wanted and ANY not in wanted and _first(tag) not in map(_first, wanted):
        raise Problem("precondition_failed", reason=CHANGED)
    unwanted = _tags(request, "If-None-Match")
    if ANY in unwanted or _whole(tag) in map(_whole, unwanted):
        raise Problem("precondition_failed", reason=UNCHANGED)


def refuse(request: HttpRequest) -> None:
    """Refuses `If-Match` in calls that do not support it, because the caller would rely on it."""
    wanted = _tags(request, "If-Match")
    if wanted and ANY not in wanted:
        raise Problem("precondition_failed", reason=NO_TAG)


def of_compressed(response: HttpResponseBase) -> None:
    """Makes the ETag of a compressed answer a strong one again.

    Django makes it weak, and `If-Match` accepts no weak ones. It is exact: it names the compressed
    form.
    """
    tag = response.get("ETag", "")
    if tag.startswith('W/"') and response.get("Content-Encoding") == "gzip":
        response["ETag"] = f'{tag.removeprefix("W/")[:-1]}{COMPRESSED}"'


def _tags(request: HttpRequest, header: str) -> list[str]:
    """Returns the ETags in a header, or a star. Weak ones come from compressing proxies.

    Raises a problem for anything else, unless the caller only reads and so needs no protection.
    """
    text = request.headers.get(header)
    if text is None:
        return []
    if text.strip() == ANY:
        return [ANY]
    found = [f'"{inside}"' for inside in TAG.findall(text)]
    is_list = all(part.strip() in ("", "-") for part in TAG.sub("-", text).split(","))
    if (not found or not is_list) and request.method not in READING:
        errors = [{"field": header, "reason": NOT_A_TAG}]
        raise Problem("invalid_request", reasons=f"{header}: {NOT_A_TAG}", errors=errors)
    return found


def _whole(tag: str) -> str:
    return tag.strip('"').removesuffix(COMPRESSED)


def _first(tag: str) -> str:
    return _whole(tag).partition(".")[0]
