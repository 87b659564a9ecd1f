"""Who may make which call of `/api/v1/`, and how often.

A call names the permission that it asks for, the same as the panel's page for the same thing. The
key's owner needs it; a key that may only read makes no call that writes.
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
    """Admits a call by a working key, with `permission`, not too soon after others.

    `query` are the names that the address may have after its question mark; others are refused
    as unknown fields of a body are. `rest.py` fills it in. Of a call that is `tagged`, the answer
    has an ETag, and what it changes may be named by one; a call that writes and is not refuses an
    `If-Match`: whoever sends one relies on it.

    A call that writes does its work once by each `Idempotency-Key`. The ledger has the keys of one
    that is `posting`, and `repeats.py` those of others; where a key `lasts`, it has it for good.
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
        key = authority.find_key(token.strip(), now)
        if key is None:
            raise Problem("unauthenticated")
        request.auth = key  # type: ignore[attr-defined]  # also of a call refused below, for the log
        authority.note_use(key, now)
        limit = key.requests_per_minute
        wait = authority.spend(
            f"key:{key.pk}",
            per_minute=settings.API_REQUESTS_PER_MINUTE if limit is None else limit,
            now=now,
        )
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
    """Whether the key's owner holds a permission besides the one that the call asks for."""
    return actor(request).has_perm(permission)


def actor(request: HttpRequest) -> User:
    """The operator in whose name the key acts."""
    return cast(ApiKey, request.auth).owner  # type: ignore[attr-defined]
