"""Keeps the sums of `billing.models.turnovers`, and compares them with the rows they are made of.

A transaction is never changed, and none appears with a time before the moment that
`reports.complete_until` returns. So transactions before it are added up once. Only
`billing.ledger.history` writes transactions of the past; it has the sums begin again before them.

Posting does nothing for this. Readers take the kept sums and add the transactions since, in one
statement, that is, of one snapshot: however far the kept sums are, the result is the same.
"""
# ruff: noqa: S608 - all SQL here is put together from the constants below

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

# Transactions that are added up in one database transaction, approximately.
ROWS_AT_ONCE: Final = 200_000
# Sums end this long before the last moment that is complete: a clock that is set right may go back.
SLACK: Final = timedelta(seconds=10)
# The advisory lock of who writes the sums, until the end of the database transaction.
LOCK: Final = 0x73756D73
INSTANT: Final = timedelta(microseconds=1)

# A transaction is a refill, a charge or a reversal, of either balance.
SUMS: Final = """
    count(*) AS transactions,
    coalesce(sum(amount) FILTER (WHERE amount > 0 AND reverses IS NULL), 0) AS refills,
    coalesce(-sum(amount) FILTER (WHERE amount < 0 AND reverses IS NULL), 0) AS charges,
    coalesce(sum(amount) FILTER (WHERE reverses IS NOT NULL), 0) AS reversals,
    coalesce(sum(bonus_amount) FILTER (WHERE bonus_amount > 0 AND reverses IS NULL), 0)
        AS bonus_refills,
    coalesce(-sum(bonus_amount) FILTER (WHERE bonus_amount < 0 AND reverses IS NULL), 0)
        AS bonus_charges,
    coalesce(sum(bonus_amount) FILTER (WHERE reverses IS NOT NULL), 0) AS bonus_reversals
"""
COLUMNS: Final = (
    *("transactions", "refills", "charges", "reversals"),
    *("bonus_refills", "bonus_charges", "bonus_reversals"),
)
QUARTER: Final = (
    "date_bin(INTERVAL '15 minutes', created_at, TIMESTAMP WITH TIME ZONE '2000-01-01Z')"
)


# --- Keeping ------------------------------------------------------------------------------------


def sum_up(complete: datetime, *, should_stop: Callable[[], bool] = lambda: False) -> None:
    """Adds up what was posted before `complete`; no transaction before that may appear any more.

    Leaves it if somebody else is at it, or has written transactions of the past meanwhile.
    """
    while not should_stop() and _sum_up_a_stretch(complete - SLACK):
        pass
    _join_user_counts()


def sum_up_again_from(moment: datetime) -> None:
    """Forgets the sums from a moment on, for a caller who has just written transactions of then.

    Until the caller's database transaction ends, nothing is summed up: these transactions are not
    visible yet.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        cursor.execute(_BEGIN)
        cursor.execute("SELECT until FROM billing_keptsums")
        [until] = cursor.fetchone()
        if moment < until:
            cursor.execute(_BEGIN_AGAIN, {"moment": moment})


def begin_again() -> None:
    """Forgets all sums, and counts the users again."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "LOCK TABLE billing_keptsums, users_user, billing_usercount IN SHARE ROW EXCLUSIVE MODE"
        )
        cursor.execute("DELETE FROM billing_keptsums")
        cursor.execute("DELETE FROM billing_turnover")
        cursor.execute("DELETE FROM billing_usercount")
        cursor.execute(
            "INSERT INTO billing_usercount (users, active_users) "
            "SELECT count(*), count(*) FILTER (WHERE is_active) FROM users_user WHERE NOT is_staff"
        )


def _sum_up_a_stretch(end: datetime) -> bool:
    """Adds up the next transactions before `end`; returns whether there may be more."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [LOCK])
        if cursor.fetchone() == (False,):
            return False
        cursor.execute(_BEGIN)
        cursor.execute("SELECT until < %s FROM billing_keptsums", [end])
        if cursor.fetchone() == (False,):
            return False
        cursor.execute(_END_OF_STRETCH, [ROWS_AT_ONCE])
        found = cursor.fetchone()
        until = min(end, found[0] + INSTANT) if found else end
        cursor.execute(_ADD_UP, {"until": until})
        return bool(until < end)


# Transactions from before this century are refused.
_BEGIN: Final = """
    INSERT INTO billing_keptsums (id, until) VALUES (1, '2000-01-01Z') ON CONFLICT DO NOTHING
"""
_END_OF_STRETCH: Final = """
    SELECT created_at FROM billing_transaction
    WHERE created_at >= (SELECT until FROM billing_keptsums)
    ORDER BY created_at OFFSET %s LIMIT 1
