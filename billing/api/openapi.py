"""The OpenAPI 3.1 description of `/api/v1/`: the framework's, completed.

Added for every call: the permission that it needs, the problems that it can answer with, in their
media type, and its request and response headers. Also added: the server's address, and the
messages of webhooks.
"""

import json
from http.client import responses
from typing import Any, Final, cast

from django.urls import get_script_prefix, reverse
from ninja import NinjaAPI
from ninja.openapi.schema import OpenAPISchema
from ninja.operation import Operation

from billing.api import messages
from billing.api.etags import CHANGED
from billing.api.keys import IDEMPOTENCY_KEY, RequiresPermission
from billing.api.problems import NOTHING_WRITTEN, Problem, details
from billing.api.repeats import KEY_MAX_LENGTH, PLAIN
from billing.errors import BalanceMoved, BillingError, InsufficientFunds, UnknownUser

# Problems that any call can answer with, and those of calls with a body.
ANY: Final = (400, 401, 403, 422, 429, 500, 503)
WITH_BODY: Final = (413, 415)
DESCRIPTIONS: Final = {
    400: "The request cannot be understood.",
    401: "No working API key was sent.",
    402: "There is not enough money; nothing was changed.",
    403: "The key may only read, or its owner lacks the permission.",
    404: "There is nothing at this address.",
    304: "It matches `If-None-Match`.",
    409: "It conflicts with the present state; nothing was changed.",
    412: "It does not match `If-Match`; nothing was changed.",
    413: "The body is too large.",
    415: "The body is not sent as application/json.",
    422: "The request is not valid; nothing was changed.",
    429: "The key has used up its requests.",
    500: "Something went wrong here.",
    503: "Not at the moment: the database does not answer, or another operation has locked the "
    "rows; try again after `Retry-After`. Or a search takes too long.",
}

