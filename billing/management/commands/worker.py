"""`manage.py worker`: does background jobs, such as the charging run, and what follows a refill.

It works until a signal ends it (Ctrl-C, SIGTERM, SIGHUP). Jobs then end at their next commit, and
another worker continues them there. Errors, such as a restart of the database, do not end a worker:
it starts over in the same process, after longer and longer pauses.

With --once it does all waiting jobs and ends, for cron. Periodic tasks (billing/tasks.py) are
queued at once, because their scheduled time may have passed while no worker ran.

A permanent worker logs when it is ready, what it does, and when it ends, at any LOG_LEVEL, because
silence would look like a worker that hangs. Housekeeping runs all the time and is not logged;
/readyz shows its heartbeat. A worker started by cron is quiet, because cron would mail its output;
so is a worker of `manage.py serve`, which runs on a terminal.
"""

import asyncio
import logging
import os
import signal
import time
from argparse import SUPPRESS
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, InterfaceError, OperationalError, connection, connections
from procrastinate import JobContext, exceptions
from procrastinate.contrib.django import app, connector_params
from procrastinate.psycopg_connector import PsycopgConnector
from procrastinate.worker import Worker
from psycopg import AsyncConnection

from billing import counters
from users.database import WORKER, limit_waits

ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RETRY_MIN_SECONDS: Final = 1.0
RETRY_MAX_SECONDS: Final = 30.0
# An error after this time is a new one, so pauses start from the beginning.
SETTLED_SECONDS: Final = 60.0
PARENT_CHECK_SECONDS: Final = 1.0
CONNECTIONS_MAX: Final = 4  # for its own queries; each running job has one more
CONNECTION_TIMEOUT_SECONDS: Final = 5.0
# Otherwise it could end while a job still queues others.
ONE_AFTER_THE_OTHER: Final[dict[str, Any]] = {"wait": False, "concurrency": 1}
SERVER_ENDS: Final = "57P"  # SQLSTATEs of a server that is ending or starting
HOUSEKEEPING: Final = "schedule"  # the queue of regular housekeeping

log = logging.getLogger(__name__)
diary = logging.getLogger(f"{__name__}.diary")


