"""The answers of each channel while the database is unavailable, full, read-only or busy."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
import pytest
from django.db import OperationalError, connection, transaction
from django.http import HttpResponse
from django.test import Client

from billing import ledger
from billing.models import Transaction
from config.embedded.server import Server
from tests.api.rest.calls import REFILL
from tests.api.rest.programs import assert_problem, program_of_administrator
from tests.config.processes import manage, wait_for
from tests.config.web import Answer, Web
from tests.factories import PASSWORD, AdministratorFactory, user_with
from users import database
from users.database import OneLine
from users.models import User

TYPED = {"description": "Bank <transfer> 4711", "amount": "12.50", "bonus_amount": ""}


@pytest.fixture
def client(db: None) -> Client:
    """The browser of an operator who is logged in."""
    client = Client(raise_request_exception=False)
    client.force_login(AdministratorFactory())
    return client


@pytest.fixture
def away(db: None) -> Iterator[Callable[[], None]]:
    """A function that makes the database unavailable for the rest of the test."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OperationalError("connection refused")

    with pytest.MonkeyPatch.context() as broken:

        def leave() -> None:
            for cursor in ("cursor", "prepared_cursor"):
                broken.setattr(connection, cursor, refuse)

        yield leave


def page_of(user: User) -> str:
    return f"/admin/users/user/{user.pk}/change-balance/"


