"""Starts and stops the embedded PostgreSQL of a data directory.

File locks keep track of the processes that use the server. The kernel releases them when a process
ends, however it ends:

- `postgres.lock` is held while a process starts or stops the server;
- `postgres.users` is held as a shared lock by each process that has opened a connection, and by its
  forks. The last one to leave stops the server.

If all of these processes are killed, the server keeps running. The next process finds that it
answers, uses it, and stops it when it leaves.
"""

import atexit
import fcntl
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from django.db import OperationalError

from config.embedded import programs

START_TIMEOUT_SECONDS: Final = 600  # crash recovery of a large database takes its time
RETRY_TIMEOUT_SECONDS: Final = 60  # until the processes and memory of a killed server are gone
STOP_TIMEOUT_SECONDS: Final = 60
INTERRUPT_TIMEOUT_SECONDS: Final = 5
SOCKET_PATH_MAX_BYTES: Final = 100  # the kernel allows 107 for the path and the socket's name
# Lets a server process keep the memory that a transaction has freed. Without this, giving it back
# to the kernel and asking for it again takes a tenth of the time of posting.
MALLOC_TRIM_THRESHOLD_BYTES: Final = 16 * 1024 * 1024
# PostgreSQL and libpq give commas and quotes in a socket's directory a meaning of their own.
PLAIN_PATH: Final = re.compile(r"[A-Za-z0-9_./ -]+")
SYSTEM_USER_FOR_ROOT: Final = "billingdb"  # PostgreSQL refuses to run as root
USERADD_LOCKED: Final = (1, 10)  # useradd's statuses: it could not write the users, or the groups

SERVER_OPTIONS: Final = {
    "listen_addresses": "",  # the socket only, which only this system user can reach
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "logging_collector": "off",
    "timezone": "UTC",
}

APPENDING: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT

# Exit statuses of pg_isready.
ACCEPTING: Final = 0
REJECTING: Final = 1  # the server is starting, recovering or stopping

# Parts of the errors of a start that succeeds if it is tried again a little later: processes of a
# killed server still hold its memory, or a server whose starter was killed has not opened its
# socket yet.
TOO_EARLY: Final = ("shared memory block", "lock file")


class Account(NamedTuple):
    """The system account that PostgreSQL's programs run under when this process is root."""

    user_id: int
    group_id: int


