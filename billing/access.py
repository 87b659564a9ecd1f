"""Who may use the Billing API, and how often: keys, sessions, what they spend, and logins.

A key or a session is looked up by its SHA-256, which is all that is kept of it. Both are long and
random, so nobody finds one by trying, and a slow hash, as passwords need, would protect nothing.
Arguments called `now` are the time: only entry points read the clock.
"""

import hashlib
import math
import secrets
from datetime import datetime, timedelta
from typing import Final, Literal

from django.db import connection
from django.db.models import Q, QuerySet

from billing.models import ApiAllowance, ApiKey, ApiSession
from users.models import User

KEY_BEGINS: Final = "bill_"  # so that scanners for leaked secrets can know one
PREFIX_LENGTH: Final = len(KEY_BEGINS) + 6
SESSION_LASTS: Final = timedelta(hours=24)
# Noting each use would write once per request.
LAST_USE_IS_NOTED_EVERY: Final = timedelta(minutes=1)


KeyState = Literal["working", "expired", "revoked", "owner inactive"]


def hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


# --- Keys ---------------------------------------------------------------------------------------


def issue_key(
    *,
    name: str,
    owner: User,
    created_by: User,
    is_read_only: bool = False,
    expires_at: datetime | None = None,
    requests_per_minute: int | None = None,
) -> tuple[ApiKey, str]:
    """Makes a key; the text beside it is the key itself, which nobody can find out later."""
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


# Each call looks a key up: what it does not need costs as much as the lookup itself.
_ASKED_OF_A_KEY: Final = (
    *("name", "prefix", "is_read_only", "requests_per_minute", "last_used_at"),
    *("expires_at", "revoked_at"),
    *(f"owner__{field}" for field in ("email", "is_active", "is_staff", "is_superuser")),
)


def working_keys(now: datetime) -> QuerySet[ApiKey]:
    """The keys that are neither expired nor revoked, of active operators."""
    return ApiKey.objects.filter(
        Q(expires_at=None) | Q(expires_at__gt=now),
        revoked_at=None,
        owner__is_active=True,
        owner__is_staff=True,
    )


def find_key(secret: str, now: datetime) -> ApiKey | None:
    """The working key that `secret` is, with what a call asks of it and of its owner."""
    found = ApiKey.objects.select_related("owner").only(*_ASKED_OF_A_KEY)
    key = next(iter(found.filter(hashed=hash_of(secret))), None)
    return key if key is not None and state_of(key, now) == "working" else None


def state_of(key: ApiKey, now: datetime) -> KeyState:
    """Why a key does not work, or that it does. `working_keys` asks the database the same."""
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
    """Ends a key for ever, from the next request on."""
    ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=now, revoked_by=by)
    key.refresh_from_db()


# --- Sessions -----------------------------------------------------------------------------------


def open_session(operator: User, now: datetime) -> str:
    """Begins a session of 24 hours; answers its hash, 32 hexadecimal digits."""
    session_hash = secrets.token_hex(16)
    ApiSession.objects.filter(expires_at__lte=now).delete()
    ApiSession.objects.create(
        hashed=hash_of(session_hash),
        operator=operator,
        created_at=now,
        expires_at=now + SESSION_LASTS,
    )
    return session_hash


def find_session(session_hash: str, now: datetime) -> ApiSession | None:
    """The session of this hash, unless it has ended or its operator is no active one any more."""
    return (
        ApiSession.objects.filter(
            hashed=hash_of(session_hash),
            expires_at__gt=now,
            operator__is_active=True,
            operator__is_staff=True,
        )
        .select_related("operator")
        .first()
    )


def end_session(session: ApiSession) -> None:
    session.delete()


# --- Limits -------------------------------------------------------------------------------------

_SPEND: Final = """
    INSERT INTO billing_apiallowance AS a (bearer, spent_until)
    VALUES (%(bearer)s, %(now)s::timestamptz + %(share)s::interval)
    ON CONFLICT (bearer) DO UPDATE
        SET spent_until = greatest(a.spent_until, %(now)s::timestamptz) + %(share)s::interval
        WHERE a.spent_until + %(share)s::interval <= %(now)s::timestamptz + %(burst)s::interval
"""