def failing(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """Makes posting fail with this SQLSTATE of the database."""

    def fail(*args: Any, **options: Any) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$")

    monkeypatch.setattr(ledger, "change_balance", fail)


def losing_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes posting succeed in the database, and then lose the connection."""
    post = ledger.change_balance

    def lose(*args: Any, **options: Any) -> None:
        with database.committing():
            post(*args, **options)
            raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(ledger, "change_balance", lose)


def form_of(client: Client, user: User) -> dict[str, Any]:
    initial = client.get(page_of(user)).context["form"].initial
    return {name: value for name, value in initial.items() if value is not None} | TYPED


# --- Pages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/admin/", "/admin/login/", "/admin/users/user/"])
def test_a_page_without_a_database_says_so(
    client: Client, away: Callable[[], None], path: str, caplog: pytest.LogCaptureFixture
) -> None:
    away()
    page = client.get(path)
    assert page.status_code == 503
    assert page["Retry-After"] == "5"
    html = page.content.decode()
    assert "The database does not answer." in html
    assert f'<a href="{path}">Try again</a>' in html
    [line] = [each for each in caplog.records if each.name == "django.request"]
    assert OneLine().filter(line)
    assert line.exc_info is None
    assert "connection refused" in line.getMessage()


def test_a_form_without_a_database_stands_as_it_was_typed(
    client: Client, away: Callable[[], None]
) -> None:
    user = user_with()
    form = form_of(client, user)
    away()
    page = client.post(page_of(user), form)
    assert page.status_code == 503
    html = page.content.decode()
    assert "Nothing was posted or changed." in html
    for value in ("Bank &lt;transfer&gt; 4711", "12.50", form["key"]):
        assert f'value="{value}"' in html
    assert f'<form method="post" action="{page_of(user)}"' in html


def test_a_password_is_not_shown_again(db: None, away: Callable[[], None]) -> None:
    away()
    client = Client(raise_request_exception=False)
    page = client.post("/admin/login/", {"username": "ada@example.com", "password": PASSWORD})
    assert page.status_code == 503
    assert "ada@example.com" in page.content.decode()
    assert PASSWORD not in page.content.decode()
    assert 'type="password" name="password"' in page.content.decode()


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("55P03", "Somebody else is changing the same thing"),
        ("25006", "The database can only be read at the moment"),
        ("53100", "disk is full"),
    ],
)
def test_where_it_can_be_read_the_form_itself_says_what_is_wrong(
    client: Client, monkeypatch: pytest.MonkeyPatch, state: str, sentence: str
) -> None:
    user = user_with()
    form = form_of(client, user)
    failing(monkeypatch, state)
    page = client.post(page_of(user), form)
    assert page.status_code == 503
    assert page["Retry-After"]
    [error] = page.context["form"].non_field_errors()
    assert sentence in error
    assert "Nothing was posted." in error
    shown = page.context["form"]
    assert {name: shown[name].value() for name in TYPED} == TYPED
    assert shown["key"].value() == form["key"]


def test_after_a_lost_commit_nobody_says_that_nothing_was_posted(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = user_with()
    form = form_of(client, user)
    with monkeypatch.context() as lost:
        losing_the_answer(lost)
        page = client.post(page_of(user), form)
    assert page.status_code == 503
    html = page.content.decode()
    assert "Nothing was" not in html
    assert "It is not known whether this was posted" in html
    assert f'name="key" value="{form["key"]}"' in html
    # Sent again with the same key, it is not posted a second time.
    assert client.post(page_of(user), form).status_code == 302
    assert Transaction.objects.filter(user=user).count() == 1


# --- Programs -----------------------------------------------------------------------------------


def test_a_call_whose_commit_is_lost_is_told_to_be_sent_again(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, user = program_of_administrator(), user_with()

    def refill() -> HttpResponse:
        return program.post(f"/users/{user.pk}/balance-changes", REFILL, key="4711")

    with monkeypatch.context() as lost:
        losing_the_answer(lost)
        problem = assert_problem(refill(), 503, "database_unavailable")
    assert "Nothing was changed" not in problem["detail"]
    assert "not known" in problem["detail"]
    assert refill().status_code == 200
    assert Transaction.objects.filter(user=user).count() == 1


@pytest.mark.parametrize("path", ["/api/v1/users", "/v2/panel/user/list"])
def test_a_call_without_a_database_is_told_in_its_own_form(
    client: Client, away: Callable[[], None], path: str
) -> None:
    away()
    headers = {"Authorization": "Bearer bill_x" if "api" in path else f"NVX {'0' * 32}"}
    answer = client.get(path, headers=headers)
    assert answer.status_code == 503
    assert answer["Retry-After"] == "5"
    body = answer.json()
    if "api" in path:
        assert body["code"] == "database_unavailable"
    else:
        assert body == {"success": False, "status": {"code": 1, "description": "Database error"}}


# --- A server that really has no connections left, is read-only, or is stopped ------------------

NEW_KEY = """
from billing import authority
from tests.factories import AdministratorFactory
owner = AdministratorFactory()
print(authority.issue_key(name="Gateway", owner=owner, created_by=owner)[1])
"""


@pytest.fixture
def server(data_dir: Path) -> Iterator[Server]:
    server = Server.at(data_dir)
    server.ensure_running(database="billing")
    yield server
    server.release()


def answers(web: Web, key: str) -> list[Answer]:
    refill = json.dumps(REFILL)
    bearer = {"Authorization": f"Bearer {key}", "Content_Type": "application/json"}
    login = urlencode({"login": "operator@example.com", "password": "operator"})
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    token = "a" * 32
    csrf, cookie = f"csrfmiddlewaretoken={token}", {"Cookie": f"csrftoken={token}"}
    return [
        web.get("/readyz"),
        web.post("/api/v1/users/1/balance-changes", refill, **bearer),
        web.post("/v2/panel/account/auth", login, **form),
        web.post("/admin/login/", csrf + "&username=ada@example.com&password=x", **form, **cookie),
    ]


def test_every_channel_says_503_while_the_server_is_full_read_only_or_gone(
    server: Server, tmp_path: Path
) -> None:
    place = {"host": str(server.socket_dir), "user": server.USER, "dbname": "billing"}
    url = f"postgres://{server.USER}@{quote(str(server.socket_dir), safe='')}/billing"
    made = manage("shell", "-v0", "-c", NEW_KEY, DATABASE_URL=url, DATA_DIR=str(tmp_path))
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()

    held = all_connections(place)
    with Web(tmp_path, workers=1, DATABASE_URL=url) as web:
        assert web.get("/healthz").status == 200
        assert_all_say(web, key, "database_unavailable")

        first, *others = held
        for each in others:
            each.close()
        wait_for(lambda: web.get("/readyz").status == 200)
        ready = json.loads(web.get("/readyz").text)
        assert (ready["ready"], ready["problems"]) == (True, [])
        assert answers(web, key)[1].status == 201

        first.execute("ALTER DATABASE billing SET default_transaction_read_only = on")
        first.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = 'billing' AND pid <> pg_backend_pid()"
        )
        wait_for(lambda: "database_read_only" in web.get("/readyz").text)
        assert web.get("/healthz").status == 200
        assert_all_say(web, key, "database_read_only")

        first.execute("SET default_transaction_read_only = off")
        first.execute("ALTER DATABASE billing RESET default_transaction_read_only")
        first.close()
        server.release()
        assert web.get("/healthz").status == 200
        assert_all_say(web, key, "database_unavailable")


def all_connections(place: dict[str, str]) -> list["psycopg.Connection[Any]"]:
    """Opens as many connections as the server allows."""
    held = []
    try:
        while True:
            held.append(psycopg.connect(**place, autocommit=True))
    except psycopg.OperationalError:  # too many clients
        return held


def assert_all_say(web: Web, key: str, code: str) -> None:
    ready, call, panel_call, login = answers(web, key)
    for answer in (ready, call, panel_call, login):
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) > 0
    assert json.loads(ready.text)["problems"][0]["code"] == code
    assert json.loads(call.text)["code"] == code
    assert json.loads(panel_call.text)["status"] == {"code": 1, "description": "Database error"}
    outage = next(each for each in database.OUTAGES if each.code == code)
    assert outage.sentence in login.text
    assert "Nothing was posted or changed." in login.text
