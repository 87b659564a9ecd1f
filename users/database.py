"""The database as something that can be away, full, read-only or busy; and how long one waits.

`outage_of` says which of these an error of the driver means; each channel shows it in its own way
(503 with `Retry-After`). None of them is a refusal: the same request can succeed a moment later.

Web processes and workers set `limits` when they start. Commands have none: a migration may wait
for as long as it takes.
"""

import logging
import threading
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from django.db import DatabaseError, InterfaceError, OperationalError
from django.db.models import Model, QuerySet


class _Process:
    """What this process knows of its database."""

    limits: "Limits | None" = None
    full_at: float | None = None


# --- What can be wrong --------------------------------------------------------------------------


@dataclass(frozen=True)
class Outage:
    """`sentence` is for people; `code` and `retry_after_seconds` are for programs."""

    code: str
    sentence: str
    retry_after_seconds: int


BUSY: Final = Outage(
    "busy", "Somebody else is changing the same thing, and that takes unusually long.", 2
)
UNAVAILABLE: Final = Outage("database_unavailable", "The database does not answer.", 5)
READ_ONLY: Final = Outage(
    "database_read_only", "The database can only be read now; nothing can be written.", 30
)
FULL: Final = Outage(
    "database_full", "The database's disk is full; nothing can be written until there is room.", 30
)
OUTAGES: Final = (BUSY, UNAVAILABLE, READ_ONLY, FULL)

# By the beginning of the SQLSTATE, the longest first.
_BY_STATE: Final[Mapping[str, Outage]] = {
    "55P03": BUSY,  # lock_timeout, NOWAIT
    "57014": BUSY,  # statement_timeout
    "25P03": UNAVAILABLE,  # idle_in_transaction_session_timeout has ended the connection
    "25006": READ_ONLY,  # a standby, or default_transaction_read_only
    "53100": FULL,
    "40": BUSY,  # deadlocks and serialization failures
    "53": UNAVAILABLE,  # too many connections, out of memory
    "57P": UNAVAILABLE,  # it shuts down, has crashed, or starts
    "58": UNAVAILABLE,  # the server's own disk does not answer
    "08": UNAVAILABLE,
}
_LONGEST_FIRST: Final = sorted(_BY_STATE, key=len, reverse=True)

# After these a commit may have happened although it was answered with an error.
_LOST: Final = ("08", "57P", "58")


FULL_FOR_SECONDS: Final = 30.0


class Busy(OperationalError):
    """Too many of this process's requests wait for the same thing already."""


def outage_of(error: BaseException | None) -> Outage | None:
    """What is wrong with the database, if that is what the error says."""
    if isinstance(error, Busy):
        return BUSY
    if not isinstance(error, DatabaseError | InterfaceError):
        return None
    if state := _state_of(error):
        found = next((each for each in _LONGEST_FIRST if state.startswith(each)), None)
        if found == "53100":
            _Process.full_at = time.monotonic()
        return None if found is None else _BY_STATE[found]
    # The driver found no server, or lost it.
    return UNAVAILABLE if isinstance(error, OperationalError | InterfaceError) else None


def was_full_lately() -> bool:
    """Whether the disk was full for a request of this process, not long ago."""
    full_at = _Process.full_at
    return full_at is not None and time.monotonic() - full_at < FULL_FOR_SECONDS


def _state_of(error: BaseException) -> str | None:
    state = getattr(error.__cause__, "sqlstate", None)
    return state if isinstance(state, str) else None


def in_one_line(error: BaseException | None) -> str:
    """What the driver says: its hints and context stand on lines of their own."""
    return " ".join(f"{error}".split())


