"""Keeps a few programs running, and ends all of them on a signal.

Each program is in a session of its own, so Ctrl-C in a terminal reaches only the supervisor, which
ends the programs. A program that ends by itself is restarted, after a pause that grows from a
second to a minute if it keeps ending.
"""

import logging
import os
import queue
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import Final

ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ENDS_SECONDS: Final = 10  # enough for a request, or for a job to reach a commit
LOOKS_SECONDS: Final = 1.0
HURRIES_SECONDS: Final = 0.2
DIES_SECONDS: Final = 3.0
PAUSE_MIN_SECONDS: Final = 1.0
PAUSE_MAX_SECONDS: Final = 60.0

log = logging.getLogger(__name__)


class CannotStart(Exception):
    """A program's exit status says that restarting it would not help."""


class Child:
    """One program, and its present process."""

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
        """Starts the program unless it runs or has to wait. `now` is monotonic time."""
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
        """Reports how the program ended. Raises CannotStart if restarting would not help."""
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
            self.process.send_signal(
                number
            )  # not sent to a process that has ended, nor to its PID's new owner

    def wait_for_its_own(self) -> None:
        """Waits a while for the processes that the ended program had started.

        Web workers are killed by the kernel when gunicorn's master process ends. Until they are
        gone they count as users of the embedded database, and nobody would stop it after them.
        """
        if self.process is None:
            return
        end = time.monotonic() + DIES_SECONDS
        with suppress(ProcessLookupError, PermissionError):
            while time.monotonic() < end:
                os.killpg(self.process.pid, 0)  # asks only whether the group has a process
                time.sleep(0.01)


class Supervisor:
    """Runs programs until SIGINT, SIGTERM or SIGHUP. To be used in the main thread."""

    def __init__(self, *children: Child) -> None:
        self.children = children
        # Handlers only put signals here, so nothing is interrupted halfway, and no child that was
        # just started is forgotten.
        self.signals: queue.SimpleQueue[int] = queue.SimpleQueue()

    def run(self) -> None:
        """Runs until a signal came and all programs have ended. Signals are blocked after that.

        Raises CannotStart, after the others have ended, if a program cannot start.
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
        """Tells all programs to end, and kills those that do not. `hurried`: after Ctrl-C."""
        for child in self.children:
            child.send(signal.SIGTERM)
        end = time.monotonic() + ENDS_SECONDS
        while any(child.is_running for child in self.children) and time.monotonic() < end:
            hurried |= self._next_signal(HURRIES_SECONDS) == signal.SIGINT
            if hurried:
                # Not as the first signal: a Python that is just starting would print a traceback.
                for child in self.children:
                    child.send(signal.SIGINT)
        for child in self.children:
            child.send(signal.SIGKILL)
            if child.process is not None:
                child.process.wait()
        for child in self.children:
            child.wait_for_its_own()
