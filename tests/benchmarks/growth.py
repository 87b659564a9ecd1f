"""Measures how pages and postings slow down as the table grows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import log
from statistics import linear_regression, median
from time import perf_counter
from typing import Final

from tests.benchmarks import ways
from tests.benchmarks.filled import RARE_DEVICE, RARE_SUBTYPE, RARE_WORDS, Filled
from tests.benchmarks.options import Options
from tests.benchmarks.progress import progress
from tests.benchmarks.results import Line, not_measured
from tests.benchmarks.visits import (
    ALL_TRANSACTIONS,
    START_PAGE,
    USERS_LIST,
    Visitor,
    tab_of,
)

POSTINGS_PER_ROUND: Final = 20
TEN_MILLIONS: Final = 10_000_000
START: Final = "Start page, cold"
RARE: Final = "All transactions, by a rare"
# What → the target of its milliseconds on ten million rows, and that of its exponent.
TARGETS: Final = {
    START: ("≤ 100 ms", "≤ 0.1"),
    f"{RARE} device": ("≤ 200 ms", ""),
    f"{RARE} subtype": ("≤ 200 ms", ""),
    f"{RARE} description": ("≤ 200 ms", ""),
}

Milliseconds = dict[str, float]  # what → median


def sample(filled: Filled, options: Options) -> Milliseconds:
    """Measures everything at one size."""
    visitor = Visitor()
    works: dict[str, Callable[[], float]] = {
        "Single change": lambda: _post(filled.others),
        "Tab page": lambda: visitor.visit(tab_of(filled.long)).ms,
        START: lambda: visitor.visit(START_PAGE, cold=True).ms,
        "Users list": lambda: visitor.visit(USERS_LIST).ms,
        "Users list, search": lambda: visitor.visit(f"{USERS_LIST}?q=reader-19@").ms,
        "REST, page of 50": lambda: visitor.visit(_rest(filled)).ms,
        "All transactions": lambda: visitor.visit(ALL_TRANSACTIONS).ms,
        f"{RARE} device": lambda: _all(visitor, "device", RARE_DEVICE),
        f"{RARE} subtype": lambda: _all(visitor, "subtype", RARE_SUBTYPE),
        f"{RARE} description": lambda: _all(visitor, "q", RARE_WORDS),
    }
    found: dict[str, list[float]] = {name: [] for name in works}
    for round_number in progress(range(options.rounds + 1), f"{filled.transactions:,} rows"):
        for name, work in works.items():
            ms = work()
            if round_number:  # the first warms up
                found[name].append(ms)
    return {name: median(times) for name, times in found.items()}


def lines(samples: Mapping[int, Milliseconds]) -> Iterator[Line]:
    """Returns a line for each page: the exponent, and the milliseconds at each size."""
    sizes = sorted(samples)
    for name in samples[sizes[0]]:
        times = [samples[size][name] for size in sizes]
        ms, exponent = TARGETS.get(name, ("", ""))
        if ms:
            yield _at_ten_millions(name, samples, ms)
        slope = _slope(sizes, times)
        yield Line(
            what=f"{name}, exponent",
            shown="—" if slope is None else f"{slope:.2f}",
            value=slope,
            detail=", ".join(
                f"{_short(size)}: {time:,.1f} ms" for size, time in zip(sizes, times, strict=True)
            ),
            target=exponent,
        )


def _at_ten_millions(name: str, samples: Mapping[int, Milliseconds], target: str) -> Line:
    what = f"{name}, on {TEN_MILLIONS:,} rows"
    if TEN_MILLIONS not in samples:
        return not_measured(what, f"--sizes had no {TEN_MILLIONS}", target)
    time = samples[TEN_MILLIONS][name]
    return Line(what=what, shown=f"{time:,.0f} ms", value=time, target=target)


def _slope(sizes: Sequence[int], times: Sequence[float]) -> float | None:
    if len(sizes) < 2:
        return None
    return linear_regression([log(size) for size in sizes], [log(time) for time in times]).slope


def _short(size: int) -> str:
    return f"{size / 1e6:g}M" if size >= 1e6 else f"{size / 1e3:g}k"


def _rest(filled: Filled) -> str:
    return f"/api/v1/users/{filled.long.pk}/transactions?limit=50"


def _all(visitor: Visitor, field: str, value: str) -> float:
    return visitor.visit(f"{ALL_TRANSACTIONS}?{field}={value.replace(' ', '+')}").ms


def _post(user_ids: Sequence[int]) -> float:
    started = perf_counter()
    for place in range(POSTINGS_PER_ROUND):
        ways.by_ledger(user_ids[place % len(user_ids)])
    return (perf_counter() - started) * 1000 / POSTINGS_PER_ROUND
