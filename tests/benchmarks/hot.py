"""Measures many connections on few users.

It uses processes, because threads would measure the interpreter's lock.
"""

import multiprocessing
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from time import perf_counter
from typing import Final

from django.db import connections

from tests.benchmarks import ways
from tests.benchmarks.options import Options
from tests.benchmarks.posting import Rates, compared
from tests.benchmarks.progress import progress
from tests.benchmarks.results import Line

USERS: Final = 50
CONNECTIONS: Final = 20


def measure(user_ids: Sequence[int], options: Options) -> Iterator[Line]:
    calls = max(1, options.calls // 4)
    by_name = {way.name: way for way in ways.available()}
    rates: Rates = {name: [] for name in by_name}
    with _workers(user_ids[:USERS], by_name, calls, options.connections) as run:
        for name in by_name:
            run(name)  # warms up
        for _ in progress(range(options.rounds), "Hot rows"):
            for name in by_name:
                rates[name].append(options.connections * calls / run(name))
    load = f"{options.connections} connections on {USERS} users, "
    yield compared(f"{load}of the bare floor", rates, ways.BARE_FLOOR, "≥ 0.8")
    yield compared(f"{load}of the bare floor, prepared", rates, ways.PREPARED_FLOOR)
    yield compared(f"{load}of the ruled floor", rates, ways.RULED_FLOOR)
    yield compared(f"{load}against pgledger", rates, ways.PGLEDGER)
    yield compared(f"{load}against the usual Django way", rates, ways.USUAL)


@contextmanager
def _workers(
    user_ids: Sequence[int], by_name: dict[str, ways.Way], calls: int, count: int
) -> Iterator[Callable[[str], float]]:
    """Starts processes with one connection each, and yields a function that runs one way in all.

    The function takes the name of the way, and returns the seconds from the first start to the last
    end.
    """
    connections.close_all()  # a connection must not be shared with a child
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(count)
    pipes = []
    processes = []
    for seed in range(count):
        here, there = context.Pipe()
        process = context.Process(
            target=_work, args=(there, barrier, user_ids, by_name, calls, seed), daemon=True
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


def _work(  # noqa: PLR0917 - the arguments of a process
    pipe: Connection,
    barrier: Barrier,
    user_ids: Sequence[int],
    by_name: dict[str, ways.Way],
    calls: int,
    seed: int,
) -> None:
    rng = random.Random(seed)
    while (name := pipe.recv()) is not None:
        way = by_name[name]
        way.post(rng.choice(user_ids))  # opens the connection, and warms it up
        chosen = rng.choices(user_ids, k=calls)
        barrier.wait()
        started = perf_counter()
        for user_id in chosen:
            way.post(user_id)
        pipe.send((started, perf_counter()))
    connections.close_all()
