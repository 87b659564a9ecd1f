"""The log of API calls, of both faces: one JSON object per line.

A line says what was called, with which key and whose, the result, and how long it took. It does
not say from which address: the proxy logs that. The log shows only what is known to be harmless:
names of known fields, and values of fields that are neither secret nor about a person. Everything
else is replaced by stars, also whatever has an unknown name.

With LOG_API_BODIES, lines contain the beginnings of bodies.
"""

import gzip
import json
import logging
import re
from collections.abc import Iterable
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import structlog
from django.conf import settings
from django.http import HttpRequest, QueryDict
from django.http.response import HttpResponseBase

from billing.authority import KEY_BEGINS
from billing.models import ApiKey, ApiSession
from billing.webhooks.messages import SECRET_BEGINS

logger: Final = logging.getLogger("billing.api.calls")
log: Final = structlog.wrap_logger(
    logger,
    wrapper_class=structlog.stdlib.BoundLogger,
    processors=[
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.JSONRenderer(),
    ],
)

HIDDEN: Final = "***"
BODY_LOGGED: Final = 2_000  # characters
BODY_READ: Final = 4_000  # bytes: examining them takes time
# The parts of JSON that decide how a cut text can be closed; also an unfinished string.
NUMBER: Final = re.compile(r"[0-9]{1,19}")
JSON_PART: Final = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{},]', re.DOTALL)

# Fields whose values may be shown. A test demands each field of both faces here or below.
_SHOWN = """
    active_days actor_id allowed although_paid_back amount ascending at available balance balances
    batch batch_id batches bonus bonus_amount bonus_days bonus_expires_at bonus_pays channel
    charge_now charge_number charged_from charged_through charges code columns cost count
    created_at creation_date currency cursor cycle data day default_tariff_id device_limit
    device_type digest direction discount dry_run duplicate duplicate_of duplicates entries entry
    errors expected_number expired expires_at field fields file file_hash first forgotten_at
    format from grant grants grants_used has_more header hide_inactive id idempotency_key
    into_user_id is_active is_charged is_comment_required is_default kind last left legal_type
    limit list method needed new_balance new_bonus next_charge next_cursor number offset
    old_balance old_bonus order order_by outcome paid paid_back_by paid_from paid_to pay_back
    payment_date permission plan plan_id plan_since plans posted price price_is_per problem
    proportional_charge quantity real real_pays reasons refused request_id results reversal
    reversals reversed_by reverses seconds service services skip_refused started_on state status
    status_since subscription subscription_id subscriptions subtype success suspension_reason
    tariff_id threshold time_zone title to to_user_id tracker_id trackers_count transaction
    transactions type unit unit_price user user_id users voucher wait_for_money why
"""
SHOWN: Final = frozenset(_SHOWN.split())
# Of requests: a code that is sent is that of a voucher, and whoever knows it can redeem it.
SHOWN_IF_SENT: Final = SHOWN - {"code"}
# Fields of which only the names may be shown: personal, freely written, or secret.
# Sentences of refusals repeat what was sent.
_NAMED = """
    city comment content country description detail device email error file_name filter first_name
    hash iec label last_name legal_name login metadata middle_name name okpo_code password phone
    post_city post_country post_index post_region post_street_address postal_code reason region
    registered_city registered_country registered_index registered_postal_code registered_region
    registered_street_address search state_reg_num street_address template text tin value
"""
NAMED: Final = frozenset(_NAMED.split())
# Replaced even in values that may be shown: what looks like a key or a webhook's secret (if longer
# than what the panel shows of them; secrets are base64, and a query turns a plus into a space),
# like an e-mail address, or like a telephone number with a plus (if longer than a date).
OWN_SECRET: Final = re.compile(rf"{KEY_BEGINS}[\w-]{{7,}}|{SECRET_BEGINS}[\w+/= -]{{7,}}", re.ASCII)
EMAIL: Final = re.compile(r"[^\s@]+@[^\s@]+")
PHONE: Final = re.compile(r"\+[0-9][0-9 ().-]{6,}")
SESSION_HASH: Final = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{32}(?![0-9a-fA-F])")
# These identify a call; many of them also have 32 hexadecimal digits.
NEEDED: Final = frozenset({"idempotency_key", "request_id"})


def note(request: HttpRequest, response: HttpResponseBase, seconds: float) -> None:
    if not logger.isEnabledFor(logging.INFO):
        return
    said: dict[str, Any] = {
        "request_id": request.id,  # type: ignore[attr-defined]
        "method": request.method if request.method in METHODS else HIDDEN,
        "path": _path(request.path_info),
        "status": response.status_code,
        "duration_ms": round(seconds * 1000),
    }
    if request.GET:
        said["query"] = _form(_pairs(request.GET), SHOWN_IF_SENT)
    who = getattr(request, "auth", None)
    if isinstance(who, ApiKey):
        said |= {"key_id": who.pk, "owner_id": who.owner_id}
    elif isinstance(who, ApiSession):
        said["owner_id"] = who.operator_id
    code = getattr(response, "problem_code", None)
    if code is not None:
        said["code"] = code
    if settings.LOG_API_BODIES:
        said |= {"request": _sent(request), "response": _answered(response)}
    log.info("api_call", **said)


