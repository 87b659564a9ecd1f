"""Answers in Navixy's format: JSON with exact amounts, and times in UTC."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from json.encoder import encode_basestring_ascii
from typing import Any, Final

ROWS_TOGETHER: Final = 500
CONSTANTS: Final = {None: "null", True: "true", False: "false"}


def moment(value: datetime) -> str:
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def in_json(value: Any) -> str:
    """Returns `value` as JSON. Amounts become exact numbers, without floats: 8.7850 is 8.785."""
    if value is None or isinstance(value, bool):
        return CONSTANTS[value]
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal):
        digits = f"{value:f}"
        return digits.rstrip("0").rstrip(".") if "." in digits else digits
    if isinstance(value, dict):
        return f"{{{', '.join(f'{in_json(k)}: {in_json(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(in_json, value))}]"
    raise TypeError(f"{type(value)} has no place in an answer")


def in_json_by_parts(value: dict[str, Any]) -> Iterator[str]:
    """Yields the JSON of an answer in parts; a list in it may be an iterator."""
    for place, (name, content) in enumerate(value.items()):
        yield f"{', ' if place else '{'}{in_json(name)}: "
        if isinstance(content, Iterator):
            yield "["
            yield from _parts(content)
            yield "]"
        else:
            yield in_json(content)
    yield "}"


def _parts(rows: Iterator[Any]) -> Iterator[str]:
    part: list[str] = []
    separator = ""
    for row in rows:
        part.append(in_json(row))
        if len(part) == ROWS_TOGETHER:
            yield separator + ", ".join(part)
            part, separator = [], ", "
    if part:
        yield separator + ", ".join(part)
