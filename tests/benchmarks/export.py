"""Measures the CSV file of a long history, beside PostgreSQL's own COPY of the same rows."""

from collections.abc import Iterator
from statistics import median
from time import perf_counter
from typing import Final

from django.db import connection

from tests.benchmarks.filled import Filled
from tests.benchmarks.options import Options
from tests.benchmarks.progress import progress
from tests.benchmarks.results import Line, ratio
from tests.benchmarks.visits import Visitor, tab_of

MOST_ROWS: Final = 100_000


def measure(filled: Filled, options: Options) -> Iterator[Line]:
    visitor = Visitor()
    rows = min(MOST_ROWS, filled.of_long)
    address = f"{tab_of(filled.long)}?export=csv"
    rates: list[float] = []
    copies: list[float] = []
    for _ in progress(range(max(1, options.rounds // 3)), "CSV"):
        lines, seconds = visitor.stream(address, rows=rows)
        rates.append(lines / seconds)
        copies.append(_copied(filled.long.pk, rows))
    rate = median(rates)
    yield Line(
        what="CSV of a user's transactions",
        shown=f"{rate:,.0f} rows/s",
        value=rate,
        detail=f"of {rows:,} rows",
        target="≥ 50,000",
    )
    yield ratio(
        "CSV, of the rate of COPY",
        f"file {rate:,.0f}/s",
        f"COPY {median(copies):,.0f}/s",
        median(a / b for a, b in zip(rates, copies, strict=True)),
    )


def _copied(user_id: int, rows: int) -> float:
    started = perf_counter()
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY (SELECT * FROM billing_transaction WHERE user_id = "
            f"{int(user_id)} ORDER BY number LIMIT {int(rows)}) TO STDOUT (FORMAT csv)"
        ) as copy,
    ):
        for _ in copy:
            pass
    return rows / (perf_counter() - started)
