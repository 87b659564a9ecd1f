"""Requests to `/api/v1/`: their IDs, bodies, addresses, parameters and idempotency keys.

A request that makes no sense gets a problem with a sentence, never a server error.
"""

import gzip
import json
import logging
import re
from collections import defaultdict
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client

from billing import ledger
from billing.models import Transaction
from tests.api.rest.calls import REFILL, operations
from tests.api.rest.programs import BASE, Program, assert_problem
from users.models import User

OWN_ID = re.compile(r"[0-9a-f]{32}")


def refill(program: Program, user: User, body: Any = REFILL, **options: Any) -> HttpResponse:
    return program.post(f"/users/{user.pk}/balance-changes", body, **options)


def with_value(value: str, field: str = "metadata") -> bytes:
    """Returns the body of a refill, with this JSON text as the value of `field`."""
    fields = {"description": '"Refill 17"', "amount": '"5"'} | {field: value}
    return ("{" + ", ".join(f'"{name}": {each}' for name, each in fields.items()) + "}").encode()


# --- Request IDs --------------------------------------------------------------------------------


def test_each_answer_has_an_id_of_its_own(program: Program) -> None:
    ids = [program.get(path)["X-Request-Id"] for path in ("/users", "/users", "/nothing", "/docs")]
    assert all(OWN_ID.fullmatch(each) for each in ids)
    assert len(set(ids)) == 4


@pytest.mark.parametrize("brought", ["order-4711", "A.b_c-12", "x" * 8, "x" * 64])
def test_a_caller_may_bring_an_id(program: Program, user: User, brought: str) -> None:
    response = refill(program, user, X_Request_Id=brought)
    assert response["X-Request-Id"] == brought
    assert response.json()["metadata"] == {"request_id": brought}
    refused = program.get("/users/0", X_Request_Id=brought)
    assert refused.json()["request_id"] == brought


@pytest.mark.parametrize(
    "brought",
    [
        "",
        "short-7",
        "x" * 65,
        "with space",
        "bad\r\nSet-Cookie: a=b",
        "bad\nline",
        "line-feed-at-end\n",
        "nul\0inside",
        "überlang-1",
        "<script>1",
        "a,bbbbbbbb",
        '"quoted-id"',
        "bill_" + "x" * 43,
    ],
)
def test_an_id_that_could_do_harm_is_replaced(program: Program, user: User, brought: str) -> None:
    response = refill(program, user, X_Request_Id=brought)
    assert OWN_ID.fullmatch(response["X-Request-Id"])
    assert response.json()["metadata"] == {"request_id": response["X-Request-Id"]}


def test_an_id_ends_with_its_request(program: Program, user: User) -> None:
    refill(program, user)
    posted = ledger.change_balance(
        user, amount=1, description="Beside any request", actor=None, channel="panel"
    )
    assert posted.metadata == {}


def test_callers_cannot_say_the_id_in_the_metadata(program: Program, user: User) -> None:
    response = refill(program, user, REFILL | {"metadata": {"request_id": "mine"}})
    assert_problem(response, 422, "invalid_entry", field="metadata")


def test_other_pages_have_no_such_id(client: Client, db: None) -> None:
    assert "X-Request-Id" not in client.get("/admin/login/").headers


# --- Bodies -------------------------------------------------------------------------------------


def test_a_body_may_be_just_so_large(program: Program, user: User, settings: Any) -> None:
    body = json.dumps(REFILL).encode()
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = len(body)
    assert refill(program, user, body).status_code == 201
    assert_problem(refill(program, user, body + b" "), 413, "too_large", limit=len(body))
    assert Transaction.objects.count() == 1


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5000, "-1", "1e3", "abc", "٣"])
def test_a_length_that_is_none_is_not_waited_for(program: Program, length: str) -> None:
    response = program.client.generic(
        "POST", f"{BASE}/users", b"{}", "application/json", CONTENT_LENGTH=length
    )
    assert_problem(response, 413, "too_large")


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "text/json",
        "application/jsonx",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "application/merge-patch+json",
        "application/json; charset=utf-16",
        "application/json; charset=latin-1",
        "application/json; charset=",
    ],
)
def test_a_body_of_another_type_is_not_taken(
    program: Program, user: User, content_type: str
) -> None:
    response = refill(program, user, content_type=content_type)
    assert_problem(response, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "APPLICATION/JSON",
        "application/json; charset=UTF-8",
        "application/json;",
    ],
)
def test_json_is_known_however_its_type_is_written(
    program: Program, user: User, content_type: str
) -> None:
    assert refill(program, user, content_type=content_type).status_code == 201