class OneLine(logging.Filter):
    """Of the log: an outage is one line. The same trace for each request tells nobody more."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if outage_of(error) is not None:
            record.msg = f"{record.getMessage()}: {in_one_line(error)}".replace("\n", " ")
            record.args = ()
            record.exc_info = record.exc_text = None
        return True


# --- Whether anything was written ---------------------------------------------------------------


class _Written(threading.local):
    """Of the present request: whether something was committed, or may have been."""

    maybe = False


_written = _Written()


def begin_request() -> None:
    _written.maybe = False


def may_have_written() -> bool:
    """False: what the request was to write is certainly not written."""
    return _written.maybe


@contextmanager
def committing() -> Iterator[None]:
    """Around each commit. An answer that is lost leaves open whether it happened."""
    try:
        yield
    except Exception as error:
        state = _state_of(error)
        if state is None or state.startswith(_LOST):
            _written.maybe = True
        raise
    _written.maybe = True


# --- How long one waits -------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """Of the connections of a process. What DATABASE_URL says in its `options` comes first."""

    lock_timeout_seconds: int
    idle_in_transaction_seconds: int
    statement_timeout_seconds: int | None = None
    # Whether requests of one process wait for the same row one at a time; see `Turns`.
    takes_turns: bool = False

    @property
    def sql(self) -> str:
        """Sets them for a connection, but for those that its own options set."""
        milliseconds = {
            "lock_timeout": self.lock_timeout_seconds * 1000,
            "idle_in_transaction_session_timeout": self.idle_in_transaction_seconds * 1000,
            "statement_timeout": (self.statement_timeout_seconds or 0) * 1000,
        }
        limits = ", ".join(
            f"('{name}', '{value}')" for name, value in milliseconds.items() if value
        )
        return (
            "SELECT set_config(name, value, false) "  # noqa: S608 - numbers of ours
            f"FROM (VALUES {limits}) limits (name, value) "
            "JOIN pg_catalog.pg_settings USING (name) WHERE source <> 'client'"
        )


# Of a page or a call. Batches and charging runs hold balances for about a second. No page takes as
# long as the last one allows: it ends what would go on although nobody waits for it any more.
WEB: Final = Limits(
    lock_timeout_seconds=2,
    idle_in_transaction_seconds=60,
    statement_timeout_seconds=300,
    takes_turns=True,
)
# Of a worker, whose jobs come again.
WORKER: Final = Limits(lock_timeout_seconds=10, idle_in_transaction_seconds=60)


def limit_waits(limits: Limits) -> None:
    """For the connections that this process opens from now on, and its children."""
    _Process.limits = limits


def limits_sql() -> str:
    """What a connection of this process says first, so that it does not wait for ever; or nothing.

    A statement, and no options of the connection: PgBouncer refuses those that it does not know.
    """
    return "" if _Process.limits is None else _Process.limits.sql


PATIENCE_SECONDS: Final = 0.5


class Turns:
    """Lets one thread of a process at a time ask the database for the same row.

    The database would let them all wait, each for the whole `lock_timeout`, and a few requests for
    one row that somebody holds would occupy every thread. Here the first one waits in the database.
    The others wait for it, but only PATIENCE_SECONDS since its beginning; whoever comes later is
    told at once. Where nobody holds a row for long, none of this is noticed.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._since: dict[Hashable, float] = {}

    @contextmanager
    def taken(self, keys: Iterable[Hashable]) -> Iterator[None]:
        """Raises Busy if another thread has been waiting for one of these for long."""
        wanted = set(keys)
        with self._changed:
            while others := [self._since[key] for key in wanted if key in self._since]:
                left = min(others) + PATIENCE_SECONDS - time.monotonic()
                if left <= 0:
                    raise Busy(BUSY.sentence)
                self._changed.wait(left)
            self._since |= dict.fromkeys(wanted, time.monotonic())
        try:
            yield
        finally:
            with self._changed:
                for key in wanted:
                    del self._since[key]
                self._changed.notify_all()


_turns = Turns()


@contextmanager
def turn(keys: Iterable[Hashable]) -> Iterator[None]:
    """Within, the caller asks for rows that others may hold, and holds no others by itself.

    Whoever holds a row already must not wait here for it: see `held`.
    """
    if _Process.limits is None or not _Process.limits.takes_turns:
        yield
        return
    with _turns.taken(keys):
        yield


def takes_turns() -> bool:
    return _Process.limits is not None and _Process.limits.takes_turns


def held[Row: Model](
    rows: QuerySet[Row], key: object, *, no_key: bool = True, of: Literal["self"] | None = None
) -> Row | None:
    """The one row of `rows`, locked until the end of the database transaction; `key` names it.

    A row that is free, or the caller's already, is had without a turn.
    """
    options: dict[str, Any] = {"no_key": no_key, "of": (of,) if of else ()}
    if takes_turns():
        free = rows.select_for_update(skip_locked=True, **options).first()
        if free is not None:
            return free
    with turn([(rows.model._meta.label, key)]):
        return rows.select_for_update(**options).first()
