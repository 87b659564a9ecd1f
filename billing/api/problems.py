"""The errors of `/api/v1/`: RFC 9457 problem details.

Each has a stable `code`, the HTTP status, a sentence (`detail`) and its figures. Refusals by
operations keep their code, sentence and figures (`billing/errors.py`).
"""

from collections.abc import Mapping
from typing import Any, Final

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse

from billing import counters
from billing.errors import BillingError
from users.database import BUSY, FULL, READ_ONLY, UNAVAILABLE, Outage, may_have_written

# Refusals by the interface itself: status and sentence.
OWN: Final[Mapping[str, tuple[int, str]]] = {
    "malformed_json": (400, "The body is not valid JSON: {reason}."),
    "bad_request": (400, "The request cannot be understood."),
    "too_many_parameters": (400, "An address has at most {limit} parameters."),
    "unauthenticated": (401, "Send a working API key: Authorization: Bearer <key>."),
    "forbidden": (403, "The key's owner lacks the permission {permission}."),
    "read_only_key": (403, "This key may only read."),
    "not_found": (404, "There is nothing at this address."),
    "method_not_allowed": (405, "This address does not take {method}; it takes {allowed}."),
    "repeated_header": (400, "Send the header {header} once."),
    "precondition_failed": (412, "Nothing was changed: {reason}."),
    "too_large": (413, "A body has at most {limit} bytes."),
    "unsupported_media_type": (415, "Send the body as application/json."),
    "invalid_request": (422, "The request is not valid: {reasons}"),
    "too_many_requests": (
        429,
        "This key has used up its requests. Try again in {seconds} seconds.",
    ),
    "too_slow": (503, "This search takes too long; narrow it, for example to fewer days."),
    "busy": (503, f"{BUSY.sentence} {{outcome}} Try again in {{seconds}} seconds."),
    "database_unavailable": (
        503,
        f"{UNAVAILABLE.sentence} {{outcome}} Try again in {{seconds}} seconds.",
    ),
    "database_read_only": (
        503,
        f"{READ_ONLY.sentence} {{outcome}} Try again in {{seconds}} seconds.",
    ),
    "database_full": (503, f"{FULL.sentence} {{outcome}} Try again in {{seconds}} seconds."),
    "internal_error": (
        500,
        "Something went wrong here. The panel's log has the details under the request's ID.",
    ),
}

# Statuses of refusals by operations. Others are 422: well-formed, but it cannot be done.
STATUS_BY_CODE: Final[Mapping[str, int]] = {
    "insufficient_funds": 402,
    "unknown_user": 404,
    "unknown_transaction": 404,
    "unknown_subscription": 404,
    "unknown_grant": 404,
    "unknown_batch": 404,
    "unknown_voucher": 404,
    "batch_reversed": 409,
    "voucher_expired": 409,
    "voucher_used_up": 409,
    "voucher_redeemed": 409,
    "email_taken": 409,
    "idempotency_conflict": 409,
    "balance_moved": 409,
    "already_reversed": 409,
    "refund_too_large": 409,
    "already_paid_back": 409,
    "not_reversible": 409,
    "not_movable": 409,
    "same_user": 409,
    "same_plan": 409,
    "subscription_exists": 409,
    "subscription_suspended": 409,
    "subscription_cancelled": 409,
    "user_deactivated": 409,
    "duplicate_user": 409,
    "forgotten_user": 409,
    "not_closed": 409,
    "clock_behind": 503,
}


# Data that a sentence contains as words: not figures.
IN_WORDS: Final = frozenset({"reasons", "outcome"})


class Problem(Exception):
    """A refusal by the interface itself; `code` is one of OWN."""

    def __init__(self, code: str, **data: Any) -> None:
        self.code = code
        self.data = data
        self.status, sentence = OWN[code]
        super().__init__(sentence.format_map(data))


def outage_problem(outage: Outage) -> Problem:
    """Returns the problem of a database outage; it says whether the call may have had an effect."""
    counters.outage(outage.code)
    outcome = UNKNOWN if may_have_written() else NOTHING_WRITTEN
    return Problem(outage.code, outcome=outcome, seconds=outage.retry_after_seconds)


NOTHING_WRITTEN: Final = "Nothing was changed."
UNKNOWN: Final = (
    "It is not known whether anything was changed. Send the same again with the same "
    "idempotency key: it is done only once."
)


def status_of(refusal: BillingError) -> int:
    return STATUS_BY_CODE.get(refusal.code, 422)


def details(
    error: Problem | BillingError, *, status: int | None = None, request_id: str | None = None
) -> dict[str, Any]:
    """Returns the problem as sent. Figures come last and never replace the other members."""
    told = {
        "type": f"{reverse('api-problems')}#{error.code}",
        "title": title_of(error.code),
        "status": status or (error.status if isinstance(error, Problem) else status_of(error)),
        "detail": str(error),
        "code": error.code,
    }
    figures = {k: v for k, v in error.data.items() if k not in IN_WORDS and k not in told}
    last = {} if request_id is None else {"request_id": request_id}
    return told | figures | last


def title_of(code: str) -> str:
    return code.replace("_", " ").capitalize()


def answer(request: HttpRequest, error: Problem | BillingError) -> HttpResponse:
    told = details(error, request_id=getattr(request, "id", None))
    response = JsonResponse(told, status=told["status"], content_type="application/problem+json")
    response.problem_code = error.code  # type: ignore[attr-defined]  # for the log
    if told["status"] == 401:
        response["WWW-Authenticate"] = "Bearer"
    if "seconds" in error.data and told["status"] in (429, 503):
        response["Retry-After"] = str(error.data["seconds"])
    if error.code == "method_not_allowed":
        response["Allow"] = error.data["allowed"]
    return response