"""
_ADD_UP: Final = f"""
    WITH new AS MATERIALIZED (
        SELECT {QUARTER} AS at, {SUMS}
        FROM billing_transaction
        WHERE created_at >= (SELECT until FROM billing_keptsums) AND created_at < %(until)s
        GROUP BY 1
    ), kept AS (
        INSERT INTO billing_turnover AS t (at, {", ".join(COLUMNS)})
        SELECT at, {", ".join(COLUMNS)} FROM new
        ON CONFLICT (at) DO UPDATE SET
            {", ".join(f"{name} = t.{name} + excluded.{name}" for name in COLUMNS)}
    )
    UPDATE billing_keptsums k SET until = %(until)s, (real, bonus) = (
        SELECT k.real + coalesce(sum(refills - charges + reversals), 0),
            k.bonus + coalesce(sum(bonus_refills - bonus_charges + bonus_reversals), 0)
        FROM new
    )
"""
_BEGIN_AGAIN: Final = f"""
    WITH quarter AS (
        SELECT {QUARTER} AS at FROM (SELECT %(moment)s::timestamptz AS created_at) x
    ), gone AS (
        DELETE FROM billing_turnover WHERE at >= (SELECT at FROM quarter)
    )
    UPDATE billing_keptsums SET until = (SELECT at FROM quarter), (real, bonus) = (
        SELECT coalesce(sum(refills - charges + reversals), 0),
            coalesce(sum(bonus_refills - bonus_charges + bonus_reversals), 0)
        FROM billing_turnover WHERE at < (SELECT at FROM quarter)
    )
"""


def _join_user_counts() -> None:
    """Replaces the rows of UserCount with their sum. A reader sees them or their sum."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH gone AS (
                DELETE FROM billing_usercount
                WHERE (SELECT count(*) FROM (SELECT FROM billing_usercount LIMIT 2) two) > 1
                RETURNING users, active_users
            )
            INSERT INTO billing_usercount (users, active_users)
            SELECT sum(users), sum(active_users) FROM gone HAVING count(*) > 0
            """
        )


# --- Proving ------------------------------------------------------------------------------------


def difference(cursor: CursorWrapper) -> str | None:
    """Returns a sentence about the first kept sum that is not that of the rows.

    Uses only what `billing.sql.guards.untrusting_cursor` allows.
    """
    for ask in (_wrong_turnover, _wrong_total, _wrong_user_count):
        if (said := ask(cursor)) is not None:
            return f"{said} No money depends on it. To sum up again: manage.py keep_sums --again."
    return None


def _wrong_turnover(cursor: CursorWrapper) -> str | None:
    columns = ", ".join(COLUMNS)
    kept, counted = (", ".join(f"{it}.{name}" for name in COLUMNS) for it in ("k", "c"))
    cursor.execute(
        f"""
        SELECT coalesce(k.at, c.at) FROM (
            SELECT at, {columns} FROM public.billing_turnover
        ) k FULL JOIN (
            SELECT {QUARTER} AS at, {SUMS} FROM public.billing_transaction
            WHERE created_at < (SELECT until FROM public.billing_keptsums LIMIT 1)
            GROUP BY 1
        ) c ON c.at = k.at
        WHERE ({kept}) IS DISTINCT FROM ({counted})
        ORDER BY 1 LIMIT 1
        """
    )
    if (found := cursor.fetchone()) is None:
        return None
    return (
        f"The kept sums of the quarter of an hour from {found[0]:%Y-%m-%d %H:%M} UTC on are not "
        "those of its transactions."
    )


def _wrong_total(cursor: CursorWrapper) -> str | None:
    cursor.execute(
        """
        SELECT 1 FROM (
            SELECT coalesce(sum(real), 0) AS real, coalesce(sum(bonus), 0) AS bonus,
                count(*) AS number FROM public.billing_keptsums
        ) k, (
            SELECT coalesce(sum(refills - charges + reversals), 0) AS real,
                coalesce(sum(bonus_refills - bonus_charges + bonus_reversals), 0) AS bonus
            FROM public.billing_turnover
        ) t WHERE (k.real, k.bonus) IS DISTINCT FROM (t.real, t.bonus) OR k.number > 1
        """
    )
    if cursor.fetchone() is None:
        return None
    return "The kept sums of all transactions are not those of all quarters of an hour together."


def _wrong_user_count(cursor: CursorWrapper) -> str | None:
    cursor.execute(
        """
        SELECT 1 FROM (
            SELECT coalesce(sum(users), 0) AS users, coalesce(sum(active_users), 0) AS active
            FROM public.billing_usercount
        ) k, (
            SELECT count(*) AS users, count(*) FILTER (WHERE is_active) AS active
            FROM public.users_user WHERE NOT is_staff
        ) c WHERE (k.users, k.active) IS DISTINCT FROM (c.users, c.active)
        """
    )
    if cursor.fetchone() is None:
        return None
    return "The kept numbers of users and of active users are not those of the users."
