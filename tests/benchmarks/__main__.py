"""`make benchmark`; options through ARGS, e.g. `make benchmark ARGS="--servers 18 15 --write"`."""

import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.benchmarks import clusters, instructions, machine, page, pgledger, results
from tests.benchmarks.clusters import Cluster
from tests.benchmarks.options import parser
from tests.benchmarks.progress import end_cleanly, say

ROOT: Final = Path(__file__).parents[2]
SETTINGS: Final = "DJANGO_SETTINGS_MODULE"
# A call of the API within the process is not logged; the servers over HTTP log theirs.
OF_CHILD: Final = {SETTINGS: "config.settings", "LOG_API_CALLS": "false"}


def main(arguments: Sequence[str]) -> int:
    asked = parser().parse_args(arguments)
    if asked.page:
        page.PATH.write_text(page.written(results.load()))
        return 0
    command = _command(arguments)
    measured: results.Results = {}
    failed = False
    for server in asked.servers or [None]:
        with _cluster(server, asked.scratch) as cluster:
            if cluster is None:
                say(f"PostgreSQL {server} was not found.")
                measured[str(server)] = results.missing(f"no PostgreSQL {server} was found")
                continue
            say(f"PostgreSQL{f' {server}' if server else ''}: {cluster.about}")
            found, status = _measured(cluster, asked, command)
            measured[found["version"].split(".")[0]] = found
            failed = failed or status != 0
    if asked.write:
        everything = results.merged(results.load(), measured)
        results.save(everything)
        page.PATH.write_text(page.written(everything))
    else:
        say("", page.written(measured))
    return 1 if failed else 0


def _command(arguments: Sequence[str]) -> str:
    """Returns the command as the page tells it, without what is only true of this machine."""
    given = list(arguments)
    for option, instead in (
        ("--hordak", ["--hordak", "PYTHON"]),
        ("--earlier", ["--earlier", "DIR"]),
        ("--scratch", []),
    ):
        if option in given:
            place = given.index(option)
            given[place : place + 2] = instead
    variable = f"{pgledger.VARIABLE}=… " if os.environ.get(pgledger.VARIABLE) else ""
    return f'{variable}make benchmark ARGS="{" ".join(given)}"'


@contextmanager
def _cluster(server: int | None, scratch: Path | None) -> Iterator[Cluster | None]:
    folder = Path(scratch or tempfile.gettempdir())
    if server is None and os.environ.get("DATABASE_URL"):
        yield Cluster(None, None, {}, "the server of DATABASE_URL")
    elif server is None or server == clusters.embedded_version():
        with clusters.embedded(folder) as cluster:
            yield cluster
    elif place := clusters.found(server):
        with clusters.started(place, folder) as cluster:
            yield cluster
    else:
        yield None


def _measured(cluster: Cluster, asked: Namespace, command: str) -> tuple[dict[str, Any], int]:
    """Returns what was measured, and the status of the process that measured it."""
    only = [part for part in asked.only if part not in asked.without]
    why_not = instructions.why_not(cluster)
    needed = [part for part in only if part != "instructions" or not why_not]
    options = {**vars(asked), "only": needed, "command": command, "scratch": None}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.json"
        with subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.measure", json.dumps(options), output],
            cwd=ROOT,
            env={**os.environ, **cluster.variables, **OF_CHILD},
        ) as process:
            try:
                status = process.wait()
            except BaseException:
                process.terminate()  # it drops its databases, and stops an embedded server
                raise
        if not output.exists():
            raise SystemExit(status or 1)
        found: dict[str, Any] = json.loads(output.read_text())
    settings = found.pop("settings")
    found["about"] = f"{cluster.about}; {settings}" if settings else cluster.about
    statements = found.pop("statements", {})
    if "instructions" in only and (statements or why_not):
        before = machine.pace()
        if cluster.is_started:
            clusters.stop(cluster)
        lines = [*instructions.measure(cluster, statements, why_not=why_not)]
        say(*lines)
        facts = machine.facts(version=found["version"], before=before, command=command)
        found["parts"]["instructions"] = results.as_part(facts, lines)
    return found, status


if __name__ == "__main__":
    os.environ.setdefault(SETTINGS, "config.settings")
    end_cleanly()
    sys.exit(main(sys.argv[1:]))
