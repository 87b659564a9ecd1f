"""PostgreSQL servers that the benchmark makes for itself and throws away.

`found(18)` looks for the programs of a major version: those of the embedded PostgreSQL, those that
`pg_config` names, and those at Debian's place. A cluster has initdb's default settings. The
embedded version runs with the panel's own settings of it (`config.embedded`), in a DATA_DIR of its
own.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured

from config.embedded import programs

DEBIAN: Final = "/usr/lib/postgresql/{major}/bin"
ACCOUNTS: Final = ("postgres", "billingdb")  # PostgreSQL refuses to run as root
USER: Final = "billing"


@dataclass(frozen=True)
class Cluster:
    """A server, and the variables for a process that uses it. `data` is None if it is not ours."""

    programs: Path | None
    data: Path | None
    variables: dict[str, str]
    about: str
    is_started: bool = False  # by the benchmark, which stops it

    def account(self) -> dict[str, Any]:
        """Returns the arguments by which subprocess runs a program as the data's owner."""
        return _account_of(self.data) if self.data else {}


def embedded_version() -> int | None:
    try:
        return int(programs.version())
    except ImproperlyConfigured:
        return None


def found(major: int) -> Path | None:
    """Returns the directory of the programs of this major version, if there is one."""
    places = [Path(DEBIAN.format(major=major))]
    if config := shutil.which("pg_config"):
        asked = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        places.append(Path(asked.stdout.strip()))
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists():
            said = subprocess.run(
                [place / "postgres", "--version"], capture_output=True, text=True, check=True
            )
            if said.stdout.split()[2].split(".")[0] == str(major):
                return place
    return None


@contextmanager
def embedded(scratch: Path) -> Iterator[Cluster]:
    """The embedded PostgreSQL, which the first process that connects starts and the last stops."""
    data_dir = Path(tempfile.mkdtemp(prefix="benchmark-", dir=scratch))
    try:
        yield Cluster(
            programs=programs.directory(),
            data=data_dir / "postgres",
            variables={"DATA_DIR": str(data_dir), "DATABASE_URL": ""},
            about="the embedded one, with the panel's settings of it",
        )
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


@contextmanager
def started(place: Path, scratch: Path) -> Iterator[Cluster]:
    """A new cluster with initdb's default settings, on a socket in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=scratch) as name:
        folder = Path(name)
        data = folder / "data"
        data.mkdir(mode=0o700)
        folder.chmod(0o755)
        if os.geteuid() == 0:
            for path in (folder, data):
                os.chown(path, *_first_account())
        cluster = Cluster(
            programs=place,
            data=data,
            variables={
                "DATA_DIR": str(folder / "panel"),
                "DATABASE_URL": f"postgres://{USER}@/postgres?host={folder}",
            },
            about="a new cluster with initdb's default settings",
            is_started=True,
        )
        _run(cluster, "initdb", "--username", USER, "--auth=trust", "--encoding=UTF8",
             "--locale=C.UTF-8", "--pgdata", str(data))  # fmt: skip
        start(cluster)
        try:
            yield cluster
        finally:
            stop(cluster)


def start(cluster: Cluster) -> None:
    assert cluster.data
    options = f"-c listen_addresses= -k {cluster.data.parent}"
    _run(cluster, "pg_ctl", "start", "--silent", "--wait", "--pgdata", str(cluster.data),
         "--log", str(cluster.data.parent / "log"), "--options", options)  # fmt: skip


def stop(cluster: Cluster) -> None:
    """Stops the server if it runs."""
    assert cluster.data
    if (cluster.data / "postmaster.pid").exists():
        _run(cluster, "pg_ctl", "stop", "--silent", "--wait", "--mode=fast",
             "--pgdata", str(cluster.data))  # fmt: skip


def _run(cluster: Cluster, program: str, *arguments: str) -> None:
    assert cluster.programs
    assert cluster.data
    with tempfile.TemporaryFile("w+") as log:  # the server would keep a pipe open
        done = subprocess.run(
            [cluster.programs / program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            check=False,
            **cluster.account(),
        )
        if done.returncode:
            log.seek(0)
            raise SystemExit(f"{program} failed:\n{log.read()}")


def _account_of(path: Path) -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    owner = path.stat()
    return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}


def _first_account() -> tuple[int, int]:
    for name in ACCOUNTS:
        try:
            found_account = pwd.getpwnam(name)
        except KeyError:
            continue
        return found_account.pw_uid, found_account.pw_gid
    raise SystemExit("PostgreSQL does not run as root, and there is no account “postgres”.")
