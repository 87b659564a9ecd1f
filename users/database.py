"""Outages of the database, and limits on waiting for it.

The database can be unavailable, full, read-only or busy. `outage_of` tells which of these an error
of the driver means; each channel shows it in its own way (503 with `Retry-After`). An outage is not
a refusal: the same request can succeed a moment later.

Web processes and workers call `limit_waits` when they start. Commands have no limits: a migration
may wait as long as it has to.
"""

import logging
import threading
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from django.db import (
    DEFAULT_DB_ALIAS,
    DatabaseError,
    InterfaceError,
    OperationalError,
    connection,
    connections,
)
from django.db.backends.utils import CursorWrapper
from django.db.models import Model, QuerySet


class _Process:
    """State of this process: its limits, and when its database was last found to be full."""

    limits: "Limits | None" = None
    full_at: float | None = None


# --- Outages ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outage:
    """A state in which the database cannot do its work. There are four, in OUTAGES.

    `sentence` is for people; `code` and `retry_after_seconds` are for programs.
    """

    code: str
    sentence: str
    retry_after_seconds: int


BUSY: Final = Outage(
    "busy", "Somebody else is changing the same thing, and it is taking unusually long.", 2
)
UNAVAILABLE: Final = Outage("database_unavailable", "The database does not answer.", 5)
READ_ONLY: Final = Outage("database_read_only", "The database can only be read at the moment.", 30)
FULL: Final = Outage(
    "database_full", "The database's disk is full; nothing can be written until there is space.", 30
)
OUTAGES: Final = (BUSY, UNAVAILABLE, READ_ONLY, FULL)

# Beginnings of SQLSTATEs; the longest one that matches counts.
_BY_STATE: Final[Mapping[str, Outage]] = {
    "55P03": BUSY,  # lock_timeout, NOWAIT
    "57014": BUSY,  # statement_timeout
    "25P03": UNAVAILABLE,  # idle_in_transaction_session_timeout has ended the connection
    "25006": READ_ONLY,  # a standby, or default_transaction_read_only
    "53100": FULL,
    "40": BUSY,  # deadlocks and serialization failures
    "53": UNAVAILABLE,  # too many connections, out of memory
    "57P": UNAVAILABLE,  # the server is shutting down, has crashed, or is starting
    "58": UNAVAILABLE,  # the server's own disk does not answer
    "08": UNAVAILABLE,
}
_LONGEST_FIRST: Final = sorted(_BY_STATE, key=len, reverse=True)

# A commit that ends with one of these errors may have happened all the same.
_LOST: Final = ("08", "57P", "58")


FULL_FOR_SECONDS: Final = 30.0


class Busy(OperationalError):
    """Raised instead of waiting if other requests of this process already wait for the same row."""


def outage_of(error: BaseException | None) -> Outage | None:
    """Returns the outage that the error reports; None for every other error.

    A full disk is remembered for `was_full_lately`.
    """
    if isinstance(error, Busy):
        return BUSY
    if not isinstance(error, DatabaseError | InterfaceError):
        return None
    if state := _state_of(error):
        found = next((each for each in _LONGEST_FIRST if state.startswith(each)), None)
        if found == "53100":
            _Process.full_at = time.monotonic()
        return None if found is None else _BY_STATE[found]
    # Without an SQLSTATE: the driver could not connect, or lost the connection.
    return UNAVAILABLE if isinstance(error, OperationalError | InterfaceError) else None


def was_full_lately() -> bool:
    """True if this process was told that the disk is full in the last FULL_FOR_SECONDS."""
    full_at = _Process.full_at
    return full_at is not None and time.monotonic() - full_at < FULL_FOR_SECONDS


def _state_of(error: BaseException) -> str | None:
    state = getattr(error.__cause__, "sqlstate", None)
    return state if isinstance(state, str) else None


def in_one_line(error: BaseException | None) -> str:
    """Returns the driver's message, with its hints and context, as one line."""
    return " ".join(f"{error}".split())


