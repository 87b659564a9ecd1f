"""Compares the present code with that of another checkout (`--earlier DIR`), in one run.

Two processes work in turns on databases of their own, on the same server: one with the code of this
checkout, one with that of the other. Both measure with this benchmark: `earlier_worker.py`. Without
the option, this part is left out.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Final

from django.conf import settings
from django.db import connection

from config.postgresql.url import url_of
from tests.benchmarks.options import Options
from tests.benchmarks.progress import progress
from tests.benchmarks.results import Line, ratio

ROOT: Final = Path(__file__).parents[2]
# The packages of the application, which are taken from the checkout.
CODE: Final = ("billing", "users", "config", "templates")
READY: Final = "ready"
CHARGED_EVERY: Final = 3  # rounds; a charging run takes long

# Work → what it is called in the table, and its unit.
WORKS: Final = {
    "single": "Single change",
    "webhooks": "Single change, with a webhook endpoint",
    "batch": "Entry of a batch",
    "run": "Subscription of a charging run",
    "csv": "Row of a CSV file",
}

Run = Callable[[str], float]  # work → so many in a second


def measure(user_ids: Sequence[int], options: Options) -> Iterator[Line]:
    rates: dict[str, list[tuple[float, float]]] = {work: [] for work in WORKS}
    with ExitStack() as stack:
        now, then = (
            stack.enter_context(_process(name, checkout, options))
            for name, checkout in (("now", ROOT), ("then", Path(options.earlier)))
        )
        for round_number in progress(range(options.rounds + 1), "Earlier code"):
            for work in WORKS:
                if work == "run" and round_number % CHARGED_EVERY:
                    continue
                found = now(work), then(work)
                if round_number or work == "run":  # the first warms up
                    rates[work].append(found)
    for work, what in WORKS.items():
        yield ratio(
            f"{what}, against the earlier code",
            f"now {median(ours for ours, _ in rates[work]):,.0f}/s",
            f"earlier {median(theirs for _, theirs in rates[work]):,.0f}/s",
            median(ours / theirs for ours, theirs in rates[work]),
        )


@contextmanager
def _process(name: str, checkout: Path, options: Options) -> Iterator[Run]:
    with tempfile.TemporaryDirectory() as folder:
        for package in CODE:
            (Path(folder) / package).symlink_to((checkout / package).resolve())
        (Path(folder) / "tests").symlink_to(ROOT / "tests")
        sizes = [options.calls, options.batch, options.subscriptions, options.history // 10]
        with subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.earlier_worker", name, *map(str, sizes)],
            cwd=folder,
            env={
                **os.environ,
                "DATABASE_URL": url_of(connection.get_connection_params()),
                "DATA_DIR": str(settings.DATA_DIR),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            yield _runs(process, checkout)
            assert process.stdin
            process.stdin.close()


def _runs(process: "subprocess.Popen[str]", checkout: Path) -> Run:
    assert process.stdin
    assert process.stdout
    ask, answers = process.stdin, process.stdout

    def answer() -> str:
        said = answers.readline().strip()
        if not said:
            raise RuntimeError(f"The benchmark failed with the code in {checkout}; see above.")
        return said

    assert answer() == READY

    def run(work: str) -> float:
        ask.write(f"{work}\n")
        ask.flush()
        return float(answer())

    return run
