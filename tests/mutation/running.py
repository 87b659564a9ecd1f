"""Tries mutants in one pytest session, each in its own forked process.

The parent imports Django and all tests and makes the database; it runs no test itself. For each
mutant it clones the database and forks. The child puts the mutant in place, in the code of the
function or in the clone. It runs the tests that could notice the mutant until one fails, reports to
the parent, and ends. So mutants do not affect each other.
"""

import importlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from types import CodeType, FunctionType
from typing import Any, Final, NamedTuple

import pytest

from tests.mutation import targets
from tests.mutation.mutants import ROOT, Mutant

WARM_UP: Final = "tests/mutation/warm_up.py"
TOOL: Final = 4  # an id of sys.monitoring; 0 to 2 and 5 are assigned to other tools
WRAPPERS: Final = (property, cached_property, staticmethod, classmethod)
# A test hangs if it takes longer than this, and longer than HANGS_TIMES its usual time. Even a busy
# machine is not that slow.
HANGS_MIN_SECONDS: Final = 180
HANGS_TIMES: Final = 30


class Verdict(NamedTuple):
    mutant: Mutant
    kind: str  # noticed, hangs, survived, untested or invalid
    test: str  # the test that noticed
    seconds: float
    tests: int  # the number of tests that ran

    @property
    def is_noticed(self) -> bool:
        return self.kind in {"noticed", "hangs"}


@dataclass
class Baseline:
    """The result, time and lines of each test without a mutant."""

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


def run(
    mutants: list[Mutant], *, tell: Callable[[Verdict], None], say: Callable[[str], None]
) -> list[str]:
    """Tries mutants, and calls `tell` with each verdict. Returns problems of the run itself."""
    files = sorted({file for mutant in mutants for file in targets.tests_of(mutant.key.file)})
    plugin = _Plugin(mutants, tell, say)
    status = pytest.main(
        [
            WARM_UP,
            *files,
            f"--rootdir={ROOT}",
            "--quiet",
            "--quiet",
            "--capture=no",
            "--create-db",
            "--hypothesis-seed=0",
            "-pno:randomly",
            "-pno:cacheprovider",
        ],
        plugins=[plugin],
    )
    if status and not plugin.problems:
        plugin.problems.append(f"pytest ended with {status!r}.")
    return plugin.problems


