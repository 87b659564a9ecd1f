"""Amounts of money: validating them, and formatting them for people.

An amount is a `Decimal` with at most four decimals and fifteen digits before them, as in the
database's NUMERIC(19,4). No queries; only the currency's decimals come from the settings.
"""

import re
from decimal import Decimal
from typing import Final

from billing import currencies

DECIMALS: Final = 4
DIGITS: Final = 19
MAX_MONEY: Final = Decimal("999999999999999.9999")
ZERO: Final = Decimal("0.0000")

PLAIN_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)

Amount = Decimal | int | str


class NotMoney(ValueError):
    """`reason` is one of: not_a_number, too_many_decimals, out_of_range, wrong_sign."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def to_money(value: Amount) -> Decimal:
    """Returns the exact amount in `value`, with four decimals. Never rounds.

    Raises NotMoney if it is not a finite number, has more than four decimals or is out of range.
    Refuses floats, which hold most amounts only approximately.
    """
    if type(value) is Decimal and value.same_quantum(ZERO) and -MAX_MONEY <= value <= MAX_MONEY:
        return value + ZERO  # the usual case of computed amounts; the rest would return the same
    return to_number(value, decimals=DECIMALS, largest=MAX_MONEY) + ZERO  # "-0" becomes "0"


def to_number(value: Amount, *, decimals: int, largest: Decimal) -> Decimal:
    """Returns the same for other numbers, with `decimals`, between -`largest` and `largest`."""
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise NotMoney("not_a_number")
    if isinstance(value, str) and not PLAIN_NUMBER.fullmatch(value):
        raise NotMoney("not_a_number")  # Decimal would accept "1_000", " 1 " and "١"
    number = Decimal(value)
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int):  # NaN or an infinity
        raise NotMoney("not_a_number")
    if not -largest <= number <= largest:  # abs() would round first, or overflow
        raise NotMoney("out_of_range")
    if exponent < -decimals:
        raise NotMoney("too_many_decimals")
    return number.quantize(Decimal(1).scaleb(-decimals))


def decimals_for(*amounts: Decimal) -> int:
    """Returns the number of decimals with which amounts of one column line up.

    It is the currency's, or four if one of the amounts needs more.
    """
    own = currencies.own_decimals()
    return own if all(round(amount, own) == amount for amount in amounts) else DECIMALS


def format_money(amount: Decimal, *, signed: bool = False, decimals: int | None = None) -> str:
    """Returns `amount` for people: "1,234.50"; with four decimals only if it needs them.

    `decimals` is for a column (`decimals_for`). With `signed`, positive amounts get a plus. The
    minus is the typographic one, as wide as the plus, so that columns line up.
    """
    if decimals is None:
        decimals = decimals_for(amount)
    sign = "−" if amount < 0 else "+" if signed and amount > 0 else ""
    return f"{sign}{abs(amount):,.{decimals}f}"
