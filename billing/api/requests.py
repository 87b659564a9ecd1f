"""What every call of the Billing API has, whichever face it is for.

- An ID: in the answer's `X-Request-Id`, in the log, and in the metadata of each transaction that
  the call posts. A caller may bring its own, to follow a call through several programs.
- A limit on the size of its body, and on how many parameters its address may have.
- A line in the log with both bodies, by their beginning, without anything secret.
"""

import gzip
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from io import BytesIO
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

from django.conf import settings
from django.core.exceptions import TooManyFieldsSent
from django.http import HttpRequest, JsonResponse, QueryDict
from django.http.response import HttpResponseBase

from billing import ledger
from billing.access import KEY_BEGINS
from billing.api import etags
from billing.api.problems import Problem, answer
from billing.webhooks.messages import SECRET_BEGINS

log = logging.getLogger("billing.api")

FACES: Final = ("/api/", "/v2/")
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,64}")
BODY_LOGGED: Final = 2_000  # characters
BODY_READ_FOR_LOG: Final = 4_000  # bytes: looking for secrets takes time
# Of JSON, what says how its beginning can be closed; also a text within which that breaks off.
JSON_PART: Final = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{},]', re.DOTALL)
# What must not stand in a log, wherever in a body or an address it is: what has a name like these;
SECRET_NAME: Final = re.compile(
    r"pass|pwd|secret|token|key|hash|auth|credential|session", re.IGNORECASE
)
# what looks like a key or a webhook's secret, by more of it than the panel shows (the latter is
# base64, of which an address makes a plus a space); and what looks like a session's hash.
OWN_SECRET: Final = re.compile(rf"{KEY_BEGINS}[\w-]{{7,}}|{SECRET_BEGINS}[\w+/= -]{{7,}}", re.ASCII)
SESSION_HASH: Final = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{32}(?![0-9a-fA-F])")
SHORTEST_SECRET: Final = len(KEY_BEGINS) + 7
# By these a call is found again, and many of them have 32 hexadecimal digits, too.
NEEDED: Final = frozenset({"idempotency_key", ledger.REQUEST_ID})
HIDDEN: Final = "***"

Handler = Callable[[HttpRequest], HttpResponseBase]


def api_requests(get_response: Handler) -> Handler:
    """Middleware around all others: also what they refuse has an ID and a line in the log."""

    def handle(request: HttpRequest) -> HttpResponseBase:
        if not request.path_info.startswith(FACES):
            return get_response(request)
        request_id = _id_of(request)
        request.id = request_id  # type: ignore[attr-defined]
        # Nothing here goes by cookies, so there is nothing that a browser could be made to forge.
        request.csrf_processing_done = True  # type: ignore[attr-defined]
        started = time.monotonic()
        is_head = request.method == "HEAD" and request.path_info.startswith("/api/")
        if is_head:
            request.method = "GET"  # which changes nothing; the web server leaves the body out
        refusal = (
            _repeated(request)
            or _broken_off(request)
            or _too_large(request)
            or _too_many_parameters(request)
        )
        if refusal is not None:
            response = refusal
        else:
            with ledger.for_request(request_id):
                response = _in_its_words(request, get_response(request))
        if is_head:
            request.method = "HEAD"
        etags.of_compressed(response)
        response["X-Request-Id"] = request_id
        # What a key may see is for that key alone.
        response.headers.setdefault("Cache-Control", "no-store")
        if log.isEnabledFor(logging.INFO):
            _log(request, response, time.monotonic() - started)
            # Django would note a refusal once more, with its address as it came.
            response._has_been_logged = True  # type: ignore[attr-defined]
        return response

    return handle


def _id_of(request: HttpRequest) -> str:
    brought = request.headers.get("X-Request-Id", "")
    is_one = REQUEST_ID.fullmatch(brought) and not OWN_SECRET.search(brought)
    return brought if is_one else secrets.token_hex(16)


