"""The parameters of a call: their sources and types.

They come as a JSON object, as form fields or in the query; the body takes precedence over the
query. In forms and queries, numbers, booleans and objects are JSON text. Unknown parameters are
ignored. Null, also the text `null` in a form or query, means absent. Every error names its
parameter.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any, Final
from urllib.parse import parse_qsl

from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.http import HttpRequest, UnreadablePostError
from django.http.multipartparser import MultiPartParserError

from billing.api.panel.errors import WRONG_FORMAT, Invalid, Refused
from billing.money import ZERO
from users.ids import MAX_ID
from users.texts import storage_problem

MAX_ROWS: Final = 2**31 - 1
MAX_FIELDS: Final = 1_000

WHOLE_NUMBER: Final = re.compile(r"-?[0-9]{1,30}")
NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
DATE_AND_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
NULL: Final = "null"  # in a form: no value
TRUTH: Final = {"true": True, "1": True, "false": False, "0": False}

# The largest amount of the Panel API.
MAX_AMOUNT: Final = Decimal("9999999999.9999")


class Parameters:
    """Reads parameters by name and type. Raises Invalid for missing and invalid ones."""

    def __init__(
        self, typed: Mapping[str, Any], texts: Mapping[str, str] | None = None, within: str = ""
    ) -> None:
        """`typed` comes from JSON, `texts` from a form or query. `within` is the name of the object
        that contains the parameters, as a prefix of their names."""
        self._typed = typed
        self._texts = texts or {}
        self._within = within

    def has(self, name: str) -> bool:
        return self._find(name)[0] is not None

    def wrong(self, name: str, error: str) -> Invalid:
        return Invalid((f"{self._within}{name}", error))

    def text(self, name: str, *, longest: int, shortest: int = 0) -> str:
        value, _ = self._get(name)
        if not isinstance(value, str):
            raise self.wrong(name, "Should be a text")
        if problem := storage_problem(value):
            raise self.wrong(name, problem.capitalize())
        if not shortest <= len(value) <= longest:
            length = f"{shortest} to {longest}" if shortest else f"at most {longest}"
            raise self.wrong(name, f"Should have {length} characters")
        return value

    def choice(self, name: str, choices: Collection[str]) -> str:
        value, _ = self._get(name)
        if not isinstance(value, str) or value not in choices:
            raise self.wrong(name, f"Should be one of [{', '.join(choices)}]")
        return value

    def is_zero(self, name: str) -> bool:
        """Returns whether a parameter is zero, as a number or as text."""
        value, _ = self._find(name)
        if isinstance(value, str) and NUMBER.fullmatch(value):
            value = to_decimal(value)
        return isinstance(value, int | Decimal) and not isinstance(value, bool) and value == 0

    def flag(self, name: str, *, default: bool | None = None) -> bool:
        if default is not None and not self.has(name):
            return default
        value, _ = self._get(name)
        if isinstance(value, str):
            value = TRUTH.get(value.lower())
        if not isinstance(value, bool):
            raise self.wrong(name, "Should be true or false")
        return value

    def whole(
        self, name: str, *, lowest: int = 1, highest: int = MAX_ID, default: int | None = None
    ) -> int:
        """Returns a whole number, also given as "12" or 12.0."""
        if default is not None and not self.has(name):
            return default
        value, _ = self._get(name)
        if isinstance(value, str) and WHOLE_NUMBER.fullmatch(value):
            value = int(value)
        elif isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) < 30:
            value = int(value) if value == value.to_integral_value() else value
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(name, "Should be a whole number")
        if not lowest <= value <= highest:
            raise self.wrong(name, f"Should be from {lowest} to {highest}")
        return value

    def amount(self, name: str) -> Decimal:
        """Returns an amount of money with four decimals; see `nearest_amount`."""
        value, is_text = self._get(name)
        if is_text and isinstance(value, str) and NUMBER.fullmatch(value):
            value = to_decimal(value)
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise self.wrong(name, "Should be a number")
        value = Decimal(value)
        if not value.is_finite():
            raise self.wrong(name, "Should be a number")
        if not -MAX_AMOUNT <= value <= MAX_AMOUNT:
            raise self.wrong(name, f"Should be from -{MAX_AMOUNT} to {MAX_AMOUNT}")
        amount = nearest_amount(value)
        if amount is None:
            raise self.wrong(name, "Should have at most four decimals")
        return amount

    def moment(self, name: str) -> datetime:
        value, _ = self._get(name)
        if isinstance(value, str) and DATE_AND_TIME.fullmatch(value):
            try:
                return datetime.fromisoformat(value).replace(tzinfo=UTC)
            except ValueError:
                pass
        raise self.wrong(name, "Should be a date and time like 2026-07-31 23:59:59")

    def names(self, name: str, choices: Collection[str]) -> list[str]:
        """Returns a list of some of `choices`, in the given order, not empty."""
        value, is_text = self._get(name)
        if is_text:
            value = self._json(name, value)
        if not isinstance(value, list) or not value:
            raise self.wrong(name, "Should be a list that is not empty")
        for each in value:
            if not isinstance(each, str) or each not in choices:
                raise self.wrong(name, f"Should be some of [{', '.join(choices)}]")
        return value

    def within(self, name: str) -> "Parameters":
        """Returns the parameters inside an object."""
        value, is_text = self._get(name)
        if is_text:
            value = self._json(name, value)
        if not isinstance(value, dict):
            raise self.wrong(name, "Should be an object")
        return Parameters(value, within=f"{self._within}{name}.")

    def _json(self, name: str, text: str) -> Any:
        try:
            return read_json(text)
        except (ValueError, RecursionError):
            raise self.wrong(name, "Should be JSON") from None

    def _get(self, name: str) -> tuple[Any, bool]:
        value, is_text = self._find(name)
        if value is None:
            raise self.wrong(name, "Is required")
        return value, is_text

    def _find(self, name: str) -> tuple[Any, bool]:
        """Returns the value, and whether it is text from a form or query."""
        if (value := self._typed.get(name)) is not None:
            return value, False
        text = self._texts.get(name)
        return (None if text == NULL else text), True


# --- Amounts ------------------------------------------------------------------------------------

# A computed binary float is off by some units of its 53rd bit; after subtracting larger numbers, by
# as much as those were.
NOISE: Final = Decimal("1e-9")
RELATIVE_NOISE: Final = Decimal("1e-15")


def nearest_amount(number: Decimal) -> Decimal | None:
    """Returns the amount with four decimals that `number` means; None if it means none.

    Programs of the Panel API compute with binary floats and send 0.30000000000000004 for 0.3, or
    10.100000000000001 for 10.1. A number with more decimals means the nearest amount if it differs
    by no more than such an error: a billionth, or 10⁻¹⁵ of amounts above a million. A number that
    differs by more, like 0.00005 or 10.12345, is meant to have these decimals. It is refused, and
    never silently rounded.
    """
    amount = number.quantize(ZERO, ROUND_HALF_UP)
    if abs(number - amount) > max(NOISE, abs(amount) * RELATIVE_NOISE):
        return None
    return amount + ZERO  # adding zero turns "-0" into "0"


def to_decimal(text: str) -> Decimal:
    """Returns the exact number in a text; NaN if its exponent is out of bounds."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return Decimal("NaN")


