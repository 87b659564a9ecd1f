"""Measures balance changes over HTTP, on the production server: gunicorn with two processes.

The callers share the processor with the server. So they are one light loop in this process: each
has a connection that stays open and requests that were written before, and waits for its answer
before it sends the next.
"""

import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryFile
from time import perf_counter, process_time
from typing import Final

from django.conf import settings
from django.db import connection

from billing import authority
from config.postgresql.url import url_of
from tests.benchmarks import ways
from tests.benchmarks.options import Options
from tests.benchmarks.posting import WARM_UP_CALLS, rate_of
from tests.benchmarks.progress import progress
from tests.benchmarks.results import Line, ratio
from tests.benchmarks.ways import AMOUNT, DESCRIPTION
from users.models import User

ROOT: Final = Path(__file__).parents[2]
CALLERS: Final = 8
STARTS_SECONDS: Final = 60
ANSWERS_SECONDS: Final = 60


@dataclass(frozen=True)
class Server:
    """The panel under gunicorn, and an API key for it."""

    port: int
    key: str

    def request(self, method: str, address: str, body: object = None) -> bytes:
        """Returns the bytes of a request."""
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} /api/v1{address} HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{self.port}\r\n"
            f"Authorization: Bearer {self.key}\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content

    def balance_changes(self, user_ids: Sequence[int], calls: int) -> deque[bytes]:
        body = {"amount": str(AMOUNT), "description": DESCRIPTION}
        chosen = (user_ids[place % len(user_ids)] for place in range(calls))
        return deque(
            self.request("POST", f"/users/{user}/balance-changes", body) for user in chosen
        )


@dataclass
class Caller:
    """A connection that stays open, and what it has received of the present answer."""

    link: socket.socket
    requests: deque[bytes]
    received: bytes = b""
    sent_at: float = 0.0

    def send(self) -> None:
        self.sent_at = perf_counter()
        self.link.sendall(self.requests.popleft())

    def receive(self) -> bytes | None:
        """Returns the body of the answer once all of it is there."""
        found = self.link.recv(65_536)
        if not found:
            raise SystemExit("The server has closed a connection.")
        self.received += found
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return None
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return None
        if head.split(b" ", 2)[1] not in (b"200", b"201"):
            raise SystemExit(f"The API answered:\n{self.received.decode()}")
        self.received = b""
        return body


@dataclass(frozen=True)
class Called:
    """The seconds of all calls, of each, and those that the callers used of the processor."""

    seconds: float
    each: list[float]
    of_callers: float

    @property
    def rate(self) -> float:
        return len(self.each) / self.seconds


def call(server: Server, queues: Sequence[deque[bytes]]) -> Called:
    """Sends the requests of each caller, one after the other, and waits for all answers."""
    each: list[float] = []
    started, processor = perf_counter(), process_time()
    with selectors.DefaultSelector() as waiting:
        for requests in queues:
            link = socket.create_connection(("127.0.0.1", server.port), timeout=ANSWERS_SECONDS)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            caller = Caller(link, requests)
            waiting.register(link, selectors.EVENT_READ, caller)
            caller.send()
        while waiting.get_map():
            for key, _ in waiting.select(ANSWERS_SECONDS):
                caller = key.data
                if caller.receive() is None:
                    continue
                each.append(perf_counter() - caller.sent_at)
                if caller.requests:
                    caller.send()
                else:
                    waiting.unregister(caller.link)
                    caller.link.close()
    return Called(perf_counter() - started, each, process_time() - processor)


def one_call(server: Server, method: str, address: str) -> bytes:
    """Sends one request on a connection of its own, and returns the body of the answer."""
    link = socket.create_connection(("127.0.0.1", server.port), timeout=ANSWERS_SECONDS)
    with link:
        caller = Caller(link, deque([server.request(method, address)]))
        caller.send()
        while (body := caller.receive()) is None:
            pass
        return body


@contextmanager
def served() -> Iterator[Server]:
    """Starts the production server on the benchmark's database, as docs/deployment.md says."""
    owner = User.objects.create_superuser("programs@example.com", "programs")
    _, key = authority.issue_key(name="Benchmark", owner=owner, created_by=owner)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with TemporaryFile() as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "config.wsgi", "--bind", f"127.0.0.1:{port}"),
                *("--workers", "2", "--worker-class", "gthread", "--threads", "4"),
                *("--keep-alive", "60", "--no-control-socket", "--log-level", "warning"),
                *("--graceful-timeout", "1"),  # no call is under way when it ends
            ],
            cwd=ROOT,
            stderr=log,  # a line for each call, as in production
            env={
                "PATH": os.environ["PATH"],
                "HOME": os.environ.get("HOME", "/"),
                "ENVIRONMENT": "production",
                "SECRET_KEY": "of the benchmark alone, which serves nobody",
                "DATABASE_URL": url_of(connection.get_connection_params()),
                "DATA_DIR": str(settings.DATA_DIR),
                "SECURE_SSL_REDIRECT": "false",
                "API_REQUESTS_PER_MINUTE": "1000000",  # requests are counted, as in production
            },
        )
        try:
            if not _answers(port, process):
                log.seek(0)
                raise SystemExit(f"The server did not start:\n{log.read().decode()}")
            yield Server(port, key)
        finally:
            process.terminate()
            process.wait(STARTS_SECONDS)


def _answers(port: int, process: "subprocess.Popen[bytes]") -> bool:
    end = time.monotonic() + STARTS_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False


def measure(user_ids: Sequence[int], options: Options) -> Iterator[Line]:
    single = rate_of(ways.LEDGER, user_ids)
    rates: list[float] = []
    called: dict[int, list[Called]] = {1: [], CALLERS: []}
    with served() as server:
        single(WARM_UP_CALLS)
        _called(server, user_ids, CALLERS, WARM_UP_CALLS)
        for _ in progress(range(options.rounds), "Over HTTP"):
            rates.append(single(options.calls))
            for callers, found in called.items():
                found.append(_called(server, user_ids, callers, options.calls * 2 // callers))
    for callers, found in reversed(called.items()):
        what = f"Balance changes over HTTP, {callers} caller{'s' if callers > 1 else ''}"
        yield ratio(
            f"{what}, of the ledger's single rate",
            f"API {median(each.rate for each in found):,.0f}/s",
            f"ledger, 1 connection {median(rates):,.0f}/s",
            median(each.rate / rate for each, rate in zip(found, rates, strict=True)),
            "≥ 0.5" if callers == CALLERS else "",
        )
        times = [seconds * 1000 for each in found for seconds in each.each]
        p50, p99 = median(times), quantiles(times, n=100)[98]
        yield Line(what=f"{what}, p50", shown=f"{p50:.1f} ms", value=p50)
        yield Line(
            what=f"{what}, p99", shown=f"{p99:.1f} ms", value=p99, detail=f"of {len(times):,} calls"
        )
        share = median(each.of_callers / each.seconds for each in found)
        yield Line(
            what=f"{what}, the callers' own share of one core", shown=f"{share:.0%}", value=share
        )


def _called(server: Server, user_ids: Sequence[int], callers: int, calls: int) -> Called:
    """Makes `calls` changes by each caller, on users of its own."""
    queues = [
        server.balance_changes(user_ids[place::callers], max(1, calls)) for place in range(callers)
    ]
    return call(server, queues)