def test_a_compressed_body_is_not_guessed_at(program: Program, user: User) -> None:
    body = gzip.compress(json.dumps(REFILL).encode())
    assert_problem(refill(program, user, body, Content_Encoding="gzip"), 400, "malformed_json")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "expecting property name"),
        (b'{"amount": "5"', "delimiter"),
        (b"{} {}", "extra data"),
        (b"{'amount': 5}", "expecting property name"),
        (b'{"amount": 05}', "delimiter"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"description": "\xff"}', "UTF-8"),
        (b'{"description": "\xed\xa0\x80"}', "UTF-8"),  # half a character, which UTF-8 excludes
        ('{"amount": "5"}'.encode("utf-16"), "UTF-8"),
        ('{"amount": "5"}'.encode("utf-32"), "expecting|UTF-8"),
        (b'{"a\nb": 1}', "control character"),
        (b'{"amount": "5", "amount": "500"}', "twice"),
        (b'{"metadata": {"a": {"b": 1, "b": 2}}}', "twice"),
        (with_value("NaN", "amount"), "NaN"),
        (with_value('{"a": Infinity}'), "Infinity"),
        (with_value('{"a": -Infinity}'), "-Infinity"),
        (with_value('{"a": 1e999}'), "too large"),
        (with_value("-1e999", "amount"), "too large"),
        (with_value('{"a": %s}' % ("1" * 5000)), "too long"),
        (with_value('{"a": %s}' % ("[" * 31 + "]" * 31)), "deep"),
        (with_value('{"a": %s}' % ("[" * 200 + "]" * 200)), "deep"),
        (b"[" * 100_000, "deep"),
        (b'{"a":' * 100_000, "deep"),
    ],
)
def test_what_is_no_json_is_told_so(program: Program, user: User, body: bytes, reason: str) -> None:
    for call in (
        refill(program, user, body),
        program.post("/balance-changes", body),
        program.post("/users", body),
        program.patch(f"/users/{user.pk}", body),
    ):
        problem = assert_problem(call, 400, "malformed_json")
        assert re.search(reason, problem["detail"]), problem["detail"]
    assert not Transaction.objects.exists()


def test_json_may_be_as_deep_as_is_said(program: Program, user: User) -> None:
    """The body and its metadata are the first two of the 32 levels."""
    response = refill(program, user, with_value('{"a": %s}' % ("[" * 30 + "]" * 30)))
    assert response.status_code == 201


@pytest.mark.parametrize("body", [b"null", b"[]", b'"text"', b"5", b"true", b"[{}]"])
def test_a_body_is_an_object(program: Program, user: User, body: bytes) -> None:
    for call in (
        refill(program, user, body),
        program.post("/balance-changes", body),
        program.post("/users", body),
        program.patch(f"/users/{user.pk}", body),
        program.post("/balance-changes", b'{"entries": [%s]}' % body),
    ):
        [error] = assert_problem(call, 422, "invalid_request")["errors"]
        assert error["reason"] in ("It must be a JSON object.", "It must be a list.")


def test_a_body_that_is_missing_is_missed(program: Program, user: User) -> None:
    for response in (refill(program, user, b""), program.patch(f"/users/{user.pk}", b"")):
        problem = assert_problem(response, 422, "invalid_request")
        assert problem["errors"] == [{"field": "body", "reason": "This is missing."}]


