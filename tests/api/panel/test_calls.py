"""Every call of the Panel API: its address, how parameters are sent, and its permission."""

import json
import logging
import re
from typing import Any

import pytest
from django.test.client import encode_multipart

from billing.api.panel import dispatch
from billing.api.panel.errors import MEANINGS
from billing.api.panel.users import FIELDS
from billing.models import Transaction
from tests.api.panel.calls import CALL, CALLS, PanelCall, World
from tests.api.panel.client import BASE, Program, as_form
from tests.config.processes import ROOT
from tests.operators import operator_with
from users.models import User

CHANGE = "user/transaction/change_balance"
MULTIPART = "multipart/form-data"

OPEN = {"account/auth", "timezone/list"}  # need no session

every_call = pytest.mark.parametrize("call", CALLS, ids=str)


def test_the_table_of_calls_is_complete() -> None:
    there = {"/".join(name): action.permission for name, action in dispatch.ACTIONS.items()}
    assert {call.path: call.permission for call in CALLS} == there
    assert {"/".join(name) for name in dispatch.OPEN} == OPEN


# --- Ways to call -------------------------------------------------------------------------------


@every_call
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_post_of_json(program: Program, world: World, call: PanelCall, slash: str) -> None:
    assert program.post(call.path + slash, json.dumps(call.parameters(world))).status == 200


@every_call
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_post_of_a_form(program: Program, world: World, call: PanelCall, slash: str) -> None:
    assert program.form(call.path + slash, call.parameters(world)).status == 200


@every_call
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_get(program: Program, world: World, call: PanelCall, slash: str) -> None:
    assert program.get(call.path + slash, call.parameters(world)).status == 200


@every_call
def test_a_multipart_form(program: Program, world: World, call: PanelCall) -> None:
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in call.parameters(world).items()
    }
    response = program.client.post(f"{BASE}{call.path}", texts | {"hash": program.hash})
    assert program.answer(response).status == 200


def test_curl_sends_json_as_a_form_and_that_is_understood(program: Program, world: World) -> None:
    body = json.dumps(CALL["user/read"].parameters(world))
    answer = program.post("user/read", body, "application/x-www-form-urlencoded")
    assert answer["value"]["login"] == "ada@example.com"


def test_the_body_counts_before_the_address(program: Program, world: World) -> None:
    answer = program.post("user/read?user_id=1", json.dumps({"user_id": world.user.pk}))
    assert answer["value"]["id"] == world.user.pk


def test_unknown_parameters_are_ignored_and_null_is_absent(program: Program, world: World) -> None:
    answer = program("user/list", surprise={"a": [1]}, filter=None, limit=None, ascending=None)
    assert answer["count"] == 1


def test_slashes_too_many_do_not_matter(program: Program) -> None:
    assert program("/user//list//").status == 200


# --- Addresses without a call -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("", 111),
        ("list", 111),
        ("tracker", 111),
        ("subpaas/list", 111),
        ("user/session/create", 111),
        ("user/user/list", 111),
        ("%0A/list", 111),
        ("us%00er/list", 111),
        ("user/transaction", 112),
        ("user/delete", 112),
        ("user/transaction/delete", 112),
        ("account/AUTH", 112),
        ("tariff/create", 112),
        ("user/list%0A", 112),
    ],
)
def test_wrong_handlers_and_methods(program: Program, path: str, code: int) -> None:
    answer = program(path)
    assert (answer.code, answer.status) == (code, 400)
    assert Program()(path).code == code  # also without a session


@pytest.mark.parametrize("verb", ["put", "patch", "delete"])
def test_only_get_and_post_call(program: Program, world: World, verb: str) -> None:
    response = getattr(program.client, verb)(
        f"{BASE}user/list", headers={"authorization": f"NVX {program.hash}"}
    )
    assert response.status_code == 400
    assert response.json()["status"] == {"code": 112, "description": "Wrong method"}


# --- Invalid bodies -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"[]", "application/json"),
        (b'"text"', "application/json"),
        (b"{", "application/json"),
        (b'{"user_id": 1', "application/x-www-form-urlencoded"),
        (b"{'user_id': 1}", "application/json"),
        (b'{"filter": "\xff"}', "application/json"),
        (b'{"filter": "\xff"}', "text/plain"),
        (b"filter=%FF", "application/x-www-form-urlencoded"),
        (b"filter=\xff", "application/x-www-form-urlencoded"),
        (b'{"a": ' + b"[" * 100_000, "application/json"),
        (b'{"a": ' * 40_000, "application/json"),
        (b"&".join(b"a%d=1" % n for n in range(2_000)), "application/x-www-form-urlencoded"),
        (b"--x\r\nnonsense", "multipart/form-data; boundary=x"),
        (b"nonsense", "multipart/form-data"),
        (
            b'--x\r\nContent-Disposition: form-data; name="filter"\r\n\r\n\xff\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
        ),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_what_is_neither_json_nor_a_form_is_refused(
    program: Program, body: bytes, content_type: str
) -> None:
    answer = program.post("user/list", body, content_type)
    # Django may read an unfinished multipart body as an empty one.
    assert (answer.code, answer.status) in {(5, 400)} | (
        {(None, 200)} if content_type.startswith("multipart") and b"\xff" not in body else set()
    )


