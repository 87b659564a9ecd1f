"""Reads transactions for files, many times faster than as models: the database puts rows together.

`csv_of` returns rows as finished CSV, whose text the database writes, with COPY. It is the same, to
the byte, as `billing.files.exports.csv_table` makes of the cells for people; a test compares both
over odd data. Three things are done here because the database would do them differently:

- COPY ends lines with LF, these files with CR LF.
- The patterns of texts that a spreadsheet would change are spelled without classes and options,
  whose meaning depends on the locale of the database.
- The offsets of the time zone are sent along. PostgreSQL may not know a zone of Python, or have
  another edition of its rules.

Each statement reads one chunk to its end, before anything of it is passed on. So a client that
reads slowly or goes away leaves no statement and no database transaction open, and the limits of
both (users/database.py) do not cut a long file off, however long the download takes.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any, Final

from django.db import connection
from django.db.models import QuerySet
from django.utils import timezone
from psycopg import ClientCursor

from billing.models import Label, Transaction, TransactionType

_MONTH: Final = (  # in both cases, because an option that ignores it depends on the locale
    "([jJ][aA][nN]|[fF][eE][bB]|[mM][aA][rR]|[aA][pP][rR]|[mM][aA][yY]|[jJ][uU][nN]|[jJ][uU][lL]"
    "|[aA][uU][gG]|[sS][eE][pP]|[oO][cC][tT]|[nN][oO][vV]|[dD][eE][cC])[A-Za-z]*"
)
_SPACES: Final = r"[ \t\n\r\f\v]*"
# HARMLESS and CHANGED of `billing.files.exports`; and how texts begin that would be formulas.
HARMLESS: Final = "^(0|[1-9][0-9]{0,10})$"
MARKED: Final = (
    rf"^([=+@\t\r-]|{_SPACES}([0-9.,:/' -]*[0-9][0-9.,:/' -]*([eE][+-]?[0-9]+)?%?"
    rf"|{_MONTH}[ ./-]*[0-9]{{1,4}}|[0-9]{{1,4}}[ ./-]*{_MONTH}([ ./-]*[0-9]{{1,4}})?)"
    rf"{_SPACES}$)"
)


def _text(value: str) -> str:
    """Returns the SQL of a text in CSV, marked if a spreadsheet would change it."""
    return (
        f'CASE WHEN {value} COLLATE "C" ~ x.marked AND {value} COLLATE "C" !~ x.harmless '
        f"THEN '''' || {value} ELSE nullif({value}, '') END"
    )


def _local(moment: str) -> str:
    """Returns the SQL of a moment in CSV, in the present time zone."""
    cycles = f"ceil(extract(epoch FROM {moment} - x.repeats) / x.cycle_seconds)"
    known = (
        f"CASE WHEN {moment} < x.repeats THEN {moment} "
        f"ELSE {moment} - {cycles} * x.cycle_seconds * interval '1 second' END"
    )
    return (
        f"to_char({moment} AT TIME ZONE 'UTC' + interval '1 second' * "
        f"x.offsets[width_bucket({known}, x.since)], 'YYYY-MM-DD\"T\"HH24:MI:SS')"
    )


def _label() -> str:
    """Returns the SQL of the label of a transaction: `billing.models.transactions.label_of`."""
    others = " ".join(
        f"WHEN '{each.value}' THEN '{Label(each.value).label}'"
        for each in TransactionType
        if each != TransactionType.PAYMENT
    )
    return (
        f"CASE t.type WHEN '{TransactionType.PAYMENT.value}' THEN CASE "
        f"WHEN t.amount > 0 THEN '{Label.PAYMENT.label}' "
        f"WHEN t.amount = 0 AND t.bonus_amount > 0 THEN '{Label.GIFT.label}' "
        f"ELSE '{Label.DEDUCTION.label}' END {others} END"
    )


# Both in the order of `billing.files.exports.COLUMNS`.
_AS_CSV: Final = (
    "t.id", "t.user_id", _text("u.email"), "t.number", _local("t.created_at"),
    "t.type", _text("t.subtype"), _text("t.description"), _text("t.device"),
    "t.amount", "t.old_balance", "t.new_balance", "t.bonus_amount", "t.old_bonus", "t.new_bonus",
    _text("a.email"), "t.channel", "t.reverses", _text("reversals.numbers"), _label(),
    "to_char(t.payment_date::timestamp, 'YYYY-MM-DD')", _local("t.bonus_expires_at"),
    _text("t.reason_id"),
    "t.batch_id",
)  # fmt: skip
_AS_CELLS: Final = (
    "t.id", "t.user_id", "u.email", "t.number", "t.created_at",
    "t.type", "t.subtype", "t.description", "t.device",
    "t.amount", "t.old_balance", "t.new_balance", "t.bonus_amount", "t.old_bonus", "t.new_bonus",
    "coalesce(a.email, '')", "t.channel", "t.reverses", "coalesce(reversals.numbers, '')", _label(),
    "t.payment_date", "t.bonus_expires_at", "coalesce(t.reason_id, '')", "t.batch_id",
)  # fmt: skip
_NEEDED: Final = (
    "id", "user_id", "number", "created_at", "type", "subtype", "description", "device",
    "amount", "old_balance", "new_balance", "bonus_amount", "old_bonus", "new_bonus",
    "actor_id", "channel", "reverses", "payment_date", "bonus_expires_at", "reason_id", "batch_id",
)  # fmt: skip
_SELECT: Final = """
    SELECT {cells}
    FROM ({rows}) t
    JOIN users_user u ON u.id = t.user_id
    LEFT JOIN users_user a ON a.id = t.actor_id
    CROSS JOIN LATERAL (
        SELECT string_agg(r.number::text, ' ' ORDER BY r.number) AS numbers
        FROM billing_transaction r WHERE r.user_id = t.user_id AND r.reverses = t.number
        OFFSET 0  -- computed once, however often the cells use it
    ) reversals
    {constants}
    ORDER BY {order}