class Server:
    """The PostgreSQL server whose data is in `data_dir`/postgres.

    `Server.at(data_dir)` gives the one instance of this process for a directory.
    """

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

    # --- For callers ------------------------------------------------------------------------

    @property
    def socket_dir(self) -> Path:
        """The directory of the server's socket: that of the data, or one in /tmp if the path of
        the data is too long or has characters that a socket's path may not have.
        """
        path = os.fsencode(self.cluster_dir)
        fits = len(path) <= SOCKET_PATH_MAX_BYTES - len("/.s.PGSQL.5432")
        if fits and PLAIN_PATH.fullmatch(str(self.cluster_dir)):
            return self.cluster_dir
        # Not TMPDIR: every process has to find the same directory.
        return Path("/tmp") / f"billing-{sha256(path).hexdigest()[:16]}"  # noqa: S108

    @property
    def is_held(self) -> bool:
        """True if this process is counted among the users of the server."""
        return self._users_lock is not None and self._owner_pid == os.getpid()

    def ensure_running(self, database: str) -> None:
        """Starts the server unless it runs, and creates `database` unless it exists.

        Raises OperationalError with one sentence if that is not possible.
        """
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            with self._starting_or_stopping():
                self._create_cluster()
                self._hold()  # before the start, so that `release` stops an interrupted one
                self._start()
                self._create_database(database)
        except OSError as problem:
            raise OperationalError(
                f"the embedded PostgreSQL cannot be used: {problem.filename or self.data_dir}: "
                f"{problem.strerror}"
            ) from problem

    def release(self) -> None:
        """Stops using the server; the last process to do so shuts it down.

        This runs when the interpreter exits. An exception there (the data directory is gone, or
        Ctrl-C was pressed again) could only be printed, so it is suppressed.
        """
        handle = self._users_lock
        if handle is None or not self.is_held:
            return
        with (
            suppress(OSError, OperationalError, KeyboardInterrupt, SystemExit),
            self._starting_or_stopping(),
        ):
            self._users_lock = None
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # others still use it
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough: forks share the handle
                os.close(handle)
            self._run(
                *("pg_ctl", "stop", "--mode=fast", "--wait", f"--timeout={STOP_TIMEOUT_SECONDS}"),
                check=False,
            )
            if self.socket_dir != self.cluster_dir:
                self.socket_dir.rmdir()

    # --- Locks ------------------------------------------------------------------------------

    @contextmanager
    def _starting_or_stopping(self) -> Iterator[None]:
        lock = self._open_lock("postgres.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _hold(self) -> None:
        if self.is_held:
            return
        if self._users_lock is not None:  # inherited from the parent, which keeps its own lock
            os.close(self._users_lock)
        self._users_lock = self._open_lock("postgres.users")
        self._owner_pid = os.getpid()
        fcntl.flock(self._users_lock, fcntl.LOCK_SH)

    @classmethod
    def _hold_after_fork(cls) -> None:
        """Counts a forked process as a user of the server: it may be the last one to leave."""
        for server in cls._servers.values():
            if server._users_lock is not None:
                with suppress(OSError):
                    server._hold()

    def _open_lock(self, name: str) -> int:
        # Read access is enough to lock a file, also one that another account has made.
        return os.open(self.data_dir / name, os.O_RDONLY | os.O_CREAT, 0o644)

    # --- The server -------------------------------------------------------------------------

    def _create_cluster(self) -> None:
        if (self.cluster_dir / "PG_VERSION").exists():
            self._check_version()
            return
        self._let_account_pass()
        # initdb works in a directory of its own, which is renamed when it is complete. So an
        # interrupted initdb leaves nothing that looks like a database.
        for leftover in self.data_dir.glob("postgres.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self.data_dir))
        if account := self._account():
            os.chown(scratch, *account)
        # PostgreSQL's own collation depends on no locale of the machine.
        self._run(
            *("initdb", "--pgdata", str(scratch), "--username", self.USER, "--auth=trust"),
            *("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *("--locale=C", "--no-instructions", "--data-checksums"),
        )
        scratch.rename(self.cluster_dir)

    def _check_version(self) -> None:
        found = (self.cluster_dir / "PG_VERSION").read_text().strip()
        bundled = programs.version()
        if found != bundled:
            raise OperationalError(
                f"the data in {self.cluster_dir} was written by PostgreSQL {found}, "
                f"the embedded one is {bundled}; see “Upgrade” in docs/operations.md"
            )

    def _start(self) -> None:
        started_at = time.monotonic()
        while (answer := self._answer()) != ACCEPTING:
            problem = "it does not accept connections"
            timeout_seconds = START_TIMEOUT_SECONDS
            if answer != REJECTING:
                self._let_account_pass()
                self._make_socket_dir()
                self._forget_killed_server()
                problem = self._try_to_start()
                if not problem:
                    return
                timeout_seconds = RETRY_TIMEOUT_SECONDS
                if not any(message in problem for message in TOO_EARLY):
                    timeout_seconds = 0
            if time.monotonic() - started_at >= timeout_seconds:
                raise OperationalError(
                    f"the embedded PostgreSQL does not start: {problem} "
                    f"(all of it in {self.log_path})"
                )
            time.sleep(0.1)

    def _answer(self) -> int:
        return self._run(
            *("pg_isready", "-q", "-h", str(self.socket_dir)),
            *("-U", self.USER, "-d", "postgres"),  # or its log fills with a role that is not there
            check=False,
        )

    def _try_to_start(self) -> str:
        """Starts the server and waits until it accepts connections. Returns "", or the error.

        pg_ctl passes the command to a shell as one line. So no path of the data directory is part
        of it: the directory is passed in the environment, the log as the output, and the program
        by a name relative to its own directory.
        """
        options = [f"-c {name}='{value}'" for name, value in SERVER_OPTIONS.items()]
        with os.fdopen(os.open(self.log_path, APPENDING, 0o600), "a+", errors="replace") as log:
            log.seek(0, os.SEEK_END)
            before = log.tell()
            failed = self._run(
                *("pg_ctl", "start", "--wait", f"--timeout={START_TIMEOUT_SECONDS}"),
                *("-p", "./postgres", "-o", " ".join([*options, f"-k '{self.socket_dir}'"])),
                check=False,
                output=log,
            )
            if not failed:
                return ""
            log.seek(before)
            lines = log.read().splitlines()
        errors = [line for line in lines if "FATAL" in line or "PANIC" in line]
        return str((errors or lines or ["it says nothing"])[-1])

    def _make_socket_dir(self) -> None:
        if self.socket_dir == self.cluster_dir:
            return
        self.socket_dir.mkdir(mode=0o700, exist_ok=True)
        account = self._account()
        found = self.socket_dir.lstat()
        # In /tmp anybody could have made this directory, to answer in the server's place.
        ours = {os.geteuid(), account.user_id} if account else {os.geteuid()}
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in ours:
            raise OperationalError(f"{self.socket_dir} belongs to another user; remove it")
        self.socket_dir.chmod(0o700)
        if account:
            os.chown(self.socket_dir, *account)

    def _forget_killed_server(self) -> None:
        """Removes the lock files of a server that is gone although its process id is in use.

        The id may belong to another program by now, or to a zombie. PostgreSQL cannot tell these
        from a running server, and would refuse to start.
        """
        for lock in (
            self.cluster_dir / "postmaster.pid",
            self.socket_dir / ".s.PGSQL.5432.lock",
        ):
            try:
                pid = int(lock.read_text().split("\n", 1)[0])
            except (FileNotFoundError, ValueError):
                continue
            if not self._is_server(pid):
                lock.unlink(missing_ok=True)

    def _is_server(self, pid: int) -> bool:
        """True if process `pid` is a server of this data.

        The working directory of all processes of a server is its data directory.
        """
        import psutil

        try:
            process = psutil.Process(pid)
            return (
                process.status() != psutil.STATUS_ZOMBIE
                and process.name() == "postgres"
                and Path(process.cwd()) == self.cluster_dir
            )
        except psutil.Error:
            return False  # it is gone, or belongs to another account

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

    # --- Running as root --------------------------------------------------------------------

    def _account(self) -> Account | None:
        """Returns the owner of the data, or an account that is made for it; None unless root."""
        if os.geteuid() != 0:
            return None
        with suppress(FileNotFoundError):
            found = self.cluster_dir.stat()
            if found.st_uid != 0:
                return Account(found.st_uid, found.st_gid)
        try:
            user = pwd.getpwnam(SYSTEM_USER_FOR_ROOT)
        except KeyError:
            user = _add_system_user()
        return Account(user.pw_uid, user.pw_gid)

    def _let_account_pass(self) -> None:
        """As root, gives the server's account the rights that a strict umask has taken from it.

        It may then pass through (not list) the directories above its data and programs, and read
        and run the programs.
        """
        if not self._account():
            return
        for place in (self.cluster_dir, *programs.trees()):
            for parent in place.parents:
                _allow(parent, stat.S_IXOTH)
        everybody = stat.S_IROTH | stat.S_IXOTH
        for tree in programs.trees():
            if not tree.exists() or tree.stat().st_mode & everybody == everybody:
                continue
            for place in (*tree.rglob("*"), tree):  # the tree last: its mode marks all as done
                is_executable = place.is_dir() or place.stat().st_mode & stat.S_IXUSR
                _allow(place, everybody if is_executable else stat.S_IROTH)

    # --- PostgreSQL's programs --------------------------------------------------------------

    def _run(
        self, program: str, *arguments: str, check: bool = True, output: IO[str] | None = None
    ) -> int:
        """Runs a program to its end and returns its exit status.

        With `check`, a failure raises OperationalError with the last line of the output. The output
        goes to a file: a server that the program starts would keep a pipe open as long as it runs.
        """
        with nullcontext(output) if output else tempfile.TemporaryFile("w+") as log:
            status = self._wait_for([f"./{program}", *arguments], log)
            if check and status:
                log.seek(0)
                lines = log.read().strip().splitlines()
                raise OperationalError(f"{program} failed: {lines[-1] if lines else 'no output'}")
        return status

    def _wait_for(self, command: list[str], output: IO[str]) -> int:
        account: dict[str, Any] = {}
        if found := self._account():
            account = {"user": found.user_id, "group": found.group_id, "extra_groups": []}
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=programs.directory(),
            env={
                "PATH": os.defpath,
                "LC_ALL": "C",
                "TZ": "UTC",
                "PGDATA": str(self.cluster_dir),
                "MALLOC_TRIM_THRESHOLD_": str(MALLOC_TRIM_THRESHOLD_BYTES),
            },
            umask=0o077,
            start_new_session=True,  # Ctrl-C reaches this process only
            **account,
        )
        try:
            return process.wait()
        except BaseException:
            # On this signal, initdb removes its files and pg_ctl stops the server it is starting.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(INTERRUPT_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise


os.register_at_fork(after_in_child=Server._hold_after_fork)


def _allow(path: Path, bits: int) -> None:
    mode = path.stat().st_mode
    if mode & bits != bits:
        path.chmod(stat.S_IMODE(mode) | bits)


def _add_system_user() -> pwd.struct_passwd:
    useradd = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    reason = "there is no program useradd"
    started_at = time.monotonic()
    while True:
        status = 0
        if useradd:
            made = subprocess.run(
                [useradd, "--system", "--no-create-home", SYSTEM_USER_FOR_ROOT],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            status, reason = made.returncode, made.stderr.strip()
        # Another process may have made the account meanwhile.
        with suppress(KeyError):
            return pwd.getpwnam(SYSTEM_USER_FOR_ROOT)
        # Or it is making it now: useradd fails at once while another useradd writes.
        if status not in USERADD_LOCKED or time.monotonic() - started_at > RETRY_TIMEOUT_SECONDS:
            raise OperationalError(
                "PostgreSQL does not run as root, and the account "
                f"{SYSTEM_USER_FOR_ROOT} for it cannot be made: {reason}"
            )
        time.sleep(0.1)
