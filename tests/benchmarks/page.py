"""Writes docs/benchmarks.md from the results: one table, and when each part was measured."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.benchmarks.notes import NOTES
from tests.benchmarks.results import PARTS, Line, Results, lines_of

PATH: Final = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def written(results: Results) -> str:
    """Returns the text of the page: `make benchmark ARGS=--page` writes it."""
    servers = sorted(results, key=lambda name: -int(name))
    return _PAGE.format(
        servers="\n".join(_server(results, server) for server in servers),
        table="\n".join(_table(results, servers)),
        missed="\n".join(_missed(results, servers)) or "None.",
        facts="\n".join(_facts(results, servers)),
    )


def _server(results: Results, server: str) -> str:
    found = results[server]
    if missing := found.get("missing"):
        return f"- PostgreSQL {server}: {missing}"
    return f"- PostgreSQL {found['version']}: {found['about']}."


def _table(results: Results, servers: list[str]) -> Iterator[str]:
    heads = "".join(f" PostgreSQL {server} | |" for server in servers)
    yield f"| what | target |{heads}"
    yield f"|---|---|{'---|---|' * len(servers)}"
    for part, heading in PARTS.items():
        of_server = {
            server: {line.what: line for line in lines_of(results, server, part)}
            for server in servers
        }
        names = dict.fromkeys(name for lines in of_server.values() for name in lines)
        if not names:
            continue
        yield f"| **{heading}** | |{' | |' * len(servers)}"
        for name in names:
            found = [of_server[server].get(name) for server in servers]
            target = next((line.target for line in found if line and line.target), "")
            cells = "".join(_cells(line) for line in found)
            yield f"| {name} | {target or '—'} |{cells}"


def _cells(line: Line | None) -> str:
    if line is None:
        return " | |"
    detail = f"<br>{line.detail}" if line.detail else ""
    return f" {line.shown}{detail} | {line.verdict} |"


def _missed(results: Results, servers: list[str]) -> Iterator[str]:
    """Lists the missed targets, each with the note on what stands in its way."""
    for part in PARTS:
        found: dict[str, list[str]] = {}
        for server in servers:
            for line in lines_of(results, server, part):
                if line.is_met is False:
                    found.setdefault(line.what, []).append(
                        f"{line.shown} on {server}, {line.verdict}"
                    )
        for what, where in found.items():
            note = f" {NOTES[what]}" if what in NOTES else ""
            yield f"- {what}: {'; '.join(where)}.{note}"


def _facts(results: Results, servers: list[str]) -> Iterator[str]:
    """A table of the parts, then the runs they are from."""
    runs: list[tuple[str, str]] = []
    yield "| part | PostgreSQL | date | load of the machine | plain loop | run |"
    yield "|---|---|---|---|---|---|"
    for part, heading in PARTS.items():
        for server in servers:
            if not (found := results[server].get("parts", {}).get(part)):
                continue
            facts = found["facts"]
            run = facts["command"], facts["processor"]
            if run not in runs:
                runs.append(run)
            yield (
                f"| {heading} | {facts['version']} | {facts['date']} | {facts['load']} "
                f"| {facts.get('loop', 'not measured')} | {runs.index(run) + 1} |"
            )
    yield ""
    for number, (command, processor) in enumerate(runs, start=1):
        yield f"{number}. `{command}`, on {processor}"


_PAGE: Final = """\
# Benchmarks

`make benchmark ARGS="--servers 18 15 --write"` measures all of this and writes this page;
`tests/benchmarks/` defines what is measured and how. Parts can be measured alone (`--only`); a part
keeps the date and the command of its own run, which are at the end of this page. What stands in the
way of a missed target is from `tests/benchmarks/notes.py`.

The compared ways take turns within one run, in one database. Each rate is the median over the
rounds, each ratio the median of the ratios within a round. So a ratio depends little on what else
the machine does; rates and milliseconds do. Instructions, statements and the sizes of pages do not
depend on it at all. How fast the machine was is told by a *plain loop*: the milliseconds of a
million empty steps in Python, before and after each part. Rates of parts whose loops differ cannot
be compared.

Servers:

{servers}

What the ledger is compared with:

- **Bare floor**: one statement, UPDATE … RETURNING into INSERT, on tables like the ledger's but
  without rules: only the primary keys and the index that finds a user's transactions. *Prepared*:
  on the driver's own cursor, as a prepared statement.
- **Ruled floor**: the same statement on tables with the ledger's indexes, foreign keys and CHECK
  constraints, but without its guards.
- **Usual Django way**: atomic, select_for_update, save and create, on the ruled tables, and on the
  tables without rules.
- **pgledger**: one call of `pgledger_create_transfer`, which posts two legs, from an account that
  each user has for money from outside. Measured where `PGLEDGER_SQL` names its `pgledger.sql`.
- **django-hordak**: `Account.transfer_to`, which posts two legs, in a process with settings of its
  own. It keeps no balance. Measured where `--hordak` names a Python that has it.
- **Earlier code**: the same work with the panel of another checkout (`--earlier`), in a database of
  its own, in turns with the present one.

Neither the floors nor the Django way have guards, a debit order, idempotency or digests. An
exponent is the slope of a straight line through the logarithms of rows and milliseconds: 0 means
that a page takes the same time at any size, 1 that it takes ten times as long for ten times the
rows. Milliseconds "of Python" are processor time of the process that makes the page, without the
database's; the size of a page is that before compression.

{table}

## Targets that are missed

{missed}

## When each part was measured

{facts}
"""
