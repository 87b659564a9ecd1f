"""What stands above the transactions of one user: totals and a chart, read together."""

from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from django.db import connection

from billing.money import ZERO
from billing.reports.listing import Listing
from billing.reports.sums import BothTotals, Point, Totals, balance_points, chart_numbers, totals


class Overview(NamedTuple):
    totals: BothTotals
    points: list[Point]


class _Row(NamedTuple):
    """A transaction of the chart or at an end of the period."""

    number: int
    created_at: datetime
    new_balance: Decimal
    new_bonus: Decimal
    refilled: Decimal
    bonus_refilled: Decimal


def overview(listing: Listing) -> Overview:
    """Returns the totals and the points of the chart of one user's listing.

    Without filters, one query reads both, from rows that say the sums up to them.
    """
    if listing.is_filtered:
        return Overview(totals(listing), balance_points(listing))
    numbers = listing.numbers
    charted = chart_numbers(numbers)
    rows, reversed_ = _read(listing, [numbers.start - 1, numbers.stop - 1, *charted])
    before, last = rows.get(numbers.start - 1), rows.get(numbers.stop - 1)
    none = (ZERO, ZERO)
    real = _totals(
        (before.new_balance, before.refilled) if before else none,
        (last.new_balance, last.refilled) if last else none,
        reversed_[:2],
    )
    bonus = _totals(
        (before.new_bonus, before.bonus_refilled) if before else none,
        (last.new_bonus, last.bonus_refilled) if last else none,
        reversed_[2:],
    )
    shown = [rows[number] for number in charted]
    return Overview(
        BothTotals(real, bonus), [Point(r.created_at, r.new_balance, r.new_bonus) for r in shown]
    )


def _read(
    listing: Listing, numbers: list[int]
) -> tuple[dict[int, _Row], tuple[Decimal, Decimal, Decimal, Decimal]]:
    """Returns these transactions, and of the listing's reversals: what they added, and their sum.

    Of both balances.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT number, created_at, new_balance, new_bonus, refilled, bonus_refilled
            FROM billing_transaction
            WHERE user_id = %(user)s AND number = ANY (%(numbers)s)
            UNION ALL
            SELECT NULL, NULL,
                coalesce(sum(amount) FILTER (WHERE amount > 0), 0), coalesce(sum(amount), 0),
                coalesce(sum(bonus_amount) FILTER (WHERE bonus_amount > 0), 0),
                coalesce(sum(bonus_amount), 0)
            FROM billing_transaction
            WHERE user_id = %(user)s AND reverses IS NOT NULL
                AND number >= %(first)s AND number < %(beyond)s
            """,
            {
                "user": listing.user_id,
                "numbers": numbers,
                "first": listing.numbers.start,
                "beyond": listing.numbers.stop,
            },
        )
        found = cursor.fetchall()
    [reversed_] = [tuple(row[2:]) for row in found if row[0] is None]
    return {row[0]: _Row(*row) for row in found if row[0] is not None}, reversed_


def _totals(
    before: tuple[Decimal, Decimal], last: tuple[Decimal, Decimal], reversed_: tuple[Decimal, ...]
) -> Totals:
    """Returns the totals between two rows, of which each has its balance and all refills so far."""
    (opening, refilled_before), (closing, refilled) = before, last
    reversals_added, reversals = reversed_
    refills = refilled - refilled_before - reversals_added
    charges = refills + reversals - (closing - opening)
    return Totals(opening, refills, charges, reversals, ZERO, closing)
