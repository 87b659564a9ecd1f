"""How gunicorn serves the panel: `gunicorn config.wsgi --config python:config.serving`.

Gunicorn's master process loads this module once; its workers load the panel. Nothing here may
import the panel, or the master would hand the old code to new workers after a deploy.

- Workers answer health checks on threads of their own. So a load balancer learns that the process
  is alive even if all other threads are waiting.
- Workers end when the master process ends, even if it is killed, so that its port is free again.
  The master process ends with `manage.py serve` if that started it.
- On SIGHUP, new workers start and get ready before the old ones stop listening, so no request is
  refused or has to wait. If the new version does not start, the old workers continue.
"""

import ctypes
import gc
import os
import queue
import re
import select
import selectors
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import FrameType
from typing import Any, Final

from gunicorn.workers.base import Worker
from gunicorn.workers.gthread import ThreadWorker

from config.headers import note_repeated

# --- Settings of gunicorn -----------------------------------------------------------------------

worker_class = "config.serving.WebWorker"
threads = 4
limit_request_line = 8190  # gunicorn's maximum: calls of the Panel API put users into the address
control_socket_disable = True
pre_request = note_repeated
# The access log, if there is one, leaves out the query: that of the Panel API has passwords and
# sessions.
access_log_format = '%({x-forwarded-for}i)s "%(m)s %(U)s" %(s)s %(B)s %(L)s "%(a)s"'

# ------------------------------------------------------------------------------------------------

TO_WORKERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
BEGINNING_BYTES: Final = 512
HEALTH_CHECK: Final = re.compile(rb"(GET|HEAD) \S*/(healthz|readyz|metrics)[ ?]")
HEALTH_THREADS: Final = 2
FIRST_DATA_SECONDS: Final = 5.0  # how long a new connection may send nothing
STARTS_SECONDS: Final = 120.0
LOOKS_SECONDS: Final = 1.0
PR_SET_PDEATHSIG: Final = 1


class WebWorker(ThreadWorker):
    """Gunicorn's worker with threads, plus separate threads for health checks.

    This subclass is needed because no setting of gunicorn can look at a request before a thread is
    taken for it.
    """

    is_quitting = False

    def init_process(self) -> None:
        self.health_checks = ThreadPoolExecutor(HEALTH_THREADS, thread_name_prefix="health")
        super().init_process()

    def init_signals(self) -> None:
        super().init_signals()
        end_with_parent(self.ppid)
        _let_signals_through()

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Ends the process as gunicorn's other workers do, without shutting the pool down first.

        ThreadWorker shuts it down here, which takes a lock. The interrupted thread may hold that
        lock already, if it was handing out a request or handling an earlier signal, and would wait
        for itself. The interpreter ends the pool's threads anyway.

        A signal while the process ends already would show as a traceback.
        """
        if not self.is_quitting:
            self.is_quitting = True
            Worker.handle_quit(self, sig, frame)

    def run(self) -> None:
        try:
            super().run()
        finally:
            self.is_quitting = True  # the interpreter ends the pool's threads now

    def enqueue_req(self, conn: Any) -> None:
        """Hands a connection to a thread once data has come; health checks to their own threads."""
        beginning = _beginning(conn)
        if beginning is None and not conn.initialized and not conn.data_ready and self.alive:
            conn.sock.settimeout(0)
            conn.timeout = time.monotonic() + FIRST_DATA_SECONDS
            self.pending_conns.append(conn)
            self.poller.register(
                conn.sock,
                selectors.EVENT_READ,
                lambda client: self.on_pending_socket_readable(conn, client),
            )
            return
        is_check = HEALTH_CHECK.match(beginning or b"") is not None
        pool = self.health_checks if is_check else self.tpool
        future = pool.submit(self.handle, conn)
        future.add_done_callback(
            lambda done: self.method_queue.defer(self.finish_request, conn, done)
        )


def _beginning(conn: Any) -> bytes | None:
    """Returns the next bytes of a connection without consuming them; None if none came yet."""
    try:
        beginning: bytes = conn.sock.recv(BEGINNING_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except (OSError, ValueError):
        return b""  # the thread that gets the connection handles the error
    return beginning


def end_with_parent(parent: int) -> None:
    """Has this process killed when its parent process ends, also if the parent is killed.

    On Linux the kernel does it; elsewhere the process checks every second.
    """

    def check_parent(*_: object) -> None:
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        signal.signal(signal.SIGALRM, check_parent)
        signal.setitimer(signal.ITIMER_REAL, LOOKS_SECONDS, LOOKS_SECONDS)
    check_parent()  # the parent may have ended before the calls above


if _serve := os.environ.pop("SERVE_PID", ""):
    end_with_parent(int(_serve))  # `manage.py serve` is the parent of gunicorn's master process


def when_ready(arbiter: Any) -> None:
    """Excludes everything that is loaded by now from garbage collection.

    Workers then share this memory (with --preload, that is the panel), and do not go through it
    when they end.
    """
    gc.freeze()


# --- Signals ------------------------------------------------------------------------------------


def on_starting(arbiter: Any) -> None:
    os.register_at_fork(after_in_parent=_let_signals_through)


def pre_fork(arbiter: Any, worker: Any) -> None:
    """Blocks signals for a new worker until it has its own handlers (`init_signals`).

    Until then it has those of the master process. They put a signal into a queue that nobody reads
    in the worker, so a signal to end would be lost.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, TO_WORKERS)


