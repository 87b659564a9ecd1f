"""The log of calls: one JSON object per line, without personal data or secrets."""

import gzip
import json
import logging
from typing import Any
from urllib.parse import quote

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from billing import authority
from billing.api import call_log
from billing.api.panel.users import FIELDS
from billing.api.rest import api
from billing.api.schemas import UserFields
from billing.webhooks.messages import new_secret
from tests.api.rest.calls import REFILL
from tests.api.rest.programs import Program
from tests.factories import UserFactory
from users.models import User


def refill(program: Program, user: User, body: Any = REFILL, **options: Any) -> Any:
    return program.post(f"/users/{user.pk}/balance-changes", body, **options)


@pytest.fixture
def both(lines: list[str], with_bodies: None) -> list[str]:
    """The lines of the log, with the bodies of requests and answers."""
    return lines


SEEN = REFILL | {"description": "***"}


# --- What a line says ---------------------------------------------------------------------------


def test_a_line_says_what_was_called_by_whom_and_what_came_of_it(
    program: Program, user: User, lines: list[str]
) -> None:
    refill(program, user, key="order 17", X_Request_Id="order-4711")
    [line] = lines
    said = json.loads(line)
    assert said.pop("duration_ms") >= 0
    assert said.pop("timestamp").endswith("Z")
    assert said == {
        "event": "api_call",
        "level": "info",
        "request_id": "order-4711",
        "method": "POST",
        "path": f"/api/v1/users/{user.pk}/balance-changes",
        "status": 201,
        "key_id": program.key.pk,
        "owner_id": program.owner.pk,
    }


def test_a_refused_call_says_why(program: Program, lines: list[str]) -> None:
    program.get("/users", Authorization="Bearer bill_wrong-one")
    program.get("/nothing")
    program.get("/users", Host="evil.example.com")
    program.post("/users", b"{")
    program.call("FOO", "/users")
    told = [json.loads(line) for line in lines]
    assert [each["status"] for each in told] == [401, 404, 400, 400, 405]
    assert [each["code"] for each in told] == [
        *("unauthenticated", "not_found", "bad_request", "malformed_json", "method_not_allowed"),
    ]
    assert "wrong-one" not in "".join(lines)
    assert "FOO" not in "".join(lines)


def test_bodies_are_not_logged_unless_somebody_says_so(
    program: Program, lines: list[str], settings: Any
) -> None:
    assert settings.LOG_API_BODIES is False
    program.post("/users", {"email": "ada@example.net", "first_name": "Ada"})
    program.get("/users?search=ada&limit=10")
    made, found = map(json.loads, lines)
    assert not {"request", "response", "query"} & set(made)
    assert found["query"] == "search=***&limit=10"
    assert not {"request", "response"} & set(found)
    for each in (made, found):
        # The ID is random hexadecimal digits, which may contain "ada".
        assert each.pop("request_id")
        assert "ada" not in json.dumps(each).lower()


def test_where_somebody_says_so_they_are(program: Program, user: User, both: list[str]) -> None:
    response = refill(program, user)
    [line] = both
    said = json.loads(line)
    assert json.loads(said["request"]) == SEEN
    hidden = dict.fromkeys(("description", "device", "metadata", "reason"), "***")
    assert json.loads(said["response"]) == response.json() | hidden


def test_the_log_can_be_turned_off(program: Program, lines: list[str]) -> None:
    call_log.logger.setLevel(logging.WARNING)
    program.get("/users")
    assert lines == []


# --- Nobody is named ----------------------------------------------------------------------------

NAMES = [name for name in UserFields.model_fields if name not in call_log.SHOWN]


def test_nothing_of_a_person_is_logged(program: Program, both: list[str]) -> None:
    person = {
        name: f"Xyzzy{number}"
        for number, name in enumerate(NAMES)
        if name not in ("email", "phone", "okpo_code")
    }
    person |= {"email": "xyzzy@example.net", "phone": "+49 30 901820", "okpo_code": "98765432"}
    made = program.post("/users", person)
    assert made.status_code == 201, made.content
    path = f"/users/{made.json()['id']}"
    program.patch(path, person)
    program.get(path)
    program.get("/users")
    for search in ("Xyzzy1", "xyzzy@example.net", "+49 30 901820"):
        program.get(f"/users?search={quote(search)}")
        program.get(f"/users/{quote(search)}")
        program.get(f"/users?{quote(search)}=1")
    for misplaced in ("xyzzy@example.net", "+49 30 901820"):
        program.get(f"/users?cursor={quote(misplaced)}&limit={quote(misplaced)}")
    program.post("/users", person)  # the address is taken
    program.post("/users", {"frist_name": "Xyzzy", "email": "xyzzy@example.net", "Xyzzy": 1})
    program.post("/users", person | {"legal_type": "xyzzy@example.net"})
    program.post("/users", person | {"phone": 4930901820})
    program.post("/users", b'{"email": "xyzzy@example.net", "first_name": "Xyzzy"')
    program.post("/users", json.dumps(person).encode(), content_type="text/plain")
    program.post("/users", b"email=xyzzy@example.net&first_name=Xyzzy", content_type="")
    program.post("/users", b"--x\r\nXyzzy", content_type="multipart/form-data; boundary=Xyzzy")
    text = "\n".join(both).lower()
    assert len(both) == 4 + 9 + 2 + 8
    for part in ("xyzzy", "example.net", "901820", "98765432"):
        assert part not in text, part


