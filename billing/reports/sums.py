"""Sums: of a period of one user, of all users by day, and of all balances.

What concerns all users is read from the sums that `billing.ledger.turnovers` keeps, and from the
transactions since.
"""
# ruff: noqa: S608 - all SQL here is put together from the constants below

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from decimal import Decimal
from typing import Any, Final, NamedTuple

from django.db import connection
from django.db.models import Count, Q, Sum

from billing.models import Reason, Transaction, TransactionType
from billing.money import ZERO
from billing.reports.listing import REVERSALS, Listing

CHART_POINTS: Final = 120


class Totals(NamedTuple):
    """opening + refills − charges + reversals + unlisted = closing.

    `reversals` is the sum of the reversals in the period: reversing a charge adds, reversing a
    refill subtracts. `unlisted` is the sum of the transactions of the period that filters exclude.
    """

    opening: Decimal
    refills: Decimal
    charges: Decimal
    reversals: Decimal
    unlisted: Decimal
    closing: Decimal


class Turnover(NamedTuple):
    """The sum of refills and of charges, both positive, and the sum of reversals."""

    refills: Decimal
    charges: Decimal
    reversals: Decimal

    @property
    def net(self) -> Decimal:
        return self.refills - self.charges + self.reversals


@dataclass(frozen=True)
class BothTotals:
    real: Totals
    bonus: Totals


@dataclass(frozen=True)
class BothTurnovers:
    real: Turnover
    bonus: Turnover


def totals(listing: Listing) -> BothTotals:
    """Returns opening and closing balances of a period of one user, and the sums in between.

    Without filters this reads two rows and the reversals, however long the period is, because each
    transaction stores the sum of all refills up to it. With filters it sums up the rows.
    """
    numbers = listing.numbers
    edges = {
        row.number: row
        for row in Transaction.objects.filter(
            user=listing.user_id, number__in=[numbers.start - 1, numbers.stop - 1]
        )
    }
    before, last = edges.get(numbers.start - 1), edges.get(numbers.stop - 1)
    opening = (before.new_balance, before.new_bonus) if before else (ZERO, ZERO)
    closing = (last.new_balance, last.new_bonus) if last else (ZERO, ZERO)
    if listing.is_filtered:
        listed = turnover(listing)
    else:
        added_before = (before.refilled, before.bonus_refilled) if before else (ZERO, ZERO)
        added = (last.refilled, last.bonus_refilled) if last else (ZERO, ZERO)
        reversed_ = _reversals(listing)
        listed = BothTurnovers(
            _turnover(added[0] - added_before[0], closing[0] - opening[0], reversed_.real),
            _turnover(added[1] - added_before[1], closing[1] - opening[1], reversed_.bonus),
        )
    return BothTotals(
        _totals(opening[0], listed.real, closing[0]), _totals(opening[1], listed.bonus, closing[1])
    )


def _totals(opening: Decimal, listed: Turnover, closing: Decimal) -> Totals:
    unlisted = closing - opening - listed.net
    return Totals(opening, *listed, unlisted, closing)


class _Reversed(NamedTuple):
    """What reversals added to a balance, and their sum."""

    added: Decimal
    net: Decimal


@dataclass(frozen=True)
class _BothReversed:
    real: _Reversed
    bonus: _Reversed


def _reversals(listing: Listing) -> _BothReversed:
    """Returns the sums of reversals in a period of one user. Reads only these, by their index."""
    sums = listing.rows.filter(REVERSALS).aggregate(
        added=Sum("amount", filter=Q(amount__gt=0), default=ZERO),
        net=Sum("amount", default=ZERO),
        bonus_added=Sum("bonus_amount", filter=Q(bonus_amount__gt=0), default=ZERO),
        bonus_net=Sum("bonus_amount", default=ZERO),
    )
    return _BothReversed(
        _Reversed(sums["added"], sums["net"]), _Reversed(sums["bonus_added"], sums["bonus_net"])
    )


def _turnover(added: Decimal, net: Decimal, reversed_: _Reversed) -> Turnover:
    """Returns the turnover of a period, given the sum of what was added and the net change."""
    refills = added - reversed_.added
    return Turnover(refills, refills + reversed_.net - net, reversed_.net)