def _let_signals_through() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_WORKERS)


# --- Restarting without a pause -----------------------------------------------------------------


class _Reload:
    """The pipe by which new workers report that they are ready, while a SIGHUP is handled."""

    read_end: int | None = None
    write_end: int | None = None


def post_worker_init(worker: Any) -> None:
    """Reports that a worker has loaded the panel and starts to listen."""
    worker.log.info("Worker ready (pid: %s)", worker.pid)
    if _Reload.write_end is not None:
        with suppress(OSError):
            os.write(_Reload.write_end, f"{worker.pid}\n".encode())


def on_reload(arbiter: Any) -> None:
    """Makes gunicorn wait for its new workers before it stops the old ones.

    After this hook gunicorn starts new workers, and calls `manage_workers` to stop the old ones at
    once. Nobody would answer until the new ones have loaded the panel. So `manage_workers` is
    replaced for one call by a function that waits first.
    """
    known = set(arbiter.WORKERS)
    _Reload.read_end, _Reload.write_end = os.pipe()
    stop_old_workers = arbiter.manage_workers

    def manage_workers() -> None:
        del arbiter.manage_workers  # uncovers gunicorn's own method again
        try:
            if not _are_ready(arbiter, set(arbiter.WORKERS) - known):
                _give_up(arbiter, set(arbiter.WORKERS) - known)
        finally:
            for end in (_Reload.read_end, _Reload.write_end):
                if end is not None:
                    os.close(end)
            _Reload.read_end = _Reload.write_end = None
        stop_old_workers()

    arbiter.manage_workers = manage_workers


def _are_ready(arbiter: Any, started: set[int]) -> bool:
    """Waits until the new workers are ready. Returns False if they do not start.

    A signal that ends gunicorn ends the wait as well, with True.
    """
    assert _Reload.read_end is not None  # noqa: S101 - made just now
    waiting, received = set(started), b""
    end = time.monotonic() + STARTS_SECONDS
    while waiting:
        if time.monotonic() > end or any(_has_ended(pid) for pid in waiting):
            return False
        if _is_to_end(arbiter):
            return True
        readable, _, _ = select.select([_Reload.read_end], [], [], 0.1)
        if readable:
            received += os.read(_Reload.read_end, 4096)
            *lines, received = received.split(b"\n")
            waiting -= set(map(int, lines))
    return True


def _is_to_end(arbiter: Any) -> bool:
    """True if a signal to end is in gunicorn's queue. The queue is left as it was."""
    waiting = []
    with suppress(queue.Empty):
        while True:
            waiting.append(arbiter.SIG_QUEUE.get_nowait())
    for each in waiting:
        arbiter.SIG_QUEUE.put_nowait(each)
    return not {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}.isdisjoint(waiting)


def _has_ended(pid: int) -> bool:
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return ended is not None


def _give_up(arbiter: Any, started: set[int]) -> None:
    """Kills the new workers; the old ones go on."""
    arbiter.log.error("The new version does not start; the old one keeps serving.")
    for pid in started:
        worker = arbiter.WORKERS.pop(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        worker.tmp.close()
