"""Makes, finds and revokes API keys. Only the hash of a key is stored."""

import secrets
from datetime import datetime, timedelta
from typing import Final, Literal

from django.db.models import Q, QuerySet

from billing.authority.hashes import hash_of
from billing.models import ApiKey
from users.models import User

KEY_BEGINS: Final = "bill_"  # recognisable for scanners of leaked secrets
PREFIX_LENGTH: Final = len(KEY_BEGINS) + 6
# Recording each use would be a write per request.
LAST_USE_IS_NOTED_EVERY: Final = timedelta(minutes=1)

KeyState = Literal["working", "expired", "revoked", "owner inactive"]


def issue_key(
    *,
    name: str,
    owner: User,
    created_by: User,
    is_read_only: bool = False,
    expires_at: datetime | None = None,
    requests_per_minute: int | None = None,
) -> tuple[ApiKey, str]:
    """Makes a key. Returns it with the secret, which nobody can find out later."""
    secret = KEY_BEGINS + secrets.token_urlsafe(32)
    key = ApiKey.objects.create(
        name=name,
        owner=owner,
        created_by=created_by,
        is_read_only=is_read_only,
        expires_at=expires_at,
        requests_per_minute=requests_per_minute,
        prefix=secret[:PREFIX_LENGTH],
        hashed=hash_of(secret),
    )
    return key, secret


# Each call reads a key; unneeded columns cost as much as the lookup itself.
_ASKED_OF_A_KEY: Final = (
    *("name", "prefix", "is_read_only", "requests_per_minute", "last_used_at"),
    *("expires_at", "revoked_at"),
    *(f"owner__{field}" for field in ("email", "is_active", "is_staff", "is_superuser")),
)


def working_keys(now: datetime) -> QuerySet[ApiKey]:
    """Returns the keys of active operators that are neither expired nor revoked."""
    return ApiKey.objects.filter(
        Q(expires_at=None) | Q(expires_at__gt=now),
        revoked_at=None,
        owner__is_active=True,
        owner__is_staff=True,
    )


def find_key(secret: str, now: datetime) -> ApiKey | None:
    """Returns the working key with this secret, with the columns that a call needs, or None."""
    found = ApiKey.objects.select_related("owner").only(*_ASKED_OF_A_KEY)
    key = next(iter(found.filter(hashed=hash_of(secret))), None)
    return key if key is not None and state_of(key, now) == "working" else None


def state_of(key: ApiKey, now: datetime) -> KeyState:
    """Returns the state of a key. `working_keys` is the same condition for the database."""
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= now:
        return "expired"
    if not (key.owner.is_active and key.owner.is_staff):
        return "owner inactive"
    return "working"


def note_use(key: ApiKey, now: datetime) -> None:
    if key.last_used_at is None or now - key.last_used_at >= LAST_USE_IS_NOTED_EVERY:
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=now)


def revoke_key(key: ApiKey, *, by: User, now: datetime) -> None:
    """Revokes a key, from the next request on."""
    ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=now, revoked_by=by)
    key.refresh_from_db()