_SUMS: Final = {
    "refills": Sum("amount", filter=Q(amount__gt=0) & ~REVERSALS, default=ZERO),
    "charges": Sum("amount", filter=Q(amount__lt=0) & ~REVERSALS, default=ZERO),
    "reversals": Sum("amount", filter=REVERSALS, default=ZERO),
    "bonus_refills": Sum("bonus_amount", filter=Q(bonus_amount__gt=0) & ~REVERSALS, default=ZERO),
    "bonus_charges": Sum("bonus_amount", filter=Q(bonus_amount__lt=0) & ~REVERSALS, default=ZERO),
    "bonus_reversals": Sum("bonus_amount", filter=REVERSALS, default=ZERO),
}


def turnover(listing: Listing) -> BothTurnovers:
    """Returns the sums over all transactions of a listing.

    Reads all of them, unless it is a period of all users without filters.
    """
    if listing.user_id is None and not listing.is_filtered:
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {_ADDED_UP} FROM ({_BETWEEN}) parts",
                {"since": listing.since, "until": listing.until},
            )
            sums = cursor.fetchone()
        return BothTurnovers(Turnover(*sums[:3]), Turnover(*sums[3:]))
    return _both_turnovers(listing.rows.aggregate(**_SUMS))


# The kept sums of the whole quarters of an hour between two moments, and the transactions of what
# is left: those of incomplete quarters at both ends, and those since the sums were kept. All in one
# statement, so that nothing is missing or counted twice. NULL leaves an end open.
_KEPT: Final = "refills, charges, reversals, bonus_refills, bonus_charges, bonus_reversals"
_ADDED_UP: Final = ", ".join(f"coalesce(sum({name}), 0)" for name in _KEPT.split(", "))
_ROWS: Final = """
    SELECT created_at,
        CASE WHEN amount > 0 AND reverses IS NULL THEN amount ELSE 0 END,
        CASE WHEN amount < 0 AND reverses IS NULL THEN -amount ELSE 0 END,
        CASE WHEN reverses IS NOT NULL THEN amount ELSE 0 END,
        CASE WHEN bonus_amount > 0 AND reverses IS NULL THEN bonus_amount ELSE 0 END,
        CASE WHEN bonus_amount < 0 AND reverses IS NULL THEN -bonus_amount ELSE 0 END,
        CASE WHEN reverses IS NOT NULL THEN bonus_amount ELSE 0 END
    FROM billing_transaction
"""
_BETWEEN: Final = f"""
    WITH ends AS (
        SELECT since, until, kept,
            -- Kept sums are used from `first` to `last`.
            least(until, date_bin('15 minutes', since - interval '1 microsecond',
                '2000-01-01Z') + interval '15 minutes') AS first,
            least(date_bin('15 minutes', until, '2000-01-01Z'), kept) AS last
        FROM (
            SELECT coalesce(%(since)s::timestamptz, '2000-01-01Z') AS since,
                coalesce(%(until)s::timestamptz, '9999-01-01Z') AS until,
                coalesce((SELECT until FROM billing_keptsums), '2000-01-01Z') AS kept
        ) asked
    )
    SELECT at, {_KEPT} FROM billing_turnover
    WHERE at >= (SELECT first FROM ends) AND at < (SELECT last FROM ends)
    UNION ALL
    {_ROWS} WHERE created_at >= (SELECT since FROM ends) AND created_at < (SELECT first FROM ends)
    UNION ALL
    {_ROWS} WHERE created_at >= (SELECT greatest(first, last) FROM ends)
        AND created_at < (SELECT until FROM ends)
"""


class ReasonSums(NamedTuple):
    """The number and the sums of transactions with a reason; None: of changes without one."""

    reason: Reason | None
    number: int
    real: Turnover
    bonus: Turnover


def has_reasons(listing: Listing) -> bool:
    """Returns whether a transaction of the listing has a reason. Reads only these, by an index."""
    return listing.rows.filter(reason__isnull=False).exists()


