"""Measures the Billing API over HTTP, on the production server: gunicorn with two processes.

The callers are threads of this process, which shares the processor with the server.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryFile
from threading import Barrier, Thread
from time import perf_counter
from typing import Any, Final
from urllib.parse import quote

from django.db import connection

from billing import authority
from config.postgresql.url import url_of
from tests.benchmarks.posting import NAMES, _rate
from tests.benchmarks.report import Line, progress
from tests.benchmarks.tab import SHORT_HISTORY
from tests.benchmarks.ways import AMOUNT, DESCRIPTION, WAYS
from users.models import User

ROOT: Final = Path(__file__).parents[2]
CALLERS: Final = 8
STARTS_SECONDS: Final = 60
PAGE_SIZE: Final = 50
WARM_UP_CALLS: Final = 20


class Server:
    """The panel under gunicorn, and an API key for it."""

    def __init__(self, port: int, key: str) -> None:
        self.port = port
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def caller(self) -> "Caller":
        return Caller(self)


class Caller:
    """A client with one connection, which it keeps."""

    def __init__(self, server: Server) -> None:
        self.http = HTTPConnection("127.0.0.1", server.port, timeout=60)
        self.headers = server.headers

    def call(self, method: str, address: str, body: object = None) -> Any:
        text = None if body is None else json.dumps(body)
        self.http.request(method, f"/api/v1{address}", text, self.headers)
        response = self.http.getresponse()
        answer = json.loads(response.read())
        if response.status not in (200, 201):
            raise SystemExit(f"{address} answered {response.status}: {answer}")
        return answer

    def change_balance(self, user_id: int) -> None:
        body = {"amount": str(AMOUNT), "description": DESCRIPTION}
        self.call("POST", f"/users/{user_id}/balance-changes", body)


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
            ],
            cwd=ROOT,
            stderr=log,  # a line for each call, as in production
            env={
                "PATH": os.environ["PATH"],
                "HOME": os.environ.get("HOME", "/"),
                "ENVIRONMENT": "production",
                "SECRET_KEY": "of the benchmark alone, which serves nobody",
                "DATABASE_URL": _address_of_database(),
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
            process.wait(30)


def _address_of_database() -> str:
    return url_of(connection.get_connection_params())


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


def measure_http(user_ids: Sequence[int], *, rounds: int, calls: int) -> Iterator[Line]:
    rates: dict[str, list[float]] = {"ledger": [], "1": [], f"{CALLERS}": []}
    with served() as server:
        caller = server.caller()
        _rate(WAYS["ledger"], user_ids, WARM_UP_CALLS)
        _rate_at_once(server, user_ids, CALLERS * WARM_UP_CALLS)
        for _ in progress(range(rounds), "Over HTTP"):
            rates["ledger"].append(_rate(WAYS["ledger"], user_ids, calls))
            rates["1"].append(_rate(caller.change_balance, user_ids, calls))
            rates[f"{CALLERS}"].append(_rate_at_once(server, user_ids, calls * 2))
    for callers in ("1", f"{CALLERS}"):
        ratios = [a / b for a, b in zip(rates[callers], rates["ledger"], strict=True)]
        yield Line(
            what=f"Balance changes over HTTP, {callers} caller{'s' if callers != '1' else ''}",
            measured=f"API {median(rates[callers]):,.0f}/s",
            against=f"{NAMES['ledger']}, 1 connection {median(rates['ledger']):,.0f}/s",
            ratio=median(ratios),
            target=None,
            target_text="",
            is_met=None,
        )


def _rate_at_once(server: Server, user_ids: Sequence[int], calls: int) -> float:
    """Returns the changes per second of several callers, each on users of its own."""
    each = calls // CALLERS
    start = Barrier(CALLERS + 1)

    def work(place: int) -> None:
        caller = server.caller()
        mine = user_ids[place::CALLERS]
        caller.change_balance(mine[0])  # connects
        start.wait()
        for number in range(each):
            caller.change_balance(mine[number % len(mine)])

    threads = [Thread(target=work, args=[place]) for place in range(CALLERS)]
    for thread in threads:
        thread.start()
    start.wait()
    started = perf_counter()
    for thread in threads:
        thread.join()
    return each * CALLERS / (perf_counter() - started)


def measure_pages(long: User, short: User, *, transactions: int, rounds: int) -> Iterator[Line]:
    """Measures page after page of a long history, each next to the page of a short one."""
    times: dict[str, list[float]] = {"long": [], "short": []}
    with served() as server:
        caller = server.caller()
        cursor = ""
        for place in progress(range(rounds * 40 + WARM_UP_CALLS), "Pages over HTTP"):
            for name, user, query in (("long", long, cursor), ("short", short, "")):
                address = f"/users/{user.pk}/transactions?limit={PAGE_SIZE}{query}"
                started = perf_counter()
                page = caller.call("GET", address)
                if place >= WARM_UP_CALLS:
                    times[name].append(perf_counter() - started)
                if name == "long":
                    cursor = f"&cursor={quote(page['next_cursor'])}"
    for what, figure in (("p50", median), ("p99", lambda found: quantiles(found, n=100)[98])):
        ours, theirs = figure(times["long"]), figure(times["short"])
        yield Line(
            what=f"Page of {PAGE_SIZE} over HTTP, of {transactions // 10:,}, {what}",
            measured=f"{ours * 1000:.1f} ms",
            against=f"of a user with {SHORT_HISTORY}, {what} {theirs * 1000:.1f} ms",
            ratio=ours / theirs,
            target=None,
            target_text="",
            is_met=None,
        )
