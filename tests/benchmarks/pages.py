"""Measures pages of the panel: processor time of Python, bytes and statements."""

from collections.abc import Callable, Iterator
from statistics import median
from typing import Final

from tests.benchmarks.filled import Filled
from tests.benchmarks.options import Options
from tests.benchmarks.progress import progress
from tests.benchmarks.results import Line
from tests.benchmarks.visits import START_PAGE, USERS_LIST, Visit, Visitor, tab_of

VISITS_PER_ROUND: Final = 3
# Page → the targets of its milliseconds of Python, its kilobytes and its statements.
TARGETS: Final = {
    "Users list": ("≤ 80 ms", "≤ 80 KB", ""),
    "Tab page": ("≤ 50 ms", "", "≤ 6"),
    "Start page": ("", "", ""),
}


def measure(filled: Filled, options: Options) -> Iterator[Line]:
    visitor = Visitor()
    addresses = {
        "Users list": USERS_LIST,
        "Tab page": tab_of(filled.long),
        "Start page": START_PAGE,
    }
    visits: dict[str, list[Visit]] = {name: [] for name in addresses}
    for address in addresses.values():
        visitor.visit(address)
    for _ in progress(range(options.rounds * VISITS_PER_ROUND), "Pages"):
        for name, address in addresses.items():
            visits[name].append(visitor.visit(address))
    for name, found in visits.items():
        python, size, statements = TARGETS[name]

        def of(figure: Callable[[Visit], float], found: list[Visit] = found) -> float:
            return median(figure(visit) for visit in found)

        ms = of(lambda visit: visit.python_ms)
        yield Line(
            what=f"{name}, Python",
            shown=f"{ms:.0f} ms",
            value=ms,
            detail=f"{of(lambda visit: visit.ms):.0f} ms with the database",
            target=python,
        )
        kilobytes = of(lambda visit: visit.size) / 1000
        yield Line(what=f"{name}, size", shown=f"{kilobytes:.0f} KB", value=kilobytes, target=size)
        count = of(lambda visit: visit.statements)
        yield Line(what=f"{name}, statements", shown=f"{count:.0f}", value=count, target=statements)