EXAMPLES: Final[dict[int, Problem | BillingError]] = {
    400: Problem("bad_request"),
    401: Problem("unauthenticated"),
    402: InsufficientFunds(balance="real", needed="12.5500", available="10.0000"),
    403: Problem("forbidden", permission="billing.change_balance"),
    404: UnknownUser(user_id=4711),
    409: BalanceMoved(number=18, expected_number=17, balance="10.0000", bonus="0.0000"),
    412: Problem("precondition_failed", reason=CHANGED),
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
        "description": "Identifies this request. The transactions that it posted carry it too.",
        "schema": {"type": "string"},
    }
}
REPLAYED: Final = {
    "Idempotency-Replayed": {
        "description": "“true”: this is the response to an earlier call with the same key.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}
LOCATION: Final = {
    "Location": {
        "description": "The address of the new resource.",
        "schema": {"type": "string", "format": "uri-reference"},
    }
}
RETRY_AFTER: Final = {
    "Retry-After": {
        "description": "The number of seconds after which to try again.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
ETAG: Final = {
    "ETag": {
        "description": "Identifies the present version, for If-Match and If-None-Match.",
        "schema": {"type": "string"},
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

KEY: Final = {
    "in": "header",
    "name": IDEMPOTENCY_KEY,
    "required": False,
    "description": "Identifies this call among those of the key's owner at this address. The same "
    "key with the same content returns the first call's response and changes nothing.",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": KEY_MAX_LENGTH,
        "pattern": PLAIN,
        "title": IDEMPOTENCY_KEY,
    },
}


def _precondition(name: str, description: str, **schema: str) -> dict[str, Any]:
    return {
        "in": "header",
        "name": name,
        "required": False,
        "description": description,
        "schema": {"type": "string", "title": name, **schema},
    }


IF_MATCH: Final = _precondition(
    "If-Match",
    "Do it only if this is still the present version.",
    pattern=r'^(\*|"[!#-~]*"(, *"[!#-~]*")*)$',
)
# A call that only reads ignores an invalid one: it protects nothing.
IF_NONE_MATCH: Final = _precondition(
    "If-None-Match", "Do it only if this is not the present version."
)

TAGS: Final = (
    ("Users", "Customers and their details."),
    ("Transactions", "The operations on users' balances, and the balances at any time."),
    ("Balance changes", "Refills and charges of balances."),
    ("Batches", "Changes of many balances that are posted together, and can be reversed together."),
    ("Service charges", "What is charged per use."),
    ("Subscriptions", "The plans of users and devices."),
    ("Vouchers", "Codes that give money, a bonus or a plan."),
    ("Active days", "For plans that are charged by active day."),
    ("Plans and services", "Pricing plans and the prices of services."),
    ("Low balance thresholds", "The balance below which webhooks are told."),
    ("Webhooks", "Events that the panel sends to your programs."),
)


class DescribedAPI(NinjaAPI):
    """An API with a complete description."""

    def get_openapi_operation_id(self, operation: Operation) -> str:
        return operation.view_func.__name__

    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        # `servers` has the prefix of all addresses.
        root = self.get_root_path(options.pop("path_params", None) or {})
        options.setdefault("path_prefix", root.removeprefix(get_script_prefix().rstrip("/")))
        schema = super().get_openapi_schema(**options)
        needed = {
            self.get_openapi_operation_id(operation): needs
            for bound_router in self._get_bound_routers()
            for path_view in bound_router.path_operations.values()
            for operation in path_view.operations
            for needs in operation.auth_callbacks
            if isinstance(needs, RequiresPermission)
        }
        for calls in schema["paths"].values():
            for call in calls.values():
                _complete(call, needed[call["operationId"]])
        schema["webhooks"] = messages.described()
        schema["components"]["schemas"] |= messages.schemas()
        for name, model in schema["components"]["schemas"].items():
            if not name.endswith("Out"):
                _say_defaults(model)
        schema["servers"] = [{"url": get_script_prefix().rstrip("/") or "/"}]
        schema["components"]["securitySchemes"] = {
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key. Add keys in the panel under API keys.",
            }
        }
        info = schema["info"]
        info["description"] = info["description"].replace("{problems}", reverse("api-problems"))
        schema["tags"] = [{"name": name, "description": about} for name, about in TAGS]
        return schema


def _complete(call: dict[str, Any], needs: RequiresPermission) -> None:
    call["security"] = [{"bearer": []}]
    for parameter in call["parameters"]:
        _complete_parameter(parameter)
    is_kept = needs.writes and not needs.posting
    if is_kept:
        call["parameters"].append(KEY)
    if needs.tagged:
        call["parameters"].append(IF_MATCH if needs.writes else IF_NONE_MATCH)
    kind = "Changes data, so read-only keys are refused." if needs.writes else ""
    permission = f"Needs the permission `{needs.permission}`. {kind}".strip()
    call["description"] = "\n\n".join(filter(None, [call.get("description"), permission]))
    statuses = {
        *call["responses"],
        *ANY,
        *(WITH_BODY if "requestBody" in call else ()),
        *((409,) if is_kept else ()),
        *((412,) if needs.writes else ()),
        *((304,) if needs.tagged and not needs.writes else ()),
    }
    makes = 201 in call["responses"]
    call["responses"] = {
        str(status): _response(status, call["responses"].get(status, {}), needs, makes=makes)
        for status in sorted(statuses)
    }


def _problem(status: int) -> dict[str, Any]:
    """Returns the schema of a problem, with an example of this status."""
    example = details(EXAMPLES[status], request_id="0c826f30297b0d7b6494b2bb58f6dc34")
    return {"schema": {"$ref": "#/components/schemas/ProblemOut"}, "example": example}


def _complete_parameter(parameter: dict[str, Any]) -> None:
    """Completes a parameter: it can be left out but is never null, and its default is in words."""
    parameter.pop("examples", None)
    schema = parameter["schema"]
    _say_default(parameter, schema.pop("default", None))
    taken = [each for each in schema.pop("anyOf", []) if each != {"type": "null"}]
    if len(taken) == 1:
        parameter["schema"] = taken[0] | schema


def _response(
    status: int, response: dict[str, Any], needs: RequiresPermission, *, makes: bool
) -> dict[str, Any]:
    headers = REQUEST_ID | HEADERS.get(status, {})
    description = DESCRIPTIONS.get(status, responses[status])
    if needs.writes and status == 201:
        description = "Done."
    elif needs.writes and status == 200:
        headers |= REPLAYED
        description = "Done, by this call or by an earlier one with the same key."
        if makes:
            headers |= LOCATION
            description = "Done by an earlier call with the same key; the same answer."
    if needs.tagged and status <= 304:
        headers |= ETAG
    told = {"description": description, "headers": headers}
    if status >= 400:
        return told | {"content": {"application/problem+json": _problem(status)}}
    return cast(dict[str, Any], response | told)


def _say_defaults(model: dict[str, Any]) -> None:
    """Moves the defaults of request fields into their descriptions.

    Generators of clients assume that a field with a default is always present.
    """
    for field in model.get("properties", {}).values():
        _say_default(field, field.pop("default", None))


def _say_default(described: dict[str, Any], default: Any) -> None:
    if default not in (None, "", {}):
        said = f"Without it: {json.dumps(default)}."
        described["description"] = f"{described.get('description', '')} {said}".strip()
