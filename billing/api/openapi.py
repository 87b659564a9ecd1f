"""The description of `/api/v1/`, OpenAPI 3.1: what the framework writes, and what it leaves out.

Added here, for every call alike: the permission it asks for, the problems that it can answer, in
the media type that they are served in, and the headers of its answers.
"""

from http.client import responses
from typing import Any, Final, cast

from ninja import NinjaAPI
from ninja.openapi.schema import OpenAPISchema
from ninja.operation import Operation

from billing.api.keys import Needs
from billing.api.problems import NOTHING_WRITTEN, Problem, details
from billing.errors import BalanceMoved, BillingError, InsufficientFunds, UnknownUser

# What any call can answer, and what one with a body can besides.
ANY: Final = (400, 401, 403, 422, 429, 500, 503)
WITH_BODY: Final = (413, 415)
DESCRIPTIONS: Final = {
    400: "The request cannot be understood.",
    401: "No working API key was sent.",
    402: "There is not enough money; nothing was changed.",
    403: "The key may only read, or its owner lacks the permission.",
    404: "What the address names is not there.",
    409: "It does not fit to what there is now; nothing was changed.",
    413: "The body is too large.",
    415: "The body is not sent as application/json.",
    422: "The request is understood, and is not valid; nothing was changed.",
    429: "The key has spent its requests.",
    500: "Something went wrong here.",
    503: "Not just now: the database does not answer, or somebody holds what this would change; "
    "try again after `Retry-After`. Or a search takes too long.",
}

EXAMPLES: Final[dict[int, Problem | BillingError]] = {
    400: Problem("bad_request"),
    401: Problem("unauthenticated"),
    402: InsufficientFunds(balance="real", needed="12.5500", available="10.0000"),
    403: Problem("forbidden", permission="billing.change_balance"),
    404: UnknownUser(user_id=4711),
    409: BalanceMoved(number=18, expected_number=17, balance="10.0000", bonus="0.0000"),
    413: Problem("too_large", limit=2_621_440),
    415: Problem("unsupported_media_type"),
    422: Problem(
        "invalid_request",
        reasons="amont: There is no such field.",
        errors=[{"field": "amont", "reason": "There is no such field."}],
    ),
    429: Problem("too_many_requests", seconds=3),
    500: Problem("internal_error"),
    503: Problem("busy", outcome=NOTHING_WRITTEN, seconds=2),
}

REQUEST_ID: Final = {
    "X-Request-Id": {
        "description": "Names this request; the transactions that it posted have it too.",
        "schema": {"type": "string"},
    }
}
REPLAYED: Final = {
    "Idempotency-Replayed": {
        "description": "“true”: this is what an earlier call with the same key posted.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}
LOCATION: Final = {
    "Location": {
        "description": "The address of what is new.",
        "schema": {"type": "string", "format": "uri-reference"},
    }
}
RETRY_AFTER: Final = {
    "Retry-After": {
        "description": "After so many seconds the same can be tried again.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
CHALLENGE: Final = {
    "WWW-Authenticate": {"schema": {"type": "string"}},
}
HEADERS: Final[dict[int, dict[str, Any]]] = {
    201: LOCATION,
    401: CHALLENGE,
    429: RETRY_AFTER,
    503: RETRY_AFTER,
}

TAGS: Final = (
    ("Users", "Customers and their particulars."),
    ("Transactions", "What happened to users' money, and what they had at any time."),
    ("Balance changes", "Adding to balances, and taking from them."),
    ("Service charges", "What is charged per use."),
    ("Subscriptions", "Which plan a user, or a device, is on."),
    ("Active days", "For plans that are charged by active day."),
    ("Plans and services", "What can be subscribed to, and what services cost."),
    ("Low balance thresholds", "When webhooks are told of a low balance."),
)


class DescribedAPI(NinjaAPI):
    """An API that describes itself in full."""

    def get_openapi_operation_id(self, operation: Operation) -> str:
        return operation.view_func.__name__

    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        schema = super().get_openapi_schema(**options)
        needed = {
            self.get_openapi_operation_id(operation): needs
            for bound_router in self._get_bound_routers()
            for path_view in bound_router.path_operations.values()
            for operation in path_view.operations
            for needs in operation.auth_callbacks
            if isinstance(needs, Needs)
        }
        for calls in schema["paths"].values():
            for call in calls.values():
                _complete(call, needed[call["operationId"]])
        schema["components"]["securitySchemes"] = {
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key. Keys are made in the panel, under API keys.",
            }
        }
        schema["tags"] = [{"name": name, "description": about} for name, about in TAGS]
        return schema


def _complete(call: dict[str, Any], needs: Needs) -> None:
    call["security"] = [{"bearer": []}]
    for parameter in call["parameters"]:
        _complete_parameter(parameter)
    kind = "Changes something: not for keys that may only read." if needs.writes else ""
    permission = f"Needs the permission `{needs.permission}`. {kind}".strip()
    call["description"] = "\n\n".join(filter(None, [call.get("description"), permission]))
    posts = {200, 201} <= call["responses"].keys()
    statuses = {*call["responses"], *ANY, *(WITH_BODY if "requestBody" in call else ())}
    call["responses"] = {
        str(status): _response(status, call["responses"].get(status, {}), is_replay=posts)
        for status in sorted(statuses)
    }


def _problem(status: int) -> dict[str, Any]:
    """The schema of a problem, and one with this status as an example."""
    example = details(EXAMPLES[status], request_id="0c826f30297b0d7b6494b2bb58f6dc34")
    return {"schema": {"$ref": "#/components/schemas/ProblemOut"}, "example": example}


def _complete_parameter(parameter: dict[str, Any]) -> None:
    """A parameter is left out, and never null; its examples stand with its schema."""
    parameter.pop("examples", None)
    schema = parameter["schema"]
    taken = [each for each in schema.pop("anyOf", []) if each != {"type": "null"}]
    if len(taken) == 1:
        parameter["schema"] = taken[0] | schema


def _response(status: int, response: dict[str, Any], *, is_replay: bool) -> dict[str, Any]:
    headers = REQUEST_ID | HEADERS.get(status, {})
    description = DESCRIPTIONS.get(status, responses[status])
    if is_replay and status == 201:
        description = "Posted."
    elif is_replay and status == 200:
        headers |= REPLAYED | LOCATION
        description = "Posted by an earlier call with the same key; the same answer."
    told = {"description": description, "headers": headers}
    if status >= 400:
        return told | {"content": {"application/problem+json": _problem(status)}}
    return cast(dict[str, Any], response | told)
