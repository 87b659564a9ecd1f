"""Writes the table of results, with facts about the machine."""

import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from django.db import connection
from tqdm import tqdm

PAGE: Final = Path(__file__).parents[2] / "docs" / "benchmarks.md"


@dataclass(frozen=True, kw_only=True)
class Line:
    what: str
    measured: str
    against: str
    ratio: float
    target: float | None
    target_text: str
    is_met: bool | None


def progress[T](steps: Iterable[T], name: str, total: int | None = None) -> Iterable[T]:
    return tqdm(steps, desc=name, total=total, disable=None, unit_scale=True, leave=False)


def written(lines: Iterable[Line], *, arguments: list[str]) -> str:
    rows = [
        "| what | measured | compared with | ratio | target | |",
        "|---|---|---|---|---|---|",
        *(
            f"| {line.what} | {line.measured} | {line.against} | {line.ratio:.2f} "
            f"| {line.target_text or '—'} | {_verdict(line)} |"
            for line in lines
        ),
    ]
    facts = "\n".join(f"- {name}: {fact}" for name, fact in _machine(arguments).items())
    return _PAGE.format(facts=facts, table="\n".join(rows))


def _verdict(line: Line) -> str:
    return {True: "met", False: "**missed**", None: ""}[line.is_met]


# reset_val has the values from when the connection began, before the panel set any of its own.
_OTHER_SETTINGS: Final = """
    SELECT string_agg(name || ' ' || reset_val || coalesce(' × ' || unit, ''), ', ' ORDER BY name)
    FROM pg_settings WHERE reset_val IS DISTINCT FROM boot_val AND category ~
        '^(Query Tuning|Resource Usage|Write-Ahead Log|Client Connection Defaults / Statement)'
"""


def _machine(arguments: list[str]) -> dict[str, Any]:
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        [postgres] = cursor.fetchone()
        cursor.execute(_OTHER_SETTINGS)
        [other_settings] = cursor.fetchone()
    given = " ".join(argument for argument in arguments if argument != "--write")
    return {
        "Date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "Command": f"`make benchmark{f' ARGS="{given}"' if given else ''}`",
        "Processor": f"{_processor()}, {os.cpu_count()} cores",
        "Load of the machine over the last 15 minutes": f"{os.getloadavg()[2]:.1f}",
        "PostgreSQL": postgres.split()[0],
        "Settings that differ from PostgreSQL's defaults": other_settings or "none",
        "Python": f"{platform.python_version()} on {sys.platform}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


_PAGE: Final = """\
# Benchmarks

Written by `make benchmark ARGS=--write`; `tests/benchmarks/` defines what is measured. The compared
ways take turns within one run. Each figure is the median over the rounds, each ratio the median of
the ratios within a round. The *floor* is one bare statement (UPDATE … RETURNING into INSERT). The
*usual Django way* is atomic, select_for_update, save and create. Both run on tables like the
ledger's, with its indexes, foreign keys and CHECK constraints and, for comparison, on tables
without rules. Neither has guards, debit order, idempotency or digests. All ways use the same Django
connection settings. With `DATABASE_URL` the benchmark measures on that server, for example one with
PostgreSQL's default settings, and lists the settings that differ from them.

{facts}

{table}
"""