class OneLine(logging.Filter):
    """Log filter: writes an outage as one line, without the traceback, which is always the same."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if outage_of(error) is not None:
            record.msg = f"{record.getMessage()}: {in_one_line(error)}".replace("\n", " ")
            record.args = ()
            record.exc_info = record.exc_text = None
        return True


# --- Did the request write anything? ------------------------------------------------------------


class _Written(threading.local):
    """Per thread: true if the current request has committed something, or may have."""

    maybe = False


_written = _Written()


def begin_request() -> None:
    _written.maybe = False


def may_have_written() -> bool:
    """Returns False if the request has certainly not written anything."""
    return _written.maybe


@contextmanager
def committing() -> Iterator[None]:
    """Wraps each commit, for `may_have_written`.

    If the connection is lost during a commit, nobody knows whether it happened.
    """
    try:
        yield
    except Exception as error:
        state = _state_of(error)
        if state is None or state.startswith(_LOST):
            _written.maybe = True
        raise
    _written.maybe = True


# --- Limits on waiting --------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """Limits of the connections of a process. `options` in DATABASE_URL take precedence."""

    lock_timeout_seconds: int
    idle_in_transaction_seconds: int
    statement_timeout_seconds: int | None = None
    # True: requests of the process wait for the same row one at a time; see `Turns`.
    takes_turns: bool = False

    @property
    def sql(self) -> str:
        """The statement that sets the limits for a connection, except those set by its options."""
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


# For pages and calls. Batches and charging runs hold balances for about a second. No page needs as
# long as statement_timeout allows; it ends statements whose client has gone.
WEB: Final = Limits(
    lock_timeout_seconds=2,
    idle_in_transaction_seconds=60,
    statement_timeout_seconds=300,
    takes_turns=True,
)
# For workers, which try their jobs again.
WORKER: Final = Limits(lock_timeout_seconds=10, idle_in_transaction_seconds=60)


def limit_waits(limits: Limits) -> None:
    """Sets the limits of connections that this process and its children open from now on."""
    _Process.limits = limits


def limits_sql() -> str:
    """Returns the statement that sets the limits for a new connection; "" if there are none.

    They are not set as options of the connection: PgBouncer refuses options that it does not know.
    """
    return "" if _Process.limits is None else _Process.limits.sql


PATIENCE_SECONDS: Final = 0.5


def prepared_cursor() -> CursorWrapper:
    """Returns a cursor whose statements the server parses and plans once per connection."""
    made: CursorWrapper = connection.prepared_cursor()  # type: ignore[attr-defined] # config.postgresql
    return made


def first_row(statement: str, parameters: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Returns the first row of a request's first statement, which may be executed twice.

    It shows whether the connection still works, so that no other statement has to. If the
    connection ended since the request before, it is executed again on another one.
    """
    database: Any = connections[DEFAULT_DB_ALIAS]
    is_tested = database.in_atomic_block or database.health_check_done
    if database.connection is not None:
        database.health_check_done = True
    try:
        return _first_row(statement, parameters)
    except (OperationalError, InterfaceError):
        if is_tested or (database.connection is not None and database.is_usable()):
            raise
        database.close()
        return _first_row(statement, parameters)


def _first_row(statement: str, parameters: Mapping[str, Any]) -> tuple[Any, ...] | None:
    with prepared_cursor() as cursor:
        cursor.execute(statement, parameters)
        row: tuple[Any, ...] | None = cursor.fetchone()
        return row


class Turns:
    """Lets only one thread of a process at a time ask the database to lock the same row.

    Without this, a few requests for a row that is locked would occupy all threads, each for the
    whole `lock_timeout`. Here only the first one waits in the database. The others wait for it
    until PATIENCE_SECONDS after it began; a thread that comes later gets Busy at once. If no row is
    locked for long, nobody notices any of this.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._since: dict[Hashable, float] = {}

    @contextmanager
    def taken(self, keys: Iterable[Hashable]) -> Iterator[None]:
        """Holds the turn for these rows; raises Busy if another thread holds one for too long."""
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
def hold_turn(keys: Iterable[Hashable]) -> Iterator[None]:
    """Holds the turn for the rows in `keys` while the caller waits in the database for their locks.

    A caller that has locked one of these rows already must not wait here for it: the thread whose
    turn it is waits for that lock. `lock_row` therefore first tries without a turn.
    """
    if _Process.limits is None or not _Process.limits.takes_turns:
        yield
        return
    with _turns.taken(keys):
        yield


def takes_turns() -> bool:
    return _Process.limits is not None and _Process.limits.takes_turns


def lock_row[Row: Model](
    rows: QuerySet[Row], key: object, *, no_key: bool = True, of: Literal["self"] | None = None
) -> Row | None:
    """Locks the one row of `rows` until the database transaction ends, and returns it.

    `key` identifies the row. Returns None if there is no row. A row that is free, or that the
    caller has locked already, is returned without waiting for a turn.
    """
    options: dict[str, Any] = {"no_key": no_key, "of": (of,) if of else ()}
    if takes_turns():
        free = rows.select_for_update(skip_locked=True, **options).first()
        if free is not None:
            return free
    with hold_turn([(rows.model._meta.label, key)]):
        return rows.select_for_update(**options).first()
