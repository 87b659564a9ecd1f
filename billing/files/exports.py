"""Writes transactions and other tables as files: CSV as a stream, XLSX in constant memory.

Times are in the time zone that the heading names. In CSV they look like 2026-11-28T15:36:09; with a
space instead of T, LibreOffice imports them as text. Excel reads this form when it imports a CSV
file ("From Text/CSV"). In XLSX they are real times.

CSV has no types, so a spreadsheet guesses them. In files for people, texts that it would change
begin with an apostrophe: formulas ("=1+1"), and what it would turn into a number or a date, such as
00123, a phone number of 15 digits, 3-4 or MAR-12. In files for programs only formulas do.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import IO, Any, Final

import xlsxwriter
from django.utils import timezone

from billing import currencies
from billing.files.transactions import cells_of, csv_of
from billing.money import decimals_for
from billing.reports import Listing, in_chunks

DATE: Final = "date"
EXPIRY: Final = "bonus_expires_at"
COLUMNS: Final = (
    "id", "user_id", "login", "number", DATE, "type", "subtype", "description", "device",
    "amount", "old_balance", "new_balance", "bonus_amount", "old_bonus", "new_bonus",
    "operator", "channel", "reverses", "reversed_by", "label", "payment_date", EXPIRY,
    "reason", "batch",
)  # fmt: skip
XLSX_MAX_ROWS: Final = 1_048_575  # rows of a sheet below the heading
XLSX_CHUNK_ROWS: Final = 2_000
PIECE_LINES: Final = 500
EXACT_DIGITS: Final = 15  # digits that a spreadsheet's number holds

# Numbers that a spreadsheet shows unchanged; from twelve digits on, Excel shows 1.23457E+11.
HARMLESS: Final = re.compile(r"0|[1-9]\d{0,10}", re.ASCII)
# What it takes for a number, time or date and changes: 00123, 12E5, 3-4, 1/2, 10:30, MAR-12.
MONTH: Final = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
CHANGED: Final = re.compile(
    r"\s*([\d.,:/' -]*\d[\d.,:/' -]*(e[+-]?\d+)?%?"
    rf"|{MONTH}[ ./-]*\d{{1,4}}|\d{{1,4}}[ ./-]*{MONTH}([ ./-]*\d{{1,4}})?)\s*",
    re.ASCII | re.IGNORECASE,
)

Cell = str | int | Decimal | datetime | date | None


class TooManyRows(Exception):
    """Too many rows for a spreadsheet; CSV has no limit."""


def csv_pieces(listing: Listing) -> Iterator[bytes]:
    """Yields the file piece by piece, oldest transaction first. Starts at once for any length."""
    [heading] = csv_table(headings(), [])
    yield f"\ufeff{heading}".encode()  # the byte order mark tells spreadsheets that it is UTF-8
    for lines in in_chunks(listing, csv_of):
        for start in range(0, len(lines), PIECE_LINES):
            yield b"".join(lines[start : start + PIECE_LINES])


def headings() -> list[str]:
    """Returns the columns of transactions. Those with times name the time zone."""
    zone = timezone.get_current_timezone_name()
    return [f"{name} ({zone})" if name in (DATE, EXPIRY) else name for name in COLUMNS]


def csv_table(
    columns: Sequence[str], rows: Iterable[Iterable[Cell]], *, for_people: bool = False
) -> Iterator[str]:
    """Yields the file line by line, without a byte order mark, which would confuse programs."""
    writer = csv.writer(_Echo())
    yield writer.writerow(columns)
    for row in rows:
        yield writer.writerow(_csv_cell(cell, for_people=for_people) for cell in row)


def write_xlsx(
    listing: Listing, target: IO[bytes], tell: Callable[[int], object] = lambda done: None
) -> None:
    """Writes a workbook to `target`. Raises TooManyRows if the rows do not fit in a sheet.

    `tell` is called now and then with how many rows are done.
    """
    rows = _rows(listing, tell)
    write_xlsx_table("Transactions", headings(), rows, target, wide="description")


def write_xlsx_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Iterable[Cell]],
    target: IO[bytes],
    *,
    wide: str = "",
) -> None:
    """Writes a workbook with these rows. Raises TooManyRows if they do not fit in a sheet."""
    with xlsxwriter.Workbook(
        target, {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    ) as book:
        sheet = book.add_worksheet(title)
        bold = book.add_format({"bold": True})
        money = book.add_format()
        decimals = currencies.own_decimals()
        time = book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
        day = book.add_format({"num_format": "yyyy-mm-dd"})
        sheet.freeze_panes(1, 0)
        sheet.set_column(0, len(columns) - 1, 14)
        if wide:
            sheet.set_column(columns.index(wide), columns.index(wide), 50)
        sheet.write_row(0, 0, columns, bold)
        for place, row in enumerate(rows, start=1):
            if place > XLSX_MAX_ROWS:
                raise TooManyRows
            cells = list(row)
            _write_row(sheet, place, cells, money=money, time=time, day=day)
            amounts = (cell for cell in cells if isinstance(cell, Decimal))
            decimals = max(decimals, decimals_for(*amounts))
        # Set at the end, when the decimals of all amounts are known, so that they line up.
        money.set_num_format("#,##0" + ("." + "0" * decimals if decimals else ""))


def _rows(listing: Listing, tell: Callable[[int], object]) -> Iterator[list[Cell]]:
    zone = timezone.get_current_timezone()
    done = 0
    for chunk in in_chunks(listing, cells_of, chunk_rows=XLSX_CHUNK_ROWS):
        for row in chunk:
            yield [each.astimezone(zone) if isinstance(each, datetime) else each for each in row]
        done += len(chunk)
        tell(done)


def _csv_cell(cell: Cell, *, for_people: bool) -> str:
    if isinstance(cell, datetime):  # in the time zone that the heading names
        return cell.replace(tzinfo=None).isoformat(timespec="seconds")
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + cell  # a spreadsheet would read the text as a formula
    if for_people and isinstance(cell, str) and CHANGED.fullmatch(cell):
        return cell if HARMLESS.fullmatch(cell) else "'" + cell
    return "" if cell is None else str(cell)


def _write_row(
    sheet: Any, place: int, cells: Iterable[Cell], *, money: Any, time: Any, day: Any
) -> None:
    for column, cell in enumerate(cells):
        if isinstance(cell, Decimal):
            if Decimal(repr(float(cell))) == cell:
                sheet.write_number(place, column, cell, money)
            else:  # as text: a spreadsheet's number has too few digits
                sheet.write_string(place, column, str(cell))
        elif isinstance(cell, datetime):  # spreadsheets have no time zones
            sheet.write_datetime(place, column, cell.replace(tzinfo=None), time)
        elif isinstance(cell, date):
            sheet.write_datetime(place, column, cell, day)
        elif type(cell) is int and abs(cell) >= 10**EXACT_DIGITS:
            sheet.write_string(place, column, str(cell))
        elif cell is not None:
            sheet.write(place, column, cell)


class _Echo:
    """A file whose write() returns the text."""

    def write(self, line: str) -> str:
        return line
