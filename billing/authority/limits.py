"""Limits per minute, counted in the database for all processes."""

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
    """Uses one of `per_minute` requests. Returns None if it is allowed, otherwise the time to wait.

    A full minute's worth may come at once, then one with each share of a minute. All processes of
    all machines share the count. 0 means no limit.
    """
    if not per_minute:
        return None
    # In whole microseconds, the resolution of the database.
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
    # None: given back meanwhile.
    return max((spent_until.first() or now) + share - burst - now, timedelta(0))


def whole_seconds(wait: timedelta) -> int:
    """Returns a wait of `spend` in whole seconds, rounded up, at least one."""
    return max(1, math.ceil(wait.total_seconds()))


def return_allowance(bearer: str) -> None:
    """Gives back all that was used, for example after a successful login."""
    ApiAllowance.objects.filter(pk=bearer).delete()


def forget_allowances(now: datetime) -> None:
    """Deletes allowances that are full again."""
    ApiAllowance.objects.filter(spent_until__lte=now).delete()
