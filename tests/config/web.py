"""The panel under gunicorn, on the test database, for tests with real requests."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import psycopg
from django.db import connection

from config.postgresql.url import url_of
from tests.config.processes import PATIENCE_SECONDS, ROOT, environment, reserved_port, wait_for


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str


def ask(
    port: int, path: str, method: str = "GET", body: str | None = None, **headers: str
) -> Answer:
    """Makes one request on a new connection. Status 0: the connection was refused or broken."""
    http = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    try:
        http.request(method, path, body, {n.replace("_", "-"): v for n, v in headers.items()})
        response = http.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, received, response.read().decode(errors="replace"))
    except (OSError, HTTPException) as error:
        return Answer(0, {}, repr(error))
    finally:
        http.close()


def address_of_database() -> str:
    return url_of(connection.get_connection_params())


def handing_over(listener: socket.socket) -> tuple[str, ...]:
    """Returns the beginning of a command line that passes a socket on the way systemd does."""
    script = (
        f"import os, sys; os.dup2({listener.fileno()}, 3); "
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return (sys.executable, "-c", script)


class Web:
    """Gunicorn as in docs/deployment.md. Entering waits until it answers; leaving kills it."""

    def __init__(
        self,
        place: Path,
        *,
        workers: int = 2,
        listener: socket.socket | None = None,
        **variables: str,
    ) -> None:
        self.place = place
        self.workers = workers
        self.listener = listener  # of a supervisor that passes its socket on
        self.reservation = listener.dup() if listener else reserved_port()
        self.port = int(self.reservation.getsockname()[1])
        self.variables = {
            "ENVIRONMENT": "local",
            "DATA_DIR": str(place),
            "DATABASE_URL": address_of_database(),
        } | variables

    def __enter__(self) -> "Web":
        self.log = (self.place / "gunicorn.txt").open("w+")
        self.process = subprocess.Popen(
            [
                *(handing_over(self.listener) if self.listener else ()),
                *(sys.executable, "-m", "gunicorn", "config.wsgi"),
                *("--config", "python:config.serving", "--bind", f"127.0.0.1:{self.port}"),
                *("--workers", str(self.workers), "--log-level", "info"),
            ],
            cwd=ROOT,
            env=environment(**self.variables),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            pass_fds=[self.listener.fileno()] if self.listener else (),
        )
        try:
            wait_for(lambda: self.process.poll() is not None or self.get("/healthz").status > 0)
            assert self.process.poll() is None, self.said
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()
        self.reservation.close()

    @property
    def said(self) -> str:
        return (self.place / "gunicorn.txt").read_text()

    def get(self, path: str, **headers: str) -> Answer:
        return ask(self.port, path, **headers)

    def post(self, path: str, body: str, **headers: str) -> Answer:
        return ask(self.port, path, "POST", body, **headers)


@contextmanager
def another_connection() -> Iterator["psycopg.Connection[Any]"]:
    """A connection like that of somebody's psql; its transaction is rolled back."""
    with psycopg.connect(address_of_database()) as beside:
        yield beside
        beside.rollback()
