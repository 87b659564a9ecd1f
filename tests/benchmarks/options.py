"""The options of `make benchmark`."""

from argparse import ArgumentParser
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from tests.benchmarks.results import PARTS


@dataclass(frozen=True)
class Options:
    """How much is measured. The defaults are those of the table."""

    rounds: int = 7
    calls: int = 150
    connections: int = 20
    batch: int = 10_000
    subscriptions: int = 60_000
    verified: int = 400_000
    history: int = 1_200_000
    sizes: tuple[int, ...] = (12_000, 120_000, 1_200_000, 10_000_000)
    only: tuple[str, ...] = tuple(PARTS)
    hordak: str = ""
    earlier: str = ""

    @classmethod
    def of(cls, found: dict[str, Any]) -> Self:
        """Makes them of parsed arguments or of JSON, which has lists instead of tuples."""
        own = {field.name for field in fields(cls)}
        return cls(**{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in found.items() if name in own
        })  # fmt: skip


def parser() -> ArgumentParser:
    found = ArgumentParser(
        prog="make benchmark",
        description="Measures how fast the panel is. Options go into ARGS: "
        'make benchmark ARGS="--servers 18 15 --write".',
    )
    amounts = {
        "rounds": "rounds of each part",
        "calls": "calls per round",
        "connections": "connections on hot rows",
        "batch": "entries of a batch",
        "subscriptions": "subscriptions due at once in the charging run, four per user",
        "verified": "transactions that verify_ledger checks",
        "history": "transactions in the table for pages, files and the tab",
    }
    for name, says in amounts.items():
        default = getattr(Options, name)
        found.add_argument(f"--{name}", type=int, default=default, help=f"{says} [{default}]")
    found.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=list(Options.sizes),
        help="transactions in the table, for the growth of pages [%(default)s]",
    )
    found.add_argument(
        "--only", choices=PARTS, nargs="+", default=list(PARTS), help="parts to measure"
    )
    found.add_argument("--without", choices=PARTS, nargs="+", default=[], help="parts to leave out")
    found.add_argument(
        "--servers",
        type=int,
        nargs="+",
        metavar="VERSION",
        default=[],
        help="major versions of PostgreSQL, each measured on a new cluster of its own; by default "
        "the server of DATABASE_URL or, without it, the embedded PostgreSQL",
    )
    found.add_argument(
        "--hordak", default="", metavar="PYTHON", help="a Python that has django-hordak"
    )
    found.add_argument(
        "--earlier",
        default="",
        metavar="DIR",
        help="another checkout of the panel, to be compared with in the same run",
    )
    found.add_argument(
        "--scratch", type=Path, default=None, metavar="DIR",
        help="where new clusters are made; some gigabytes [the directory for temporary files]",
    )  # fmt: skip
    found.add_argument(
        "--page",
        action="store_true",
        help="measure nothing; write docs/benchmarks.md again from results.json and notes.py",
    )
    found.add_argument(
        "--write", action="store_true", help="write docs/benchmarks.md and results.json"
    )
    return found