def spend(bearer: str, *, per_minute: int, now: datetime) -> timedelta | None:
    """Spends one of `per_minute` requests. None: it may go on; else after so long it may again.

    Any number at once up to a minute's worth, then one with each share of a minute that passes.
    All processes of all machines share the count. 0 is no limit.
    """
    if not per_minute:
        return None
    # In whole microseconds, as the database counts; a minute's worth is then just so many of them.
    share = max(timedelta(minutes=1) // per_minute, timedelta.resolution)
    burst = share * per_minute
    with connection.cursor() as cursor:
        cursor.execute(
            _SPEND,
            {"bearer": bearer, "now": now, "share": str(share), "burst": str(burst)},
        )
        if cursor.rowcount:
            return None
    spent_until = ApiAllowance.objects.values_list("spent_until", flat=True).filter(pk=bearer)
    # None: forgiven meanwhile.
    return max((spent_until.first() or now) + share - burst - now, timedelta(0))


def whole_seconds(wait: timedelta) -> int:
    """What `spend` answered, for people and for `Retry-After`: enough, and at least one."""
    return max(1, math.ceil(wait.total_seconds()))


def forgive(bearer: str) -> None:
    """Gives back what was spent: of a login, say, that in the end succeeds."""
    ApiAllowance.objects.filter(pk=bearer).delete()


def forget_allowances(now: datetime) -> None:
    """Removes what is spent no more."""
    ApiAllowance.objects.filter(spent_until__lte=now).delete()


# --- Logins -------------------------------------------------------------------------------------

# Of failed ones, at all doors together: of a login from one address, or in a browser that is known
# to it. One that succeeds begins the count anew.
LOGINS_PER_MINUTE: Final = 10
# Of a login from all addresses together, against guessing from many. It cannot keep anybody out who
# has logged in before from the same address, or in the same browser.
LOGINS_PER_MINUTE_FROM_ANYWHERE: Final = 60
ADDRESS_IS_KNOWN_FOR: Final = timedelta(days=30)


def spend_login(
    login: str, *, address: str, browser: str | None = None, now: datetime
) -> timedelta | None:
    """Spends one attempt to log in, before the password is looked at. Returns what `spend` does.

    `address` is where it comes from. `browser` is what a browser that has logged in with this login
    before is known by.
    """
    whose = _whose(login)
    wait = spend(_bearer(whose, address, browser), per_minute=LOGINS_PER_MINUTE, now=now)
    if wait is not None or browser is not None or _is_known(whose, address, now):
        return wait
    return spend(_bearer(whose), per_minute=LOGINS_PER_MINUTE_FROM_ANYWHERE, now=now)


def accept_login(login: str, *, address: str, browser: str | None = None, now: datetime) -> None:
    """Begins the count anew, and knows the address from now on: in the end, the login succeeded."""
    whose = _whose(login)
    forgive(_bearer(whose, address, browser))
    ApiAllowance.objects.update_or_create(
        bearer=_bearer(whose, address, is_known=True),
        defaults={"spent_until": now + ADDRESS_IS_KNOWN_FOR},
    )


def _is_known(whose: str, address: str, now: datetime) -> bool:
    bearer = _bearer(whose, address, is_known=True)
    return ApiAllowance.objects.filter(bearer=bearer, spent_until__gt=now).exists()


def _whose(login: str) -> str:
    """Whose failed logins are counted: the user's, whichever way of writing the login finds it. The
    database may take "İ" for "i", which would be a new count for each such letter.
    """
    user_id = User.objects.with_email(login).values_list("pk", flat=True).first()
    return login.casefold() if user_id is None else f"{user_id}"


def _bearer(
    whose: str, address: str = "", browser: str | None = None, *, is_known: bool = False
) -> str:
    """The count of a login from an address, in a browser wherever it is, or from anywhere."""
    place = f"browser {browser}" if browser else f"address {address}"
    kind = "known" if is_known else "login"
    return f"{kind}:{hash_of(f'{place} {whose}')}"
