"""What all calls of the Billing API have in common, through both faces.

- An ID: in the answer's `X-Request-Id`, in the log, and in the metadata of each transaction that
  the call posts. A caller may send its own, to follow a call through several programs.
- A limit on the size of the body, and on the number of query parameters.
- A line in the log (`call_log.py`).
"""

import re
import secrets
import time
from collections.abc import Callable
from io import BytesIO
from typing import Final

from django.conf import settings
from django.core.exceptions import TooManyFieldsSent
from django.http import HttpRequest, JsonResponse, QueryDict
from django.http.response import HttpResponseBase

from billing import counters, ledger
from billing.api import call_log, etags
from billing.api.problems import Problem, answer
from billing.api.stack import api_stack

FACES: Final = ("/api/", "/v2/")
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,64}")
Handler = Callable[[HttpRequest], HttpResponseBase]


def api_requests(get_response: Handler) -> Handler:
    """Middleware: answers calls with a stack of their own (`stack.py`), pages with the panel's.

    It is outside that stack, so that refusals by others have an ID and a log line, too.
    """
    answer_call = api_stack()

    def handle(request: HttpRequest) -> HttpResponseBase:
        if not request.path_info.startswith(FACES):
            return get_response(request)
        request_id = _id_of(request)
        request.id = request_id  # type: ignore[attr-defined]
        started = time.monotonic()
        method = request.method
        if method == "HEAD" and request.path_info.startswith("/api/"):
            request.method = "GET"  # safe here; the web server leaves the body out
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
                response = _in_its_words(request, answer_call(request))
        request.method = method
        etags.of_compressed(response)
        response["X-Request-Id"] = request_id
        # An answer is only for the key that asked.
        response.headers.setdefault("Cache-Control", "no-store")
        call_log.note(request, response, time.monotonic() - started)
        _count_problem(request, response)
        # Otherwise Django logs refusals again, with the raw address.
        response._has_been_logged = True  # type: ignore[attr-defined]
        return response

    return handle


def _count_problem(request: HttpRequest, response: HttpResponseBase) -> None:
    code = getattr(response, "problem_code", None)
    if code is not None:
        face = "panel_api" if request.path_info.startswith("/v2/") else "rest"
        counters.api_problem(face, str(code))


def _id_of(request: HttpRequest) -> str:
    brought = request.headers.get("X-Request-Id", "")
    is_one = REQUEST_ID.fullmatch(brought) and not call_log.OWN_SECRET.search(brought)
    return brought if is_one else secrets.token_hex(16)


def _in_its_words(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Returns a refusal from outside any call in the format of `/api/`."""
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
    """Refuses a header that came twice but may come once: it is unclear which one counts."""
    name = request.META.get("HTTP_REPEATED HEADER")  # see config/headers.py
    if name is None:
        return None
    header = name.title()
    if request.path_info.startswith("/v2/"):
        return _wrong_format(f"the header {header} came twice", status=400)
    return answer(request, Problem("repeated_header", header=header))


def _broken_off(request: HttpRequest) -> HttpResponseBase | None:
    """Reads a body sent in chunks, as some libraries send all JSON.

    Django takes a body without a Content-Length for empty.
    """
    told = request.META
    in_chunks = told.get("HTTP_TRANSFER_ENCODING", "").strip().lower() == "chunked"
    if not in_chunks or told.get("CONTENT_LENGTH") or not told.get("wsgi.input_terminated"):
        return None
    try:
        body = told["wsgi.input"].read(_limit(request) + 1)
    except Exception:  # of the web server: something is wrong between it and the caller
        if request.path_info.startswith("/v2/"):
            return _wrong_format("the body is incomplete", status=400)
        return answer(request, Problem("bad_request"))
    told["CONTENT_LENGTH"] = str(len(body))
    request._stream = BytesIO(body)
    return None


def _limit(request: HttpRequest) -> int:
    """Returns the size limit of a body, in bytes.

    Calls of `/v2/` have small bodies, which are read before the caller is known.
    """
    most: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    return min(most, 256 * 1024) if request.path_info.startswith("/v2/") else most


def _too_large(request: HttpRequest) -> HttpResponseBase | None:
    limit = _limit(request)
    length = request.META.get("CONTENT_LENGTH") or "0"
    # Python parses no number of thousands of digits, and no such body is accepted.
    if length.isascii() and length.isdigit() and len(length) < 20 and int(length) <= limit:
        return None
    if request.path_info.startswith("/v2/"):
        return _wrong_format("the body is too large", status=413)
    return answer(request, Problem("too_large", limit=limit))


def _too_many_parameters(request: HttpRequest) -> HttpResponseBase | None:
    try:
        # Query parameters are UTF-8, whatever encoding the body has. This reads them.
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
    response = JsonResponse({"success": False, "status": told}, status=status)
    response.problem_code = told["code"]  # type: ignore[attr-defined]  # for the log
    return response