class Command(BaseCommand):
    help = "Runs background jobs, including the charging run, until it is stopped."
    requires_system_checks = []
    ending = False
    once = False
    end_work: Callable[[], object] | None = None
    parent: int | None = None

    def add_arguments(self, parser: CommandParser) -> None:
        # The PID of `manage.py serve`: its worker ends with it.
        parser.add_argument("--parent", type=int, help=SUPPRESS)
        parser.add_argument(
            "--once",
            action="store_true",
            help="run the jobs that are due and exit; for cron, every few minutes",
        )

    def handle(self, *args: Any, parent: int | None, once: bool, **options: Any) -> None:
        self.parent, self.once = parent, once
        limit_waits(WORKER)
        counters.keep_in(settings.METRICS_DIR)
        if not once and parent is None:
            diary.setLevel(logging.INFO)
        for number in ENDINGS:
            signal.signal(number, self.end)
        for handler in logging.getLogger().handlers:
            handler.addFilter(_is_no_trouble_with_the_connection)
        with suppress(KeyboardInterrupt, asyncio.CancelledError):
            self.work_until_told_to_end()
        self.ending = True  # a signal from now on has nothing to end
        diary.info("The worker has ended.")

    def end(self, signal_number: int = 0, frame: FrameType | None = None) -> None:
        if self.ending:
            return
        self.ending = True
        if self.end_work is None:
            raise KeyboardInterrupt  # for this exception the driver cancels its query
        self.end_work()

    def work_until_told_to_end(self) -> None:
        delay, said = RETRY_MIN_SECONDS, ""
        while True:
            started = time.monotonic()
            try:
                connection.ensure_connection()  # this starts the embedded database
                connections.close_all()
                asyncio.run(self.work())
                if self.once:
                    return
                problem = "the connection to the database was lost"
            except (DatabaseError, exceptions.ConnectorException, OSError) as error:
                problem = f"{error.__cause__ or error}".strip().partition("\n")[0]
                if self.once:
                    raise CommandError(f"The jobs were not run: {problem}") from None
            if self.is_orphan:
                return
            if time.monotonic() - started > SETTLED_SECONDS:
                delay, said = RETRY_MIN_SECONDS, ""
            if problem != said:
                log.warning("The worker restarts: %s", problem)
                said = problem
            time.sleep(delay)
            delay = min(delay * 2, RETRY_MAX_SECONDS)

    async def work(self) -> None:
        loop, told_to_end = asyncio.get_running_loop(), asyncio.Event()
        loop.set_exception_handler(_report)
        connector = PsycopgConnector(
            kwargs=connector_params(),
            configure=_set_session,
            min_size=1,
            max_size=CONNECTIONS_MAX,
            timeout=CONNECTION_TIMEOUT_SECONDS,
        )
        self.end_work = lambda: loop.call_soon_threadsafe(told_to_end.set)
        watch = asyncio.create_task(self.end_with_parent())
        ending = asyncio.create_task(told_to_end.wait())
        try:
            with app.replace_connector(connector):
                # The pool of connections does not bear to be cancelled while it opens; a worker
                # that is cancelled ends in good order.
                async with app.open_async():
                    if self.once:
                        await _queue_what_has_its_times()
                    worker = asyncio.create_task(
                        app.run_worker_async(
                            install_signal_handlers=False,
                            worker_middleware=[_say_what_is_done],
                            **(ONE_AFTER_THE_OTHER if self.once else {}),
                        )
                    )
                    diary.info("The worker is ready and waits for jobs.")
                    await asyncio.wait({worker, ending}, return_when=asyncio.FIRST_COMPLETED)
                    if ending.done():
                        diary.info("The worker is stopping.")
                        worker.cancel()
                    await worker
        finally:
            self.end_work = None
            watch.cancel()
            ending.cancel()

    async def end_with_parent(self) -> None:
        while not self.is_orphan:
            await asyncio.sleep(PARENT_CHECK_SECONDS)
        self.end()

    @property
    def is_orphan(self) -> bool:
        return self.parent is not None and os.getppid() != self.parent


async def _set_session(own: AsyncConnection[Any]) -> None:
    """Applies Django's session settings to a connection of the pool."""
    await own.execute(connection.session_sql)  # type: ignore[attr-defined]
    await own.commit()


async def _say_what_is_done(
    do: Callable[[], Awaitable[Any]], context: JobContext, worker: Worker
) -> Any:
    """Logs each job. procrastinate logs failures, with the traceback."""
    job = context.job
    if job.queue == HOUSEKEEPING:
        return await do()
    diary.info("Begins %s.", job.call_string)
    started, how = time.monotonic(), "Broke off"
    try:
        result = await do()
        how = "Did"
    finally:
        diary.info("%s %s in %.1f seconds.", how, job.call_string, time.monotonic() - started)
    return result


async def _queue_what_has_its_times() -> None:
    for periodic in app.periodic_registry.periodic_tasks.values():
        with suppress(exceptions.AlreadyEnqueued):
            job = periodic.task.configure(**periodic.configure_kwargs)
            await job.defer_async(timestamp=int(time.time()))


def _is_no_trouble_with_the_connection(record: logging.LogRecord) -> bool:
    """Filters errors of the connection: one sentence reports them when the worker starts over."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, OperationalError | InterfaceError) and _is_lost_connection(error):
        record.exc_info = None  # logs which job ended, without the traceback
        return True
    from_pool = record.name == "psycopg.pool" and record.levelno < logging.ERROR
    return not (from_pool or isinstance(error, exceptions.ConnectorException))


def _is_lost_connection(error: Exception) -> bool:
    """Returns whether the connection was lost, or the server announced its end."""
    state = getattr(error.__cause__, "sqlstate", None)
    return state is None or state.startswith(SERVER_ENDS)


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handles errors of tasks that nobody awaits; ignores those of a lost connection."""
    if not isinstance(context.get("exception"), exceptions.ConnectorException):
        loop.default_exception_handler(context)