def _in_its_words(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """What was refused before a call was reached, or fell through it, as `/api/` says it."""
    if (
        response.status_code < 400
        or request.path_info.startswith("/v2/")
        or "json" in response.get("Content-Type", "")
    ):
        return response
    if response.status_code == 405:
        methods = {*response.get("Allow", "").split(", ")}
        allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
        problem = Problem("method_not_allowed", method=request.method, allowed=allowed)
    elif response.status_code == 404:
        problem = Problem("not_found")
    elif response.status_code < 500:
        problem = Problem("bad_request")
    else:
        problem = Problem("internal_error")
    return answer(request, problem)


def _repeated(request: HttpRequest) -> HttpResponseBase | None:
    """Refuses a header that came twice and can stand once: which of the two is meant?"""
    name = request.META.get("HTTP_REPEATED HEADER")  # see config/headers.py
    if name is None:
        return None
    header = name.title()
    if request.path_info.startswith("/v2/"):
        return _wrong_format(f"the header {header} came twice", status=400)
    return answer(request, Problem("repeated_header", header=header))


def _broken_off(request: HttpRequest) -> HttpResponseBase | None:
    """Reads a body that comes in chunks, as some libraries send all JSON. Django knows only bodies
    whose length is told, and takes others for empty.
    """
    told = request.META
    in_chunks = told.get("HTTP_TRANSFER_ENCODING", "").strip().lower() == "chunked"
    if not in_chunks or told.get("CONTENT_LENGTH") or not told.get("wsgi.input_terminated"):
        return None
    try:
        body = told["wsgi.input"].read(_limit(request) + 1)
    except Exception:  # the web server's own; what is wrong is between it and the caller
        if request.path_info.startswith("/v2/"):
            return _wrong_format("the body breaks off", status=400)
        return answer(request, Problem("bad_request"))
    told["CONTENT_LENGTH"] = str(len(body))
    request._stream = BytesIO(body)
    return None


def _limit(request: HttpRequest) -> int:
    """How many bytes a body has at most. What `/v2/` takes is one user or one change, and is read
    before it is known who sends it.
    """
    most: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    return min(most, 256 * 1024) if request.path_info.startswith("/v2/") else most


def _too_large(request: HttpRequest) -> HttpResponseBase | None:
    limit = _limit(request)
    length = request.META.get("CONTENT_LENGTH") or "0"
    # One of thousands of digits is no number to Python; and not a body that we would take.
    if length.isascii() and length.isdigit() and len(length) < 20 and int(length) <= limit:
        return None
    if request.path_info.startswith("/v2/"):
        return _wrong_format("the body is too large", status=413)
    return answer(request, Problem("too_large", limit=limit))


def _too_many_parameters(request: HttpRequest) -> HttpResponseBase | None:
    try:
        # Addresses are UTF-8, whatever the body says of itself. Reads them, too.
        request.encoding = settings.DEFAULT_CHARSET
    except TooManyFieldsSent:
        request.GET = QueryDict()  # for the log, which reads them again
    else:
        return None
    limit = settings.DATA_UPLOAD_MAX_NUMBER_FIELDS
    if request.path_info.startswith("/v2/"):
        return _wrong_format("there are too many parameters", status=400)
    return answer(request, Problem("too_many_parameters", limit=limit))


def _wrong_format(reason: str, *, status: int) -> HttpResponseBase:
    told = {"code": 5, "description": f"Wrong request format: {reason}"}
    return JsonResponse({"success": False, "status": told}, status=status)


# --- The log ------------------------------------------------------------------------------------


def _log(request: HttpRequest, response: HttpResponseBase, seconds: float) -> None:
    key = getattr(request, "auth", None)
    log.info(
        "%s %s %s %s %dms key=%s request=%s response=%s",
        request.id,  # type: ignore[attr-defined]
        request.method,
        _address(request),
        response.status_code,
        round(seconds * 1000),
        getattr(key, "prefix", "-"),
        _sent(request),
        _answered(response),
    )


def _sent(request: HttpRequest) -> str:
    # Read already, or not at all: reading it for the log could fail, or wait.
    if request.content_type == "multipart/form-data" and hasattr(request, "_post"):
        return _shortened(_form(_pairs(request.POST)))
    return shown(getattr(request, "_body", b""), request.headers.get("Content-Type", ""))


def _answered(response: HttpResponseBase) -> str:
    if response.streaming:
        return "(streamed)"
    body: bytes = getattr(response, "content", b"")
    if response.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    return shown(body, response.get("Content-Type", ""))


def _address(request: HttpRequest) -> str:
    """Path and query, of one word, whatever is in them."""
    path = quote(_without_secrets(request.path_info), safe="/*", errors="replace")
    return f"{path}?{_form(_pairs(request.GET))}" if request.GET else path


def _pairs(query: QueryDict) -> list[tuple[str, str]]:
    return [(name, value) for name, values in query.lists() for value in values]


def _form(pairs: Iterable[tuple[str, str]]) -> str:
    shown = [(_parameter(name), _parameter(value, name)) for name, value in pairs]
    return urlencode(shown, safe="*", errors="replace")


def _parameter(text: str, name: str = "") -> str:
    """An object in a form or an address, of the Panel API, is its JSON text."""
    if "{" in text:
        try:
            text = json.dumps(_hide(json.loads(text)))
        except (ValueError, RecursionError):
            return HIDDEN
    return str(_hide(text, name))


def shown(body: bytes, content_type: str) -> str:
    """A body as the log has it: on one line, by its beginning, secrets replaced by stars."""
    media_type = content_type.split(";", maxsplit=1)[0].strip().lower()
    beginning = body[:BODY_READ_FOR_LOG].decode(errors="replace").lstrip("\ufeff \t\r\n\v\f")
    is_whole = len(body) <= BODY_READ_FOR_LOG
    if not body:
        return "-"
    # What begins like an object is JSON whatever it is called: a form, by a curl without a header.
    if "json" in media_type or beginning.startswith("{"):
        try:
            found = json.loads(body if is_whole else _closed(beginning))
            return _shortened(json.dumps(_hide(found), ensure_ascii=True), is_whole=is_whole)
        except (ValueError, RecursionError):
            return f"({len(body)} bytes that are no JSON)"
    if media_type in ("", "application/x-www-form-urlencoded") and "=" in beginning:
        fields = beginning if is_whole else beginning.rpartition("&")[0]
        return _shortened(_form(parse_qsl(fields, keep_blank_values=True)), is_whole=is_whole)
    return f"({len(body)} bytes, {ascii(media_type[:40])[1:-1] or 'no type'})"


def _closed(beginning: str) -> str:
    """The beginning of a JSON text as a text of its own: up to its last whole value."""
    brackets = ""  # that close what is open
    end, closing = 0, ""
    for part in JSON_PART.finditer(beginning):
        if part[0] in ("{", "["):
            brackets = ("}" if part[0] == "{" else "]") + brackets
            end, closing = part.end(), brackets
        elif part[0] == ",":
            end, closing = part.start(), brackets
        elif part[0] in ("}", "]"):
            brackets = brackets[1:]
    return beginning[:end] + closing


def _shortened(text: str, *, is_whole: bool = True) -> str:
    return text if is_whole and len(text) <= BODY_LOGGED else f"{text[:BODY_LOGGED]}…"


def _hide(value: Any, name: str = "") -> Any:
    """The same without what is secret; `name` is what it is called where it stands."""
    if name in NEEDED and isinstance(value, str):
        return OWN_SECRET.sub(HIDDEN, value)
    if _is_secret(name):
        return HIDDEN
    if isinstance(value, str):
        return _without_secrets(value)
    if isinstance(value, dict):
        return {_without_secrets(k): _hide(each, k) for k, each in value.items()}
    if isinstance(value, list):
        return [_hide(each) for each in value]
    return value


@lru_cache(maxsize=1024)  # the same names come with each call
def _is_secret(name: str) -> bool:
    return SECRET_NAME.search(name) is not None


def _without_secrets(text: str) -> str:
    if len(text) < SHORTEST_SECRET:
        return text
    return SESSION_HASH.sub(HIDDEN, OWN_SECRET.sub(HIDDEN, text))
