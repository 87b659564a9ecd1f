"""Transactions, and other tables, as files for spreadsheets: CSV as a stream, XLSX in constant
memory."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import IO, Any, Final

import xlsxwriter
from django.utils import timezone

from billing.models import Transaction
from billing.reports import Listing, oldest_first

COLUMNS: Final = (
    "id", "user_id", "login", "number", "date", "type", "subtype", "description", "device",
    "amount", "old_balance", "new_balance", "bonus_amount", "old_bonus", "new_bonus",
    "operator", "channel", "reverses", "reversed_by", "label",
)  # fmt: skip
XLSX_MAX_ROWS: Final = 1_048_575  # of a sheet, after the heading

Cell = str | int | Decimal | datetime | None


class TooManyRows(Exception):
    """A spreadsheet cannot hold that many rows; CSV can."""


def csv_lines(listing: Listing) -> Iterator[str]:
    """The file line by line, oldest transaction first. Starts at once, however long it is."""
    lines = csv_table(COLUMNS, map(_cells, oldest_first(listing)))
    yield "\ufeff" + next(lines)  # the mark tells spreadsheets that it is UTF-8
    yield from lines


def csv_table(columns: Sequence[str], rows: Iterable[Iterable[Cell]]) -> Iterator[str]:
    """The file line by line, as rows come. Without a mark, which programs would read as a name."""
    writer = csv.writer(_Echo())
    yield writer.writerow(columns)
    for row in rows:
        yield writer.writerow(_csv_cell(cell) for cell in row)


def write_xlsx(listing: Listing, target: IO[bytes]) -> None:
    """Writes a workbook to `target`. Raises TooManyRows if the rows do not fit in a sheet."""
    rows = map(_cells, oldest_first(listing))
    write_xlsx_table("Transactions", COLUMNS, rows, target, wide="description")


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
        money = book.add_format({"num_format": "#,##0.00##"})
        date = book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
        sheet.freeze_panes(1, 0)
        sheet.set_column(0, len(columns) - 1, 14)
        if wide:
            sheet.set_column(columns.index(wide), columns.index(wide), 50)
        sheet.write_row(0, 0, columns, bold)
        for place, row in enumerate(rows, start=1):
            if place > XLSX_MAX_ROWS:
                raise TooManyRows
            _write_row(sheet, place, row, money=money, date=date)


def _cells(row: Transaction) -> Iterable[Cell]:
    return (
        row.id, row.user_id, row.user.email, row.number, timezone.localtime(row.created_at),
        row.type, row.subtype, row.description, row.device,
        row.amount, row.old_balance, row.new_balance,
        row.bonus_amount, row.old_bonus, row.new_bonus,
        row.actor.email if row.actor else "", row.channel, row.reverses,
        " ".join(str(each.number) for each in row.reversed_by), row.label.label,
    )  # fmt: skip


def _csv_cell(cell: Cell) -> str:
    if isinstance(cell, datetime):
        return cell.isoformat(sep=" ", timespec="seconds")
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + cell  # a spreadsheet would take the text for a formula
    return "" if cell is None else str(cell)


def _write_row(sheet: Any, place: int, cells: Iterable[Cell], *, money: Any, date: Any) -> None:
    for column, cell in enumerate(cells):
        if isinstance(cell, Decimal):
            if Decimal(repr(float(cell))) == cell:
                sheet.write_number(place, column, cell, money)
            else:  # a spreadsheet's number cannot hold it to the last digit; a text can
                sheet.write_string(place, column, str(cell))
        elif isinstance(cell, datetime):  # spreadsheets know no time zones: the operator's clock
            sheet.write_datetime(place, column, cell.replace(tzinfo=None), date)
        elif cell is not None:
            sheet.write(place, column, cell)


class _Echo:
    """A file that returns what is written to it."""

    def write(self, line: str) -> str:
        return line