def test_an_address_that_is_not_utf_8_is_refused(program: Program) -> None:
    response = program.client.get(f"{BASE}user/list?filter=%FF&hash={program.hash}")
    assert response.json()["status"]["code"] == 5


def test_a_huge_body_is_refused(program: Program) -> None:
    answer = program.post("user/list", b'{"filter": "' + b"a" * 3_000_000 + b'"}')
    assert (answer.code, answer.status) == (5, 413)


def test_an_empty_body_is_a_call_without_parameters(program: Program) -> None:
    assert program.post("user/list", b"").status == 200


# --- Permissions --------------------------------------------------------------------------------


@every_call
def test_each_call_takes_the_permission_of_the_panels_page(world: World, call: PanelCall) -> None:
    given = call.parameters(world)
    if call.permission is None:
        assert Program(operator_with())(call.path, **given).code is None
        return
    # The permissions of all other calls together do not allow this one.
    others = {each.permission for each in CALLS if each.permission} - {call.permission}
    refused = Program(operator_with(*others))(call.path, **given)
    assert (refused.code, refused.status) == (13, 403)
    assert Program(operator_with(call.permission))(call.path, **given).status == 200


def test_rights_are_asked_before_parameters(world: World) -> None:
    assert Program(operator_with())(CHANGE).code == 13


@every_call
def test_operators_are_no_customers(
    program: Program, administrator: User, world: World, call: PanelCall
) -> None:
    given = call.parameters(World(administrator, world.plan))
    answer = program(call.path, **given)
    if "user_id" in given or call.path == "user/update":
        assert (answer.code, answer.status) == (201, 400)
    elif call.path == "user/list":
        assert [user["id"] for user in answer["list"]] == [world.user.pk]
    assert not Transaction.objects.filter(user=administrator).exists()


# --- Browsers -----------------------------------------------------------------------------------

SHOP = "https://shop.example.com"


@pytest.fixture
def shop_may_call(settings: Any) -> None:
    settings.API_CORS_ORIGINS = [SHOP]


def test_pages_of_named_origins_may_call(program: Program, shop_may_call: None) -> None:
    for answer in (
        program.post("user/list", "{}", HTTP_ORIGIN=SHOP),
        program.post("user/nonsense", "{}", HTTP_ORIGIN=SHOP),
    ):
        assert answer.response["Access-Control-Allow-Origin"] == SHOP
        assert "Origin" in answer.response["Vary"]
        assert "Access-Control-Allow-Credentials" not in answer.response.headers


def test_a_browser_may_ask_first(program: Program, shop_may_call: None) -> None:
    response = program.client.options(
        f"{BASE}{CHANGE}",
        headers={"origin": SHOP, "access-control-request-method": "POST"},
    )
    assert (response.status_code, response.content) == (204, b"")
    assert response["Access-Control-Allow-Origin"] == SHOP
    assert response["Access-Control-Allow-Methods"] == "GET, POST"
    assert "Authorization" in response["Access-Control-Allow-Headers"]
    assert "Content-Type" in response["Access-Control-Allow-Headers"]
    assert int(response["Access-Control-Max-Age"]) > 0


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", SHOP.upper(), f"{SHOP}.evil.example", "*", ""]
)
def test_pages_of_other_origins_may_not(program: Program, shop_may_call: None, origin: str) -> None:
    asked = program.client.options(f"{BASE}user/list", headers={"origin": origin})
    for response in (asked, program.post("user/list", "{}", HTTP_ORIGIN=origin).response):
        assert not [name for name in response.headers if name.startswith("Access-Control")]
        assert "Origin" in response["Vary"]


def test_without_a_setting_no_page_may(program: Program) -> None:
    response = program.post("user/list", "{}", HTTP_ORIGIN=SHOP).response
    assert not [name for name in response.headers if name.startswith("Access-Control")]


# --- The unexpected -----------------------------------------------------------------------------


