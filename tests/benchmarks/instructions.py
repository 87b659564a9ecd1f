"""Counts the instructions that the database server executes for one posting.

valgrind's callgrind runs one server process on a copy of the data (`postgres --single`), which
reads statements from its input. Two runs differ only in how many calls they make, so that the
difference is what the calls cost, without the start of the process. Nothing else that the machine
does changes the count.

`statements` needs Django and the running server: it prepares a database, and writes the statements
down. `measure` runs after the server has stopped.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

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
SINGLE: Final = "Ledger, one change"
BATCH: Final = f"Ledger, one entry of a batch of {BATCH_SIZE}"
SERVICE: Final = "Ledger, service charge without bonus"
BONUS: Final = "Ledger, service charge from the bonus"
PREPARED: Final = ", prepared"

Statements = dict[str, Any]  # name → {"first": […], "calls": […], "entries": each call's}


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
        BARE + PREPARED: _prepared_floor("plain", user_ids),
        RULED: _floor("ruled", user_ids),
    }
    if pgledger.accounts:
        found[PGLEDGER] = {
            "calls": [_transfer(*pgledger.accounts[user]) for user in user_ids[:MORE]]
        }
    return found | {
        SINGLE: {"calls": [_post([change(user)]) for user in without[:MORE]]},
        SINGLE + PREPARED: {
            "first": [
                "PREPARE post(jsonb, bigint, text, boolean) AS SELECT (posted).* "
                "FROM billing_post($1, $2, $3, $4)"
            ],
            "calls": [
                f"EXECUTE post({_json([change(user)])}, NULL, 'api', false)"
                for user in without[:MORE]
            ],
        },
        BATCH: {
            "calls": [
                _post([change(user_ids[(place * 7) % len(user_ids)])
                       for place in range(BATCH_SIZE)])
                for _ in range(MORE_BATCHES)
            ],
            "entries": BATCH_SIZE,
        },
        SERVICE: {"calls": [_post([service(user)]) for user in without[:MORE]]},
        BONUS: {"calls": [_post([service(user)]) for user in with_bonus[:MORE]]},
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
    values[ways.PLACE_OF_USER] = "$1"
    statement = " ".join(ways.FLOORS[tables].split()) % tuple(values)
    return {
        "first": [f"PREPARE floor(bigint) AS {statement}"],
        "calls": [f"EXECUTE floor({user})" for user in user_ids[:MORE]],
    }


def _transfer(outside: str, account: str) -> str:
    return f"SELECT * FROM pgledger_create_transfer('{outside}', '{account}', 1.0000)"


def _post(entries: list[dict[str, Any]]) -> str:
    return (
        'SELECT "position", outcome, refusal, (posted).* '
        f"FROM billing_post({_json(entries)}, NULL, 'api', false)"
    )


def _json(entries: list[dict[str, Any]]) -> str:
    import json

    return _quoted(json.dumps(entries))


def _quoted(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'" if isinstance(value, str) else str(value)


# --- Afterwards: without the server -------------------------------------------------------------


def measure(cluster: Cluster, found: Statements, *, why_not: str) -> Iterator[Line]:
    names = [BARE, BARE + PREPARED, RULED, PGLEDGER, SINGLE, SINGLE + PREPARED, BATCH, SERVICE,
             BONUS]  # fmt: skip
    targets = {SINGLE: TARGET, SINGLE + PREPARED: TARGET}
    counts: dict[str, float] = {}
    if not why_not:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            measured = pool.map(lambda name: _count(cluster, name, found[name]), found)
            counts = dict(zip(found, measured, strict=True))
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


def _count(cluster: Cluster, name: str, way: dict[str, Any]) -> float:
    """Returns the instructions of one call, or of one entry of a batch."""
    entries = way.get("entries", 1)
    fewer, more = (FEWER, MORE) if entries == 1 else (FEWER_BATCHES, MORE_BATCHES)
    calls = way["calls"]
    few, many = (
        _collected(cluster, name, [*way.get("first", []), *calls[:number]])
        for number in (fewer, more)
    )
    return (many - few) / (more - fewer) / entries


def _collected(cluster: Cluster, name: str, lines: list[str]) -> int:
    assert cluster.data
    assert cluster.programs
    copy = cluster.data.with_name("copy-" + re.sub(r"\W+", "-", f"{name}-{len(lines)}"))
    shutil.copytree(cluster.data, copy)
    try:
        for path in (copy, *copy.rglob("*")):
            if os.geteuid() == 0:
                owner = cluster.data.stat()
                os.chown(path, owner.st_uid, owner.st_gid)
        done = subprocess.run(
            [
                *("valgrind", "--tool=callgrind", f"--callgrind-out-file={copy}/callgrind"),
                *(cluster.programs / "postgres", "--single", "-D", copy),
                *("-c", "fsync=off", "-c", "huge_pages=off", "-c", "jit=off"),
                *("-c", "autovacuum=off", "-c", "search_path=public,pg_temp", DATABASE),
            ],
            input="\n".join([*lines, ""]),
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            **cluster.account(),
        )
        counted = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
        if done.returncode or not counted or "ERROR" in done.stderr:
            raise SystemExit(f"callgrind of {name} failed:\n{done.stderr[-3000:]}")
        return int(counted[1])
    finally:
        shutil.rmtree(copy, ignore_errors=True)
