"""What a plan costs, and for which days. Pure: no clock, no queries.

Rules and worked examples: docs/charging.md.

- Days are UTC days.
- A period is paid in advance and ends with the month, the year or the day. A period that begins
  later than its month or year costs the full price or, if the plan is `proportional`, the share of
  its days.
- Amounts are rounded to four decimals, half up. The daily shares of a month add up to its price.
"""

import calendar
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from functools import lru_cache
from typing import Final, NamedTuple

from django.db import models

from billing.money import DIGITS, MAX_MONEY, ZERO, Amount, NotMoney, to_number

QUANTITY_DECIMALS: Final = 6
QUANTITY_DIGITS: Final = 18
MAX_QUANTITY: Final = Decimal("999999999999.999999")


class Cycle(models.TextChoices):
    """How often a plan is charged. The codes are the subtypes of its transactions."""

    MONTHLY = "monthly", "Monthly"
    EVERY_DAY = "everyday", "Monthly, by day"
    ACTIVE_DAY = "activeday", "Active day"
    ANNUAL = "every_year", "Annual"


# The unit of a plan's price.
PRICE_IS_PER: Final = {
    Cycle.MONTHLY: "month",
    Cycle.EVERY_DAY: "month",
    Cycle.ACTIVE_DAY: "active day",
    Cycle.ANNUAL: "year",
}


class Terms(NamedTuple):
    """The terms of a plan. `price` is per month, per active day or per year, by `cycle`."""

    cycle: str
    price: Decimal
    proportional: bool


class Charge(NamedTuple):
    """The amount for the days from `first` to `last`, both included."""

    first: date
    last: date
    amount: Decimal


@lru_cache(maxsize=4096)  # a run asks the same for all subscriptions of a plan
def charge_on(day: date, terms: Terms) -> Charge:
    """Returns the charge due on `day`, for a subscription that is paid up to the day before.

    For plans by active day it is the charge for `day` itself, if the device was active then.
    """
    cycle, price, proportional = terms
    if cycle == Cycle.ACTIVE_DAY:
        return Charge(day, day, price)
    if cycle == Cycle.ANNUAL:
        first, last = date(day.year, 1, 1), date(day.year, 12, 31)
    else:
        first, last = day.replace(day=1), month_end(day)
    days = (last - first).days + 1
    if cycle == Cycle.EVERY_DAY:
        amount = share(price, day.day, days) - share(price, day.day - 1, days)
        return Charge(day, day, amount)
    if proportional:
        return Charge(day, last, share(price, (last - day).days + 1, days))
    return Charge(day, last, price)


def next_period(day: date, cycle: str) -> date:
    """Returns the first day after `day` on which a plan of this cycle is regularly charged."""
    if cycle == Cycle.MONTHLY:
        return month_end(day) + timedelta(days=1)
    if cycle == Cycle.ANNUAL:
        return date(day.year + 1, 1, 1)
    return day + timedelta(days=1)


def remainder(paid: Charge, day: date) -> Decimal:
    """Returns the unused amount of a paid period if `day` and later days are not used.

    It is the share of these days in what was paid, so it never exceeds that.
    """
    days = (paid.last - paid.first).days + 1
    left = min(days, max(0, (paid.last - day).days + 1))
    return share(paid.amount, left, days)


def service_cost(price: Decimal, quantity: Decimal) -> Decimal:
    """Returns the cost of `quantity` units. Raises NotMoney if it is out of range."""
    with localcontext(prec=DIGITS + QUANTITY_DIGITS):
        cost = _round(price * quantity)
    if cost > MAX_MONEY:
        raise NotMoney("out_of_range")
    return cost


def to_quantity(value: Amount) -> Decimal:
    """Returns the exact quantity in `value`: positive, with up to six decimals.

    Raises NotMoney as `money.to_money` does, and with reason `wrong_sign` for zero or less.
    """
    quantity = to_number(value, decimals=QUANTITY_DECIMALS, largest=MAX_QUANTITY)
    if quantity <= 0:
        raise NotMoney("wrong_sign")
    return quantity


def format_quantity(quantity: Decimal) -> str:
    """Returns a quantity as text, without trailing zeros."""
    whole, _, decimals = f"{quantity:f}".partition(".")
    decimals = decimals.rstrip("0")
    return f"{whole}.{decimals}" if decimals else whole


def share(price: Decimal, part: int, whole: int) -> Decimal:
    """Returns `price` × `part` / `whole`, rounded to four decimals, half up."""
    return _round(price * part / whole)


def month_end(day: date) -> date:
    return day.replace(day=calendar.monthrange(day.year, day.month)[1])


@lru_cache(maxsize=4096)
def format_period(first: date, last: date) -> str:
    """Returns days as in descriptions: "April 2026", "10–30 April 2026", "2026"."""
    if first == last:
        return _day(first)
    if (first.month, first.day, last.month, last.day) == (1, 1, 12, 31) and first.year == last.year:
        return f"{first.year}"
    if (first.year, first.month) != (last.year, last.month):
        return f"{_day(first)} – {_day(last)}"
    if first.day == 1 and last == month_end(last):
        return f"{first:%B %Y}"
    return f"{first.day}–{_day(last)}"


def _day(day: date) -> str:
    return f"{day.day} {day:%B} {day.year}"


def _round(amount: Decimal) -> Decimal:
    return amount.quantize(ZERO, ROUND_HALF_UP)
