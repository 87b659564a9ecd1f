"""Requests with any charset are answered, and HEAD has no body."""

import http.client
from contextlib import closing
from pathlib import Path

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.test import RequestFactory

from config.requests import Request
from tests.config.processes import PATIENCE_SECONDS, Serving


@pytest.mark.parametrize("charset", ["rot13", "hex", "undefined", "utf-16", "no-such-charset"])
def test_the_charset_of_a_body_is_not_that_of_its_address(charset: str) -> None:
    content_type = f"application/json; charset={charset}"
    made = RequestFactory().generic("POST", "/api/v1/users", b"{}")
    made.environ |= {"CONTENT_TYPE": content_type, "QUERY_STRING": "search=%C3%A9"}
    request = Request(made.environ)
    assert request.GET["search"] == "é"
    assert (request.content_type, request.content_params) == (
        "application/json",
        {"charset": charset},
    )


@pytest.mark.parametrize(
    "path",
    [
        "/admin/login/",
        "/admin/",
        "/nowhere/",
        "/healthz",
        "/readyz",
        "/api/v1/openapi.json",
        "/api/v1/users",
        "/static/billing/panel.css",
    ],
)
def test_a_head_hands_no_body_to_the_web_server(db: None, path: str) -> None:
    def sent(method: str) -> tuple[str, str | None, bytes]:
        begun: list[tuple[str, dict[str, str]]] = []
        environ = RequestFactory().generic(method, path).environ
        body = WSGIHandler()(environ, lambda status, headers: begun.append((status, dict(headers))))
        with closing(body):  # type: ignore[type-var]
            whole = b"".join(body)
        [(status, headers)] = begun
        return status, headers.get("Content-Length"), whole

    of_get, of_head = sent("GET"), sent("HEAD")
    assert of_head[2] == b""
    assert of_head[0] == of_get[0]
    assert of_head[1] is not None
    if path != "/admin/login/":  # its CSRF token differs each time
        assert of_head[1] == str(len(of_get[2]))


def test_the_server_answers_a_body_of_any_charset(data_dir: Path) -> None:
    """On the real server, because the request is made before any middleware runs."""
    with (
        Serving(data_dir) as panel,
        closing(
            http.client.HTTPConnection("127.0.0.1", panel.port, timeout=PATIENCE_SECONDS)
        ) as connection,
    ):
        connection.request(
            "POST",
            "/api/v1/users?search=a",
            b"{}",
            {"Content-Type": "application/json; charset=rot13"},
        )
        response = connection.getresponse()
        assert response.status == 401
        assert response.headers["Content-Type"] == "application/problem+json"
        panel.press_ctrl_c()
