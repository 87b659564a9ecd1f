"""Assembles `/api/v1/`: its calls, its errors and its description."""

import json
import logging
import math
from typing import Any, NoReturn, cast

from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from ninja.errors import HttpError, ValidationError
from ninja.parser import Parser
from ninja.types import DictStrAny

from billing.api import (
    active_days,
    balance_changes,
    batches,
    plans,
    service_charges,
    subscriptions,
    thresholds,
    transactions,
    users,
    vouchers,
)
from billing.api.etags import NotModified
from billing.api.keys import RequiresPermission
from billing.api.openapi import DescribedAPI
from billing.api.pages import Documentation
from billing.api.problems import Problem, answer, outage_problem
from billing.api.repeats import once_by_key
from billing.errors import BillingError
from billing.reports import TooSlow
from users.database import in_one_line, outage_of

log = logging.getLogger("billing.api")

DESCRIPTION = """
For programs: users, their balances and every transaction; changes of balances, service charges,
subscriptions and plans.

- **Keys** are made in the panel, under API keys: `Authorization: Bearer <key>`. A key may do what
  its owner, an operator, may do; some may only read.
- **Amounts** are texts with four decimals, in the installation's one currency. **Times** are
  RFC 3339, UTC.
- **Idempotency**: every call that writes takes the header `Idempotency-Key`. The same again answers
  200, the same body, and `Idempotency-Replayed: true`; the same key with other content 409. A key
  is of its address: another user may have the same.
- **ETags**: what can be changed has one. With `If-Match`, a change is made only if nobody else made
  one since; else the answer is 412.
- **Problems** are `application/problem+json` (RFC 9457), with a stable `code`:
  [what each means]({problems}).
- **Request IDs**: each answer has `X-Request-Id`; so have, in their metadata, the transactions that
  the call posted.
"""


MAX_MEMBERS = 1_000  # of one object: each unknown one is listed in the answer
MAX_DEPTH = 32  # nesting of lists and objects; pages and reports read metadata, too


class JSONParser(Parser):
    """Parses strict JSON (RFC 8259) in UTF-8: no NaN, no duplicate names, limited nesting."""

    def parse_body(self, request: HttpRequest) -> DictStrAny:
        if request.content_type != "application/json":
            raise Problem("unsupported_media_type")
        if request.content_params.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):  # type: ignore[union-attr]
            raise Problem("unsupported_media_type")
        try:
            body = json.loads(
                request.body.decode("utf-8-sig"),
                parse_constant=_refuse_constant,
                parse_float=_finite,
                object_pairs_hook=_object,
            )
        except RecursionError:
            raise Problem("malformed_json", reason=TOO_DEEP) from None
        except UnicodeDecodeError:
            raise Problem("malformed_json", reason="it is not UTF-8") from None
        except json.JSONDecodeError as problem:
            where = f"line {problem.lineno}, column {problem.colno}"
            raise Problem("malformed_json", reason=f"{problem.msg.lower()} ({where})") from None
        except ValueError as problem:
            reason = str(problem) if isinstance(problem, _NotTaken) else "a number is too long"
            raise Problem("malformed_json", reason=reason) from None
        if _is_deeper(body, MAX_DEPTH):
            raise Problem("malformed_json", reason=TOO_DEEP)
        return cast(DictStrAny, body)


TOO_DEEP = "it is nested too deeply"


class _NotTaken(ValueError):
    pass


def _refuse_constant(name: str) -> NoReturn:
    raise _NotTaken(f"it has no {name}")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _NotTaken("a number is too large")
    return number


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(members) > MAX_MEMBERS:
        raise _NotTaken("an object has too many members")
    made = dict(members)
    if len(made) < len(members):
        raise _NotTaken("an object has the same name twice")
    return made


def _is_deeper(value: Any, levels: int) -> bool:
    """Returns whether lists and objects are nested deeper than `levels`."""
    if not isinstance(value, dict | list):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return not levels or any(_is_deeper(each, levels - 1) for each in inside)


ROUTERS = (
    users.router,
    transactions.router,
    balance_changes.router,
    batches.router,
    service_charges.router,
    subscriptions.router,
    vouchers.router,
    active_days.router,
    plans.router,
    thresholds.router,
)

api = DescribedAPI(
    title="Billing API",
    version="1",
    description=DESCRIPTION,
    urls_namespace="api-v1",
    parser=JSONParser(),
    docs=Documentation(),
    docs_url="/docs",
    openapi_url="/openapi.json",
    docs_decorator=require_safe,
)

