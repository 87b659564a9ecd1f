"""Compares a charging run over many due subscriptions with batches of the ledger."""

import multiprocessing
import resource
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import batched
from multiprocessing.connection import Connection
from statistics import median
from time import perf_counter
from typing import Final, NamedTuple

from django.db import connection, connections

from billing import ledger
from billing.models import Channel, ChargingBatch, ChargingRun, Plan, Subscription
from billing.plans import charging
from tests.benchmarks.options import Options
from tests.benchmarks.progress import progress
from tests.benchmarks.results import Line, ratio
from users.models import User

PER_USER: Final = 4
BATCH_SIZE: Final = 10_000
FIRST_MONTH: Final = 2030 * 12


class Worked(NamedTuple):
    """The peak memory of one worker, in MiB: after its first batch, and at the end."""

    early: float
    peak: float


def fill(subscriptions: int) -> None:
    """Creates users with money and four monthly subscriptions each, all due on the same day."""
    count = subscriptions // PER_USER
    users = User.objects.bulk_create(
        (User(email=f"subscriber-{place}@example.com", password="!") for place in range(count)),
        batch_size=5_000,
    )
    plans = [
        Plan.objects.create(name=f"Plan {place}", cycle="monthly", price=Decimal("0.1") * place)
        for place in range(1, 11)
    ]
    for some in progress([*batched(users, BATCH_SIZE)], "Refilling"):
        ledger.post_batch(
            [
                ledger.balance_change_entry(user, amount=100_000, description="To start with")
                for user in some
            ],
            actor=None,
            channel=Channel.IMPORT,
        )
    start = first_of(0)
    Subscription.objects.bulk_create(
        (
            Subscription(
                user=user,
                plan=plans[(place + number) % len(plans)],
                device=f"{place * PER_USER + number}",
                started_on=start,
                plan_since=start,
                status_since=start,
                due_on=start,
            )
            for place, user in enumerate(users)
            for number in range(PER_USER)
        ),
        batch_size=5_000,
    )
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


def measure(user_ids: Sequence[int], options: Options) -> Iterator[Line]:
    """Measures runs: each round charges one month with one worker, and the next with two.

    Batches are posted before and after each run. The rate of a run is compared with their median
    rate.
    """
    fill(options.subscriptions)
    rates: dict[str, list[float]] = {"batch": [], "1": [], "2": []}
    early, peaks = [], []
    month = 0
    for _ in progress(range(max(1, options.rounds // 3)), "Charging"):
        batches = [_batch_rate()]
        for workers in (1, 2):
            rate, worked = run_rate(first_of(month), workers, options.subscriptions)
            rates[f"{workers}"].append(rate)
            early += [each.early for each in worked]
            peaks += [each.peak for each in worked]
            batches.append(_batch_rate())
            month += 1
        rates["batch"].append(median(batches))
    for count, many in (("1", "1 worker"), ("2", "2 workers")):
        yield ratio(
            f"Subscriptions due at once, {many}, of the rate of plain batches",
            f"run {median(rates[count]):,.0f}/s of {options.subscriptions:,}",
            f"batches of {BATCH_SIZE:,} {median(rates['batch']):,.0f}/s",
            median(run / batch for run, batch in zip(rates[count], rates["batch"], strict=True)),
            "≥ 0.5",
        )
    yield ratio(
        "Memory of a worker, end against the first batch",
        f"end {median(peaks):,.0f} MiB",
        f"first batch {median(early):,.0f} MiB",
        median(peaks) / median(early),
    )


def first_of(month: int) -> date:
    return date((FIRST_MONTH + month) // 12, (FIRST_MONTH + month) % 12 + 1, 1)


def _batch_rate() -> float:
    """Returns the rate at which the ledger posts charges of a run as one batch of entries."""
    rows = (
        Subscription.objects.order_by("user", "id")
        .select_related("plan")
        .values_list("user_id", "device", "plan__price")[:BATCH_SIZE]
    )
    entries = [
        ledger.subscription_entry(
            user_id, cycle="monthly", price=price, device=device, description="Plan, for a month"
        )
        for user_id, device, price in rows
    ]
    started = perf_counter()
    ledger.post_batch(entries, actor=None, channel=Channel.CHARGING)
    return len(entries) / (perf_counter() - started)


def run_rate(day: date, workers: int, subscriptions: int) -> tuple[float, Sequence[Worked]]:
    at = datetime(day.year, day.month, day.day, 0, 5, tzinfo=UTC)
    started = perf_counter()
    run = charging.open_run(at, ChargingRun.Start.COMMAND)
    batch_ids = list(run.batches.order_by("id").values_list("id", flat=True))
    connections.close_all()  # a connection must not be shared with a child
    context = multiprocessing.get_context("fork")
    children = []
    for number in range(workers):
        here, there = context.Pipe()
        process = context.Process(
            target=_work, args=(there, batch_ids[number::workers]), daemon=True
        )
        process.start()
        children.append((process, here))
    worked = [here.recv() for _, here in children]
    for process, _ in children:
        process.join()
    seconds = perf_counter() - started
    run.refresh_from_db()
    if run.charged != subscriptions or run.finished_at is None:
        raise RuntimeError(f"{run.charged} of {subscriptions} subscriptions were charged")
    return subscriptions / seconds, worked


def _work(pipe: Connection, batch_ids: Sequence[int]) -> None:
    early = None
    for batch in ChargingBatch.objects.filter(pk__in=batch_ids).select_related("run"):
        for _ in charging.charge_batch(batch):
            pass
        early = early or _peak_memory()
    connections.close_all()
    pipe.send(Worked(early or _peak_memory(), _peak_memory()))


def _peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