class _Plugin:
    def __init__(
        self, mutants: list[Mutant], tell: Callable[[Verdict], None], say: Callable[[str], None]
    ) -> None:
        self.mutants, self.tell, self.say = mutants, tell, say
        self.problems: list[str] = []
        self.baseline = Baseline()
        self.outcome: dict[str, bool] = {}  # of the test that a child runs now

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        from django.db import connection

        name = connection.settings_dict["NAME"]
        connection.settings_dict["TEST"]["NAME"] = f"test_{name}_mutation"

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.outcome["failed"] = True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        # pytest-django reorders the tests, so the warm-up may not be the first one.
        [self.warm_up] = [item for item in session.items if item.nodeid.startswith(WARM_UP)]
        items = [item for item in session.items if item is not self.warm_up]
        self.items = {item.nodeid: item for item in items}
        session.config.hook.pytest_runtest_protocol(item=self.warm_up, nextitem=items[0])
        if self.outcome:
            self.problems.append("The database could not be set up.")
            return True
        from pytest_django.plugin import blocking_manager_key  # not above: pytest imports it first

        self.blocker = session.config.stash[blocking_manager_key]
        with self.blocker.unblock():
            self._run_all(len(items))
        return True

    def _run_all(self, tests: int) -> None:
        self.say(f"{tests} tests; each runs once without a mutant …\n")
        self._run_without()
        if self.baseline.failed:
            self.problems += [f"Fails without a mutant: {test}" for test in self.baseline.failed]
            return
        for mutant in self.mutants:
            self.tell(self._try(mutant))

    # --- In the parent

    def _run_without(self) -> None:
        files = [m.key.file for m in self.mutants if not m.is_sql]
        for told in self._fork(list(self.items), None, sorted(set(files))):
            if told is None:
                self.baseline.failed.append("a test that hangs")
            elif "test" in told:
                test = told["test"]
                self.baseline.seconds[test] = told["seconds"]
                self.baseline.lines[test] = {(file, line) for file, line in told["lines"]}
                if told["failed"]:
                    self.baseline.failed.append(test)
            elif "error" in told:
                self.baseline.failed.append(told["error"])

    def _try(self, mutant: Mutant) -> Verdict:  # noqa: PLR0911 - a line for each way to end
        began = time.monotonic()
        tests = self._that_could_notice(mutant)

        def verdict(kind: str, test: str = "", ran: int = 0) -> Verdict:
            return Verdict(mutant, kind, test, time.monotonic() - began, ran)

        if not tests:
            return verdict("untested")
        ran = 0
        for told in self._fork(tests, mutant, []):
            if told is None:
                return verdict("hangs", tests[ran], ran + 1)
            if "invalid" in told:
                return verdict("invalid", told["invalid"])
            if "error" in told:  # the mutant breaks the run itself
                return verdict("noticed", told["error"], ran)
            ran += 1
            if told["failed"]:
                return verdict("noticed", told["test"], ran)
        if ran < len(tests):
            return verdict("noticed", f"the process died in {tests[ran]}", ran)
        return verdict("survived", ran=ran)

    def _that_could_notice(self, mutant: Mutant) -> list[str]:
        """Returns the tests to run for a mutant, in the order of their files, slow ones last.

        For a Python mutant these are the tests that run a changed line. For an SQL mutant they are
        all tests of its target, because lines of SQL are not watched.
        """
        files = targets.tests_of(mutant.key.file)
        tests = [
            test
            for test in self.items
            if test.partition("::")[0] in files
            and (
                mutant.is_sql
                or any(
                    (mutant.key.file, line) in self.baseline.lines[test] for line in mutant.lines
                )
            )
        ]
        place = {file: place for place, file in enumerate(files)}

        def order(test: str) -> tuple[bool, int, float]:
            seconds = self.baseline.seconds[test]
            return seconds > 1, place[test.partition("::")[0]], seconds

        return sorted(tests, key=order)

    def _fork(
        self, tests: list[str], mutant: Mutant | None, watched: list[str]
    ) -> Iterator[dict[str, Any] | None]:
        """Forks a child and yields its report on each test; None if it hangs."""
        from django.db import connections

        connections.close_all()
        with _clone() as database:
            reads, writes = os.pipe()
            pid = os.fork()
            if not pid:
                os.close(reads)
                self._be_child(writes, database, tests, mutant, watched)
            os.close(writes)
            slowest = max(self.baseline.seconds.values(), default=60)
            patience = max(HANGS_MIN_SECONDS, HANGS_TIMES * slowest if mutant is None else 0)
            try:
                yield from self._told_by(reads, patience, tests)
            finally:
                os.close(reads)
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _told_by(
        self, reads: int, patience: float, tests: list[str]
    ) -> Iterator[dict[str, Any] | None]:
        waiting, count = b"", 0
        while True:
            usual = self.baseline.seconds.get(tests[count], 0) if count < len(tests) else 0
            if not select.select([reads], [], [], max(patience, HANGS_TIMES * usual))[0]:
                yield None
                return
            chunk = os.read(reads, 1 << 16)
            if not chunk:
                return
            *lines, waiting = (waiting + chunk).split(b"\n")
            for line in lines:
                count += 1
                yield json.loads(line)

    # --- In the child

    def _be_child(
        self,
        writes: int,
        database: str,
        tests: list[str],
        mutant: Mutant | None,
        watched: list[str],
    ) -> None:
        """Runs the tests in the child, and ends the process: it never returns."""

        def tell(**what: Any) -> None:
            os.write(writes, json.dumps(what).encode() + b"\n")

        try:
            os.setsid()
            nowhere = os.open(os.devnull, os.O_RDWR)
            for each in (0, 1, 2):
                os.dup2(nowhere, each)
            _use(database)
            if mutant is not None and (problem := install(mutant)):
                tell(invalid=problem)
                os._exit(0)
            self.blocker.block()
            seen = _watch(watched)
            for test, following in zip(tests, [*tests[1:], None], strict=True):
                self.outcome, began = {}, time.monotonic()
                seen.clear()
                _clear_caches(watched)
                sys.monitoring.restart_events()
                item = self.items[test]
                item.config.hook.pytest_runtest_protocol(
                    item=item, nextitem=self.items[following] if following else self.warm_up
                )
                failed = bool(self.outcome)
                tell(
                    test=test,
                    failed=failed,
                    seconds=time.monotonic() - began,
                    lines=sorted(seen),
                )
                if failed and mutant is not None:
                    break
        except BaseException as error:
            tell(error=f"{type(error).__name__}: {error}")
        finally:
            os._exit(0)


