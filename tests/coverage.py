"""Checks the coverage that `make test ARGS=--cov` has measured.

Run it with `make coverage`, or `python -m tests.coverage`. Each file with rules of money has to
reach RULES_PERCENT, and all measured files together ALL_PERCENT. Otherwise the output names the
lines and branches that no test runs.
"""

import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Final

from coverage import Coverage
from coverage.exceptions import NoDataError

ROOT: Final = Path(__file__).resolve().parent.parent

# Ledger, plans and operations: the files that decide how much money moves, and whether it may.
RULES: Final = (
    "billing/money.py",
    "billing/descriptions.py",
    "billing/typed.py",
    "billing/errors.py",
    "billing/ledger/*.py",
    "billing/plans/*.py",
    "billing/operations/*.py",
    "billing/events/*.py",
    "billing/thresholds.py",
    "billing/expiry.py",
    "billing/models/*.py",
    "billing/sql/*.py",
)
RULES_PERCENT: Final = 98
ALL_PERCENT: Final = 96


def rules() -> Iterator[Path]:
    for pattern in RULES:
        found = sorted(ROOT.glob(pattern))
        assert found, f"No file matches {pattern}: correct RULES in {Path(__file__).name}."
        yield from found


def problems(measured: Coverage) -> Iterator[str]:
    for path in rules():
        percent, table = _reported(measured, [str(path)])
        if percent < RULES_PERCENT:
            yield (
                f"{path.relative_to(ROOT)} has rules of money: tests have to run "
                f"{RULES_PERCENT} % of its lines and branches, and run {percent:.1f} %.\n{table}"
            )
    percent, table = _reported(measured, None)
    if percent < ALL_PERCENT:
        yield (
            f"Tests have to run {ALL_PERCENT} % of all measured code, and run "
            f"{percent:.1f} %.\n{table}"
        )


def _reported(measured: Coverage, files: list[str] | None) -> tuple[float, str]:
    table = StringIO()
    percent = measured.report(
        files, show_missing=True, skip_covered=files is None, precision=1, file=table
    )
    return percent, table.getvalue()


def main() -> None:
    measured = Coverage()
    try:
        measured.load()
        missed = [*problems(measured)]
    except NoDataError:
        sys.exit("Nothing was measured: run `make test ARGS=--cov` first.")
    if missed:
        sys.exit("\n".join([*missed, "Coverage is too low: write the tests that are missing."]))
    sys.stdout.write(_reported(measured, None)[1])


if __name__ == "__main__":
    main()
