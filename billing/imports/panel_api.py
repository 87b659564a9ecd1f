"""Downloads the history of a Panel API, Navixy's or this panel's own, into a folder of CSV files.

A download that was interrupted goes on when it is started again on the same day: users whose
transactions are in the folder, and whose balances are still the same, are not asked for again. A
complete download is never changed: the operator may have corrected its files. The next one needs
another folder.

The calls are `account/auth`, `tariff/list`, `user/list`, `tracker/list` and, for each user,
`user/transaction/list`. Times stay as they come; which time zone they are of is said at the import.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import urllib3
from urllib3.util import Retry, Timeout

from billing.imports.folder import (
    PLANS,
    SERVICE_PRICES,
    SUBSCRIPTIONS,
    TRANSACTIONS,
    TRANSACTIONS_OF_USERS,
    USERS,
    Table,
    write_table,
)
from billing.money import DECIMALS
from billing.plans.pricing import Cycle

Call = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]

PAGE: Final = 1_000  # rows of a list that are asked for at once
MOST_TRANSACTIONS: Final = 20_000  # as many as `user/transaction/list` returns
LONGEST_SPAN: Final = timedelta(days=366)
SHORTEST_SPAN: Final = timedelta(minutes=1)
SINCE: Final = datetime(2005, 1, 1)  # noqa: DTZ001 - in the time zone of the other system
DONE: Final = "downloaded.jsonl"
COMPLETE: Final = "download-complete"
RESUMED_WITHIN: Final = timedelta(hours=12)
USER_ID: Final = re.compile(r"[0-9]{1,19}", re.ASCII)

TIMEOUT_SECONDS: Final = 60
ATTEMPTS: Final = 5
# Codes of the Panel API that mean: not now, log in again, and not so many days at once.
TOO_MANY_REQUESTS: Final = 15
SESSION_ENDED: Final = frozenset({3, 4})
SPAN_TOO_BIG: Final = 211

# What of a user is called otherwise there.
PROFILE: Final[Mapping[str, str]] = {
    **{
        name: name
        for name in (
            *("first_name", "middle_name", "last_name", "phone", "legal_type", "legal_name"),
            *("tin", "iec", "state_reg_num", "okpo_code", "comment"),
        )
    },
    **{
        f"{there}_{name}": f"{here}{field}"
        for there, here in (("post", ""), ("registered", "registered_"))
        for name, field in (
            ("country", "country"),
            ("region", "region"),
            ("city", "city"),
            ("street_address", "street_address"),
            ("index", "postal_code"),
        )
    },
}


class DownloadFailed(Exception):
    """The other system refused, or cannot be reached; the message says which call, and why."""


class Refused(Exception):
    """A call was answered with an error of this code."""

    def __init__(self, code: int, description: str) -> None:
        self.code = code
        self.description = description
        super().__init__(f"{description} (code {code})")


def download(
    folder: Path,
    *,
    url: str,
    login: str,
    password: str,
    now: datetime,
    progress: Callable[[int, int], None] = lambda done, total: None,
    call: Call | None = None,
) -> None:
    """Downloads everything that can be imported into `folder`, which is made if need be.

    `call` makes one call in place of HTTP. Raises DownloadFailed.
    """
    if (folder / COMPLETE).exists():
        raise DownloadFailed(
            f"{folder} has a complete download. To import it, leave out --from-panel-api. To "
            "download again, name another folder."
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / TRANSACTIONS_OF_USERS).mkdir(mode=0o700, exist_ok=True)
    if call is None:
        call = Session(url, login, password)
    try:
        plans = list(_all_of(call, "tariff/list"))
        _replace(folder, PLANS, map(_plan, plans))
        _replace(folder, SERVICE_PRICES, (row for plan in plans for row in _prices(plan)))
        written = [_plan(plan) for plan in plans]
        cycles = {str(plan["id"]): plan["cycle"] for plan in written}
        _replace(folder, SUBSCRIPTIONS, _subscriptions(_all_of(call, "tracker/list"), cycles))
        users = list(_all_of(call, "user/list"))
        for user in users:
            if not USER_ID.fullmatch(str(user["id"])):  # it becomes the name of a file
                raise DownloadFailed(f"The ID of a user is no number: {str(user['id'])[:40]!r}.")
        _replace(folder, USERS, map(_user, users))
        done = _downloaded(folder, now)
        for place, user in enumerate(users, start=1):
            state = _state(user)
            if done.get(str(user["id"])) != state:
                rows = _transactions(call, user, now)
                _replace(folder, TRANSACTIONS, rows, f"{TRANSACTIONS_OF_USERS}/{user['id']}.csv")
                with (folder / DONE).open("a", encoding="utf-8") as file:
                    noted = {"id": str(user["id"]), "state": state, "at": now.isoformat()}
                    file.write(json.dumps(noted) + "\n")
            progress(place, len(users))
        (folder / COMPLETE).touch()
    except Refused as refusal:
        raise DownloadFailed(f"The Panel API refused: {refusal}.") from None
    except (KeyError, TypeError, AttributeError, ValueError, InvalidOperation) as problem:
        raise DownloadFailed(
            f"The Panel API's answer cannot be understood: {type(problem).__name__}: {problem}."
        ) from problem


def _downloaded(folder: Path, now: datetime) -> dict[str, list[str]]:
    """Returns the users whose transactions are in the folder, and their balances of that time."""
    done: dict[str, list[str]] = {}
    path = folder / DONE
    if path.exists():
        for line in path.read_text("utf-8").splitlines():
            try:
                noted = json.loads(line)
            except ValueError:
                continue  # it was interrupted in the middle of this line
            is_recent = now - datetime.fromisoformat(noted["at"]) <= RESUMED_WITHIN
            if is_recent and (folder / TRANSACTIONS_OF_USERS / f"{noted['id']}.csv").exists():
                done[noted["id"]] = noted["state"]
    return done


def _state(user: Mapping[str, Any]) -> list[str]:
    return [_amount(user.get("balance")), _amount(user.get("bonus"))]


def _replace(folder: Path, table: Table, rows: Iterable[Mapping[str, Any]], name: str = "") -> None:
    """Writes a file as a whole: who looks sees the one before or all of the new one."""
    target = folder / (name or table.name)
    part = target.with_suffix(".part")
    write_table(part, table, rows)
    os.replace(part, target)


# --- Rows ---------------------------------------------------------------------------------------


def _plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    by_type = Cycle.ACTIVE_DAY if plan.get("type") == "activeday" else Cycle.MONTHLY
    cycle = plan.get("cycle")
    return {
        "id": plan["id"],
        "name": plan["name"],
        "cycle": cycle if cycle in set(Cycle) else by_type,
        "price": _amount(plan["price"]),
        "proportional_charge": _flag(plan.get("proportional_charge", False)),
        "active": _flag(plan.get("active", True)),
    }


def _prices(plan: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for service, price in (plan.get("service_prices") or {}).items():
        if price is not None:
            yield {"plan_id": plan["id"], "service": service, "price": _amount(price)}


def _user(user: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": user["id"],
        "login": user["login"],
        "active": _flag(user.get("activated", True)),
        "created_at": user.get("creation_date") or "",
        "balance": _amount(user.get("balance")),
        "bonus": _amount(user.get("bonus")),
        **{here: user.get(there) or "" for there, here in PROFILE.items()},
    }


def _subscriptions(
    trackers: Iterable[Mapping[str, Any]], cycles: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Clones share the subscription of the device that they are a clone of."""
    for tracker in trackers:
        source = tracker.get("source") or {}
        if tracker.get("clone") or tracker.get("deleted") or not source.get("tariff_id"):
            continue
        yield {
            "user_id": tracker["user_id"],
            "plan_id": source["tariff_id"],
            "device": _device(tracker["id"], tracker.get("label", "")),
            "started_on": str(tracker["creation_date"])[:10],
            "paid_through": _last_day(
                source.get("tariff_end_date"), cycles.get(str(source["tariff_id"]), "")
            ),
            "suspended": _flag(source.get("blocked", False)),
        }