@contextmanager
def _clone() -> Iterator[str]:
    """Clones the database for a child. Drops the clone afterwards, even with open connections."""
    from django.db import connection

    template = connection.settings_dict["NAME"]
    assert template.startswith("test_"), f"{template} is not the test database."
    name = f"{template}_clone"
    drop = f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'

    def execute(*statements: str) -> None:
        with connection._nodb_cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    execute(drop, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        yield name
    finally:
        execute(drop)


def _use(database: str) -> None:
    from django.conf import settings
    from django.db import connection

    connection.settings_dict["NAME"] = database
    settings.DATABASES["default"]["NAME"] = database


def install(mutant: Mutant) -> str:
    """Puts a mutant in place, in this process or its database.

    Returns "", or the reason why the change is not a valid mutant.
    """
    return _install_sql(mutant) if mutant.is_sql else _install_python(mutant)


def _install_sql(mutant: Mutant) -> str:
    from django.db import DatabaseError, connection

    from billing import sql

    # Otherwise the check that compares a function's text with its file would notice every mutant.
    sql.differences.__code__ = _no_differences.__code__
    try:
        with connection.cursor() as cursor:
            cursor.execute(mutant.text)
    except DatabaseError as problem:
        return str(problem).partition("\n")[0]
    connection.close()
    return ""


def _no_differences() -> list[str]:
    return []


def _install_python(mutant: Mutant) -> str:
    """Replaces the code of the function object, so that modules which imported it change too."""
    key = mutant.key
    module = importlib.import_module(key.file.removesuffix(".py").replace("/", "."))
    code: CodeType = compile(mutant.text, str(ROOT / key.file), "exec")
    value: Any = module
    for name in key.function.split("."):
        [code] = [
            each for each in code.co_consts if isinstance(each, CodeType) and each.co_name == name
        ]
        value = vars(value)[name]
    function = _bare(value)
    if function.__code__.co_freevars != code.co_freevars:
        return "it uses other variables of the enclosing function"
    function.__code__ = code
    return ""


def _bare(value: Any) -> FunctionType:
    """Returns the function itself, without its decorators."""
    while not isinstance(value, FunctionType) or hasattr(value, "__wrapped__"):
        if isinstance(value, property):
            value = value.fget
        elif isinstance(value, cached_property):
            value = value.func
        elif isinstance(value, staticmethod | classmethod):
            value = value.__func__
        else:
            if hasattr(value, "cache_clear"):
                value.cache_clear()
            value = value.__wrapped__
    return value


def _watch(files: list[str]) -> set[tuple[str, int]]:
    """Returns a set that (file, line) is added to whenever a line of these files runs."""
    seen: set[tuple[str, int]] = set()
    if not files:
        return seen
    names = {str(ROOT / file): file for file in files}
    monitoring = sys.monitoring
    monitoring.use_tool_id(TOOL, "mutation")

    def line_runs(code: CodeType, line: int) -> Any:
        seen.add((names[code.co_filename], line))
        return monitoring.DISABLE

    monitoring.register_callback(TOOL, monitoring.events.LINE, line_runs)
    for file in files:
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        for code in _codes_of(module, str(ROOT / file)):
            monitoring.set_local_events(TOOL, code, monitoring.events.LINE)
    return seen


def _clear_caches(files: list[str]) -> None:
    """Empties caches, so that each test runs the code that fills them, and `_watch` sees it."""
    for file in files:
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        for value in list(vars(module).values()):
            if hasattr(value, "cache_clear"):
                value.cache_clear()


def _codes_of(owner: Any, path: str) -> Iterator[CodeType]:
    for value in list(vars(owner).values()):
        if isinstance(value, type) and value.__module__ == getattr(owner, "__name__", None):
            yield from _codes_of(value, path)
        elif isinstance(value, WRAPPERS) or callable(value):
            with suppress(AttributeError):
                code = _bare(value).__code__
                if code.co_filename == path:
                    yield from _nested(code)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _nested(each)
