"""Counts the instructions that the database server executes for one posting.

A server on a copy of the data runs under valgrind's callgrind, which counts each of its processes
apart. Two connections differ only in how many calls they make, so that the difference is what the
calls cost, without the start of a connection. Nothing else that the machine does changes the count.

`statements` needs Django and the running server: it prepares a database, and writes the statements
down. `measure` runs after the server has stopped.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg

from tests.benchmarks.clusters import Cluster
from tests.benchmarks.results import Line, not_measured

DATABASE: Final = "benchmark_instructions"
FEWER: Final = 10
MORE: Final = 30
BATCH_SIZE: Final = 200
FEWER_BATCHES: Final = 2
MORE_BATCHES: Final = 4
TARGET: Final = "≤ 1,100,000"

BARE: Final = "Bare floor"
RULED: Final = "Ruled floor"
PGLEDGER: Final = "pgledger, one transfer"
SINGLE: Final = "Ledger, one change, prepared, as it calls"
AS_TEXT: Final = "Ledger, one change, sent as text"
BATCH: Final = f"Ledger, one entry of a batch of {BATCH_SIZE}"
SERVICE: Final = "Ledger, service charge without bonus"
BONUS: Final = "Ledger, service charge from the bonus"
FLOOR_PREPARED: Final = "Bare floor, prepared"

# name → {"calls": […], "entries": each call's}. A call is a statement as text or, with "prepared",
# the values of that statement.
Statements = dict[str, Any]


# --- Before: in the running server --------------------------------------------------------------


def statements(user_ids: list[int]) -> Statements:
    """Gives the users money, and returns the statements of each way, each on one line."""
    from billing import ledger
    from billing.ledger.entries import as_json
    from billing.models import Channel
    from tests.benchmarks import pgledger, ways

    def change(user: int) -> dict[str, Any]:
        entry = ledger.balance_change_entry(user, amount=ways.AMOUNT, description=ways.DESCRIPTION)
        return as_json(entry)

    def service(user: int) -> dict[str, Any]:
        entry = ledger.service_entry(
            user, service="sms", cost=ways.AMOUNT, description="One message", device="A tracker"
        )
        return as_json(entry)

    money = [
        ledger.balance_change_entry(user, amount=1_000, description="To start with")
        for user in user_ids
    ]
    ledger.post_batch(money, actor=None, channel=Channel.API)
    with_bonus = user_ids[::2]
    without = user_ids[1::2]
    ledger.post_batch(
        [
            ledger.bonus_entry(user, amount=1_000, description="A gift", subtype="gift")
            for user in with_bonus
        ],
        actor=None,
        channel=Channel.API,
    )
    found = {
        BARE: _floor("plain", user_ids),
        FLOOR_PREPARED: _prepared_floor("plain", user_ids),
        RULED: _floor("ruled", user_ids),
    }
    if pgledger.accounts:
        found[PGLEDGER] = {
            "calls": [_transfer(*pgledger.accounts[user]) for user in user_ids[:MORE]]
        }
    return found | {
        SINGLE: _as_called([change(user)] for user in without[:MORE]),
        AS_TEXT: {"calls": [_post([change(user)]) for user in without[:MORE]]},
        BATCH: {
            **_as_called(
                [change(user_ids[(place * 7) % len(user_ids)]) for place in range(BATCH_SIZE)]
                for _ in range(MORE_BATCHES)
            ),
            "entries": BATCH_SIZE,
        },
        SERVICE: _as_called([service(user)] for user in without[:MORE]),
        BONUS: _as_called([service(user)] for user in with_bonus[:MORE]),
    }  # fmt: skip


def _floor(tables: str, user_ids: list[int]) -> dict[str, Any]:
    from tests.benchmarks import ways

    values = [_quoted(value) for value in ways.floor_values(0)]
    statement = " ".join(ways.FLOORS[tables].split())
    calls = []
    for user in user_ids[:MORE]:
        values[ways.PLACE_OF_USER] = str(user)
        calls.append(statement % tuple(values))
    return {"calls": calls}


def _prepared_floor(tables: str, user_ids: list[int]) -> dict[str, Any]:
    from tests.benchmarks import ways

    values = [_quoted(value) for value in ways.floor_values(0)]
    values[ways.PLACE_OF_USER] = "%s"
    return {
        "prepared": " ".join(ways.FLOORS[tables].split()) % tuple(values),
        "calls": [[user] for user in user_ids[:MORE]],
    }


def _as_called(batches: Iterable[list[dict[str, Any]]]) -> dict[str, Any]:
    from billing.ledger import posting

    return {
        "prepared": posting._CALL,
        "calls": [[json.dumps(entries), None, "api", False] for entries in batches],
    }


def _transfer(outside: str, account: str) -> str:
    return f"SELECT * FROM pgledger_create_transfer('{outside}', '{account}', 1.0000)"


def _post(entries: list[dict[str, Any]]) -> str:
    return (
        'SELECT "position", outcome, refusal, (posted).* '
        f"FROM billing_post({_json(entries)}, NULL, 'api', false)"
    )


def _json(entries: list[dict[str, Any]]) -> str:
    return _quoted(json.dumps(entries))


def _quoted(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'" if isinstance(value, str) else str(value)


# --- Afterwards: without the server -------------------------------------------------------------


def measure(cluster: Cluster, found: Statements, *, why_not: str) -> Iterator[Line]:
    names = [BARE, FLOOR_PREPARED, RULED, PGLEDGER, SINGLE, AS_TEXT, BATCH, SERVICE, BONUS]
    targets = {SINGLE: TARGET}
    counts: dict[str, float] = {}
    if not why_not:
        with _counting_server(cluster) as (folder, role):
            counts = {name: _count(folder, role, name, way) for name, way in found.items()}
    for name in names:
        target = targets.get(name, "")
        if name not in counts:
            missing = why_not or "PGLEDGER_SQL names no pgledger.sql"
            yield not_measured(name, missing, target)
            continue
        of_floor = f"{counts[name] / counts[BARE]:.2f} × the bare floor" if name != BARE else ""
        yield Line(
            what=name,
            shown=f"{counts[name]:,.0f}",
            value=counts[name],
            detail=of_floor,
            target=target,
        )


def why_not(cluster: Cluster) -> str:
    """Returns why nothing can be counted; "" if it can."""
    if cluster.data is None or cluster.programs is None:
        return "only a server that the benchmark has started itself can be counted"
    if not shutil.which("valgrind"):
        return "valgrind is not installed"
    return ""


@contextmanager
def _counting_server(cluster: Cluster) -> Iterator[tuple[Path, str]]:
    """Runs a server on a copy of the data, and yields the directory of its socket and a role."""
    assert cluster.data
    assert cluster.programs
    with tempfile.TemporaryDirectory(dir=cluster.data.parent) as name:
        folder = Path(name)
        copy = folder / "data"
        shutil.copytree(cluster.data, copy, ignore=shutil.ignore_patterns("postmaster.pid"))
        (copy / "pg_hba.conf").write_text("local all all trust\n")
        if os.geteuid() == 0:
            owner = cluster.data.stat()
            for path in (folder, copy, *copy.rglob("*")):
                os.chown(path, owner.st_uid, owner.st_gid)
        with subprocess.Popen(
            [
                *("valgrind", "--tool=callgrind", "--trace-children=yes"),
                *(f"--callgrind-out-file={folder}/%p", cluster.programs / "postgres"),
                *("-D", copy, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"),
                *("-c", "huge_pages=off", "-c", "autovacuum=off"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **cluster.account(),
        ) as server:
            try:
                yield folder, _role(folder)
            finally:
                server.send_signal(signal.SIGINT)  # ends the connections, too
                server.wait()


def _role(folder: Path) -> str:
    """Waits for the server, and returns the role that may do everything."""
    for _ in range(600):
        for role in ("billing", "postgres"):
            try:
                _connection(folder, role).close()
            except psycopg.OperationalError:
                continue
            return role
        time.sleep(0.1)
    raise SystemExit("The server did not start under callgrind.")


def _connection(folder: Path, role: str) -> psycopg.Connection:
    return psycopg.connect(
        host=str(folder), user=role, dbname=DATABASE, autocommit=True,
        options="-c search_path=public,pg_temp -c jit=off",
    )  # fmt: skip


def _count(folder: Path, role: str, name: str, way: dict[str, Any]) -> float:
    """Returns the instructions of one call, or of one entry of a batch."""
    entries = way.get("entries", 1)
    fewer, more = (FEWER, MORE) if entries == 1 else (FEWER_BATCHES, MORE_BATCHES)
    few, many = (_collected(folder, role, name, way, number) for number in (fewer, more))
    return (many - few) / (more - fewer) / entries


def _collected(folder: Path, role: str, name: str, way: dict[str, Any], calls: int) -> int:
    with _connection(folder, role) as connection:
        process = connection.info.backend_pid
        text = psycopg.ClientCursor(connection)
        prepared = psycopg.Cursor(connection)
        for call in way["calls"][:calls]:
            if "prepared" in way:
                prepared.execute(way["prepared"], call, prepare=True).fetchall()
            else:
                text.execute(call).fetchall()
    output = folder / str(process)
    for _ in range(600):
        if output.exists():
            counted = re.search(r"^(?:summary|totals): (\d+)", output.read_text(), re.MULTILINE)
            if counted:
                return int(counted[1])
        time.sleep(0.1)
    raise SystemExit(f"callgrind of {name} gave no result.")
