"""Downloads the whole history from a Panel API, and imports it unchanged."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone

from billing import ledger
from billing.imports import panel_api
from billing.imports.folder import Folder
from billing.imports.panel_api import DownloadFailed, Refused, Session, download
from billing.models import Channel, Plan, Service, Subscription, Transaction
from billing.operations import history
from billing.plans.pricing import month_end
from tests.api.panel.client import Program
from tests.factories import AdministratorFactory, plan_with, subscribed, user_with
from users.models import User

pytestmark = pytest.mark.as_owner

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
BY: dict[str, Any] = {"actor": None, "channel": Channel.PANEL}


class System:
    """Another system, with the users, plans, trackers and transactions of its Panel API."""

    def __init__(self) -> None:
        self.users: list[dict[str, Any]] = [
            {"id": 371356, "login": "ada@example.com", "balance": 70.5, "bonus": 3,
             "creation_date": "2025-01-01 08:00:00", "activated": True, "post_city": "Köln",
             "post_index": "50667", "registered_city": None, "first_name": "Ada"},
            {"id": 371357, "login": "bob@example.com", "balance": 0, "bonus": 0,
             "creation_date": "2026-11-01 08:00:00", "activated": False},
        ]  # fmt: skip
        self.plans: list[dict[str, Any]] = [
            {"id": 12163, "name": "Premium", "type": "monthly", "price": 12.55, "active": True,
             "proportional_charge": True, "service_prices": {"outgoing_sms": 0.3, "traffic": None}},
            {"id": 12164, "name": "Rental", "type": "activeday", "price": 0.5, "active": False},
        ]  # fmt: skip
        self.trackers: list[dict[str, Any]] = [
            {"id": 3234961, "label": "Courier", "user_id": 371356, "clone": False,
             "deleted": False, "creation_date": "2025-02-03",
             "source": {"tariff_id": 12163, "tariff_end_date": "2026-12-01", "blocked": False}},
            {"id": 3234962, "label": "Its clone", "user_id": 371356, "clone": True,
             "deleted": False, "creation_date": "2025-02-03", "source": {"tariff_id": 12163}},
        ]  # fmt: skip
        self.transactions: list[dict[str, Any]] = [
            {"id": 1, "user_id": 371356, "timestamp": "2025-01-05 10:00:00", "type": "payment",
             "subtype": "partner", "description": "First payment", "tracker_id": 0,
             "amount": 100, "old_balance": 0, "new_balance": 100, "bonus_amount": 5,
             "old_bonus": 0, "new_bonus": 5},
            {"id": 2, "user_id": 371356, "timestamp": "2026-11-01 00:05:00", "type": "main_charge",
             "subtype": "monthly", "description": "Premium, November", "tracker_id": 3234961,
             "amount": -29.5, "old_balance": 100, "new_balance": 70.5, "bonus_amount": 0,
             "old_bonus": 5, "new_bonus": 5},
            {"id": 3, "user_id": 371356, "timestamp": "2026-11-02 09:00:00",
             "type": "tariff_charge", "subtype": "outgoing_sms", "description": "Seven SMS",
             "tracker_id": 3234961, "amount": 0, "old_balance": 70.5, "new_balance": 70.5,
             "bonus_amount": -2.0000000000000004, "old_bonus": 5, "new_bonus": 3},
        ]  # fmt: skip
        self.calls: list[tuple[str, Mapping[str, Any]]] = []
        self.longest = timedelta(days=400)

    def __call__(self, name: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        self.calls.append((name, parameters))
        if name == "user/transaction/list":
            return {"list": self._transactions(parameters)}
        rows = {
            "user/list": self.users, "tariff/list": self.plans, "tracker/list": self.trackers
        }[name]  # fmt: skip
        first, limit = parameters["offset"], parameters["limit"]
        found = {"list": rows[first : first + limit], "count": len(rows)}
        exact: Mapping[str, Any] = json.loads(json.dumps(found), parse_float=Decimal)
        return exact

    def _transactions(self, parameters: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        first, last = (datetime.fromisoformat(parameters[name]) for name in ("from", "to"))
        if last - first > self.longest:
            raise Refused(211, "Requested time span is too big")
        found = [
            row
            for row in self.transactions
            if row["user_id"] == parameters["user_id"]
            and parameters["from"] <= row["timestamp"] <= parameters["to"]
        ]
        exact: list[Mapping[str, Any]] = json.loads(json.dumps(found), parse_float=Decimal)
        return exact[: parameters["limit"]]

    def asked_for(self, name: str) -> int:
        return sum(called == name for called, _ in self.calls)


def fetch(folder: Path, system: Callable[..., Any], now: datetime = NOW) -> None:
    download(folder, url="", login="", password="", now=now, call=system)


def run(folder: Path, now: datetime = NOW, **options: Any) -> history.Imported:
    return history.import_history(Folder(folder), now=now, actor=None, **options)


# --- Download and import ------------------------------------------------------------------------


def test_everything_comes_over(db: None, tmp_path: Path) -> None:
    fetch(tmp_path, System())
    found = run(tmp_path)
    assert [str(each) for each in found.problems] == []
    assert (found.users, found.transactions, found.subscriptions, found.plans) == (2, 3, 1, 2)
    ada, bob = User.objects.order_by("email")
    assert (ada.city, ada.postal_code, ada.registered_city, ada.is_active) == (
        *("Köln", "50667", "", True),
    )
    assert not bob.is_active
    assert ledger.balance(ada)[:2] == (Decimal("70.5"), Decimal(3))
    rows = Transaction.objects.filter(user=ada).order_by("number")
    assert [(row.type, row.subtype, row.device) for row in rows] == [
        ("payment", "partner", ""),
        ("main_charge", "monthly", "3234961"),
        ("tariff_charge", "outgoing_sms", "3234961"),
    ]
    assert rows[2].bonus_amount == -2  # the float's rounding error is dropped
    subscription = Subscription.objects.select_related("plan").get()
    assert (subscription.device, subscription.plan.name) == ("3234961", "Premium")
    # `tariff_end_date` is the 1st, the day after the last paid day.
    assert f"{subscription.charged_through}" == "2026-11-30"
    assert (subscription.charge_number, subscription.paid) == (2, Decimal("29.5"))
    assert Plan.objects.get(name="Rental").cycle == "activeday"
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    call_command("verify_ledger", verbosity=0, stdout=StringIO())


def test_a_panel_api_that_tells_only_one_amount_is_understood(db: None, tmp_path: Path) -> None:
    system = System()
    system.users[0] |= {"balance": 10, "bonus": 4}
    system.transactions = [
        {"id": 1, "user_id": 371356, "timestamp": "2026-11-02 09:00:00", "type": "main",
         "amount": -5, "text": "Corrected by hand"},
        {"id": 2, "user_id": 371356, "timestamp": "2026-11-03 09:00:00", "type": "bonus",
         "amount": 3, "text": "A gift for you"},
    ]  # fmt: skip
    fetch(tmp_path, system)
    assert run(tmp_path).problem_count == 0
    rows = Transaction.objects.order_by("number")
    assert [(row.amount, row.bonus_amount, row.description) for row in rows] == [
        (15, 1, "Balance taken over from the previous system"),
        (-5, 0, "Corrected by hand"),
        (0, 3, "A gift for you"),
    ]


def test_spans_that_are_too_long_or_too_full_are_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System()
    system.longest = timedelta(days=20)
    monkeypatch.setattr(panel_api, "MOST_TRANSACTIONS", 2)
    at = datetime(2026, 11, 2, 9, tzinfo=UTC)
    system.transactions = [
        {**system.transactions[2], "id": 100 + place,
         "timestamp": f"{at + timedelta(minutes=7 * place):%Y-%m-%d %H:%M:%S}"}
        for place in range(20)
    ]  # fmt: skip
    fetch(tmp_path, system)
    lines = (tmp_path / "transactions" / "371356.csv").read_text().splitlines()
    assert [line.split(",")[2] for line in lines[1:]] == [str(100 + n) for n in range(20)]


def test_long_lists_are_asked_for_page_by_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel_api, "PAGE", 2)
    system = System()
    system.users = [{"id": n, "login": f"u{n}@example.com"} for n in range(1, 6)]
    fetch(tmp_path, system)
    assert len((tmp_path / "users.csv").read_text().splitlines()) == 6
    assert system.asked_for("user/list") == 3


# --- Repeated downloads -------------------------------------------------------------------------


def test_a_download_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    system = System()
    system.users = [
        {"id": n, "login": f"u{n}@example.com", "creation_date": "2026-11-01 00:00:00"}
        for n in range(1, 6)
    ]

    def interrupted(name: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        if parameters.get("user_id") == 4:
            raise KeyboardInterrupt
        return system(name, parameters)

    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path, interrupted)
    with (tmp_path / "downloaded.jsonl").open("a") as file:
        file.write('{"id": "5", "sta')  # killed in the middle of writing
    assert system.asked_for("user/transaction/list") == 3
    fetch(tmp_path, system)
    assert system.asked_for("user/transaction/list") == 5
    assert len(list((tmp_path / "transactions").glob("*.csv"))) == 5


def test_a_complete_download_is_never_overwritten(tmp_path: Path) -> None:
    """Otherwise an operator's corrections would be lost.

    Transactions after which a balance is the same again would be missed, too.
    """
    system = System()
    fetch(tmp_path, system)
    (tmp_path / "users.csv").write_text("id,login\n7,corrected@example.com\n")
    with pytest.raises(DownloadFailed, match="leave out --from-panel-api"):
        fetch(tmp_path, system)
    assert "corrected" in (tmp_path / "users.csv").read_text()


@pytest.mark.parametrize(("hours", "asked"), [(1, 1), (13, 2)])
def test_only_a_recent_download_is_gone_on_with(tmp_path: Path, hours: int, asked: int) -> None:
    system = System()
    system.users = [system.users[1] | {"id": n, "login": f"u{n}@example.com"} for n in (1, 2)]

    def interrupted(name: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        if parameters.get("user_id") == 2:
            raise KeyboardInterrupt
        return system(name, parameters)

    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path, interrupted)
    before = system.asked_for("user/transaction/list")
    fetch(tmp_path, system, NOW + timedelta(hours=hours))
    assert system.asked_for("user/transaction/list") - before == asked


@pytest.mark.parametrize("user_id", ["../../etc/x", "a/b", "", None, "1.5"])
def test_an_id_that_is_no_number_becomes_no_file(tmp_path: Path, user_id: Any) -> None:
    system = System()
    system.users[0]["id"] = user_id
    with pytest.raises(DownloadFailed, match="is no number"):
        fetch(tmp_path / "new", system)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_the_files_are_for_the_own_account_only(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    fetch(folder, System())
    modes = {path.stat().st_mode & 0o077 for path in [folder, *folder.rglob("*.csv")]}
    assert modes == {0}


@pytest.mark.parametrize(
    ("end", "cycle", "last"),
    [
        ("2026-12-01", "monthly", "2026-11-30"),
        ("2027-01-01", "every_year", "2026-12-31"),
        ("2026-12-01", "everyday", "2026-12-01"),
        ("2026-11-30", "monthly", "2026-11-30"),
        (None, "monthly", ""),
    ],
)
def test_the_last_paid_day(end: str | None, cycle: str, last: str) -> None:
    assert panel_api._last_day(end, cycle) == last


def test_a_list_without_a_count_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel_api, "PAGE", 2)
    system = System()
    system.users = [{"id": n, "login": f"u{n}@example.com"} for n in range(1, 6)]

    def without_count(name: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"list": system(name, parameters)["list"]}

    fetch(tmp_path, without_count)
    assert len((tmp_path / "users.csv").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda system: system.users[0].pop("login"), "KeyError: 'login'"),
        (lambda system: system.users.__setitem__(0, None), "TypeError"),
        (lambda system: system.trackers[0]["source"].update(tariff_end_date="soon"), "ValueError"),
    ],
)
def test_an_answer_that_cannot_be_understood_says_what_is_wrong(
    tmp_path: Path, spoil: Callable[[System], None], sentence: str
) -> None:
    system = System()
    spoil(system)
    with pytest.raises(DownloadFailed, match=sentence):
        fetch(tmp_path, system)


# --- This panel's own Panel API -----------------------------------------------------------------


def test_a_history_of_this_panel_comes_back_as_it_was(db: None, tmp_path: Path) -> None:
    """Downloads this panel's own history, rolls everything back, and imports the history."""
    now = timezone.now()
    with transaction.atomic():
        program = Program(AdministratorFactory())
        plan = plan_with(
            {Service.objects.create(code="sms", name="SMS"): "0.3"}, name="Fleet", price="31"
        )
        ada = user_with(real="100", bonus="5", email="ada@example.com", city="Köln")
        subscribed(ada, plan, device="8601", day=now.date())
        user_with(real="7", email="bob@example.com", is_active=False)
        ledger.change_balance(ada, amount=-9, description="Taken by hand", **BY)
        before = list(
            Transaction.objects.order_by("user__email", "number").values_list(
                *("user__email", "type", "subtype", "description", "amount", "bonus_amount"),
                *("new_balance", "new_bonus", "device"),
            )
        )
        fetch(tmp_path, lambda name, parameters: program(name, **parameters).body, now)
        transaction.set_rollback(True)
    assert not User.objects.exists()
    found = run(tmp_path, timezone.now())
    assert [str(each) for each in found.problems] == []
    assert before == list(
        Transaction.objects.order_by("user__email", "number").values_list(
            *("user__email", "type", "subtype", "description", "amount", "bonus_amount"),
            *("new_balance", "new_bonus", "device"),
        )
    )
    subscription = Subscription.objects.select_related("plan").get()
    assert (subscription.plan.name, subscription.device) == ("Fleet", "8601")
    assert subscription.charged_through == month_end(now.date())
    assert subscription.paid == 31
    assert User.objects.get(email="ada@example.com").city == "Köln"


