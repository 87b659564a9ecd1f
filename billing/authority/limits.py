"""Limits per minute, counted in the database for all processes."""

import math
from datetime import datetime, timedelta
from typing import Final

from django.db import connection

from billing.models import ApiAllowance

# `wanted` is what a request wants to spend; `spent` has a row if it may. To be put behind the
# parameter `now` and a table of `bearer` and `per_minute`; no row, or 0 per minute: no limit.
SPENDING: Final = """
    wanted AS (
        SELECT l.bearer, s.share, s.share * l.per_minute AS burst
        FROM limited l CROSS JOIN LATERAL (
            -- In whole microseconds, the resolution of the database.
            SELECT greatest(60000000 / nullif(l.per_minute, 0), 1) * interval '1 microsecond'
        ) s (share)
        WHERE l.per_minute > 0
    ), spent AS (
        INSERT INTO billing_apiallowance AS a (bearer, spent_until)
        SELECT w.bearer, %(now)s::timestamptz + w.share FROM wanted w
        ON CONFLICT (bearer) DO UPDATE
            SET spent_until = greatest(a.spent_until, %(now)s::timestamptz)
                + (SELECT w.share FROM wanted w)
            WHERE a.spent_until + (SELECT w.share FROM wanted w)
                <= %(now)s::timestamptz + (SELECT w.burst FROM wanted w)
        RETURNING a.bearer
    ), refused AS (
        SELECT w.share, w.burst FROM wanted w WHERE NOT EXISTS (SELECT FROM spent)
    )
"""
_SPEND: Final = f"""
    WITH limited (bearer, per_minute) AS (SELECT %(bearer)s::varchar, %(per_minute)s::integer),
    {SPENDING}
    SELECT share, burst FROM refused
"""  # noqa: S608 - SQL of ours


def spend(bearer: str, *, per_minute: int, now: datetime) -> timedelta | None:
    """Uses one of `per_minute` requests. Returns None if it is allowed, otherwise the time to wait.

    A full minute's worth may come at once, then one with each share of a minute. All processes of
    all machines share the count. 0 means no limit.
    """
    if not per_minute:
        return None
    with connection.cursor() as cursor:
        cursor.execute(_SPEND, {"bearer": bearer, "per_minute": per_minute, "now": now})
        refused = cursor.fetchone()
    if refused is None:
        return None
    share, burst = refused
    return wait_of(bearer, share, burst, now)


def wait_of(bearer: str, share: timedelta, burst: timedelta, now: datetime) -> timedelta:
    """Returns how long a bearer has to wait who was refused."""
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