def test_every_field_of_ours_is_sorted_in() -> None:
    described = api.get_openapi_schema()
    names = {
        name
        for schema in described["components"]["schemas"].values()
        for name in schema.get("properties", ())
    } | {
        parameter["name"]
        for calls in described["paths"].values()
        for call in calls.values()
        for parameter in call["parameters"]
        if parameter["in"] != "header"
    }
    assert names <= call_log.SHOWN | call_log.NAMED
    assert not call_log.SHOWN & call_log.NAMED
    plain = {"is_active", "legal_type", "time_zone"}
    assert set(UserFields.model_fields) - plain <= call_log.NAMED
    assert set(FIELDS) <= call_log.NAMED


# --- No secret ----------------------------------------------------------------------------------

SECRET_NAMES = (
    *("password", "hash", "secret", "token", "key", "Password", "HASH", "Password ", "pass"),
    *("access_token", "api_key", "client_secret", "new_password", "apiKey", "X-Auth", "session_id"),
)


def test_no_secret_is_logged(program: Program, user: User, both: list[str]) -> None:
    metadata = dict.fromkeys(SECRET_NAMES, "s3cr3t")
    refill(program, user, REFILL | {"metadata": {"deep": [{"deeper": metadata}]}}, key="seen-2")
    refill(program, user, REFILL | metadata)
    for name in map(quote, SECRET_NAMES):
        program.get(f"/users?{name}=s3cr3t")
        program.client.get(f"/v2/panel/user/list?{name}=s3cr3t")
    text = "\n".join(both)
    assert text.count("\n") == 1 + 2 * len(SECRET_NAMES)
    assert "s3cr3t" not in text
    assert "seen-2" in text


@pytest.mark.parametrize(
    "query",
    [
        'user={"pass": "s3cr3t"}&user=1',
        'user={"pass": "s3cr3t"',
        'a=[{"token": "s3cr3t"}]',
        '{"token": "s3cr3t"}=1',
        '{"token": "s3cr3t"',
    ],
)
def test_no_object_in_an_address_tells_its_secrets(
    program: Program, lines: list[str], query: str
) -> None:
    program.client.get(f"/v2/panel/user/list?{quote(query, safe='=&')}")
    [line] = lines
    assert "***" in json.loads(line)["query"]
    assert "s3cr3t" not in line


def test_our_own_secrets_are_not_logged_wherever_they_stand(
    program: Program, user: User, both: list[str]
) -> None:
    session_hash = authority.open_session(program.owner, timezone.now())
    endpoints = new_secret().replace("/", "+")
    secrets = (program.secret, endpoints, session_hash, session_hash.upper())
    for secret in secrets:
        for text in (secret, f'é"{secret}"', f"Bearer {secret}, as sent"):
            refill(program, user, REFILL | {"metadata": {"note": [text]}})
            refill(program, user, REFILL | {text[:100]: "5"})
            refill(program, user, REFILL | {"amount": text})
            program.get(f"/users?search={quote(text)}")
            program.get(f"/users?cursor={quote(text)}")
            program.get(f"/users?{quote(text)}=1")
            program.get(f"/{quote(text)}")
        program.get(f"/users?cursor={secret}")  # here, + means a space
    assert len(both) == 4 * (3 * 7 + 1)
    for line in both:
        for secret in (program.secret, endpoints, session_hash):
            assert secret[-12:].lower() not in line.lower()


def test_django_notes_no_address_beside_the_log(
    program: Program,
    lines: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("django"), "propagate", True)  # so that caplog sees it
    for level in (logging.INFO, logging.WARNING):
        call_log.logger.setLevel(level)
        for path in (f"/{program.secret}", f"/users/{program.secret}/balance"):
            assert program.get(path).status_code == 404
            assert program.client.get(f"/v2/panel{path}").status_code == 400
            assert program.client.post(f"/v2{path}").status_code >= 400
    assert len(lines) == 6
    assert not [r for r in caplog.records if program.secret in r.getMessage()]


def test_by_keys_and_request_ids_calls_are_found_again(
    program: Program, user: User, both: list[str]
) -> None:
    key = "0123456789abcdef" * 2
    response = refill(program, user, key=key)
    body = {"entries": [REFILL | {"user_id": user.pk, "idempotency_key": program.secret}]}
    program.post("/balance-changes", body)
    first, second = map(json.loads, both)
    answered = json.loads(first["response"])
    assert answered["idempotency_key"] == key
    assert answered["digest"] == response.json()["digest"]
    assert first["request_id"] == response["X-Request-Id"]
    assert program.secret not in second["request"]