"""
_CONSTANTS: Final = """
    CROSS JOIN (
        SELECT %s::text AS marked, %s::text AS harmless, %s::timestamptz[] AS since,
            %s::int[] AS offsets, %s::timestamptz AS repeats, %s::int8 AS cycle_seconds
    ) x
"""


def csv_of(rows: QuerySet[Transaction]) -> tuple[list[bytes], int | None]:
    """Returns the lines of these rows, in their order, and the ID of the last one, if any."""
    with connection.wrap_database_errors, connection.cursor() as cursor:
        since, offsets = _offsets(timezone.get_current_timezone())
        constants = [MARKED, HARMLESS, since, offsets, RULES_REPEAT, RULES_CYCLE.total_seconds()]
        select = _select(rows, _AS_CSV, _literally(_CONSTANTS, constants))
        with cursor.copy(f"COPY ({select}) TO STDOUT (FORMAT csv)") as copy:
            lines = [b"%b\r\n" % line[:-1] for line in copy]
    return lines, int(lines[-1].partition(b",")[0]) if lines else None


def cells_of(rows: QuerySet[Transaction]) -> tuple[list[tuple[Any, ...]], int | None]:
    """Returns the cells of these rows, in their order, and the ID of the last one, if any.

    Times are in UTC.
    """
    with connection.cursor() as cursor:
        cursor.execute(_select(rows, _AS_CELLS))
        found = cursor.fetchall()
    return found, found[-1][0] if found else None


def _select(rows: QuerySet[Transaction], cells: Sequence[str], constants: str = "") -> str:
    statement, parameters = rows.values_list(*_NEEDED).query.sql_with_params()
    order = ", ".join(f"t.{name}" for name in rows.query.order_by)
    return _SELECT.format(
        cells=", ".join(cells),
        rows=_literally(statement, parameters),
        constants=constants,
        order=order,
    )


def _literally(statement: str, parameters: Sequence[Any]) -> str:
    """Returns a statement with its parameters written into it: COPY takes none."""
    connection.ensure_connection()
    return ClientCursor(connection.connection).mogrify(statement, parameters)


# --- Time zones ---------------------------------------------------------------------------------

RULES_BEGIN: Final = datetime(1900, 1, 1, tzinfo=UTC)
# From some year on there are only rules like "the last Sunday of March", and the calendar, days of
# the week included, repeats every 400 years.
RULES_REPEAT: Final = datetime(2500, 1, 1, tzinfo=UTC)
RULES_CYCLE: Final = timedelta(days=146_097)
# No zone changed twice within so short a time.
STEP: Final = timedelta(days=3)


@lru_cache(maxsize=64)
def _offsets(zone: tzinfo) -> tuple[list[datetime], list[int]]:
    """Returns when the offset from UTC changed in a zone, and the seconds from each change on."""
    since, offsets = [RULES_BEGIN], [_offset(zone, RULES_BEGIN)]
    for at in _steps():
        if _offset(zone, at) != offsets[-1]:
            since.append(_change(zone, at - STEP, at))
            offsets.append(_offset(zone, at))
    return since, offsets


def _change(zone: tzinfo, before: datetime, after: datetime) -> datetime:
    """Returns the second in which the offset changed between two moments."""
    while after - before > timedelta(seconds=1):
        middle = (before + (after - before) / 2).replace(microsecond=0)
        if _offset(zone, middle) == _offset(zone, before):
            before = middle
        else:
            after = middle
    return after


def _steps() -> Iterator[datetime]:
    at = RULES_BEGIN
    while at < RULES_REPEAT:
        at += STEP
        yield at


def _offset(zone: tzinfo, at: datetime) -> int:
    offset = at.astimezone(zone).utcoffset()
    assert offset is not None  # noqa: S101 - for the types: `at` is aware
    return int(offset.total_seconds())
