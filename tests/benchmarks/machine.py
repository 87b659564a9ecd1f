"""Facts about the machine and the server."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final, NamedTuple

from django.db import connection

LOOP_STEPS: Final = 1_000_000

# reset_val has the values from when the connection began, before the panel set any of its own.
_OTHER_SETTINGS: Final = """
    SELECT string_agg(name || ' ' || reset_val || coalesce(' × ' || unit, ''), ', ' ORDER BY name)
    FROM pg_settings WHERE reset_val IS DISTINCT FROM boot_val AND category ~
        '^(Query Tuning|Resource Usage|Write-Ahead Log|Client Connection Defaults / Statement)'
        -- PostgreSQL computes these by itself.
        AND name NOT IN ('max_stack_depth', 'io_max_concurrency', 'wal_buffers',
            'transaction_buffers', 'subtransaction_buffers', 'commit_timestamp_buffers')
"""


def version() -> str:
    with connection._nodb_cursor() as cursor:
        cursor.execute("SHOW server_version")
        return str(cursor.fetchone()[0]).split()[0]


def other_settings() -> str:
    """Returns the server's settings that differ from PostgreSQL's defaults."""
    with connection._nodb_cursor() as cursor:
        cursor.execute(_OTHER_SETTINGS)
        return cursor.fetchone()[0] or ""


class Pace(NamedTuple):
    """How busy and how fast the machine is: its load, and the milliseconds of a plain loop."""

    load: float
    loop: float


def pace() -> Pace:
    return Pace(os.getloadavg()[0], median(_milliseconds_of_a_loop() for _ in range(3)))


def _milliseconds_of_a_loop() -> float:
    started = perf_counter()
    for _ in range(LOOP_STEPS):
        pass
    return (perf_counter() - started) * 1000


def facts(*, version: str, before: Pace, command: str) -> dict[str, str]:
    """Returns what is told of a part: call it at its end."""
    now = pace()
    return {
        "version": version,
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "load": f"{before.load:.1f} to {now.load:.1f}",
        "loop": f"{before.loop:.0f} to {now.loop:.0f} ms",
        "processor": f"{_model()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "command": command,
    }


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
