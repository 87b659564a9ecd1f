"""Which key may make which call of `/api/v1/`, and how often.

A call names the permission that it needs, the same as the panel's page for the same thing. The
key's owner must have it. A read-only key cannot make calls that write.
"""

from typing import Any, Final, cast

from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone
from ninja.security import HttpBearer

from billing import authority
from billing.api import etags
from billing.api.problems import Problem
from billing.models import ApiKey
from users.models import User

IDEMPOTENCY_KEY: Final = "Idempotency-Key"


class RequiresPermission(HttpBearer):
    """Admits a call with a valid key whose owner has `permission`, within the rate limit.

    `query` holds the allowed names of query parameters, which `rest.py` fills in; others are
    refused, like unknown fields of a body. A `tagged` call answers with an ETag and accepts
    `If-Match`. Other calls that write refuse `If-Match`, because the caller would rely on it.

    A call that writes does its work once per `Idempotency-Key`. The ledger stores the keys of calls
    that are `posting`; `repeats.py` stores those of others, permanently if the key `lasts`.
    """

    def __init__(
        self,
        permission: str,
        *,
        writes: bool = False,
        tagged: bool = False,
        posting: bool = False,
        lasts: bool = False,
    ) -> None:
        super().__init__()
        self.permission = permission
        self.writes = writes
        self.tagged = tagged
        self.posting = posting
        self.lasts = lasts
        self.query: frozenset[str] = frozenset()

    def __call__(self, request: HttpRequest) -> Any:
        found = super().__call__(request)
        if found is None:
            raise Problem("unauthenticated")
        return found

    def authenticate(self, request: HttpRequest, token: str) -> ApiKey:
        now = timezone.now()
        admission = authority.admit(
            token.strip(), per_minute=settings.API_REQUESTS_PER_MINUTE, now=now
        )
        if admission is None:
            raise Problem("unauthenticated")
        key, wait = admission
        request.auth = key  # type: ignore[attr-defined]  # also of a call refused below, for the log
        authority.note_use(key, now)
        if wait is not None:
            raise Problem("too_many_requests", seconds=authority.whole_seconds(wait))
        if self.writes and key.is_read_only:
            raise Problem("read_only_key")
        if not key.owner.has_perm(self.permission):
            raise Problem("forbidden", permission=self.permission)
        if unknown := sorted(set(request.GET) - self.query):
            errors = [
                {"field": name[:40], "reason": "There is no such parameter."} for name in unknown
            ]
            raise Problem(
                "invalid_request", reasons=f"Unknown parameter: {unknown[0][:40]}.", errors=errors
            )
        if self.writes and not self.tagged:
            etags.refuse(request)
        return key


def may(request: HttpRequest, permission: str) -> bool:
    """Returns whether the key's owner has another permission than the one that the call needs."""
    return actor(request).has_perm(permission)


def actor(request: HttpRequest) -> User:
    """Returns the operator in whose name the key acts."""
    return cast(ApiKey, request.auth).owner  # type: ignore[attr-defined]
