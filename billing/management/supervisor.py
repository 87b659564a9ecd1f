"""Keeps a few programs running, and ends them all when it is told to end.

Each is a process in a session of its own: Ctrl-C in a terminal reaches the supervisor alone, which
passes the end on. A program that ends by itself is started again, after a pause that grows from a
second to a minute where that keeps happening.
"""

import logging
import os
import queue
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Final

ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ENDS_SECONDS: Final = 10  # what a request or a job does until it may be left takes less
LOOKS_SECONDS: Final = 1.0
HURRIES_SECONDS: Final = 0.2
PAUSE_MIN_SECONDS: Final = 1.0
PAUSE_MAX_SECONDS: Final = 60.0

log = logging.getLogger(__name__)


class CannotStart(Exception):
    """A program says by its exit status that starting it again would change nothing."""


class Child:
    """One of the programs."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        cannot_start_status: int | None = None,
    ) -> None:
        self.name = name
        self.command = command
        self.environment = environment or {}
        self.pass_fds = pass_fds
        self.cannot_start_status = cannot_start_status
        self.process: subprocess.Popen[bytes] | None = None
        self.may_start_at = 0.0
        self.pause = PAUSE_MIN_SECONDS
        self.is_missed = False

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def keep_running(self, now: float) -> None:
        """Starts the program unless it runs or has to wait; `now` is on the monotonic clock."""
        if self.is_running:
            if now > self.may_start_at + PAUSE_MAX_SECONDS:
                self.pause = PAUSE_MIN_SECONDS
            return
        self._note_end()
        if now < self.may_start_at:
            return
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            env=os.environ | self.environment,
            pass_fds=self.pass_fds,
            start_new_session=True,
        )
        self.is_missed = True
        self.may_start_at = now + self.pause
        self.pause = min(self.pause * 2, PAUSE_MAX_SECONDS)

    def _note_end(self) -> None:
        """Says once how the program ended; raises CannotStart if that was for good."""
        if self.process is None or not self.is_missed:
            return
        self.is_missed = False
        status = self.process.returncode
        if status == self.cannot_start_status:
            raise CannotStart
        how = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
        log.warning("%s ended %s; it is started again.", self.name, how)

    def send(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)  # not to one that has ended, nor to its successor


class Supervisor:
    """Runs the programs until SIGINT, SIGTERM or SIGHUP comes. For the main thread."""

    def __init__(self, *children: Child) -> None:
        self.children = children
        # A handler only puts a signal here: nothing is interrupted in the middle, however many
        # come, and a child that was just started is never lost sight of.
        self.signals: queue.SimpleQueue[int] = queue.SimpleQueue()

    def run(self) -> None:
        """Returns when it was told to end and all programs have; signals are kept back from then.

        Raises CannotStart, after the others have ended, if a program says that it cannot.
        """
        for each in (*ENDINGS, signal.SIGCHLD):
            signal.signal(each, self._note_signal)
        number: int | None = None
        try:
            while number not in ENDINGS:
                for child in self.children:
                    child.keep_running(time.monotonic())
                number = self._next_signal(LOOKS_SECONDS)
        finally:
            self._end(hurried=number == signal.SIGINT)
            signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self.signals.put(number)

    def _next_signal(self, seconds: float) -> int | None:
        try:
            return self.signals.get(timeout=seconds)
        except queue.Empty:
            return None

    def _end(self, *, hurried: bool) -> None:
        """Tells all programs to end, and kills those that do not; on Ctrl-C they hurry."""
        for child in self.children:
            child.send(signal.SIGTERM)
        end = time.monotonic() + ENDS_SECONDS
        while any(child.is_running for child in self.children) and time.monotonic() < end:
            hurried |= self._next_signal(HURRIES_SECONDS) == signal.SIGINT
            if hurried:
                # Never the first signal: it would make a Python that only just starts complain.
                for child in self.children:
                    child.send(signal.SIGINT)
        for child in self.children:
            child.send(signal.SIGKILL)
            if child.process is not None:
                child.process.wait()
