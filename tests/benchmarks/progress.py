"""What a run tells meanwhile, and how it ends when it is told to."""

import signal
import sys
from collections.abc import Iterable

from tqdm import tqdm

from tests.benchmarks.results import Line


def progress[T](steps: Iterable[T], name: str, total: int | None = None) -> Iterable[T]:
    return tqdm(steps, desc=name, total=total, disable=None, unit_scale=True, leave=False)


def say(*lines: Line | str) -> None:
    for line in lines:
        text = line if isinstance(line, str) else f"  {line.what}: {line.shown} {line.verdict}"
        sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def end_cleanly() -> None:
    """Lets this process remove what it has made, when it is told to end by a signal."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)


def _exit(number: int, _frame: object) -> None:
    sys.exit(128 + number)
