"""How often something may be done in a minute, counted by the database for all processes."""

import math
from datetime import datetime, timedelta
from typing import Final

from django.db import connection

from billing.models import ApiAllowance

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
