"""Counters of all processes for Prometheus; `config/metrics.py` shows them at /metrics.

Gunicorn has several processes, workers are others, and a scrape reaches only one of them. So each
process stores its counts in files of a common directory (`keep_in`), and a scrape adds them up. A
process takes the first files that no living process holds, and continues their counts. So counts
survive the end of a process, and there are never more files than there were processes at once.

Without `keep_in`, as in most commands and in tests, counts stay in the process.

Labels have few values: codes, channels and routes. No label names a user or contains what a caller
sent.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import struct
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial, wraps
from itertools import count
from pathlib import Path
from typing import Final

from django.db import transaction
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Metric,
    disable_created_metrics,
    values,
)
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from billing.errors import BillingError, FreeOfCharge

log = logging.getLogger(__name__)

disable_created_metrics()  # the start of a process says nothing: counts outlive it
REGISTRY: Final = CollectorRegistry()

REQUESTS: Final = Counter(
    "billing_http_requests",
    "Requests by route. Health checks and scrapes are not counted.",
    ["route", "method", "status"],
    registry=REGISTRY,
)
# Pages and calls take some milliseconds; a call may wait 2 s for a lock; exports and lists of large
# ledgers take seconds, and the database ends what takes minutes.
REQUEST_SECONDS: Final = Histogram(
    "billing_http_request_duration_seconds",
    "Seconds until the response began.",
    ["route", "method"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=REGISTRY,
)
API_PROBLEMS: Final = Counter(
    "billing_api_problems",
    "Billing API calls that returned a problem, by its code.",
    ["face", "code"],
    registry=REGISTRY,
)
POSTINGS: Final = Counter(
    "billing_postings",
    "Transactions that were posted and committed.",
    ["type", "channel"],
    registry=REGISTRY,
)
REPLAYS: Final = Counter(
    "billing_replays",
    "Operations whose idempotency key had been posted before, so that nothing was posted.",
    ["channel"],
    registry=REGISTRY,
)
REFUSALS: Final = Counter(
    "billing_refusals",
    "Operations that were refused, by the code of the refusal. Previews are not counted.",
    ["code", "channel"],
    registry=REGISTRY,
)
OUTAGES: Final = Counter(
    "billing_outages",
    "Requests that failed because of the database: busy is a lock that somebody else held for "
    "too long.",
    ["code"],
    registry=REGISTRY,
)
WEBHOOK_ATTEMPTS: Final = Counter(
    "billing_webhook_attempts",
    "Attempts to deliver a webhook.",
    ["outcome"],
    registry=REGISTRY,
)
ALL: Final = (
    *(REQUESTS, REQUEST_SECONDS, API_PROBLEMS, POSTINGS, REPLAYS, REFUSALS, OUTAGES),
    WEBHOOK_ATTEMPTS,
)


# --- Counting -----------------------------------------------------------------------------------


def _count(counter: Counter, *labels: str, by: int = 1) -> None:
    """Increments a counter. Ignores errors: counting must not break what is counted."""
    with suppress(Exception):
        counter.labels(*labels).inc(by)


def request_answered(route: str, method: str, status: int, seconds: float) -> None:
    _count(REQUESTS, route, method, str(status))
    with suppress(Exception):
        REQUEST_SECONDS.labels(route, method).observe(seconds)


def api_problem(face: str, code: str) -> None:
    _count(API_PROBLEMS, face, code)


def outage(code: str) -> None:
    _count(OUTAGES, code)


def webhook_attempts(*, delivered: int = 0, failed: int = 0) -> None:
    """Counts attempts when their results are committed."""
    for outcome, number in (("delivered", delivered), ("failed", failed)):
        if number:
            transaction.on_commit(
                partial(_count, WEBHOOK_ATTEMPTS, outcome, by=number), robust=True
            )


def posted(types: Iterable[str], channel: str) -> None:
    """Counts transactions, one for each type given, when they are committed."""
    tally = Tally(str(each) for each in types)

    def note() -> None:
        for kind, number in tally.items():
            _count(POSTINGS, kind, str(channel), by=number)

    if tally:
        transaction.on_commit(note, robust=True)


def replayed(channel: str, number: int = 1) -> None:
    if number and not _dry_run.get():
        _count(REPLAYS, str(channel), by=number)


# --- Refusals -----------------------------------------------------------------------------------

_dry_run: ContextVar[bool] = ContextVar("dry_run", default=False)
_within_operation: ContextVar[bool] = ContextVar("within_operation", default=False)


@contextmanager
def dry_run() -> Iterator[None]:
    """Does not count refusals within: nothing was really asked for."""
    token = _dry_run.set(True)
    try:
        yield
    finally:
        _dry_run.reset(token)


def refused(code: str, channel: str) -> None:
    if not _dry_run.get():
        _count(REFUSALS, code, str(channel))


def counts_refusals[**Arguments, Result](
    operation: Callable[Arguments, Result],
) -> Callable[Arguments, Result]:
    """Counts the refusals of an operation, by its argument `channel`.

    If one operation calls another, only the outer one counts. FreeOfCharge is not a refusal.
    """

    @wraps(operation)
    def counted(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if _within_operation.get():
            return operation(*args, **kwargs)
        token = _within_operation.set(True)
        try:
            return operation(*args, **kwargs)
        except BillingError as refusal:
            if not isinstance(refusal, FreeOfCharge):
                refused(refusal.code, str(kwargs.get("channel", "none")))
            raise
        finally:
            _within_operation.reset(token)

    return counted


# --- Where counts are kept ----------------------------------------------------------------------

KINDS: Final = ("counter", "histogram")
# Allocated when the file is made: writing to a mapped file on a full disk would kill the process. A
# thousand series take about 250 kB.
FILE_BYTES: Final = 2 * 1024 * 1024


class _Kept:
    """State of this process: the directory of counts, and the files that it holds there."""

    directory: Path | None = None
    pid: int | None = None
    number = 0
    lock: int | None = None


def _format() -> str:
    """Returns a name for the set of counters, so that counts of other versions are not added."""
    told = [
        (m._name, m._documentation, m._labelnames, getattr(m, "_upper_bounds", ())) for m in ALL
    ]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:12]


def keep_in(directory: Path) -> bool:
    """Stores the counts of this process and its children below `directory`.

    Returns False if it cannot write there: counts then stay in the process.
    """
    own = directory / _format()
    _Kept.lock = None
    try:
        own.mkdir(parents=True, exist_ok=True)
        _Kept.directory, _Kept.pid = own, None
        _take_files()
    except OSError as problem:
        _Kept.directory = None
        log.info("Counts stay in this process: %s", problem)
        return False
    for other in directory.iterdir():
        if other != own:
            shutil.rmtree(other, ignore_errors=True)
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # the parent's
    for metric in ALL:
        metric.clear()
    os.environ.update({"PROMETHEUS_MULTIPROC_DIR": str(own)})
    values.ValueClass = values.MultiProcessValue(_own_number)
    return True


def _own_number() -> int:
    """Returns the number of this process's files; a forked child takes others."""
    if _Kept.pid != os.getpid():
        _take_files()
    return _Kept.number


