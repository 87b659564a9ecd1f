"""Currencies: their codes and decimals, and which one this installation uses.

The list is ISO 4217, from the package `iso4217`.
"""

from functools import lru_cache

from django.conf import settings
from iso4217 import Currency


class UnknownCurrency(ValueError):
    """Not the code of a currency for payments."""


@lru_cache(maxsize=256)
def decimals_of(code: str) -> int:
    """Returns the decimals of the smallest unit: 0 for JPY, 2 for USD, 3 for KWD.

    Raises UnknownCurrency for unknown and withdrawn codes, and for codes that are no means of
    payment: metals, funds, tests, "no currency". These have no decimals.
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
    """Returns the code of this installation's currency."""
    return str(settings.BILLING_CURRENCY)


def own_decimals() -> int:
    return decimals_of(own())
