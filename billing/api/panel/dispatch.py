"""The one view of `/v2/panel/`: finds the call and the caller, and answers.

A call is `handler/action`, by GET or POST. Checked in this order: does the call exist, can its
parameters be read, who makes it, the rate limit, the permission. Then the call is made.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.utils.cache import patch_vary_headers

from billing import authority
from billing.api.panel import account, console, tariffs, trackers, transactions, users
from billing.api.panel.answers import in_json, in_json_by_parts
from billing.api.panel.calls import Action, Call, CallResult
from billing.api.panel.errors import (
    NOT_PERMITTED,
    SESSION_ENDED,
    UNEXPECTED,
    WRONG_HANDLER,
    WRONG_HASH,
    WRONG_METHOD,
    Refused,
    database_error,
    refused_by_the_ledger,
    too_many_requests,
)
from billing.api.panel.parameters import Parameters, parameters_of
from billing.errors import BillingError
from billing.models import ApiSession
from users.database import in_one_line, outage_of

log = logging.getLogger("billing.api.panel")

HASH: Final = re.compile(r"[0-9a-f]{32}")
IN_HEADER: Final = re.compile(r"NVX\s+(\S*)", re.IGNORECASE)

# Calls that need no session.
OPEN: Final[Mapping[tuple[str, str], Callable[[HttpRequest, Parameters, datetime], CallResult]]] = {
    ("account", "auth"): account.auth,
    ("timezone", "list"): console.list_time_zones,
}
ACTIONS: Final[Mapping[tuple[str, str], Action]] = {
    ("account", "get_permissions"): Action(account.get_permissions, None),
    ("account", "logout"): Action(account.logout, None),
    ("dealer", "get_info"): Action(console.dealer_info, None),
    ("payment_system", "list"): Action(console.no_list, None),
    ("paas/plugins", "list"): Action(console.no_list, None),
    ("user", "list"): Action(users.list_users, "users.view_user"),
    ("user", "read"): Action(users.read_user, "users.view_user"),
    ("user", "create"): Action(users.create_user, "users.add_user"),
    ("user", "update"): Action(users.update_user, "users.change_user"),
    ("user", "export"): Action(users.export_users, "users.view_user"),
    ("user/transaction", "list"): Action(
        transactions.list_transactions, "billing.view_transaction"
    ),
    ("user/transaction", "change_balance"): Action(
        transactions.change_balance, "billing.change_balance"
    ),
    ("user/menu", "read"): Action(console.no_menu, "users.view_user"),
    ("user/menu/default", "read"): Action(console.no_menu, "users.view_user"),
    ("user/mfa/settings/default", "read"): Action(console.no_second_factor, "users.view_user"),
    ("tracker", "list"): Action(trackers.list_trackers, "billing.view_subscription"),
    ("tracker", "read"): Action(trackers.read_tracker, "billing.view_subscription"),
    ("tariff", "list"): Action(tariffs.list_tariffs, "billing.view_plan"),
    ("tariff", "read"): Action(tariffs.read_tariff, "billing.view_plan"),
    ("tariff/defaults", "read"): Action(console.plan_defaults, "billing.view_plan"),
}
# HEAD is allowed for these only: in this API a GET may change something.
READING: Final = frozenset({"get_permissions", "get_info", "list", "read", "export"})
HANDLERS: Final = frozenset(handler for handler, _ in (*OPEN, *ACTIONS))


def answer(request: HttpRequest, path: str) -> HttpResponseBase:
    response: HttpResponseBase
    if request.method == "OPTIONS":
        response = HttpResponse(status=204, headers={"Allow": "GET, POST, OPTIONS"})
    else:
        try:
            response = _response(_answer(request, path))
        except Refused as refusal:
            response = _refusal(refusal)
        except BillingError as refusal:
            response = _refusal(refused_by_the_ledger(refusal))
        except Exception as problem:
            if outage := outage_of(problem):
                log.warning("The call %r failed: %s", path[:100], in_one_line(problem))
                response = _refusal(database_error(outage))
            else:
                log.exception("The call %r failed", path[:100])
                response = _refusal(Refused(UNEXPECTED))
    _let_browsers_read(request, response)
    return response


def _answer(request: HttpRequest, path: str) -> CallResult:
    name = _name(request, path)
    parameters = parameters_of(request)
    now = timezone.now()
    if name in OPEN:
        return OPEN[name](request, parameters, now)
    action = ACTIONS[name]
    call = Call(_session(request, parameters, now), parameters, now)
    wait = authority.spend(
        # For all sessions of the operator together: another login adds no allowance.
        f"operator:{call.operator.pk}",
        per_minute=settings.API_REQUESTS_PER_MINUTE,
        now=now,
    )
    if wait is not None:
        raise too_many_requests(wait)
    if action.permission is not None and not call.may(action.permission):
        raise Refused(NOT_PERMITTED)
    return action.run(call)


def _name(request: HttpRequest, path: str) -> tuple[str, str]:
    """Returns handler and action. Ignores extra slashes."""
    *words, action = [word for word in path.split("/") if word] or [""]
    handler = "/".join(words)
    if handler not in HANDLERS:
        raise Refused(WRONG_HANDLER)
    if (handler, action) not in OPEN and (handler, action) not in ACTIONS:
        raise Refused(WRONG_METHOD)
    if request.method == "HEAD" and action in READING:
        request.method = "GET"  # while it is answered
    if request.method not in ("GET", "POST"):
        raise Refused(WRONG_METHOD)
    return handler, action


def _session(request: HttpRequest, parameters: Parameters, now: datetime) -> ApiSession:
    if in_header := IN_HEADER.fullmatch(request.headers.get("Authorization", "").strip()):
        session_hash = in_header[1]
    elif parameters.has("hash"):
        session_hash = parameters.text("hash", longest=100)
    else:
        session_hash = ""
    if not HASH.fullmatch(session_hash):
        raise Refused(WRONG_HASH)
    session = authority.find_session(session_hash, now)
    if session is None:
        raise Refused(SESSION_ENDED)
    request.auth = session  # type: ignore[attr-defined]  # for the log
    return session


def _response(content: CallResult) -> HttpResponseBase:
    if isinstance(content, HttpResponseBase):
        return content
    body = {"success": True} | content
    if any(isinstance(each, Iterator) for each in body.values()):
        return StreamingHttpResponse(in_json_by_parts(body), content_type="application/json")
    return HttpResponse(in_json(body), content_type="application/json")


def _refusal(refusal: Refused) -> HttpResponse:
    body: dict[str, Any] = refusal.body
    response = HttpResponse(
        in_json(body),
        status=refusal.status,
        content_type="application/json",
        headers=dict(refusal.headers),
    )
    response.problem_code = body["status"]["code"]  # type: ignore[attr-defined]  # for the log
    return response


# --- Browsers -----------------------------------------------------------------------------------


def _let_browsers_read(request: HttpRequest, response: HttpResponseBase) -> None:
    """Lets pages of the origins in API_CORS_ORIGINS call from a browser.

    Sends no header about credentials: the hash is a header or a parameter, never a cookie.
    """
    if not settings.API_CORS_ORIGINS:
        return
    patch_vary_headers(response, ["Origin"])
    origin = request.headers.get("Origin", "")
    if origin not in settings.API_CORS_ORIGINS:
        return
    response["Access-Control-Allow-Origin"] = origin
    if request.method == "OPTIONS":
        response["Access-Control-Allow-Methods"] = "GET, POST"
        response["Access-Control-Allow-Headers"] = "Authorization, Content-Type, X-Request-Id"
        response["Access-Control-Max-Age"] = "3600"
    else:
        response["Access-Control-Expose-Headers"] = "Content-Disposition, Retry-After, X-Request-Id"