def _device(tracker_id: int | None, label: str = "") -> str:
    """Returns what a device is called here: by its ID there, which transactions name as well."""
    return str(tracker_id) if tracker_id and tracker_id > 0 else label


def _last_day(end: str | None, cycle: str) -> str:
    """Returns the last paid day: of months and years that "end" on the 1st, the day before."""
    if not end:
        return ""
    day = date.fromisoformat(end[:10])
    is_after = day.day == 1 and cycle in {Cycle.MONTHLY, Cycle.ANNUAL}
    return f"{day - timedelta(days=1) if is_after else day}"


def _transactions(call: Call, user: Mapping[str, Any], now: datetime) -> Iterator[dict[str, Any]]:
    """Yields all transactions of a user: in spans that the other system grants, and not too full.

    A day is added at both ends, since the other system's clock may be of any time zone.
    """
    day = timedelta(days=1)
    created = user.get("creation_date")
    first = datetime.fromisoformat(created).replace(tzinfo=None) - day if created else SINCE
    end = now.replace(tzinfo=None, microsecond=0) + day
    span = LONGEST_SPAN
    while first <= end:
        last = min(first + span, end)
        try:
            rows = call(
                "user/transaction/list",
                {
                    "user_id": user["id"],
                    "from": f"{first:%Y-%m-%d %H:%M:%S}",
                    "to": f"{last:%Y-%m-%d %H:%M:%S}",
                    "limit": MOST_TRANSACTIONS,
                },
            )["list"]
        except Refused as refusal:
            if refusal.code != SPAN_TOO_BIG or span <= SHORTEST_SPAN:
                raise
            span /= 2
            continue
        if len(rows) >= MOST_TRANSACTIONS and span > SHORTEST_SPAN:
            span /= 2
            continue
        yield from map(_transaction, sorted(rows, key=lambda row: (row["timestamp"], row["id"])))
        first = last + timedelta(seconds=1)
        span = min(span * 2, LONGEST_SPAN) if len(rows) < MOST_TRANSACTIONS // 4 else span


