"""Measures `manage.py verify_ledger` on transactions that the ledger has posted."""

import os
from collections.abc import Iterator, Sequence
from io import StringIO
from statistics import median
from time import perf_counter

from django.core.management import call_command
from django.db import connection

from billing.ledger import verification
from billing.models import Transaction
from tests.benchmarks.options import Options
from tests.benchmarks.posting import post_entries
from tests.benchmarks.progress import progress
from tests.benchmarks.results import Line, not_measured


def measure(user_ids: Sequence[int], options: Options) -> Iterator[Line]:
    post_entries(user_ids, options.verified)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    rows = Transaction.objects.count()
    of_one = Transaction.objects.filter(user=user_ids[0]).count()
    cores = os.cpu_count() or 1
    rates: dict[int, list[float]] = {1: [], cores: []}
    for _ in progress(range(max(1, options.rounds // 2)), "verify_ledger"):
        # What does not depend on the rows, like the look at the guards, is left out.
        fixed = _seconds("--user", str(user_ids[0]), "--processes", "1")
        for processes, found in rates.items():
            seconds = _seconds("--processes", str(processes)) - fixed
            found.append((rows - of_one) / max(seconds, 1e-6))
    for processes, found in rates.items():
        many = "one process" if processes == 1 else "a process for each core"
        what, target = f"verify_ledger, rows/s and process, {many}", "≥ 100,000"
        if processes > 1 and rows < processes * verification.ROWS_PER_STRETCH:
            too_few = f"{rows:,} rows are not divided among {processes} processes"
            yield not_measured(what, too_few, target)
            continue
        rate = median(found) / processes
        yield Line(
            what=what,
            shown=f"{rate:,.0f}/s",
            value=rate,
            detail=f"{rows:,} rows in {len(user_ids):,} histories",
            target=target,
        )


def _seconds(*arguments: str) -> float:
    started = perf_counter()
    call_command("verify_ledger", *arguments, stdout=StringIO())
    return perf_counter() - started
