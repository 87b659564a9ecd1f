"""Measures single changes, changes of hot rows, and batches."""

import multiprocessing
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from statistics import median
from time import perf_counter
from typing import Final

from django.db import connection, connections

from billing import ledger
from billing.models import Channel
from tests.benchmarks.report import Line, progress
from tests.benchmarks.ways import AMOUNT, DESCRIPTION, WAYS
from users.models import User

USERS: Final = 500
HOT_USERS: Final = 50
HOT_CONNECTIONS: Final = 20
BATCH_SIZE: Final = 10_000
WARM_UP_CALLS: Final = 20

Rates = dict[str, list[float]]  # way → changes per second, one figure per round


def make_users() -> list[int]:
    users = User.objects.bulk_create(
        User(email=f"customer-{place}@example.com", password="!") for place in range(USERS)
    )
    with connection.cursor() as cursor:
        for table in ("plain_balance", "ruled_balance"):
            cursor.execute(f"INSERT INTO {table} (user_id) SELECT user_id FROM billing_balance")
        cursor.execute("VACUUM ANALYZE")
    return [user.pk for user in users]


def measure_single_and_batch(user_ids: Sequence[int], *, rounds: int, calls: int) -> Iterator[Line]:
    rates: Rates = {way: [] for way in [*WAYS, "batch"]}
    for way in WAYS.values():
        _rate(way, user_ids, WARM_UP_CALLS)
    for _ in progress(range(rounds), "Single and batch"):
        for name, way in WAYS.items():
            rates[name].append(_rate(way, user_ids, calls))
        rates["batch"].append(_batch_rate(user_ids))
    yield _line("Single change, 1 connection", rates, "ledger", "floor", 0.5)
    yield _line("Single change, 1 connection", rates, "ledger", "bare floor", None)
    yield _line("Single change, 1 connection", rates, "ledger", "usual", 3)
    yield _line("Single change, 1 connection", rates, "ledger", "bare usual", None)
    yield _line(f"Batch of {BATCH_SIZE:,}, against single changes", rates, "batch", "ledger", 5)


def measure_hot(user_ids: Sequence[int], *, rounds: int, calls: int) -> Iterator[Line]:
    """Measures many connections on few users.

    It uses processes, because threads would measure the interpreter's lock.
    """
    rates: Rates = {way: [] for way in WAYS}
    with _workers(user_ids[:HOT_USERS], calls) as run:
        for name in WAYS:
            run(name)  # warms up
        for _ in progress(range(rounds), "Hot rows"):
            for name in WAYS:
                rates[name].append(HOT_CONNECTIONS * calls / run(name))
    load = f"{HOT_CONNECTIONS} connections on {HOT_USERS} users"
    yield _line(load, rates, "ledger", "floor", 0.6)
    yield _line(load, rates, "ledger", "bare floor", None)
    yield _line(load, rates, "ledger", "usual", None)


NAMES: Final = {
    "floor": "floor: one bare statement",
    "ledger": "ledger",
    "usual": "usual Django way",
    "bare floor": "floor on tables without rules",
    "bare usual": "usual Django way on tables without rules",
    "batch": "ledger, batch",
}


def _line(what: str, rates: Rates, way: str, against: str, target: float | None) -> Line:
    ratios = [a / b for a, b in zip(rates[way], rates[against], strict=True)]
    return Line(
        what=what,
        measured=f"{NAMES[way]} {median(rates[way]):,.0f}/s",
        against=f"{NAMES[against]} {median(rates[against]):,.0f}/s",
        ratio=median(ratios),
        target=target,
        is_met=None if target is None else median(ratios) >= target,
        target_text="" if target is None else f"≥ {target}",
    )


def _rate(way: Callable[[int], None], user_ids: Sequence[int], calls: int) -> float:
    started = perf_counter()
    for place in range(calls):
        way(user_ids[place % len(user_ids)])
    return calls / (perf_counter() - started)


def _batch_rate(user_ids: Sequence[int]) -> float:
    started = perf_counter()
    ledger.post_batch(
        (
            ledger.balance_change_entry(
                user_ids[place % len(user_ids)], amount=AMOUNT, description=DESCRIPTION
            )
            for place in range(BATCH_SIZE)
        ),
        actor=None,
        channel=Channel.API,
    )
    return BATCH_SIZE / (perf_counter() - started)


@contextmanager
def _workers(user_ids: Sequence[int], calls: int) -> Iterator[Callable[[str], float]]:
    """Starts processes with one connection each, and yields a function that runs one way in all.

    The function takes the name of the way, and returns the seconds from the first start to the last
    end.
    """
    connections.close_all()  # a connection must not be shared with a child
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(HOT_CONNECTIONS)
    pipes = []
    processes = []
    for seed in range(HOT_CONNECTIONS):
        here, there = context.Pipe()
        process = context.Process(
            target=_work, args=(there, barrier, user_ids, calls, seed), daemon=True
        )
        process.start()
        pipes.append(here)
        processes.append(process)

    def run(way: str) -> float:
        for pipe in pipes:
            pipe.send(way)
        times = [pipe.recv() for pipe in pipes]
        return max(end for _, end in times) - min(start for start, _ in times)

    try:
        yield run
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()


def _work(
    pipe: Connection,
    barrier: Barrier,
    user_ids: Sequence[int],
    calls: int,
    seed: int,
) -> None:
    rng = random.Random(seed)
    while (name := pipe.recv()) is not None:
        way = WAYS[name]
        way(rng.choice(user_ids))  # opens the connection, and warms it up
        chosen = rng.choices(user_ids, k=calls)
        barrier.wait()
        started = perf_counter()
        for user_id in chosen:
            way(user_id)
        pipe.send((started, perf_counter()))
    connections.close_all()
