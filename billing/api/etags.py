"""ETags: who changes what somebody else changed meanwhile is told so, and changes nothing.

An ETag names what is there now, by its content. It has one part for what calls like these change
and, after a dot, one for what is told beside it and moves by itself, like a user's balance.
`If-None-Match` looks at both: nothing that is out of date is called unmodified. `If-Match` looks at
the first: money that moved is no reason not to correct a telephone number.
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

CHANGED: Final = "it is another by now than your If-Match names; read it again"
UNCHANGED: Final = "it is what your If-None-Match names"
NO_TAG: Final = "what this call does has no ETag that an If-Match could name"


class NotModified(Exception):
    """What is asked for is what the caller has already."""

    def __init__(self, tag: str) -> None:
        self.tag = tag


def tag_of(changeable: object, besides: object = None) -> str:
    first = _digest(changeable)
    return f'"{first}"' if besides is None else f'"{first}.{_digest(besides)}"'


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def show(request: HttpRequest, response: HttpResponse, tag: str) -> None:
    """Tells the ETag of what is answered. Raises NotModified if the caller, who reads, has it."""
    response["ETag"] = tag
    if request.method in READING:
        known = _tags(request, "If-None-Match")
        if ANY in known or _whole(tag) in map(_whole, known):
            raise NotModified(tag)


def check(request: HttpRequest, tag: str) -> None:
    """Raises a problem if what is there, which `tag` names, is not what the caller wants to change.

    Call it with what the call changes locked.
    """
    wanted = _tags(request, "If-Match")
    if wanted and ANY not in wanted and _first(tag) not in map(_first, wanted):
        raise Problem("precondition_failed", reason=CHANGED)
    unwanted = _tags(request, "If-None-Match")
    if ANY in unwanted or _whole(tag) in map(_whole, unwanted):
        raise Problem("precondition_failed", reason=UNCHANGED)


def refuse(request: HttpRequest) -> None:
    """For calls that change nothing with an ETag: whoever sends one relies on it."""
    wanted = _tags(request, "If-Match")
    if wanted and ANY not in wanted:
        raise Problem("precondition_failed", reason=NO_TAG)


def of_compressed(response: HttpResponseBase) -> None:
    """Compressing, Django calls an ETag weak, and no `If-Match` takes weak ones. But it is exact:
    it names the compressed form instead.
    """
    tag = response.get("ETag", "")
    if tag.startswith('W/"') and response.get("Content-Encoding") == "gzip":
        response["ETag"] = f'{tag.removeprefix("W/")[:-1]}{COMPRESSED}"'


def _tags(request: HttpRequest, header: str) -> list[str]:
    """The ETags of a header, or a star. A weak one is of a proxy that compresses: none of ours is.

    Raises a problem for what is neither, unless the caller only reads: that asks for no protection.
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
