"""A client for tests that call `/api/v1/` with an API key."""

import json
from typing import Any

from django.http import HttpResponse
from django.test import Client

from billing import authority
from tests.factories import AdministratorFactory
from tests.operators import operator_with
from users.models import User

BASE = "/api/v1"


class Program:
    """Calls `/api/v1/` with its own API key."""

    def __init__(self, owner: User, **key: Any) -> None:
        self.owner = owner
        self.key, self.secret = authority.issue_key(
            **{"name": "Payment gateway", "owner": owner, "created_by": owner} | key
        )
        # Checks CSRF as a server does; by default Django's test client does not.
        self.client = Client(enforce_csrf_checks=True)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        content_type: str = "application/json",
        **headers: Any,
    ) -> HttpResponse:
        """Sends `body` as JSON unless it is bytes. `key` is the Idempotency-Key."""
        sent = {"Authorization": f"Bearer {self.secret}"}
        if key is not None:
            sent["Idempotency-Key"] = key
        for name, value in headers.items():
            sent[name.replace("_", "-")] = value
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body)
        return self.client.generic(
            method,
            BASE + path,
            b"" if body is None else body,
            content_type=content_type if body is not None else "",
            headers={name: value for name, value in sent.items() if value is not None},
        )

    def get(self, path: str, **headers: Any) -> HttpResponse:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any, **options: Any) -> HttpResponse:
        return self.call("POST", path, body, **options)

    def patch(self, path: str, body: Any, **options: Any) -> HttpResponse:
        return self.call("PATCH", path, body, **options)


def program_with(*permissions: str, **key: Any) -> Program:
    """Makes a program. The owner of its key has these permissions."""
    return Program(operator_with(*permissions), **key)


def program_of_administrator(**key: Any) -> Program:
    return Program(AdministratorFactory(), **key)


def assert_problem(
    response: HttpResponse, status: int, code: str, **figures: Any
) -> dict[str, Any]:
    """Asserts that the answer is a complete problem with these figures, and returns the problem."""
    problem = response.json()
    assert (response.status_code, problem.get("code")) == (status, code), problem
    assert response["Content-Type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["type"] == f"/api/v1/problems#{code}"
    assert problem["title"] == code.replace("_", " ").capitalize()
    assert problem["request_id"] == response["X-Request-Id"]
    detail = problem["detail"]
    assert detail[:1].isupper() or not detail[:1].isalpha(), detail
    assert detail.endswith((".", ">.")), detail
    for name, value in figures.items():
        assert problem.get(name) == value, (name, problem)
    return problem