def _take_files() -> None:
    """Takes the first files that nobody holds. The kernel releases them when the process ends."""
    assert _Kept.directory is not None  # noqa: S101 - see keep_in
    if _Kept.lock is not None:
        os.close(_Kept.lock)  # the parent's; the parent keeps its own handle
        _Kept.lock = None
    for number in count(1):
        path = _Kept.directory / f"{number}.lock"
        try:
            lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        except PermissionError:
            if path.exists():
                continue  # another account's
            raise
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        try:
            for kind in KINDS:
                _prepare(_Kept.directory / f"{kind}_{number}.db")
        except BaseException:
            os.close(lock)
            raise
        _Kept.pid, _Kept.number, _Kept.lock = os.getpid(), number, lock
        return


def _prepare(path: Path) -> None:
    if not _is_readable(path):  # damaged: the machine went down during a write
        path.unlink()
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, FILE_BYTES)
    finally:
        os.close(descriptor)


def _is_readable(path: Path) -> bool:
    if not path.exists():
        return True
    try:
        written: int = struct.unpack("i", path.read_bytes()[:4])[0]  # the number of used bytes
        list(MmapedDict.read_all_values_from_file(str(path)))
    except Exception:
        return False
    return 0 <= written <= path.stat().st_size


def collect() -> list[Metric]:
    """Returns the counts of all processes that store them in the same directory."""
    own = list(REGISTRY.collect())
    if _Kept.directory is None:
        return own
    files = [str(file) for file in _Kept.directory.glob("*.db") if os.access(file, os.R_OK)]
    added_up = {metric.name: metric for metric in MultiProcessCollector.merge(files)}
    return [added_up.get(m.name) or Metric(m.name, m.documentation, m.type) for m in own]