def _transaction(row: Mapping[str, Any]) -> dict[str, Any]:
    """Some Panel APIs tell all of a transaction, others an amount and which balance it changed."""
    written = {
        "user_id": row["user_id"],
        "at": row["timestamp"],
        "id": row["id"],
        "description": row.get("description") or row.get("text") or "",
    }
    if "new_balance" not in row:
        balance = "bonus_amount" if row.get("type") == "bonus" else "amount"
        return written | {balance: _amount(row["amount"])}
    amounts = ("amount", "bonus_amount", "old_balance", "new_balance", "old_bonus", "new_bonus")
    return (
        written
        | {name: _amount(row.get(name)) for name in amounts}
        | {
            "type": row.get("type") or "",
            "subtype": row.get("subtype") or "",
            "device": _device(row.get("tracker_id")),
        }
    )


def _amount(value: Decimal | int | None) -> str:
    """Returns an amount as text: to four decimals, if what is beyond is a float's noise only."""
    if value is None:
        return ""
    exact = Decimal(value)
    rounded = exact.quantize(Decimal(1).scaleb(-DECIMALS))
    return f"{rounded if abs(exact - rounded) <= Decimal('1e-9') else exact:f}"


def _flag(value: Any) -> str:
    return "true" if value else "false"


# --- Calls --------------------------------------------------------------------------------------


def _all_of(call: Call, name: str) -> Iterator[Mapping[str, Any]]:
    """Yields all rows of a list, page by page, in the order of their IDs."""
    offset = 0
    while True:
        page = call(name, {"offset": offset, "limit": PAGE, "order_by": "id", "ascending": True})
        rows = page["list"]
        yield from rows
        offset += len(rows)
        if not rows or offset >= page.get("count", offset + 1):
            return


class Session:
    """Calls of a Panel API over HTTP. Logs in with the first call, and again when that ends."""

    def __init__(self, url: str, login: str, password: str) -> None:
        parts = urlsplit(url)
        is_here = parts.hostname in {"localhost", "127.0.0.1", "::1"}
        if not parts.hostname or parts.scheme not in ({"http", "https"} if is_here else {"https"}):
            raise DownloadFailed(
                f"“{url}” is not an address like https://api.example.com/v2/panel. Passwords and "
                "customers' data go over https only."
            )
        self._url = url.rstrip("/")
        self._login = login
        self._password = password
        self._hash = ""
        # Reading can be repeated, although it is done with POST.
        retry = Retry(
            ATTEMPTS,
            redirect=False,
            backoff_factor=1,
            status_forcelist=(429, 502, 503, 504),
            allowed_methods=None,
            raise_on_status=False,
        )
        self._pool = urllib3.PoolManager(retries=retry, timeout=Timeout(TIMEOUT_SECONDS))

    def __call__(self, name: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        for attempt in range(ATTEMPTS):
            if not self._hash:
                self._hash = self._post(
                    "account/auth", {"login": self._login, "password": self._password}
                )["hash"]
            try:
                return self._post(name, parameters)
            except Refused as refusal:
                if attempt == ATTEMPTS - 1:
                    raise
                if refusal.code == TOO_MANY_REQUESTS:
                    time.sleep(2**attempt)
                elif refusal.code in SESSION_ENDED:
                    self._hash = ""
                else:
                    raise
        raise AssertionError("The last attempt has returned or raised.")

    def _post(self, name: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        headers = {"Content-Type": "application/json"}
        if self._hash:
            headers["Authorization"] = f"NVX {self._hash}"
        try:
            response = self._pool.request(
                "POST", f"{self._url}/{name}", body=json.dumps(parameters), headers=headers
            )
        except urllib3.exceptions.HTTPError as problem:
            raise DownloadFailed(f"The call {name} failed: {problem}.") from None
        try:
            answer = json.loads(response.data, parse_float=Decimal)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise DownloadFailed(
                f"The call {name} was answered with HTTP {response.status}, without a JSON object."
            )
        if answer.get("success"):
            return answer
        status = answer.get("status") or {}
        raise Refused(status.get("code", 0), f"{name}: {status.get('description', 'no reason')}")
