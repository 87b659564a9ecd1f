"""How often a login may fail, at all doors together."""

from datetime import datetime, timedelta
from typing import Final

from billing.authority.hashes import hash_of
from billing.authority.limits import forgive, spend
from billing.models import ApiAllowance
from users.models import User

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