def test_bounds_are_told_in_the_words_of_those_who_send(program: Program, user: User) -> None:
    def reason(response: Any) -> str:
        [error] = assert_problem(response, 422, "invalid_request")["errors"]
        return str(error["reason"])

    def keyed(key: str) -> Any:
        return refill(program, user, REFILL, key=key)

    entry = REFILL | {"user_id": user.pk}
    entries = program.post("/balance-changes", {"entries": [entry] * 1001})
    assert reason(keyed("x" * 101)) == "It must have at most 100 characters."
    assert reason(keyed("é")).startswith("It must be of ASCII characters")
    assert reason(entries) == "It must have at most 1000 entries."
    assert reason(program.post("/balance-changes", {"entries": []})) == "It must not be empty."
    assert reason(program.get("/users?limit=201")) == "It must be 200 or less."
    assert reason(program.get("/users?limit=0")) == "It must be 1 or more."
    assert reason(program.get("/users?limit=ten")) == "It must be a whole number."
    assert reason(program.get("/transactions?order=up")) == "It must be 'newest' or 'oldest'."
    assert reason(program.get("/transactions?direction=in")) == "It must be 'refills' or 'charges'."
    assert (
        reason(program.get("/transactions?from=2026-02-31T00:00:00Z")) == "There is no such time."
    )


def test_unknown_fields_are_refused_by_name(program: Program, user: User) -> None:
    response = refill(program, user, REFILL | {"ammount": "500"})
    [error] = assert_problem(response, 422, "invalid_request")["errors"]
    assert error == {"field": "ammount", "reason": "There is no such field."}
    assert not Transaction.objects.exists()


def test_a_thousand_mistakes_are_not_all_told(program: Program, user: User) -> None:
    response = refill(program, user, REFILL | {f"field{i}": i for i in range(900)})
    assert len(assert_problem(response, 422, "invalid_request")["errors"]) == 20


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("amount", "5"),
        ("amount", "5.0"),
        ("amount", "null"),
        ("amount", "true"),
        ("amount", "[]"),
        ("amount", '{"a": 1}'),
        ("amount", '"' + "5" * 41 + '"'),
        ("amount", '"\\ud800"'),
        ("bonus_amount", "0"),
        ("description", "null"),
        ("description", "12345"),
        ("description", '["Refill"]'),
        ("description", '"Refill \\u0000"'),
        ("description", '"Refill \\ud800"'),
        ("metadata", "null"),
        ("metadata", "[]"),
        ("metadata", '"text"'),
        ("metadata", '{"\\ud800": 1}'),
        ("expected_number", "-1"),
        ("expected_number", "1.0"),
        ("expected_number", '"1"'),
        ("expected_number", "true"),
        ("expected_number", str(2**63)),
        ("expected_number", "1" * 4000),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(
    program: Program, user: User, field: str, value: str
) -> None:
    response = refill(program, user, with_value(value, field))
    if field == "metadata" and response.json()["code"] == "invalid_entry":
        assert_problem(response, 422, "invalid_entry", field="metadata")
    else:
        [error] = assert_problem(response, 422, "invalid_request")["errors"]
        assert error["field"].split(".")[0] == field
        assert "pydantic" not in response.content.decode().lower()
    assert not Transaction.objects.exists()


@pytest.mark.parametrize("text", ["\\u0000", "a\\u0000b", "\\ud800", "\\udfff\\ud800"])
def test_half_and_null_characters_in_metadata_are_refused(
    program: Program, user: User, text: str
) -> None:
    for value in (f'{{"a": "{text}"}}', f'{{"{text}": 1}}', f'{{"a": [{{"b": "{text}"}}]}}'):
        response = refill(program, user, with_value(value))
        assert response.status_code == 422
        assert response.json()["code"] in ("invalid_entry", "invalid_request")


@pytest.mark.parametrize("name", ["\\ud800", "\\u0000", "", " ", "a" * 10_000])
def test_a_fields_name_may_be_anything_and_is_refused(
    program: Program, user: User, name: str
) -> None:
    body = b'{"description": "Refill 17", "amount": "5", "%s": 1}' % name.encode()
    response = refill(program, user, body)
    assert_problem(response, 422, "invalid_request")
    assert len(response.content) < 1000


def test_characters_of_any_kind_are_kept_as_they_are(program: Program, user: User) -> None:
    text = "Überweisung № 5 🧾 «x»"
    body = REFILL | {"description": text, "metadata": {text: [text, 0.1, 10**30, None]}}
    response = refill(program, user, body)
    assert response.status_code == 201
    assert response.json()["description"] == text
    assert response.json()["metadata"][text] == [text, 0.1, 10**30, None]


