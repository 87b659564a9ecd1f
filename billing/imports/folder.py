"""A history as a folder of CSV files: `users.csv` and, as far as there are any, the others.

Files are UTF-8, separated by commas, semicolons or tabs, with a line of column names. Amounts are
written like 1234.50, days like 2026-11-30, times like 2026-11-30T14:05:00+01:00; a time without a
zone is of the zone that the reader is given. docs/import.md lists the columns.
"""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Final

from billing.imports.records import (
    PastOperation,
    PastPlan,
    PastServicePrice,
    PastSubscription,
    PastUser,
    Problem,
    Unreadable,
)
from billing.money import NotMoney, to_money
from billing.plans.pricing import Cycle
from users.texts import storage_problem

CELL_MAX: Final = 100_000  # characters
EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)  # the ledger takes nothing older

# The columns of users.csv that are fields of users.User by these names.
PROFILE: Final = (
    "first_name", "middle_name", "last_name", "phone", "legal_type", "legal_name", "tin", "iec",
    "state_reg_num", "okpo_code", "country", "region", "city", "street_address", "postal_code",
    "registered_country", "registered_region", "registered_city", "registered_street_address",
    "registered_postal_code", "time_zone", "comment",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A file of the folder: its name, the columns it must have, and those it may have."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return self.required + self.optional


USERS: Final = Table(
    "users.csv", ("id", "login"), ("active", "created_at", "balance", "bonus", *PROFILE)
)
PLANS: Final = Table(
    "plans.csv", ("id", "name", "cycle", "price"), ("proportional_charge", "active")
)
SERVICE_PRICES: Final = Table(
    "service_prices.csv", ("plan_id", "service", "price"), ("name", "unit")
)
SUBSCRIPTIONS: Final = Table(
    "subscriptions.csv",
    ("user_id", "plan_id", "started_on"),
    ("device", "paid_through", "suspended"),
)
TRANSACTIONS: Final = Table(
    "transactions.csv",
    ("user_id", "at"),
    (
        *("id", "amount", "bonus_amount", "description", "type", "subtype", "device", "reverses"),
        *("old_balance", "new_balance", "old_bonus", "new_bonus", "payment_date"),
    ),
)
TRANSACTIONS_OF_USERS: Final = "transactions"  # a directory with more files like transactions.csv
TABLES: Final = (USERS, PLANS, SERVICE_PRICES, SUBSCRIPTIONS, TRANSACTIONS)


@dataclass
class Folder:
    """Reads a folder record by record. What cannot be read is left out and noted in `problems`."""

    path: Path
    zone: tzinfo = UTC
    problems: list[Problem] = field(default_factory=list)

    def users(self) -> Iterator[PastUser]:
        return self._records(USERS, _user)

    def plans(self) -> Iterator[PastPlan]:
        return self._records(PLANS, _plan)

    def service_prices(self) -> Iterator[PastServicePrice]:
        return self._records(SERVICE_PRICES, _service_price)

    def subscriptions(self) -> Iterator[PastSubscription]:
        return self._records(SUBSCRIPTIONS, _subscription)

    def operations(self) -> Iterator[PastOperation]:
        return self._records(TRANSACTIONS, _operation)

    def _records[Record](self, table: Table, read: "Callable[[_Line], Record]") -> Iterator[Record]:
        if table is USERS and not (self.path / table.name).exists():
            self.problems.append(Problem(f"There is no {USERS.name} in {self.path}."))
        for name in self._files(table):
            # surrogateescape: a byte that is not UTF-8 is a problem of its line, not of the file.
            with (self.path / name).open(
                encoding="utf-8-sig", errors="surrogateescape", newline=""
            ) as file:
                for line in self._lines(table, name, file):
                    try:
                        yield read(line)
                    except Unreadable as problem:
                        whose = line.cells.get("id" if table is USERS else "user_id") or None
                        self.problems.append(Problem(str(problem), line.place, whose))

    def fingerprint(self) -> str:
        """Returns a SHA-256, in hexadecimal, over the names and the contents of all files."""
        seen = sha256()
        for table in TABLES:
            for name in self._files(table):
                with (self.path / name).open("rb") as file:
                    seen.update(f"{name} {file_digest(file, 'sha256').hexdigest()}\n".encode())
        return seen.hexdigest()

    def _files(self, table: Table) -> Iterator[str]:
        if (self.path / table.name).exists():
            yield table.name
        if table is TRANSACTIONS:
            for path in sorted((self.path / TRANSACTIONS_OF_USERS).glob("*.csv")):
                yield f"{TRANSACTIONS_OF_USERS}/{path.name}"

    def _lines(self, table: Table, name: str, file: Iterable[str]) -> "Iterator[_Line]":
        lines = iter(file)
        heading = next(lines, "")
        separator = max(",;\t", key=heading.count)
        names = [each.strip() for each in next(csv.reader([heading], delimiter=separator), [])]
        if problem := _wrong_columns(table, names):
            self.problems.append(Problem(problem, f"{name}, line 1"))
            return
        reader = csv.reader(lines, delimiter=separator, strict=True)
        while True:
            place = f"{name}, line {reader.line_num + 2}"
            try:
                cells = next(reader, None)
            except csv.Error as problem:
                self.problems.append(Problem(f"This is not CSV: {problem}.", place))
                return
            if cells is None:
                return
            if not any(cells):
                continue
            if len(cells) != len(names):
                self.problems.append(
                    Problem(f"It has {len(cells)} values, not {len(names)}.", place)
                )
                continue
            yield _Line(dict(zip(names, map(str.strip, cells), strict=True)), place, self.zone)


csv.field_size_limit(CELL_MAX)


def _wrong_columns(table: Table, names: list[str]) -> str | None:
    if missing := [name for name in table.required if name not in names]:
        return f"There is no column {', '.join(missing)}. It has: {', '.join(names)}."
    if unknown := [name for name in names if name not in table.columns]:
        return f"Column {', '.join(unknown)} is not known. Columns are: {', '.join(table.columns)}."
    if len(set(names)) < len(names):
        return "A column appears twice."
    return None


@dataclass(frozen=True)
class _Line:
    """A line of a file: its values by column. Raises Unreadable for a value that is none."""

    cells: Mapping[str, str]
    place: str
    zone: tzinfo

    def text(self, name: str, *, is_required: bool = False) -> str:
        value = self.cells.get(name, "")
        if is_required and not value:
            raise Unreadable(f"There is no {name}.")
        if problem := storage_problem(value):
            raise Unreadable(f"{name} {problem}.")
        return value

    def amount(self, name: str) -> Decimal | None:
        value = self.text(name)
        if not value:
            return None
        try:
            return to_money(value)
        except NotMoney as problem:
            why = {
                "too_many_decimals": "has more than four decimals",
                "out_of_range": "is too large",
            }.get(problem.reason, "is not an amount like 1234.50")
            raise Unreadable(f"{name} “{value[:40]}” {why}.") from None

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.text(name).lower()
        if value not in FLAGS:
            raise Unreadable(f"{name} “{value[:40]}” is neither true nor false.")
        found = FLAGS[value]
        return default if found is None else found

    def day(self, name: str) -> date | None:
        value = self.text(name)
        try:
            return date.fromisoformat(value) if value else None
        except ValueError:
            raise Unreadable(f"{name} “{value[:40]}” is not a day like 2026-11-30.") from None

    def moment(self, name: str) -> datetime | None:
        value = self.text(name)
        if not value:
            return None
        try:
            found = datetime.fromisoformat(value)
            found = (found if found.tzinfo else found.replace(tzinfo=self.zone)).astimezone(UTC)
        except (ValueError, OverflowError):
            raise Unreadable(
                f"{name} “{value[:40]}” is not a time like 2026-11-30T14:05:00+01:00."
            ) from None
        if found < EARLIEST:
            raise Unreadable(f"{name} “{value[:40]}” is before the year {EARLIEST.year}.")
        return found


FLAGS: Final[Mapping[str, bool | None]] = {
    "": None,
    **dict.fromkeys(("true", "yes", "1"), True),
    **dict.fromkeys(("false", "no", "0"), False),
}


def _user(line: _Line) -> PastUser:
    return PastUser(
        id=line.text("id", is_required=True),
        place=line.place,
        email=line.text("login", is_required=True),
        is_active=line.flag("active", default=True),
        created_at=line.moment("created_at"),
        real=line.amount("balance"),
        bonus=line.amount("bonus"),
        profile={name: line.text(name) for name in PROFILE if line.text(name)},
    )


def _plan(line: _Line) -> PastPlan:
    cycle = line.text("cycle", is_required=True)
    if cycle not in Cycle:
        raise Unreadable(f"cycle “{cycle[:40]}” is none of {', '.join(Cycle)}.")
    return PastPlan(
        id=line.text("id", is_required=True),
        place=line.place,
        name=line.text("name", is_required=True),
        cycle=cycle,
        price=_price(line),
        is_proportional=line.flag("proportional_charge", default=False),
        is_active=line.flag("active", default=True),
    )


def _service_price(line: _Line) -> PastServicePrice:
    return PastServicePrice(
        plan_id=line.text("plan_id", is_required=True),
        place=line.place,
        service=line.text("service", is_required=True),
        price=_price(line),
        name=line.text("name"),
        unit=line.text("unit"),
    )


def _price(line: _Line) -> Decimal:
    price = line.amount("price")
    if price is None:
        raise Unreadable("The column price is empty.")
    if price < 0:
        raise Unreadable(f"price {price} is negative.")
    return price


def _subscription(line: _Line) -> PastSubscription:
    started_on = line.day("started_on")
    if started_on is None:
        raise Unreadable("The column started_on is empty.")
    return PastSubscription(
        user_id=line.text("user_id", is_required=True),
        place=line.place,
        plan_id=line.text("plan_id", is_required=True),
        device=line.text("device"),
        started_on=started_on,
        paid_through=line.day("paid_through"),
        is_suspended=line.flag("suspended", default=False),
    )


def _operation(line: _Line) -> PastOperation:
    at = line.moment("at")
    if at is None:
        raise Unreadable("The column at is empty.")
    amount = line.amount("amount") or NOTHING
    bonus_amount = line.amount("bonus_amount") or NOTHING
    new_balance, new_bonus = line.amount("new_balance"), line.amount("new_bonus")
    return PastOperation(
        user_id=line.text("user_id", is_required=True),
        place=line.place,
        at=at,
        amount=amount,
        bonus_amount=bonus_amount,
        old_balance=_before(line.amount("old_balance"), amount, new_balance),
        new_balance=new_balance,
        old_bonus=_before(line.amount("old_bonus"), bonus_amount, new_bonus),
        new_bonus=new_bonus,
        payment_date=line.day("payment_date"),
        **{
            name: line.text(name)
            for name in ("id", "description", "type", "subtype", "device", "reverses")
        },
    )


def _before(old: Decimal | None, amount: Decimal, new: Decimal | None) -> Decimal | None:
    """Returns the balance before an operation. Many systems tell only the one after it."""
    return new - amount if old is None and new is not None else old


NOTHING: Final = to_money(0)


def write_table(path: Path, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows as a file that is read as this table."""
    # It has customers' data: for the own account only.
    with os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        "w",
        encoding="utf-8",
        newline="",
    ) as file:
        writer = csv.DictWriter(file, table.columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
