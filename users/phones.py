"""Spellings of telephone numbers, for the search.

A user's number is stored as it was written: +44 20 7946 0018, 020 7946 0018 or
+44 (0)20 7946 0018.
"""

import re
from typing import Final

import phonenumbers

# Shorter digits, with or without the national prefix (0), would be part of too many other numbers.
WITH_PREFIX_MIN: Final = 8
WITHOUT_PREFIX_MIN: Final = 10
NOT_A_DIGIT: Final = re.compile(r"\D")


def spellings(typed: str) -> set[str]:
    """Returns the sequences of digits to search for, to find a number in any stored spelling.

    A number with its country (+44… or 0044…) may be stored without it. One without its country
    (020…) may be stored with any: it is found by its digits without the zero. If `typed` is no
    telephone number, the only spelling is its digits.
    """
    digits = NOT_A_DIGIT.sub("", typed)
    if typed.startswith("+"):
        return {digits} | _of_a_country(typed)
    if digits.startswith("00"):
        return {digits} | _of_a_country(f"+{digits.removeprefix('00')}")
    if digits.startswith("0") and len(digits) >= WITH_PREFIX_MIN:
        return {digits, digits.removeprefix("0")}
    return {digits}


def _of_a_country(international: str) -> set[str]:
    try:
        number = phonenumbers.parse(international)
    except phonenumbers.NumberParseException:
        return set()
    if not phonenumbers.is_possible_number(number):  # perhaps a part of one
        return set()
    national = phonenumbers.national_significant_number(number)
    country = number.country_code or 0
    found = {f"{country}{national}"}
    region = phonenumbers.region_code_for_country_code(country)
    metadata = phonenumbers.PhoneMetadata.metadata_for_region(region, None)
    if metadata is not None and metadata.national_prefix:
        with_prefix = f"{metadata.national_prefix}{national}"
        found |= {with_prefix} if len(with_prefix) >= WITH_PREFIX_MIN else set()
    if len(national) >= WITHOUT_PREFIX_MIN:
        found.add(national)
    return found
