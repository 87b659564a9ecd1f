"""How gunicorn serves the panel: `gunicorn config.wsgi --config python:config.serving`.

gunicorn's own process loads this module once, and web workers load the panel. So nothing here
imports the panel: after a deploy it would be the old one.

- Workers answer health checks on threads of their own. Whatever the others wait for, a load
  balancer learns that the process is alive.
- They end with gunicorn's own process, also where that is killed. Its port is free again then.
  That process itself ends with `manage.py serve`, where it was started by it.
- On SIGHUP the new workers are started and ready before the old ones stop listening, so no request
  is refused or waits. A version that does not start leaves the old one at work.
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
limit_request_line = 8190  # the most there is: the Panel API takes users by GET
control_socket_disable = True
pre_request = note_repeated

# ------------------------------------------------------------------------------------------------

TO_WORKERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
BEGINNING_BYTES: Final = 512
HEALTH_CHECK: Final = re.compile(rb"(GET|HEAD) \S*/(healthz|readyz|metrics)[ ?]")
HEALTH_THREADS: Final = 2
FIRST_DATA_SECONDS: Final = 5.0  # how long a new connection may say nothing
STARTS_SECONDS: Final = 120.0
LOOKS_SECONDS: Final = 1.0
PR_SET_PDEATHSIG: Final = 1


class WebWorker(ThreadWorker):
    """gunicorn's worker with threads, and with threads for health checks.

    The one class of gunicorn that is built upon: a worker class is a setting of gunicorn, but none
    of its settings tells one request from another before a thread is taken for it.
    """

    def init_process(self) -> None:
        self.health_checks = ThreadPoolExecutor(HEALTH_THREADS, thread_name_prefix="health")
        super().init_process()

    def init_signals(self) -> None:
        super().init_signals()
        end_with_parent(self.ppid)
        _let_signals_through()

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Ends the process, as every worker does.

        ThreadWorker shuts its pool down first, for which it takes a lock that the thread may hold
        already where the signal found it: handing out a request, or ending on a signal that came
        a moment before. The interpreter ends the pool's threads by itself.
        """
        Worker.handle_quit(self, sig, frame)

    def enqueue_req(self, conn: Any) -> None:
        """Hands a connection to a thread once it says something; health checks to their own."""
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
    """What a connection says next, left to be read; None: nothing yet."""
    try:
        beginning: bytes = conn.sock.recv(BEGINNING_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except (OSError, ValueError):
        return b""  # the thread finds out
    return beginning


def end_with_parent(parent: int) -> None:
    """Has this process killed when its parent ends, however that ends.

    The kernel does it where it can, which is on Linux; elsewhere the process looks every second.
    """

    def look(*_: object) -> None:
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, LOOKS_SECONDS, LOOKS_SECONDS)
    look()  # it may have ended before that


if _serve := os.environ.pop("SERVE_PID", ""):
    end_with_parent(int(_serve))  # `manage.py serve`, of which gunicorn's own process is a child


def when_ready(arbiter: Any) -> None:
    """What was loaded until now (with --preload, the panel) stays: workers share it, and no end of
    a process has to sweep it.
    """
    gc.freeze()


# --- Signals ------------------------------------------------------------------------------------


def on_starting(arbiter: Any) -> None:
    os.register_at_fork(after_in_parent=_let_signals_through)


def pre_fork(arbiter: Any, worker: Any) -> None:
    """Keeps signals back from a new worker until it has handlers of its own (`init_signals`).

    Until then it has those of gunicorn's own process, which put a signal into a queue that nobody
    reads there: the worker would not hear that it shall end.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, TO_WORKERS)


def _let_signals_through() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_WORKERS)


# --- Restarting without a pause -----------------------------------------------------------------


class _Reload:
    """Of the present SIGHUP: the pipe by which new workers say that they are ready."""

    read_end: int | None = None
    write_end: int | None = None


def post_worker_init(worker: Any) -> None:
    """A worker has loaded the panel, and listens from now on."""
    worker.log.info("Worker ready (pid: %s)", worker.pid)
    if _Reload.write_end is not None:
        with suppress(OSError):
            os.write(_Reload.write_end, f"{worker.pid}\n".encode())


def on_reload(arbiter: Any) -> None:
    """gunicorn starts new workers after this, and tells the old ones to stop right away. Nobody
    would answer until the new ones have loaded the panel; so that has to wait for them.
    """
    known = set(arbiter.WORKERS)
    _Reload.read_end, _Reload.write_end = os.pipe()
    told_to_stop = arbiter.manage_workers

    def manage_workers() -> None:
        del arbiter.manage_workers  # from now on it is gunicorn's own again
        try:
            if not _are_ready(arbiter, set(arbiter.WORKERS) - known):
                _give_up(arbiter, set(arbiter.WORKERS) - known)
        finally:
            for end in (_Reload.read_end, _Reload.write_end):
                if end is not None:
                    os.close(end)
            _Reload.read_end = _Reload.write_end = None
        told_to_stop()

    arbiter.manage_workers = manage_workers


def _are_ready(arbiter: Any, started: set[int]) -> bool:
    """Waits for new workers. False: they do not start. A signal to end is not kept waiting."""
    assert _Reload.read_end is not None  # noqa: S101 - made just now
    waiting, said = set(started), b""
    end = time.monotonic() + STARTS_SECONDS
    while waiting:
        if time.monotonic() > end or any(_has_ended(pid) for pid in waiting):
            return False
        if _is_to_end(arbiter):
            return True
        readable, _, _ = select.select([_Reload.read_end], [], [], 0.1)
        if readable:
            said += os.read(_Reload.read_end, 4096)
            *lines, said = said.split(b"\n")
            waiting -= set(map(int, lines))
    return True


def _is_to_end(arbiter: Any) -> bool:
    """Whether a signal waits that ends everything. All signals are left as they wait."""
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
    """Takes the new workers back; the old ones go on."""
    arbiter.log.error("The new version does not start; the old one goes on serving.")
    for pid in started:
        worker = arbiter.WORKERS.pop(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        worker.tmp.close()
