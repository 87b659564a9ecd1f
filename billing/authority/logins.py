"""How often logging in may fail, in the panel and the Panel API together."""

from datetime import datetime, timedelta
from typing import Final

from billing.authority.hashes import hash_of
from billing.authority.limits import return_allowance, spend
from billing.models import ApiAllowance
from users.models import User

# Failed attempts for a login from one address, or in a browser known for it. A success resets the
# count.
LOGINS_PER_MINUTE: Final = 10
# Failed attempts for a login from all addresses, against guessing from many. It does not lock out
# people who have logged in before from the same address or in the same browser.
LOGINS_PER_MINUTE_FROM_ANYWHERE: Final = 60
ADDRESS_IS_KNOWN_FOR: Final = timedelta(days=30)


def spend_login(
    login: str, *, address: str, browser: str | None = None, now: datetime
) -> timedelta | None:
    """Uses one attempt to log in, before the password is checked. Returns the result of `spend`.

    `address` is the client's IP address. `browser` identifies a browser that has logged in with
    this login before.
    """
    whose = _whose(login)
    wait = spend(_bearer(whose, address, browser), per_minute=LOGINS_PER_MINUTE, now=now)
    if wait is not None or browser is not None or _is_known(whose, address, now):
        return wait
    return spend(_bearer(whose), per_minute=LOGINS_PER_MINUTE_FROM_ANYWHERE, now=now)


def accept_login(login: str, *, address: str, browser: str | None = None, now: datetime) -> None:
    """Resets the counts after a successful login, and remembers the address."""
    whose = _whose(login)
    return_allowance(_bearer(whose, address, browser))
    ApiAllowance.objects.update_or_create(
        bearer=_bearer(whose, address, is_known=True),
        defaults={"spent_until": now + ADDRESS_IS_KNOWN_FOR},
    )


def _is_known(whose: str, address: str, now: datetime) -> bool:
    bearer = _bearer(whose, address, is_known=True)
    return ApiAllowance.objects.filter(bearer=bearer, spent_until__gt=now).exists()


def _whose(login: str) -> str:
    """Returns the key of the count: the user's ID if the login finds a user.

    The database may match "İ" with "i", so counting by spelling would give each one a new count.
    """
    user_id = User.objects.with_email(login).values_list("pk", flat=True).first()
    return login.casefold() if user_id is None else f"{user_id}"


def _bearer(
    whose: str, address: str = "", browser: str | None = None, *, is_known: bool = False
) -> str:
    """Returns the name of the count: by address, by known browser, or for all addresses."""
    place = f"browser {browser}" if browser else f"address {address}"
    kind = "known" if is_known else "login"
    return f"{kind}:{hash_of(f'{place} {whose}')}"