# --- Over HTTP ----------------------------------------------------------------------------------

Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def server(respond: Callable[[str, dict[str, Any], str], Answer]) -> Iterator[str]:
    """Runs a Panel API on a free port. Yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            path = self.path.removeprefix("/v2/panel/")
            status, headers, content = respond(path, body, self.headers.get("Authorization", ""))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v2/panel/"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def ok(**values: Any) -> Answer:
    return 200, {}, json.dumps({"success": True, **values}).encode()


def error(code: int, description: str, status: int = 400) -> Answer:
    body = {"success": False, "status": {"code": code, "description": description}}
    return status, {}, json.dumps(body).encode()


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel_api.time, "sleep", lambda seconds: None)


def test_the_command_downloads_and_imports(db: None, tmp_path: Path, settings: Any) -> None:
    system = System()
    passwords = []

    def respond(path: str, body: dict[str, Any], authorization: str) -> Answer:
        if path == "account/auth":
            passwords.append(body)
            return ok(hash="fa7bf873")
        assert authorization == "NVX fa7bf873"
        return ok(**json.loads(json.dumps(system(path, body), default=float)))

    settings.PANEL_API_PASSWORD = "12f@14Y$"
    out = StringIO()
    with server(respond) as url:
        call_command(
            *("import_history", str(tmp_path / "new" / "folder"), "--login=20410"),
            *(f"--from-panel-api={url}",),
            stdout=out,
        )
    assert passwords == [{"login": "20410", "password": "12f@14Y$"}]
    assert "Imported: 2 users, 3 transactions, 1 subscription, 2 new plans." in out.getvalue()
    assert "The balances are 70.50 real and 3.00 bonus in all." in out.getvalue()
    assert "The ledger verifies: 3 transactions in all." in out.getvalue()


def test_a_session_that_ended_is_opened_again(no_waiting: None) -> None:
    hashes = iter(["first", "second"])

    def respond(path: str, body: dict[str, Any], authorization: str) -> Answer:
        if path == "account/auth":
            return ok(hash=next(hashes))
        return error(4, "Session ended") if authorization == "NVX first" else ok(list=[1])

    with server(respond) as url:
        assert Session(url, "me", "secret")("user/list", {})["list"] == [1]


def test_too_many_requests_are_waited_for(no_waiting: None) -> None:
    left = iter(range(3))

    def respond(path: str, body: dict[str, Any], authorization: str) -> Answer:
        if path == "account/auth":
            return ok(hash="x")
        return ok(list=[]) if next(left) == 2 else error(15, "Too many requests", 429)

    with server(respond) as url:
        assert Session(url, "me", "secret")("user/list", {})["list"] == []


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (error(11, "Access denied", 403), r"The Panel API refused: .*Access denied \(code 11\)"),
        ((200, {}, b"<html>"), "HTTP 200, without a JSON object"),
        ((200, {}, b"[]"), "a JSON object"),
        ((302, {"Location": "https://evil.example.com/"}, b""), "HTTP 302"),
    ],
)
def test_a_refusal_is_said_and_a_redirect_is_not_followed(
    tmp_path: Path, no_waiting: None, answer: Answer, sentence: str
) -> None:
    with server(lambda *_: answer) as url, pytest.raises(DownloadFailed, match=sentence):
        download(tmp_path, url=url, login="me", password="secret", now=NOW)


@pytest.mark.parametrize(
    "url", ["http://api.example.com/v2/panel", "ftp://api.example.com", "api.example.com", ""]
)
def test_a_password_goes_over_https_only(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadFailed, match="go over https only"):
        download(tmp_path, url=url, login="me", password="secret", now=NOW)


def test_a_server_that_is_not_there_is_a_sentence(
    db: None, tmp_path: Path, settings: Any, no_waiting: None
) -> None:
    settings.PANEL_API_PASSWORD = "secret"
    with server(lambda *_: ok()) as url:
        pass
    with pytest.raises(CommandError, match="The call account/auth failed"):
        call_command("import_history", str(tmp_path), f"--from-panel-api={url}", "--login=me")
    with pytest.raises(CommandError, match="--login"):
        call_command("import_history", str(tmp_path), f"--from-panel-api={url}")
