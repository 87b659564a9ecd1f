"""Makes, finds and revokes API keys. Only the hash of a key is stored."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final, Literal, NamedTuple

from django.contrib.postgres.fields import ArrayField
from django.db import connection
from django.db.models import Q, QuerySet, TextField
from django.db.models.expressions import RawSQL

from billing.authority.hashes import hash_of
from billing.authority.limits import SPENDING, wait_of
from billing.models import ApiKey
from users import database
from users.backends import PERMISSIONS
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


def working_keys(now: datetime | RawSQL) -> QuerySet[ApiKey]:
    """Returns the keys of active operators that are neither expired nor revoked."""
    return ApiKey.objects.filter(
        Q(expires_at=None) | Q(expires_at__gt=now),
        revoked_at=None,
        owner__is_active=True,
        owner__is_staff=True,
    )


# Each call reads a key; unneeded columns cost as much as the lookup itself.
_OF_A_KEY: Final = (
    *("id", "name", "owner_id", "prefix", "is_read_only", "requests_per_minute"),
    *("expires_at", "last_used_at", "revoked_at"),
)
_OF_ITS_OWNER: Final = ("id", "is_superuser", "email", "is_staff", "is_active")
_NAMES: Final = (*_OF_A_KEY, *(f"owner__{name}" for name in _OF_ITS_OWNER[1:]), "permission_names")
_COLUMNS: Final = ", ".join(name.replace("__", "_") for name in _NAMES)


@cache
def _found() -> str:
    """Returns SQL for a table `found` of the working key with the given hash, and of its owner."""
    hashed = RawSQL("%(hashed)s::varchar", ())
    names = RawSQL(PERMISSIONS, (), ArrayField(TextField()))  # noqa: S611 - constant
    rows = working_keys(RawSQL("%(now)s::timestamptz", ())).filter(hashed=hashed)
    rows = rows.annotate(permission_names=names)
    sql, parameters = rows.values_list(*_NAMES).query.sql_with_params()
    assert not parameters  # noqa: S101 - all are named in the SQL
    return f"found ({_COLUMNS}) AS ({sql})"


@cache
def _find() -> str:
    return f"WITH {_found()} SELECT {_COLUMNS} FROM found"  # noqa: S608 - names of ours


@cache
def _admit() -> str:
    return f"""
        WITH {_found()}, limited (bearer, per_minute) AS (
            SELECT 'key:' || f.id, coalesce(f.requests_per_minute, %(per_minute)s::integer)
            FROM found f
        ), {SPENDING}
        SELECT {_COLUMNS}, r.share, r.burst FROM found f LEFT JOIN refused r ON true
    """  # noqa: S608 - names of ours


class Admission(NamedTuple):
    """A working key, and how long its call has to wait; None: the call is within its limit."""

    key: ApiKey
    wait: timedelta | None


def admit(secret: str, *, per_minute: int, now: datetime) -> Admission | None:
    """Returns the working key with this secret, and counts a call of it. None: there is no key.

    `per_minute` is the limit of keys without one of their own. Everything about the key and its
    owner is read and counted in one statement, with each call, so that nothing is out of date.

    It is a statement apart from that of a posting: the key's allowance is locked until it ends, so
    that calls of the same key would wait for each other's postings, and for the balances that these
    wait for.
    """
    parameters = {"hashed": hash_of(secret), "now": now, "per_minute": per_minute}
    row = database.first_row(_admit(), parameters)
    if row is None:
        return None
    *columns, share, burst = row
    key = _key_of(columns)
    if share is None:
        return Admission(key, None)
    return Admission(key, wait_of(f"key:{key.pk}", share, burst, now))


def find_key(secret: str, now: datetime) -> ApiKey | None:
    """Returns the working key with this secret, with the columns that a call needs, or None."""
    row = database.first_row(_find(), {"hashed": hash_of(secret), "now": now})
    return None if row is None else _key_of(row)


def _key_of(row: Sequence[Any]) -> ApiKey:
    """Returns a key with its owner, who knows the permissions that were read."""
    *of_owner, permissions = row[len(_OF_A_KEY) :]
    key = ApiKey.from_db(connection.alias, _OF_A_KEY, row[: len(_OF_A_KEY)])
    owner = User.from_db(connection.alias, _OF_ITS_OWNER, [key.owner_id, *of_owner])
    if permissions is not None:
        owner._perm_cache = set(permissions)  # type: ignore[attr-defined]  # where Django keeps them
    key.owner = owner
    return key


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
