"""Measures the parts on the server of the settings: the process that `make benchmark` starts.

`python -m tests.benchmarks.measure OPTIONS OUTPUT` reads its options as JSON. It writes what it
found after each part, so that a run that is interrupted has what it finished.
"""

import json
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import django
from django.conf import settings

from tests.benchmarks.options import Options
from tests.benchmarks.progress import end_cleanly, say
from tests.benchmarks.results import Line, as_part

USERS: Final = 500


def main() -> None:
    given, output = sys.argv[1:]
    # Pages need the addresses of static files, which are not collected here.
    settings.STORAGES["staticfiles"]["BACKEND"] = (
        "django.contrib.staticfiles.storage.StaticFilesStorage"
    )
    django.setup()
    options = json.loads(given)
    Measuring(Options.of(options), Path(output), command=options["command"]).all()


class Measuring:
    def __init__(self, options: Options, output: Path, *, command: str) -> None:
        from tests.benchmarks import machine

        self.options = options
        self.output = output
        self.command = command
        self.failed: list[str] = []
        self.machine = machine
        self.server: dict[str, Any] = {
            "version": machine.version(),
            "settings": machine.other_settings(),
            "parts": {},
        }

    def all(self) -> None:
        from tests.benchmarks import charging, database, earlier, hot, http, posting, size, verify

        with database.template():
            for part, measure in (
                ("posting", posting.measure),
                ("hot", hot.measure),
                ("http", http.measure),
                ("charging", charging.measure),
                ("size", size.measure),
                ("verify", verify.measure),
                ("earlier", earlier.measure),
            ):
                if part in self.options.only and (part != "earlier" or self.options.earlier):
                    with self._failing(part):
                        self._with_users(part, measure)
            with self._failing("the parts on a filled table"):
                self._histories()
            if "instructions" in self.options.only:
                with self._failing("instructions"):
                    self._write_statements()
        self._save()
        if self.failed:
            raise SystemExit(f"Failed, see above: {', '.join(self.failed)}.")

    @contextmanager
    def _failing(self, part: str) -> Iterator[None]:
        """Goes on after a part that fails, and remembers it."""
        try:
            yield
        except Exception:
            traceback.print_exc()
            self.failed.append(part)

    def _with_users(
        self, part: str, measure: Callable[[list[int], Options], Iterator[Line]]
    ) -> None:
        """Measures a part in a fresh database with users who have no money yet."""
        from tests.benchmarks import database, pgledger

        with database.fresh_database():
            user_ids = database.make_users(USERS)
            if part in ("posting", "hot", "size"):
                pgledger.install(user_ids)
            self._part(part, lambda: measure(user_ids, self.options))

    def _histories(self) -> None:
        """Measures what needs a filled table: each size is filled once."""
        from tests.benchmarks import database, export, growth, pages, tab
        from tests.benchmarks.filled import fill

        of_history = [
            (part, measure)
            for part, measure in (
                ("pages", pages.measure), ("export", export.measure), ("tab", tab.measure),
            )
            if part in self.options.only
        ]  # fmt: skip
        sizes = set(self.options.sizes) if "growth" in self.options.only else set()
        samples: dict[int, growth.Milliseconds] = {}
        for size in sorted(sizes | ({self.options.history} if of_history else set())):
            with database.fresh_database():
                filled = fill(size)
                if size in sizes:
                    samples[size] = growth.sample(filled, self.options)
                    self._part("growth", lambda: growth.lines(samples))
                if size == self.options.history:
                    for part, measure in of_history:
                        with self._failing(part):
                            self._part(part, lambda: measure(filled, self.options))  # noqa: B023

    def _part(self, name: str, measure: Callable[[], Iterable[Line]]) -> None:
        before = self.machine.pace()
        lines = [*measure()]
        facts = self.machine.facts(
            version=self.server["version"], before=before, command=self.command
        )
        self.server["parts"][name] = as_part(facts, lines)
        self._save()
        say(*lines)

    def _write_statements(self) -> None:
        """Leaves the database of the instructions behind, for `instructions.measure`."""
        from tests.benchmarks import database, instructions, pgledger

        with database.fresh_database(instructions.DATABASE, keep=True):
            user_ids = database.make_users(USERS)
            pgledger.install(user_ids)
            self.server["statements"] = instructions.statements(user_ids)

    def _save(self) -> None:
        self.output.write_text(json.dumps(self.server, ensure_ascii=False))


if __name__ == "__main__":
    end_cleanly()
    main()