for router in ROUTERS:
    api.add_router("", router)
    for path_view in router.path_operations.values():
        for operation in path_view.operations:
            [needs] = operation.auth_callbacks  # every call needs a permission
            assert isinstance(needs, RequiresPermission)  # noqa: S101
            needs.query = frozenset(
                name
                for model in operation.models
                if model.__ninja_param_source__ == "query"
                for name in model.__ninja_flatten_map__
            )
            if needs.writes and not needs.posting:
                operation.view_func = once_by_key(operation.view_func, lasts=needs.lasts)
                if 201 in operation.response_models:
                    operation.response_models[200] = operation.response_models[201]


# --- What cannot be done ------------------------------------------------------------------------


@api.exception_handler(Problem)
@api.exception_handler(BillingError)
def tell(request: HttpRequest, problem: Problem | BillingError) -> HttpResponse:
    return answer(request, problem)


@api.exception_handler(ValidationError)
def tell_what_is_not_valid(request: HttpRequest, problem: ValidationError) -> HttpResponse:
    errors = [_error(each) for each in problem.errors[:MAX_ERRORS]]
    first = errors[0]
    return answer(
        request,
        Problem("invalid_request", reasons=f"{first['field']}: {first['reason']}", errors=errors),
    )


MAX_ERRORS = 20  # in one answer, which is not much longer than the request
SENTENCES = {
    "extra_forbidden": "There is no such field",
    "missing": "This is missing",
    "string_type": "It must be a text, in quotes",
    "int_type": "It must be a whole number",
    "bool_type": "It must be true or false",
    "list_type": "It must be a list",
    "dict_type": "It must be a JSON object",
    "model_type": "It must be a JSON object",
    "int_parsing": "It must be a whole number",
    "int_from_float": "It must be a whole number",
    "bool_parsing": "It must be true or false",
    "enum": "It must be {expected}",
    "literal_error": "It must be {expected}",
    "greater_than_equal": "It must be {ge} or more",
    "less_than_equal": "It must be {le} or less",
    "string_too_long": "It must have at most {max_length} characters",
    "too_long": "It must have at most {max_length} characters",
    "too_short": "It must not be empty",
    "string_pattern_mismatch": "It must be of ASCII characters, and neither begin nor end with a "
    "space",
    "date_from_datetime_parsing": "There is no such day",
    "datetime_from_date_parsing": "There is no such time",
    "datetime_parsing": "There is no such time",
}


def _error(error: dict[str, Any]) -> dict[str, str]:
    """Returns the place and the sentence of an error that Pydantic found."""
    _, *place = error["loc"]  # the first is "body", "query", "path" or "header"
    if error["loc"][0] == "body":
        place = place[1:]  # the name of the function's parameter
    reason = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] in SENTENCES:
        reason = SENTENCES[error["type"]].format_map(error.get("ctx", {}))
        if error.get("ctx", {}).get("field_type") == "List":
            reason = reason.replace("characters", "entries")
    return {
        "field": ".".join(str(each)[:40] for each in place) or str(error["loc"][0]),
        "reason": reason if reason.endswith(".") else f"{reason}.",
    }


@api.exception_handler(HttpError)
def tell_of_http_error(request: HttpRequest, problem: HttpError) -> HttpResponse:
    if isinstance(problem.__cause__, Problem):
        return answer(request, problem.__cause__)  # raised by the parser
    return answer(request, Problem("malformed_json", reason=str(problem)))


@api.exception_handler(Http404)
def tell_of_nothing(request: HttpRequest, problem: Http404) -> HttpResponse:
    return answer(request, Problem("not_found"))


@api.exception_handler(NotModified)
def tell_that_nothing_changed(request: HttpRequest, known: NotModified) -> HttpResponse:
    return HttpResponse(status=304, headers={"ETag": known.tag})


@api.exception_handler(TooSlow)
def tell_of_slowness(request: HttpRequest, problem: TooSlow) -> HttpResponse:
    return answer(request, Problem("too_slow"))


@api.exception_handler(Exception)
def tell_of_the_unexpected(request: HttpRequest, problem: Exception) -> HttpResponse:
    if outage := outage_of(problem):
        log.warning("%s failed: %s", getattr(request, "id", "-"), in_one_line(problem))
        return answer(request, outage_problem(outage))
    log.exception("%s failed", getattr(request, "id", "-"), exc_info=problem)
    return answer(request, Problem("internal_error"))


def no_such_address(request: HttpRequest, rest: str = "") -> HttpResponse:
    return answer(request, Problem("not_found"))