# --- Addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/nothing",
        "/users/",
        "/users//",
        "//users",
        "/users/1/",
        "/users/abc",
        "/users/-1",
        "/users/+1",
        "/users/1.0",
        "/users/1_0",
        "/users/%201",
        "/users/1%00",
        "/users/%00",
        "/users/%0a1",
        "/users/1%0a",
        "/users/%D9%A3",
        "/users/%ff",
        "/users/%ed%a0%80",
        "/users/" + "9" * 5000,
        "/users/1/../2",
        "/users/%2e%2e/docs",
        "/users/1;a=b",
        "/openapi.json/",
        "/docs/",
        "/Users",
        "/" + "a" * 5000,
        "/..%2fadmin",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
def test_where_there_is_nothing_nothing_is_found(program: Program, method: str, path: str) -> None:
    """The API also never redirects, because a redirected POST would lose its body."""
    response = program.call(method, path, {} if method in ("POST", "PUT", "PATCH") else None)
    if method == "HEAD":
        assert (response.status_code, response.content) == (404, b"")
    else:
        assert_problem(response, 404, "not_found")


@pytest.mark.parametrize("path", ["/api/", "/api/v2/users", "/api/v1", "/api/v10/users"])
def test_versions_that_there_are_not_are_not_found(program: Program, path: str) -> None:
    for method in ("GET", "POST"):
        assert_problem(program.client.generic(method, path), 404, "not_found")


@pytest.mark.parametrize("user_id", ["0", "9223372036854775808", "99999999999999999999"])
def test_an_id_beyond_all_ids_is_not_valid(program: Program, user_id: str) -> None:
    problem = assert_problem(program.get(f"/users/{user_id}"), 422, "invalid_request")
    assert problem["errors"][0]["field"] == "user_id"


def methods_by_path() -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for name, _ in operations():
        method, path = name.split(" ")
        found[re.sub(r"\{\w+\}", "1", path)] |= {method, "HEAD"} if method == "GET" else {method}
    for path in ("/openapi.json", "/docs"):
        found[path] = {"GET", "HEAD"}
    return found


METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "FOO")


@pytest.mark.parametrize(("path", "allowed"), methods_by_path().items())
def test_every_other_method_is_told_which_there_are(
    program: Program, path: str, allowed: set[str]
) -> None:
    for method in set(METHODS) - allowed:
        response = program.call(method, path, Authorization=None)
        told = ", ".join(sorted(allowed))
        assert (response.status_code, response["Allow"]) == (405, told)
        if method != "HEAD":
            assert_problem(response, 405, "method_not_allowed", method=method, allowed=told)


@pytest.mark.parametrize(
    "query",
    [
        "serch=a",
        "limit=10&serch=a",
        "%00=1",
        "%ff=1",
        "a" * 5000 + "=1",
        "limit",
        "limit=",
        "limit=0",
        "limit=-1",
        "limit=201",
        "limit=1e1",
        "limit=ten",
        "limit=%00",
        "limit=" + "9" * 5000,
        "search=%00",
        "search=" + "a" * 201,
        "is_active=maybe",
        "is_active=",
        "cursor=",
        "cursor=1",
        "cursor=%00",
        "cursor=%ff",
        "cursor=MQ",
        "cursor=W10",
        "cursor=WzFd",  # [1]
        "cursor=WyJ1c2VycyJd",  # ["users"]
        "cursor=WyJ1c2VycyIsIHRydWVd",  # ["users", true]
        "cursor=WyJ1c2VycyIsIDEuNV0",  # ["users", 1.5]
        "cursor=WyJ1c2VycyIsICIxIl0",  # ["users", "1"]
        "cursor=WyJ1c2VycyIsIDEsIDJd",  # ["users", 1, 2]
        "cursor=WyJ1c2VycyIsIDk5OTk5OTk5OTk5OTk5OTk5OTld",  # ["users", 9999999999999999999]
        "cursor=W1sidXNlcnMiXSwgMV0",  # [["users"], 1]
        "cursor=WyJwbGFuIiwgMV0",  # ["plan", 1]
        "cursor=" + "A" * 201,
    ],
)
def test_parameters_that_say_nothing_are_refused(program: Program, query: str) -> None:
    problem = assert_problem(program.get(f"/users?{query}"), 422, "invalid_request")
    assert all(error["reason"].endswith(".") for error in problem["errors"])
    assert len(str(problem)) < 1000


