"""Currencies: which there are, how many decimals they have, and which one is this installation's.

The list is ISO 4217's own, as the package `iso4217` carries it.
"""

from functools import lru_cache

from django.conf import settings
from iso4217 import Currency


class UnknownCurrency(ValueError):
    """Not the code of a currency that money is counted in."""


@lru_cache(maxsize=256)
def decimals_of(code: str) -> int:
    """Of the smallest unit: 0 for JPY, 2 for USD, 3 for KWD.

    Raises UnknownCurrency for what is no code, or no longer one, and for the codes that stand for
    no money one can pay with: metals, funds of states, tests, "no currency". They have no decimals.
    """
    try:
        decimals = Currency(code).exponent
    except ValueError:
        raise UnknownCurrency(code) from None
    if decimals is None:
        raise UnknownCurrency(code)
    return decimals


def is_currency(code: str) -> bool:
    try:
        decimals_of(code)
    except UnknownCurrency:
        return False
    return True


def own() -> str:
    """The code of this installation's currency."""
    return str(settings.BILLING_CURRENCY)


def own_decimals() -> int:
    return decimals_of(own())
