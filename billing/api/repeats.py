"""The header `Idempotency-Key` on calls that post no transaction, or several.

The first call takes the key, does its work and stores its answer, in one database transaction. A
repeated call gets the stored answer. A refused call leaves the key free.
"""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from ninja.responses import Status

from billing import answers, ledger
from billing.api.keys import IDEMPOTENCY_KEY, actor
from billing.api.problems import Problem

REPLAYED: Final = "Idempotency-Replayed"
# The encoding of other characters in a header is undefined: RFC 9110, 5.5.
PLAIN: Final = r"^[!-~]([ -~]*[!-~])?$"
KEY_MAX_LENGTH: Final = 100
NOT_PLAIN: Final = "It must be of ASCII characters, and neither begin nor end with a space."
TOO_LONG: Final = f"It must have at most {KEY_MAX_LENGTH} characters."

View = Callable[..., Any]


def once_by_key(view: View, *, lasts: bool) -> View:
    """Returns `view` so that it does its work once per key. With `lasts`, keys never expire."""

    @wraps(view)
    def call(request: HttpRequest, *, response: HttpResponse, **values: Any) -> Any:
        key = _key_of(request)
        if key is None:
            return view(request, response=response, **values)
        said = {"call": f"{request.method} {request.path_info}", "key": key}
        owner = actor(request)
        with transaction.atomic():
            earlier = answers.take(
                owner,
                **said,
                content=answers.fingerprint(request.body),
                lasts=lasts,
                now=timezone.now(),
            )
            if earlier is not None:
                for name, value in earlier["headers"].items():
                    response[name] = value
                response[REPLAYED] = "true"
                return Status(200, earlier["body"])
            result = view(request, response=response, **values)
            body = result.value if isinstance(result, Status) else result
            headers = {name: response[name] for name in ("Location", "ETag") if name in response}
            answers.keep(owner, **said, answer={"body": body, "headers": headers})
        return result

    return call


def _key_of(request: HttpRequest) -> str | None:
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return None
    reason = ""
    if not re.search(PLAIN, key) or key.endswith("\n"):
        reason = NOT_PLAIN
    elif len(key) > KEY_MAX_LENGTH:
        reason = TOO_LONG
    if reason:
        errors = [{"field": IDEMPOTENCY_KEY, "reason": reason}]
        raise Problem("invalid_request", reasons=f"{IDEMPOTENCY_KEY}: {reason}", errors=errors)
    return ledger.callers_key(key)