# --- Where they come from -----------------------------------------------------------------------


def parameters_of(request: HttpRequest) -> Parameters:
    """Returns the parameters of a request. Raises Refused if its body is no JSON and no form."""
    texts = _form(request.META.get("QUERY_STRING", "").encode("latin-1"))
    if request.method != "POST":
        return Parameters({}, texts)
    try:
        content_type = request.content_type or ""
        if content_type == "multipart/form-data":
            return Parameters({}, texts | _multipart(request))
        body = request.body
    except (RequestDataTooBig, SuspiciousOperation, MultiPartParserError, UnreadablePostError):
        raise Refused(WRONG_FORMAT) from None
    # curl without a header sends JSON as a form.
    if content_type.endswith("json") or body.lstrip()[:1] == b"{":
        return Parameters(_json_object(body), texts)
    return Parameters({}, texts | _form(body))


def _form(encoded: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            encoded.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError:  # not UTF-8, or too many fields
        raise Refused(WRONG_FORMAT) from None
    return dict(pairs)


def _multipart(request: HttpRequest) -> dict[str, str]:
    fields = {name: str(value) for name, value in request.POST.items()}
    # Django's replacement for bytes that are not UTF-8.
    if any("\ufffd" in each for field in fields.items() for each in field):
        raise Refused(WRONG_FORMAT)
    return fields


def _json_object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        value = read_json(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise Refused(WRONG_FORMAT) from None
    if not isinstance(value, dict):
        raise Refused(WRONG_FORMAT)
    return value


def read_json(text: str) -> Any:
    """Parses JSON with exact numbers. Keeps NaN and Infinity, to refuse them by parameter later."""
    return _read_json(text)


def _whole_or_decimal(text: str) -> int | Decimal:
    # Python parses no whole number of thousands of digits.
    return int(text) if len(text) <= 30 else to_decimal(text)


_read_json: Final[Callable[[str], Any]] = json.JSONDecoder(
    parse_float=to_decimal, parse_int=_whole_or_decimal, parse_constant=to_decimal
).decode