METHODS: Final = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
)


def _path(path: str) -> str:
    """Returns a path with stars for every part that is neither a number nor a word of our paths."""
    shown = [
        part
        if part in _words() or (part.isascii() and part.isdigit() and len(part) < 20)
        else HIDDEN
        for part in path[:1_000].split("/")
    ]
    return "/".join(shown)


@cache
def _words() -> frozenset[str]:
    from billing.api.panel.dispatch import ACTIONS, OPEN
    from billing.api.rest import ROUTERS

    paths = [path for router in ROUTERS for path in router.path_operations]
    paths += [f"{handler}/{action}" for handler, action in (*OPEN, *ACTIONS)]
    own = ("", "api", "v1", "v2", "panel", "docs", "problems", "openapi.json")
    return frozenset(word for path in paths for word in path.split("/")) | frozenset(own)


# --- Bodies and queries -------------------------------------------------------------------------


def _sent(request: HttpRequest) -> str:
    # Only if it was read already: reading it for the log could fail, or wait.
    if request.content_type == "multipart/form-data" and hasattr(request, "_post"):
        return _shortened(_form(_pairs(request.POST), SHOWN_IF_SENT))
    content_type = request.headers.get("Content-Type", "")
    return shown(getattr(request, "_body", b""), content_type, SHOWN_IF_SENT)


def _answered(response: HttpResponseBase) -> str:
    if response.streaming:
        return "(streamed)"
    body: bytes = getattr(response, "content", b"")
    if response.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    return shown(body, response.get("Content-Type", ""))


def _pairs(query: QueryDict) -> list[tuple[str, str]]:
    return [(name, value) for name, values in query.lists() for value in values]


def _form(pairs: Iterable[tuple[str, str]], names: frozenset[str]) -> str:
    return urlencode(
        [(_name(name), _parameter(value, name, names)) for name, value in pairs],
        safe="*",
        errors="replace",
    )


def _parameter(text: str, name: str, names: frozenset[str]) -> str:
    """Returns a parameter as logged. In the Panel API's forms and queries, objects are JSON."""
    if name in names and text.lstrip()[:1] in ("{", "["):
        try:
            return json.dumps(_visible(json.loads(text), names, name))
        except (ValueError, RecursionError):
            return HIDDEN
    return str(_visible(text, names, name))


def shown(body: bytes, content_type: str, names: frozenset[str] = SHOWN) -> str:
    """Returns the beginning of a body as logged: on one line, with stars.

    `names` are the fields whose values may be shown.
    """
    media_type = content_type.split(";", maxsplit=1)[0].strip().lower()
    beginning = body[:BODY_READ].decode(errors="replace").lstrip("\ufeff \t\r\n\v\f")
    is_whole = len(body) <= BODY_READ
    if not body:
        return ""
    # JSON by its first character: curl without a header calls it a form.
    if "json" in media_type or beginning.startswith("{"):
        try:
            found = json.loads(body if is_whole else _closed(beginning))
            return _shortened(json.dumps(_visible(found, names)), is_whole=is_whole)
        except (ValueError, RecursionError):
            return f"({len(body)} bytes that are no JSON)"
    if media_type in ("", "application/x-www-form-urlencoded") and "=" in beginning:
        fields = beginning if is_whole else beginning.rpartition("&")[0]
        return _shortened(
            _form(parse_qsl(fields, keep_blank_values=True), names), is_whole=is_whole
        )
    return f"({len(body)} bytes that are neither JSON nor a form)"


def _closed(beginning: str) -> str:
    """Returns a cut JSON text as valid JSON: up to its last complete value, then closed."""
    brackets = ""  # the brackets that close what is open
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


def _visible(value: Any, names: frozenset[str], name: str | None = None) -> Any:
    """Returns what may be shown of a value. `name` is its field; None: it is a whole body."""
    if name is not None and name not in names:
        return HIDDEN
    if isinstance(value, dict):
        return {_name(each): _visible(inside, names, each) for each, inside in value.items()}
    if isinstance(value, list):
        return [_visible(each, names, name) for each in value]
    if isinstance(value, str):
        return _text(value, name)
    return value if name is not None else HIDDEN


def _name(name: str) -> str:
    return name if name in SHOWN or name in NAMED else HIDDEN


def _text(text: str, name: str | None) -> str:
    if name is None:
        return HIDDEN
    if name == "field":  # of a body: callers choose these names
        return ".".join(part if part.isdigit() else _name(part) for part in text.split("."))
    for pattern in (OWN_SECRET, EMAIL, PHONE):
        text = pattern.sub(HIDDEN, text)
    return text if name in NEEDED else SESSION_HASH.sub(HIDDEN, text)
