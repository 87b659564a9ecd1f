"""Reads numbers that people type or paste: amounts, prices and quantities on all pages.

Numbers of programs are read strictly, by `money.to_money` and `pricing.to_quantity`.

If there are two kinds of separators, the last one is the decimal separator: `1,234.50`, `1.234,50`,
`1 234,50`, `1'234.50`, and Indian `1,23,456.00`. A space, an apostrophe, and a separator that
occurs several times only group: `1 234`, `1,234,567`. Digits that cannot be a group of thousands
are decimals: `12,50`, `12.3456`, `1234,567`, `0.500`.

One separator followed by three digits, `1,500` or `1.500`, is ambiguous, and the page asks: 1.5 or
1500? Only what the panel itself writes is taken in its meaning: `1.500` if the currency has three
decimals, `1,500` if it has none. Amounts may name the installation's currency: `50 USD`.
"""

import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from typing import Final

from billing import currencies

MINUSES: Final = str.maketrans("−–﹣－", "----")
APOSTROPHES: Final = "'’ʼ"
SHAPE: Final = re.compile(
    r"(?P<before>[^\W\d_]*)\s*(?P<sign>[+-]?)\s*"
    r"(?P<number>[\d.,\s']*\d[.,]?)\s*(?P<after>[^\W\d_]*)",
    re.ASCII,
)
SIGN_FIRST: Final = re.compile(r"([+-])\s*([^\W\d_]+)\s*(?=[\d.,])", re.ASCII)
WESTERN: Final = re.compile(r"\d{1,3}(,\d{3})+")
INDIAN: Final = re.compile(r"\d{1,2}(,\d{2})*,\d{3}")
LONGEST: Final = 60


class NotRead(ValueError):
    """The text is not exactly one number. The message is a sentence for people."""


class Ambiguous(ValueError):
    """The text can mean two numbers: `readings`, with a decimal separator and without."""

    def __init__(self, readings: tuple[str, str]) -> None:
        self.readings = readings
        super().__init__("Did you mean {} or {}?".format(*map(shown, readings)))


def read_number[Number](text: str, strictly: Callable[[str], Number], *, money: bool) -> Number:
    """Returns the typed number, read by `strictly`. With `money`, it may name the currency.

    Raises NotRead and Ambiguous, and what `strictly` raises.
    """
    return strictly(plain(text, money=money))


def plain(text: str, *, money: bool) -> str:
    """Returns the typed number with a decimal point and without thousands separators."""
    line = text.strip().translate(MINUSES)
    for apostrophe in APOSTROPHES:
        line = line.replace(apostrophe, "'")
    line = " ".join(line.split())  # one space for all kinds of spaces
    line = SIGN_FIRST.sub(r"\2 \1", line)  # "-USD 5" is as good as "USD -5"
    found = SHAPE.fullmatch(line) if len(line) <= LONGEST else None
    if found is None:
        raise NotRead(_no_number(text, money=money))
    for word in filter(None, (found["before"], found["after"])):
        _check_currency(word.upper(), text, money=money)
    sign = found["sign"].replace("+", "")
    try:
        return sign + _digits(found["number"], text, money=money)
    except Ambiguous as question:
        first, second = question.readings
        raise Ambiguous((sign + first, sign + second)) from None


def shown(number: str) -> str:
    """Returns a plain number for people, with a typographic minus."""
    return number.replace("-", "−")


def unambiguous(number: str) -> str:
    """Returns a plain number in an unambiguous form: not with three decimals."""
    return f"{number}0" if len(number.rpartition(".")[2]) == 3 and "." in number else number


def finer_than_money(amount: Decimal) -> bool:
    """Returns whether an amount has more decimals than the currency."""
    return round(amount, currencies.own_decimals()) != amount


def _no_number(text: str, *, money: bool) -> str:
    symbols = [each for each in text if unicodedata.category(each) == "Sc"]
    if money and symbols and re.search(r"\d", text):
        return f"All money here is {currencies.own()}: write the amount without {symbols[0]}."
    return f"This is not a {'number' if money else 'quantity'}: {text}."


def _check_currency(word: str, text: str, *, money: bool) -> None:
    own = currencies.own()
    if not money or (word != own and not currencies.is_currency(word)):
        raise NotRead(_no_number(text, money=money))
    if word != own:
        raise NotRead(
            f"All money here is {own}, and nothing is converted: write the amount in {own}, "
            f"without {word}."
        )


def _digits(number: str, text: str, *, money: bool) -> str:
    separators = re.sub(r"\d", "", number)
    if not separators:
        return number
    last = separators[-1]
    if len(set(separators)) > 1:
        if last in " '" or separators.count(last) > 1:
            raise NotRead(_badly_grouped(text))
        whole, _, decimals = number.rpartition(last)
        return f"{_ungrouped(whole, text)}.{decimals}"
    if last in " '" or len(separators) > 1:
        return _ungrouped(number, text)
    whole, _, decimals = number.partition(last)
    if len(decimals) != 3 or not re.fullmatch(r"[1-9]\d{0,2}", whole):
        return f"{whole}.{decimals}"
    with_decimals, without = f"{whole}.{decimals}", whole + decimals
    if money and last == "." and currencies.own_decimals() == 3:
        return with_decimals
    if money and last == "," and currencies.own_decimals() == 0:
        return without
    raise Ambiguous((_without_idle_zeros(with_decimals), without))


def _ungrouped(whole: str, text: str) -> str:
    """Removes group separators. Groups have three digits or, in India, two beyond thousands."""
    separators = set(re.sub(r"\d", "", whole))
    grouped = re.sub(r"\D", ",", whole)
    is_grouped = WESTERN.fullmatch(grouped) or INDIAN.fullmatch(grouped)
    if len(separators) != 1 or not is_grouped:
        raise NotRead(_badly_grouped(text))
    return grouped.replace(",", "")


def _badly_grouped(text: str) -> str:
    return f"The digits of {text} do not make one number. Write it like 1234.50 or 1,234.50."


def _without_idle_zeros(number: str) -> str:
    return number.rstrip("0").rstrip(".")
