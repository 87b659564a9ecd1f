"""Measures pages of the Transactions tab, for a long and a short history in one large table."""

from collections import deque
from collections.abc import Iterator
from statistics import median, quantiles
from typing import Final

from tests.benchmarks import http
from tests.benchmarks.filled import PER_USER, Filled
from tests.benchmarks.http import CALLERS
from tests.benchmarks.options import Options
from tests.benchmarks.progress import progress
from tests.benchmarks.results import Line, ratio
from tests.benchmarks.visits import Visit, Visitor, tab_of

TARGET: Final = "≤ 1.5"
PAGE_SIZE: Final = 50
CALLS_PER_ROUND: Final = 20


def measure(filled: Filled, options: Options) -> Iterator[Line]:
    yield from measure_pages(filled, options)
    yield from _over_http(filled, options)


def measure_pages(filled: Filled, options: Options) -> Iterator[Line]:
    visitor = Visitor()
    size = filled.of_long
    pages = {
        "first page": "",
        "last page": "?after=0",
        "a page at a quarter": f"?before={size // 4}",
        "a page in the middle": f"?before={size // 2}",
        "a page at three quarters": f"?after={size * 3 // 4}",
    }
    addresses = {name: tab_of(filled.long) + query for name, query in pages.items()}
    addresses["short"] = tab_of(filled.short)
    visits: dict[str, list[Visit]] = {name: [] for name in addresses}
    for address in addresses.values():
        visitor.visit(address)
    for _ in progress(range(options.rounds), "Transactions tab"):
        for name, address in addresses.items():
            visits[name].append(visitor.visit(address))
    for part, figure in (
        ("whole page", lambda visit: visit.ms),
        ("its SQL alone", lambda visit: visit.database_ms),
    ):
        first = [figure(visit) for visit in visits["short"]]
        for name in pages:
            ours = [figure(visit) for visit in visits[name]]
            yield ratio(
                f"Tab, {part}, {name} of a long history against that of {PER_USER}",
                f"of {size:,}: {median(ours):.1f} ms",
                f"of {PER_USER}: {median(first):.1f} ms",
                median(a / b for a, b in zip(ours, first, strict=True)),
                TARGET,
            )


def _over_http(filled: Filled, options: Options) -> Iterator[Line]:
    times: dict[str, list[float]] = {"long": [], "short": []}
    with http.served() as server:
        address = f"/users/{filled.short.pk}/transactions?limit={PAGE_SIZE}"
        warm_up = [deque([server.request("GET", address)] * CALLERS) for _ in range(CALLERS)]
        http.call(server, warm_up)  # by several callers, so that each process of it answers
        for _ in progress(range(options.rounds), "Pages over HTTP"):
            for name, user in (("long", filled.long), ("short", filled.short)):
                address = f"/users/{user.pk}/transactions?limit={PAGE_SIZE}"
                requests = deque([server.request("GET", address)] * CALLS_PER_ROUND)
                times[name] += [each * 1000 for each in http.call(server, [requests]).each]
    ours, theirs = times.values()
    for what, ms, other in (
        ("p50", median(ours), median(theirs)),
        ("p99", quantiles(ours, n=100)[98], quantiles(theirs, n=100)[98]),
    ):
        yield ratio(
            f"REST, page of {PAGE_SIZE} of a long history against that of {PER_USER}, {what}",
            f"of {filled.of_long:,}: {ms:.1f} ms",
            f"of {PER_USER}: {other:.1f} ms",
            ms / other,
        )
