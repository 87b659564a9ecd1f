"""Calls of both faces pass their own middleware: the panel's headers, and none of its logins."""

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext

from billing.api.stack import api_stack
from tests.api.rest.programs import program_of_administrator
from tests.factories import AdministratorFactory

SAFE_HEADERS = (
    "X-Content-Type-Options",
    "X-Frame-Options",
    "Referrer-Policy",
    "Cross-Origin-Opener-Policy",
)
ADDRESSES = (
    *("/api/v1/users", "/api/v1/openapi.json", "/api/v1/docs", "/api/v1/problems", "/api/nothing"),
    *("/v2/panel/user/list", "/v2/panel/nothing", "/v2/nothing"),
)


def directives(response: HttpResponse) -> set[str]:
    return set(response["Content-Security-Policy"].split("; "))


@pytest.mark.parametrize("address", ADDRESSES)
def test_answers_are_protected_like_pages(db: None, client: Client, address: str) -> None:
    page, answer = client.get("/admin/login/"), client.get(address)
    for name in SAFE_HEADERS:
        assert answer[name] == page[name]
    assert directives(answer) == directives(page)
    assert answer["Content-Length"] == str(len(answer.content))


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_login_in_the_browser_is_not_even_looked_for(db: None, address: str) -> None:
    browser = Client()
    browser.force_login(AdministratorFactory())
    headers = {"Authorization": f"Bearer {program_of_administrator().secret}"}
    with CaptureQueriesContext(
        connection,
    ) as asked:
        response = browser.get(address, headers=headers)
    assert not [each for each in asked if "session" in each["sql"]]
    assert "Cookie" not in response.get("Vary", "")
    assert not response.cookies


def test_a_long_answer_is_compressed(db: None) -> None:
    response = program_of_administrator().get("/openapi.json", Accept_Encoding="gzip")
    assert response["Content-Encoding"] == "gzip"
    assert response["Vary"] == "Accept-Encoding"


def test_addresses_of_the_api_answer_https_only_where_pages_do(
    settings: Any, client: Client
) -> None:
    settings.SECURE_SSL_REDIRECT = True
    response = client.get("/api/v1/users?limit=1")
    assert response.status_code == 301
    assert response["Location"] == "https://testserver/api/v1/users?limit=1"


def test_another_host_is_refused(client: Client) -> None:
    assert client.get("/api/v1/users", headers={"host": "elsewhere.example"}).status_code == 400


def test_pages_of_explanations_keep_their_styles(settings: Any, client: Client) -> None:
    settings.DEBUG = True
    assert "Content-Security-Policy" not in client.get("/v2/nothing")


def test_middleware_with_more_than_a_call_is_refused(settings: Any) -> None:
    settings.API_MIDDLEWARE = ["django.middleware.csrf.CsrfViewMiddleware"]
    with pytest.raises(ImproperlyConfigured, match="CsrfViewMiddleware cannot be"):
        api_stack()