def test_the_unexpected_is_logged_and_tells_nobody_anything(
    program: Program, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(*args: Any) -> None:
        raise RuntimeError("the secret recipe")

    monkeypatch.setattr("billing.api.panel.dispatch.authority.find_session", break_down)
    with caplog.at_level(logging.ERROR, logger="billing.api.panel"):
        answer = program("user/list")
    assert answer.status == 500
    assert answer.body == {
        "success": False,
        "status": {"code": 6, "description": "Unexpected error"},
    }
    [record] = [each for each in caplog.records if each.name == "billing.api.panel"]
    assert record.exc_info
    assert "user/list" in record.getMessage()
    assert program.hash not in caplog.text


# --- The log ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["post", "form", "get"])
def test_the_log_has_every_call_and_no_secret(
    program: Program, world: World, lines: list[str], with_bodies: None, way: str
) -> None:
    profile = {"passport": "C01X00T47"} | CALL["user/create"].parameters(world)["user"]
    given = {"user": profile, "password": "hunter2-hunter2", "hash": program.hash}
    if way == "post":
        program("user/create", **given)
    else:
        getattr(program, way)("user/create", given)
    [line] = lines
    assert '"path": "/v2/panel/user/create"' in line
    for secret in ("C01X00T47", "hunter2", program.hash):
        assert secret not in line


@pytest.mark.parametrize("content_type", ["", "application/x-www-form-urlencoded", MULTIPART])
def test_the_log_has_what_a_form_said(
    db: None, lines: list[str], with_bodies: None, content_type: str
) -> None:
    fields = {"login": "ada@example.net", "password": "hunter2", "limit": "10"}
    body: Any = as_form(fields)
    if content_type == MULTIPART:
        body = encode_multipart("x", fields)
        content_type = f"{MULTIPART}; boundary=x"
    Program().post("account/auth", body, content_type)
    [line] = lines
    assert json.loads(line)["request"] == "login=***&password=***&limit=10"


def test_the_log_says_who_called_and_what_came_of_it(program: Program, lines: list[str]) -> None:
    program("user/read", user_id=2**40)
    program("subpaas/nonsense")
    known, unknown = map(json.loads, lines)
    assert (known["code"], known["status"]) == (201, 400)
    assert known["owner_id"] == User.objects.get(is_staff=True).pk
    assert "request" not in known
    assert unknown["path"] == "/v2/panel/***/***"


def test_the_log_names_the_calls_that_take_no_session(db: None, lines: list[str]) -> None:
    for path in sorted(OPEN):
        Program()(path)
    assert [json.loads(line)["path"] for line in lines] == [
        f"/v2/panel/{each}" for each in sorted(OPEN)
    ]


@pytest.mark.parametrize("way", ["post", "form", "get"])
def test_nobody_is_named_in_the_log(
    program: Program, world: World, lines: list[str], with_bodies: None, way: str
) -> None:
    for path in ("user/create", "user/update", "user/list", "user/read"):
        given = {**CALL[path].parameters(world), "hash": program.hash}
        if "user" in given:
            named = {name: f"Xyzzy{number}" for number, name in enumerate(FIELDS)}
            given["user"] = dict(given["user"]) | named | {"login": "xyzzy@example.net"}
        if path == "user/list":
            given["filter"] = "xyzzy"
        if way == "post":
            program(path, **{name: value for name, value in given.items() if name != "hash"})
        else:
            getattr(program, way)(path, given)
    assert len(lines) == 4
    assert "xyzzy" not in "\n".join(lines).lower()
    assert "example" not in "\n".join(lines).lower()


def test_an_address_with_too_many_parameters_is_refused(program: Program) -> None:
    answer = program.get("user/list", {f"p{number}": "1" for number in range(2_000)})
    assert (answer.code, answer.status) == (5, 400)


# --- Documents ----------------------------------------------------------------------------------

PAGE = ROOT / "docs" / "panel-api.md"


def test_every_code_is_documented_with_its_status_and_the_other_way_round() -> None:
    listed = re.findall(r"^\| (\d+) \| (\d+) \| ([^|]+) \|", PAGE.read_text(), re.MULTILINE)
    assert {int(code): (int(status), said) for code, status, said in listed} == {
        code: (meaning.status, meaning.description) for code, meaning in MEANINGS.items()
    }


def test_every_call_is_documented_with_its_permission_and_the_other_way_round() -> None:
    calling, _, _ = PAGE.read_text().partition("\n## Answers\n")
    listed = re.findall(r"^\| `([a-z_/]+)` \| (?:`([a-z_.]+)`)?", calling, re.MULTILINE)
    assert dict(listed) == dict.fromkeys(OPEN, "") | {
        call.path: call.permission or "" for call in CALLS
    }
