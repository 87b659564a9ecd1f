"""Real processes for the tests of `manage.py serve`, each in a session of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[2]
# Far more than anything here needs; only a process that hangs reaches it.
PATIENCE_SECONDS = 300


def environment(**variables: str) -> dict[str, str]:
    """Returns an environment for a process: nothing that configures the panel, and `variables`."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return kept | variables


def manage(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "manage.py", *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def reserved_port() -> socket.socket:
    """Reserves a free port, so that no other process gets it until the server listens on it."""
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the listener will
    reservation.bind(("127.0.0.1", 0))
    return reservation


# Errors of reading /proc if the process ends before the file is opened, or while it is read.
GONE = (FileNotFoundError, ProcessLookupError)


def is_running(pid: int) -> bool:
    """True if the process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except GONE:
        return False
    return state != "Z"


def takes_signals(pid: int) -> bool:
    """True if the process does not block SIGTERM."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except GONE:
        return False
    [blocked] = [line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:")]
    return not int(blocked, 16) & (1 << (signal.SIGTERM - 1))


def children_of(pid: int) -> list[int]:
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except GONE:
        return []


def _is_told(pid: int, argument: bytes) -> bool:
    """True if the process was started with this argument."""
    try:
        return argument in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except GONE:
        return False


class Serving:
    """`manage.py serve` on a free port. Entering waits until it answers, leaving kills it."""

    def __init__(self, data_dir: Path, **variables: str) -> None:
        self.data_dir = data_dir
        self.reservation = reserved_port()
        self.port = int(self.reservation.getsockname()[1])
        self.output = data_dir.parent / f"serve-{self.port}.txt"
        self.variables = {"DATA_DIR": str(data_dir), "PORT": str(self.port)} | variables

    def __enter__(self) -> "Serving":
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, ROOT / "manage.py", "serve", "--no-demo"],
                env=environment(**self.variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_until_healthy()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.reservation.close()

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def children(self) -> list[int]:
        """All child processes of `serve`. Those of the database are not among them."""
        own = children_of(self.process.pid)
        return [*own, *(pid for child in own for pid in children_of(child))]

    @property
    def web(self) -> int | None:
        """Gunicorn's master process."""
        own = children_of(self.process.pid)
        return next((pid for pid in own if _is_told(pid, b"config.wsgi")), None)

    @property
    def workers(self) -> list[int]:
        """The processes that answer requests."""
        return children_of(self.web) if self.web else []

    @property
    def job_worker(self) -> int | None:
        own = children_of(self.process.pid)
        return next((pid for pid in own if _is_told(pid, b"worker")), None)

    def wait_for_job_worker(self) -> int:
        wait_for(lambda: self.job_worker is not None)
        assert self.job_worker is not None
        return self.job_worker

    @property
    def postmaster(self) -> int:
        return postmaster(self.data_dir)

    def health(self) -> int:
        """Returns the status of /readyz; 0 while nothing answers."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=PATIENCE_SECONDS) as page:
                return int(page.status)
        except HTTPError as refusal:
            return refusal.code
        except (URLError, ConnectionError):
            return 0

    def wait_until_healthy(self) -> None:
        wait_for(lambda: self.process.poll() is not None or self.health() == 200)
        assert self.process.poll() is None, self.said

    def press_ctrl_c(self) -> int:
        """Sends SIGINT to every process of the group, as a terminal does; returns the status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(PATIENCE_SECONDS)


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])


def wait_for(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert time.monotonic() < end, f"not within {PATIENCE_SECONDS} seconds"
        time.sleep(0.05)
