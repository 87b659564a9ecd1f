"""Measures single changes on one connection, and batches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from statistics import median
from time import perf_counter
from typing import Final

from billing import ledger
from billing.models import Channel
from tests.benchmarks import django_hordak, pgledger, ways
from tests.benchmarks.options import Options
from tests.benchmarks.progress import progress
from tests.benchmarks.results import Line, not_measured, ratio
from tests.benchmarks.ways import AMOUNT, DESCRIPTION, Way

BATCH_SIZE: Final = 10_000
WARM_UP_CALLS: Final = 20

Rates = dict[str, list[float]]  # way → changes per second, one figure per round


def measure(user_ids: Sequence[int], options: Options) -> Iterator[Line]:
    rates: Rates = {}
    with ExitStack() as stack:
        runs: dict[str, Callable[[int], float]] = {}
        for way in ways.available():
            runs[way.name] = rate_of(way, user_ids)
        if options.hordak:
            runs[django_hordak.NAME] = stack.enter_context(django_hordak.transfers(options.hordak))
        for run in runs.values():
            run(WARM_UP_CALLS)
        for _ in progress(range(options.rounds), "Single and batch"):
            for name, run in runs.items():
                rates.setdefault(name, []).append(run(options.calls))
            rates.setdefault("batch", []).append(batch_rate(user_ids, options.batch))
    yield compared("Single change, of the bare floor", rates, ways.BARE_FLOOR, "≥ 0.7")
    yield compared("Single change, of the bare floor, prepared", rates, ways.PREPARED_FLOOR)
    yield compared("Single change, of the ruled floor", rates, ways.RULED_FLOOR)
    yield compared("Single change, against pgledger", rates, ways.PGLEDGER, "≥ 1.2")
    yield compared("Single change, against pgledger, prepared", rates, ways.PREPARED_PGLEDGER)
    yield compared("Single change, against the usual Django way", rates, ways.USUAL, "≥ 3")
    yield compared("Single change, against that on tables without rules", rates, ways.BARE_USUAL)
    if options.hordak:
        yield compared(
            "Single change, against django-hordak", rates, Way(django_hordak.NAME, _nothing)
        )
    else:
        yield not_measured("Single change, against django-hordak", django_hordak.MISSING)
    batch = median(rates["batch"])
    yield Line(
        what="Batch of 10,000",
        shown=f"{batch:,.0f} entries/s",
        value=batch,
        detail="" if options.batch == BATCH_SIZE else f"of {options.batch:,} here",
        target="≥ 15,000",
    )
    yield ratio(
        "Batch of 10,000, against single changes",
        f"batch {batch:,.0f}/s",
        f"ledger {median(rates['ledger']):,.0f}/s",
        median(a / b for a, b in zip(rates["batch"], rates["ledger"], strict=True)),
        "≥ 5",
    )


def compared(what: str, rates: Rates, against: Way, target: str = "") -> Line:
    """Returns the line that compares the ledger with another way."""
    ours, theirs = rates["ledger"], rates.get(against.name)
    if theirs is None:
        return not_measured(what, pgledger.MISSING, target)
    return ratio(
        what,
        f"ledger {median(ours):,.0f}/s",
        f"{against.name} {median(theirs):,.0f}/s",
        median(a / b for a, b in zip(ours, theirs, strict=True)),
        target,
    )


def rate_of(way: Way, user_ids: Sequence[int]) -> Callable[[int], float]:
    """Returns a function that makes so many changes, and returns the changes per second."""

    def run(calls: int) -> float:
        started = perf_counter()
        for place in range(calls):
            way.post(user_ids[place % len(user_ids)])
        return calls / (perf_counter() - started)

    return run


def batch_rate(user_ids: Sequence[int], size: int) -> float:
    started = perf_counter()
    ledger.post_batch(entries(user_ids, size), actor=None, channel=Channel.API)
    return size / (perf_counter() - started)


def post_entries(user_ids: Sequence[int], count: int) -> None:
    """Posts many entries, in batches."""
    for posted in progress(range(0, count, BATCH_SIZE), "Posting"):
        batch_rate(user_ids, min(BATCH_SIZE, count - posted))


def entries(user_ids: Sequence[int], size: int) -> Iterator[ledger.Entry]:
    for place in range(size):
        yield ledger.balance_change_entry(
            user_ids[place % len(user_ids)], amount=AMOUNT, description=DESCRIPTION
        )


def _nothing(user_id: int) -> None: ...
