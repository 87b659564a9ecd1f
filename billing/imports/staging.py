"""Sorts a history by user, so that it can be checked and imported some users at a time.

A history may be larger than memory, and its transactions may come in any order. They are kept in a
SQLite file of Python's own, which is gone when the import ends.
"""

import pickle
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple, Self

from billing.imports.folder import USERS, Folder
from billing.imports.records import (
    PastOperation,
    PastPlan,
    PastServicePrice,
    PastSubscription,
    PastUser,
    Problem,
)

USERS_AT_ONCE: Final = 500
ROWS_AT_ONCE: Final = 20_000

_TABLES: Final = """
    CREATE TABLE users (id TEXT PRIMARY KEY, place INTEGER, record BLOB);
    CREATE TABLE operations (user_id TEXT, at TEXT, place INTEGER, record BLOB);
    CREATE TABLE subscriptions (user_id TEXT, place INTEGER, record BLOB);
"""
_INDEXES: Final = """
    CREATE INDEX operations_of_user ON operations (user_id, at, place);
    CREATE INDEX subscriptions_of_user ON subscriptions (user_id, place);
"""


class History(NamedTuple):
    """A user with everything that belongs to it; operations in order of time."""

    user: PastUser
    operations: list[PastOperation]
    subscriptions: list[PastSubscription]


class Staged:
    """A folder's history, sorted by user. To be used in a `with` statement."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.plans: dict[str, PastPlan] = {}
        self.service_prices: list[PastServicePrice] = []
        self.users = self.operations = self.subscriptions = 0

    def __enter__(self) -> Self:
        self._directory = TemporaryDirectory(prefix="import-")
        self._store = sqlite3.connect(Path(self._directory.name) / "history", isolation_level=None)
        self._store.execute("PRAGMA journal_mode = OFF")
        self._store.execute("PRAGMA synchronous = OFF")
        self._store.executescript(_TABLES)
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()
        self._directory.cleanup()

    @property
    def problems(self) -> list[Problem]:
        return self.folder.problems

    def histories(self) -> Iterator[list[History]]:
        """Yields all users in the order of the file, some at a time."""
        part: list[History] = []
        rows = 0
        with closing(self._store.execute("SELECT record FROM users ORDER BY place")) as users:
            for (record,) in users:
                user: PastUser = _loaded(record)
                history = History(
                    user,
                    self._of("operations", user.id, "at, place"),
                    self._of("subscriptions", user.id, "place"),
                )
                part.append(history)
                rows += len(history.operations)
                if len(part) == USERS_AT_ONCE or rows >= ROWS_AT_ONCE:
                    yield part
                    part, rows = [], 0
        if part:
            yield part

    def _of(self, table: str, user_id: str, order: str) -> list[Any]:
        rows = self._store.execute(
            f"SELECT record FROM {table} WHERE user_id = ? ORDER BY {order}",  # noqa: S608
            [user_id],
        )
        return [_loaded(record) for (record,) in rows]

    def _read(self) -> None:
        self._store.execute("BEGIN")
        for plan in self.folder.plans():
            if plan.id in self.plans:
                self.problems.append(Problem(f"Plan {plan.id} is there twice.", plan.place))
            self.plans[plan.id] = plan
        self.service_prices = list(self.folder.service_prices())
        for place, user in enumerate(self.folder.users()):
            try:
                self._store.execute(
                    "INSERT INTO users VALUES (?, ?, ?)", [user.id, place, _dumped(user)]
                )
            except sqlite3.IntegrityError:
                self.problems.append(Problem(f"User {user.id} is there twice.", user.place))
            else:
                self.users += 1
        self._store.executemany(
            "INSERT INTO operations VALUES (?, ?, ?, ?)",
            (
                (each.user_id, each.at.isoformat(timespec="microseconds"), place, _dumped(each))
                for place, each in enumerate(self.folder.operations())
            ),
        )
        self._store.executemany(
            "INSERT INTO subscriptions VALUES (?, ?, ?)",
            (
                (each.user_id, place, _dumped(each))
                for place, each in enumerate(self.folder.subscriptions())
            ),
        )
        self._store.execute("COMMIT")
        self._store.executescript(_INDEXES)
        self.operations = self._count("operations")
        self.subscriptions = self._count("subscriptions")
        for table in ("operations", "subscriptions"):
            self._note_strangers(table)

    def _count(self, table: str) -> int:
        [number] = self._store.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
        return int(number)

    def _note_strangers(self, table: str) -> None:
        """Notes rows of users who are not in the file of users."""
        rows: Iterable[tuple[bytes, int]] = self._store.execute(
            f"SELECT record, min(place) FROM {table} "  # noqa: S608
            "WHERE user_id NOT IN (SELECT id FROM users) GROUP BY user_id LIMIT 1000"
        )
        for record, _ in rows:
            first = _loaded(record)
            if any(each.user_id == first.user_id for each in self.problems):
                continue  # the user is there, and could not be read
            self.problems.append(
                Problem(f"User {first.user_id} is not in {USERS.name}.", first.place)
            )


def _dumped(record: object) -> bytes:
    return pickle.dumps(record, pickle.HIGHEST_PROTOCOL)


def _loaded(record: bytes) -> Any:
    return pickle.loads(record)  # noqa: S301 - written by _dumped, into a directory of its own
