"""Sums: of a period of one user, of all users by day, and of all balances."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
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
    """Returns the sums over all transactions of a listing. Reads all of them."""
    return _both_turnovers(listing.rows.aggregate(**_SUMS))


class ReasonSums(NamedTuple):
    """The number and the sums of transactions with a reason; None: of changes without one."""

    reason: Reason | None
    number: int
    real: Turnover
    bonus: Turnover


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
    """Returns both balances over the period of one user's listing, at most CHART_POINTS points.

    A long period is thinned out evenly; the first and the last transaction are always included.
    """
    numbers = listing.numbers
    if not numbers:
        return []
    first, last = numbers.start, numbers.stop - 1
    step = max(1, -(-len(numbers) // CHART_POINTS))
    wanted = [*range(first, last, step), last]
    rows = (
        Transaction.objects.filter(user=listing.user_id, number__in=wanted)
        .order_by("number")
        .values_list("created_at", "new_balance", "new_bonus")
    )
    return [Point(*row) for row in rows]


class Day(NamedTuple):
    """The sums of refills, charges and reversals of one day, which is given by its midnight."""

    day: datetime
    real: Turnover
    bonus: Turnover


def turnover_by_day(since: datetime, until: datetime, time_zone: str) -> list[Day]:
    """Returns the sums of all users for each day of a period that has transactions.

    Days are those of `time_zone`; each is given by its midnight there.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT date_trunc('day', created_at, %(zone)s) AS day,
                coalesce(sum(amount) FILTER (WHERE amount > 0 AND reverses IS NULL), 0),
                coalesce(-sum(amount) FILTER (WHERE amount < 0 AND reverses IS NULL), 0),
                coalesce(sum(amount) FILTER (WHERE reverses IS NOT NULL), 0),
                coalesce(sum(bonus_amount)
                    FILTER (WHERE bonus_amount > 0 AND reverses IS NULL), 0),
                coalesce(-sum(bonus_amount)
                    FILTER (WHERE bonus_amount < 0 AND reverses IS NULL), 0),
                coalesce(sum(bonus_amount) FILTER (WHERE reverses IS NOT NULL), 0)
            FROM billing_transaction
            WHERE created_at >= %(since)s AND created_at < %(until)s
            GROUP BY day ORDER BY day
            """,
            {"zone": time_zone, "since": since, "until": until},
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
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(*), count(*) FILTER (WHERE u.is_active),
                coalesce(sum(b.real), 0), coalesce(sum(b.bonus), 0)
            FROM users_user u JOIN billing_balance b ON b.user_id = u.id
            WHERE NOT u.is_staff
            """
        )
        return Holdings(*cursor.fetchone())