@pytest.mark.parametrize("query", ["search=%ff", "search=%ed%a0%80", "search=%F0%9F%92%B0", "&&"])
def test_parameters_of_odd_characters_find_nothing_or_all(program: Program, query: str) -> None:
    assert program.get(f"/users?{query}").status_code == 200


def test_a_call_with_a_body_has_no_other_parameters(program: Program, user: User) -> None:
    response = program.post(f"/users/{user.pk}/balance-changes?dry_run=1", REFILL)
    assert_problem(response, 422, "invalid_request")
    assert not Transaction.objects.exists()


def test_an_address_has_not_any_number_of_parameters(program: Program, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_NUMBER_FIELDS = 3
    response = program.get("/users?a=1&b=2&c=3&d=4")
    assert_problem(response, 400, "too_many_parameters", limit=3)
    in_panels_words = program.client.get("/v2/panel/user/list?a=1&b=2&c=3&d=4")
    assert in_panels_words.status_code == 400
    assert in_panels_words.json()["status"]["code"] == 5


@pytest.mark.parametrize("host", ["evil.example.com", "a b", "", "[::1", "127.0.0.1:http"])
def test_a_host_that_is_not_ours_is_refused(program: Program, host: str) -> None:
    if host == "":
        response = program.client.get(f"{BASE}/users", HTTP_HOST="")
    else:
        response = program.get("/users", Host=host)
    assert_problem(response, 400, "bad_request")


# --- Idempotency-Key ----------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", " ", "a" * 101, "é", "a\tb", "a\0b", "a\nb", "\x7f", "ключ"])
def test_a_key_that_headers_cannot_hold_is_refused(program: Program, user: User, key: str) -> None:
    response = refill(program, user, key=key.encode().decode("latin-1"))
    [error] = assert_problem(response, 422, "invalid_request")["errors"]
    assert error["field"] == "Idempotency-Key"
    assert not Transaction.objects.exists()


@pytest.mark.parametrize("key", ["a", "a b", "~!@#$%^&*()", "x" * 100, '"quoted"'])
def test_any_other_key_is_kept_as_it_is(program: Program, user: User, key: str) -> None:
    assert refill(program, user, key=key).json()["idempotency_key"] == key


@pytest.mark.parametrize("key", ["registration", "subscription:", "subscription:1:2026-11"])
def test_keys_of_the_panel_are_the_panels(program: Program, user: User, key: str) -> None:
    assert_problem(refill(program, user, key=key), 422, "invalid_entry", field="idempotency_key")
    entry = REFILL | {"user_id": user.pk, "idempotency_key": key}
    response = program.post("/balance-changes", {"entries": [entry]})
    assert_problem(response, 422, "invalid_entry", field="idempotency_key", entry=1)
    assert not Transaction.objects.exists()


# --- The unexpected -----------------------------------------------------------------------------


def test_the_unexpected_is_logged_and_told_to_nobody(
    program: Program, user: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("the disk of db-7 is full")

    monkeypatch.setattr(ledger, "change_balance", fail)
    response = refill(program, user, X_Request_Id="order-4711")
    assert_problem(response, 500, "internal_error", request_id="order-4711")
    assert b"disk" not in response.content
    [record] = [r for r in caplog.records if r.levelno == logging.ERROR and r.name == "billing.api"]
    assert "order-4711" in record.getMessage()
    assert record.exc_info is not None
    assert "the disk of db-7 is full" in str(record.exc_info[1])


def test_what_fails_before_a_call_is_reached_is_told_alike(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("the disk of db-7 is full")

    monkeypatch.setattr("django.middleware.common.CommonMiddleware.process_request", fail)
    program.client.raise_request_exception = False
    response = program.get("/users")
    assert_problem(response, 500, "internal_error")
    assert b"disk" not in response.content


def test_an_object_of_thousands_of_members_is_not_looked_through(program: Program) -> None:
    body = {"email": "ada@example.net"} | {f"field{i}": i for i in range(1000)}
    assert_problem(program.post("/users", body), 400, "malformed_json")