@pytest.mark.parametrize(
    "injected", ["a\nINFO forged", "a\r\nforged", "\x1b[31m", "a\x85b", "a\u2028b", "\0"]
)
def test_nobody_writes_a_line_of_the_log(
    program: Program, user: User, both: list[str], injected: str
) -> None:
    refill(program, user, REFILL | {"amount": f"5{injected}"})
    refill(program, user, b"{" + injected.encode())
    refill(program, user, content_type=f"text/plain{injected}")
    refill(program, user, content_type=f"application/json{injected}")
    refill(program, user, X_Request_Id=f"order-4711{injected}")
    program.get(f"/{quote(injected)}")
    program.get(f"/users?cursor={quote(injected)}")
    program.get(f"/users?{quote(injected)}=1")
    assert len(both) == 8
    for line in both:
        assert line.isprintable(), line
        json.loads(line)


# --- Compressed and long bodies -----------------------------------------------------------------


def test_a_compressed_answer_is_logged_as_it_reads(program: Program, both: list[str]) -> None:
    UserFactory.create_batch(2)  # more do not fit into a line
    response = program.get("/users", Accept_Encoding="gzip")
    assert response["Content-Encoding"] == "gzip"
    [line] = both
    shown = json.loads(json.loads(line)["response"])
    told = json.loads(gzip.decompress(response.content))
    assert [each["id"] for each in shown["users"]] == [each["id"] for each in told["users"]]


def test_very_long_bodies_are_logged_by_their_beginning(
    program: Program, user: User, both: list[str]
) -> None:
    entries = [REFILL | {"user_id": user.pk, "idempotency_key": f"{i}"} for i in range(300)]
    response = program.post("/balance-changes", {"entries": entries})
    assert len(response.content) > 100_000
    program.get("/openapi.json")
    program.get("/docs")
    batch = json.loads(both[0])
    seen = entries[0] | {"description": "***"}
    assert batch["request"].startswith(f'{{"entries": [{json.dumps(seen)}, ')
    assert batch["response"].startswith('{"results": [{"outcome": "posted", "transaction": {"id": ')
    for line in both:
        for body in ("request", "response"):
            assert len(json.loads(line)[body]) <= call_log.BODY_LOGGED + 1
    assert batch["response"].endswith("…")


LONG = "x" * 2 * call_log.BODY_READ


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (
            '{"plan": [{"id": 1}, {"x": "s", "id": "LONG"}]}',
            '{"plan": [{"id": 1}, {"***": "***"}]}',
        ),
        ('{"plan": {"token": "LONG", "id": 1}, "day": 2}', '{"plan": {}}'),
        ('{"email": ["a", "b", "LONG"], "day": 2}', '{"email": "***"}'),
        ('{"plan": [[1, 2], [3, 4], LONG', '{"plan": [[1, 2], [3, 4]]}'),
        ('{"a" 1, "b": "LONG"}', "({} bytes that are no JSON)"),
        ('"LONG"', "({} bytes that are no JSON)"),
        ("id=1&token=s&day=2&code=LONG", "id=1&***=***&day=2"),
        ("token=LONG", ""),
        ("token: s3cr3t LONG", "({} bytes that are neither JSON nor a form)"),
    ],
)
def test_a_long_body_is_cut_where_no_secret_is_cut(body: str, shown: str) -> None:
    is_form = body[0] not in '{"'
    sent = body.replace("LONG", LONG).encode()
    text = call_log.shown(sent, "" if is_form else "application/json")
    assert text == (shown.format(len(sent)) if shown.startswith("(") else f"{shown}…")


@given(
    st.recursive(
        st.text('a,\\"[]{}é'),
        lambda inner: st.lists(inner) | st.dictionaries(st.text('a"{,'), inner),
    ),
    st.data(),
)
def test_json_is_closed_wherever_it_breaks_off(value: Any, data: Any) -> None:
    text = json.dumps({"all": value}, ensure_ascii=False)
    json.loads(call_log._closed(text[: data.draw(st.integers(1, len(text)))]))


@given(st.recursive(st.integers() | st.text(), st.lists), st.text())
def test_whatever_has_an_unknown_name_is_stars(value: Any, name: str) -> None:
    body = json.dumps({name: value}).encode()
    if name not in call_log.SHOWN | call_log.NAMED:
        assert call_log.shown(body, "application/json") == '{"***": "***"}'


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_json_of_another_type_is_logged_as_json(
    program: Program, user: User, both: list[str], content_type: str
) -> None:
    body = REFILL | {"description": "Fish & chips", "token": "s3cr3t"}
    for before in ("", " " * 1000, "\ufeff", "\f"):
        refill(program, user, f"{before}{json.dumps(body)}".encode(), content_type=content_type)
    assert json.loads(json.loads(both[0])["request"]) == SEEN | {"***": "***"}
    assert not [line for line in both if "s3cr3t" in line or "chips" in line]