def by_reason(listing: Listing) -> list[ReasonSums]:
    """Returns the sums of a listing's changes, gifts and their reversals by reason.

    In the order of the reasons; changes and gifts without a reason come last.
    """
    rows = listing.rows.filter(
        Q(reason__isnull=False)
        | Q(type__in=[TransactionType.PAYMENT, TransactionType.BONUS_REFILL])
    )
    found: dict[str | None, Any] = {
        row["reason"]: row  # type: ignore[misc]  # the stubs expect an ID
        for row in rows.values("reason").annotate(number=Count("pk"), **_SUMS).order_by()
    }
    reasons: list[Reason | None] = [*Reason.objects.filter(code__in=filter(None, found)), None]
    sums = []
    for reason in reasons:
        if (row := found.get(reason.code if reason else None)) is not None:
            both = _both_turnovers(row)
            sums.append(ReasonSums(reason, row["number"], both.real, both.bonus))
    return sums


def _both_turnovers(sums: Mapping[str, Decimal]) -> BothTurnovers:
    return BothTurnovers(
        Turnover(sums["refills"], -sums["charges"], sums["reversals"]),
        Turnover(sums["bonus_refills"], -sums["bonus_charges"], sums["bonus_reversals"]),
    )


# --- Charts -------------------------------------------------------------------------------------


class Point(NamedTuple):
    moment: datetime
    real: Decimal
    bonus: Decimal


def balance_points(listing: Listing) -> list[Point]:
    """Returns both balances over the period of one user's listing, at most CHART_POINTS points."""
    rows = (
        Transaction.objects.filter(user=listing.user_id, number__in=chart_numbers(listing.numbers))
        .order_by("number")
        .values_list("created_at", "new_balance", "new_bonus")
    )
    return [Point(*row) for row in rows]


def chart_numbers(numbers: range) -> list[int]:
    """Returns the numbers of the transactions that a chart of these shows.

    A long period is thinned out evenly; the first and the last transaction are always included.
    """
    if not numbers:
        return []
    step = max(1, -(-len(numbers) // CHART_POINTS))
    return [*numbers[:-1:step], numbers[-1]]


class Day(NamedTuple):
    """The sums of refills, charges and reversals of one day, which is given by its midnight."""

    day: datetime
    real: Turnover
    bonus: Turnover


def turnover_by_day(since: datetime, until: datetime, time_zone: tzinfo) -> list[Day]:
    """Returns the sums of all users for each day of a period that has transactions.

    Days are those of `time_zone`; each is given by its midnight there.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT date_trunc('day', at, %(zone)s) AS day, {_ADDED_UP} FROM ({_BETWEEN}) parts "
            "GROUP BY day ORDER BY day",
            # By its name: PostgreSQL reads an abbreviation such as +07 with the opposite sign.
            {"zone": str(time_zone), "since": since, "until": until},
        )
        return [
            Day(day, Turnover(*sums[:3]), Turnover(*sums[3:])) for day, *sums in cursor.fetchall()
        ]


class Holdings(NamedTuple):
    """The sums of all customers' balances."""

    users: int
    active_users: int
    real: Decimal
    bonus: Decimal


def holdings() -> Holdings:
    """Returns the sums of all customers' balances, and the number of customers.

    All balances together are all changes together. So this adds the changes since the sums were
    kept to the kept sums, and reads no balances but those of operators, who may have been
    customers once.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT count.users, count.active_users,
                coalesce(kept.real, 0) + since.real - operators.real,
                coalesce(kept.bonus, 0) + since.bonus - operators.bonus
            FROM (
                SELECT coalesce(sum(users), 0) AS users,
                    coalesce(sum(active_users), 0) AS active_users
                FROM billing_usercount
            ) count
            CROSS JOIN (
                SELECT coalesce(sum(amount), 0) AS real, coalesce(sum(bonus_amount), 0) AS bonus
                FROM billing_transaction
                -- With both ends, PostgreSQL expects few rows and uses the index.
                WHERE created_at < '9999-01-01Z' AND created_at >= coalesce(
                    (SELECT until FROM billing_keptsums), '2000-01-01Z')
            ) since
            CROSS JOIN (
                SELECT coalesce(sum(b.real), 0) AS real, coalesce(sum(b.bonus), 0) AS bonus
                FROM users_user u JOIN billing_balance b ON b.user_id = u.id WHERE u.is_staff
            ) operators
            LEFT JOIN billing_keptsums kept ON true
            """
        )
        users, active_users, real, bonus = cursor.fetchone()
        return Holdings(int(users), int(active_users), real, bonus)
