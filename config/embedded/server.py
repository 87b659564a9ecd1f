"""Starts and stops the embedded PostgreSQL of a data directory.

Who uses the server is kept in file locks, which the kernel lets go whenever a process ends, however
it ends:

- `postgres.lock` is held while somebody starts or stops the server;
- `postgres.users` is held, shared, by each process that has opened a connection, and by what it
  forks. The last one to leave stops the server.

Processes that are all killed leave the server running. The next one to come finds it answering,
uses it, and stops it when it leaves.
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
RETRY_TIMEOUT_SECONDS: Final = 60  # for what a killed server leaves behind to go away
STOP_TIMEOUT_SECONDS: Final = 60
INTERRUPT_TIMEOUT_SECONDS: Final = 5
SOCKET_PATH_MAX_BYTES: Final = 100  # the kernel allows 107 for the path and the socket's name
# Memory that a transaction freed stays with its process; giving it back to the kernel and asking
# for it again took a tenth of the time of posting.
MALLOC_TRIM_THRESHOLD_BYTES: Final = 16 * 1024 * 1024
# A comma or a quote in a socket's directory means something else to PostgreSQL and to libpq.
PLAIN_PATH: Final = re.compile(r"[A-Za-z0-9_./ -]+")
SYSTEM_USER_FOR_ROOT: Final = "billingdb"  # PostgreSQL refuses to run as root
USERADD_LOCKED: Final = (1, 10)  # it could not write the users, or the groups

SERVER_OPTIONS: Final = {
    "listen_addresses": "",  # the socket only, which only this system user can reach
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "logging_collector": "off",
    "timezone": "UTC",
}

APPENDING: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT

# What pg_isready tells by its exit status.
ACCEPTING: Final = 0
REJECTING: Final = 1  # it starts, recovers or stops

# What a start says that only comes too early: processes of a server that was killed still hold its
# memory, or a server whose starter was killed has not opened its socket yet.
TOO_EARLY: Final = ("shared memory block", "lock file")


class Account(NamedTuple):
    """Whom PostgreSQL's programs run as, when this process is root."""

    user_id: int
    group_id: int


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
        """Where the server's socket is: beside the data, or in /tmp if that path will not do."""
        path = os.fsencode(self.cluster_dir)
        fits = len(path) <= SOCKET_PATH_MAX_BYTES - len("/.s.PGSQL.5432")
        if fits and PLAIN_PATH.fullmatch(str(self.cluster_dir)):
            return self.cluster_dir
        # Not TMPDIR: every process has to find the same place.
        return Path("/tmp") / f"billing-{sha256(path).hexdigest()[:16]}"  # noqa: S108

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
                self._hold()  # before it runs: an interrupted start is stopped by `release`
                self._start()
                self._create_database(database)
        except OSError as problem:
            raise OperationalError(
                f"the embedded PostgreSQL cannot be used: {problem.filename or self.data_dir}: "
                f"{problem.strerror}"
            ) from problem

    def release(self) -> None:
        """Gives the server up; the last process to do so stops it.

        It runs when the interpreter ends, where an exception could only be printed: a data
        directory that is gone, or a second Ctrl-C.
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
        if self._users_lock is not None:  # inherited from the parent, which keeps its own
            os.close(self._users_lock)
        self._users_lock = self._open_lock("postgres.users")
        self._owner_pid = os.getpid()
        fcntl.flock(self._users_lock, fcntl.LOCK_SH)

    @classmethod
    def _hold_after_fork(cls) -> None:
        """Makes a forked process a user in its own right: it may be the last one to leave."""
        for server in cls._servers.values():
            if server._users_lock is not None:
                with suppress(OSError):
                    server._hold()

    def _open_lock(self, name: str) -> int:
        # Reading is enough for a lock, also for one that another account has made.
        return os.open(self.data_dir / name, os.O_RDONLY | os.O_CREAT, 0o644)

    # --- The server -------------------------------------------------------------------------

    def _create_cluster(self) -> None:
        if (self.cluster_dir / "PG_VERSION").exists():
            self._check_version()
            return
        self._let_account_pass()
        # initdb works in a directory of its own that is renamed when whole, so that an interrupted
        # one leaves nothing that looks like a database.
        for left in self.data_dir.glob("postgres.new-*"):
            shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self.data_dir))
        if account := self._account():
            os.chown(scratch, *account)
        # PostgreSQL's own collation needs no locale of the machine and does not change with it.
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
        """Starts the server and waits until it accepts connections; returns what it said if not.

        pg_ctl puts the command together as a line for the shell. What the data directory is called
        is therefore kept out of it: it comes by the environment, the log as the output, and the
        program by a name of its own directory.
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
        telling = [line for line in lines if "FATAL" in line or "PANIC" in line]
        return str((telling or lines or ["it says nothing"])[-1])

    def _make_socket_dir(self) -> None:
        if self.socket_dir == self.cluster_dir:
            return
        self.socket_dir.mkdir(mode=0o700, exist_ok=True)
        account = self._account()
        found = self.socket_dir.lstat()
        # In /tmp anybody could have made it, to answer in the server's place.
        ours = {os.geteuid(), account.user_id} if account else {os.geteuid()}
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in ours:
            raise OperationalError(f"{self.socket_dir} belongs to somebody else; remove it")
        self.socket_dir.chmod(0o700)
        if account:
            os.chown(self.socket_dir, *account)

    def _forget_killed_server(self) -> None:
        """Removes the lock files of a server that is gone, though its number is not.

        The number may be another program's by now, or a dead process keeps it that nobody has
        collected. PostgreSQL itself refuses to start then, to be on the safe side: it cannot tell.
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
        """Whether this process serves this data: all of a server's work in its data directory."""
        import psutil

        try:
            process = psutil.Process(pid)
            return (
                process.status() != psutil.STATUS_ZOMBIE
                and process.name() == "postgres"
                and Path(process.cwd()) == self.cluster_dir
            )
        except psutil.Error:
            return False  # it is gone, or another account's

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
        """The owner of the data, or an account made for it; None when this process is not root."""
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
        """As root: lets the server's account through (not list) the directories above its data and
        programs, and read and run the programs, which a strict umask keeps from it.
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
            for place in (*tree.rglob("*"), tree):  # itself last: it says that all is done
                runs = place.is_dir() or place.stat().st_mode & stat.S_IXUSR
                _allow(place, everybody if runs else stat.S_IROTH)

    # --- PostgreSQL's programs --------------------------------------------------------------

    def _run(
        self, program: str, *arguments: str, check: bool = True, output: IO[str] | None = None
    ) -> int:
        """Runs one of them to its end; returns its exit status, or raises with its last words.

        Output goes to a file: a pipe would stay open as long as a server that was started runs.
        """
        with nullcontext(output) if output else tempfile.TemporaryFile("w+") as said:
            status = self._wait_for([f"./{program}", *arguments], said)
            if check and status:
                said.seek(0)
                lines = said.read().strip().splitlines()
                raise OperationalError(f"{program} failed: {lines[-1] if lines else 'no output'}")
        return status

    def _wait_for(self, command: list[str], output: IO[str]) -> int:
        account: dict[str, Any] = {}
        if whom := self._account():
            account = {"user": whom.user_id, "group": whom.group_id, "extra_groups": []}
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
            start_new_session=True,  # Ctrl-C is this process's to handle
            **account,
        )
        try:
            return process.wait()
        except BaseException:
            # initdb cleans up after itself on this signal, pg_ctl stops the server it is starting.
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
        # Perhaps another process has made it meanwhile.
        with suppress(KeyError):
            return pwd.getpwnam(SYSTEM_USER_FOR_ROOT)
        # Or is at it: useradd does not wait for another one that writes.
        if status not in USERADD_LOCKED or time.monotonic() - started_at > RETRY_TIMEOUT_SECONDS:
            raise OperationalError(
                "PostgreSQL does not run as root, and the account "
                f"{SYSTEM_USER_FOR_ROOT} for it cannot be made: {reason}"
            )
        time.sleep(0.1)
