"""Bodies that are sent in chunks (Transfer-Encoding: chunked), as some libraries send all JSON.

Django reads a body without a length as empty. The web server puts the chunks together and gives no
length. Instead, `wsgi.input_terminated` says that the stream ends where the body ends.
"""

import json
from io import BytesIO
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone

from billing import authority, ledger
from tests.api.rest.programs import assert_problem
from tests.factories import AdministratorFactory, UserFactory
from users.models import User

REFILL = {"description": "Refill 17", "amount": "5"}


class BrokenOff(BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError("The rest of the body did not come.")


def post(path: str, body: BytesIO, content_type: str = "application/json", **sent: Any) -> Any:
    in_chunks = {
        "wsgi.input": body,
        "wsgi.input_terminated": True,
        "CONTENT_LENGTH": "",
        "CONTENT_TYPE": content_type,
        "HTTP_TRANSFER_ENCODING": "chunked",
    }
    return Client(enforce_csrf_checks=True).generic("POST", path, **in_chunks | sent)


def refill(user: User, body: BytesIO, **sent: Any) -> HttpResponse:
    owner = AdministratorFactory()
    _, secret = authority.issue_key(name="Gateway", owner=owner, created_by=owner)
    path = f"/api/v1/users/{user.pk}/balance-changes"
    answer: HttpResponse = post(path, body, HTTP_AUTHORIZATION=f"Bearer {secret}", **sent)
    return answer


@pytest.fixture
def user(db: None) -> User:
    return UserFactory()


def test_a_body_may_come_in_chunks(user: User) -> None:
    assert refill(user, BytesIO(json.dumps(REFILL).encode())).status_code == 201
    assert ledger.balance(user).real == 5


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (
            '{"user_id": %d, "amount": 5, "type": "balance", "text": "Refill 17"}',
            "application/json",
        ),
        (
            "user_id=%d&amount=5&type=balance&text=Refill+17",
            "application/x-www-form-urlencoded",
        ),
        (
            '--x\r\nContent-Disposition: form-data; name="user_id"\r\n\r\n%d\r\n'
            '--x\r\nContent-Disposition: form-data; name="amount"\r\n\r\n5\r\n'
            '--x\r\nContent-Disposition: form-data; name="type"\r\n\r\nbalance\r\n'
            '--x\r\nContent-Disposition: form-data; name="text"\r\n\r\nRefill 17\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
        ),
    ],
    ids=["json", "form", "multipart"],
)
def test_so_may_those_of_the_panel_api(user: User, body: str, content_type: str) -> None:
    session_hash = authority.open_session(AdministratorFactory(), timezone.now())
    answer = post(
        "/v2/panel/user/transaction/change_balance",
        BytesIO((body % user.pk).encode()),
        content_type,
        HTTP_AUTHORIZATION=f"NVX {session_hash}",
    )
    assert answer.json() == {"success": True}
    assert ledger.balance(user).real == 5


def test_it_may_be_no_larger_than_others(user: User, settings: Any) -> None:
    body = json.dumps(REFILL).encode()
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = len(body)
    assert_problem(refill(user, BytesIO(body + b" ")), 413, "too_large", limit=len(body))
    assert refill(user, BytesIO(body)).status_code == 201


@pytest.mark.parametrize(
    ("path", "told"),
    [("/api/v1/users", "bad_request"), ("/v2/panel/user/list", "the body is incomplete")],
)
def test_one_that_breaks_off_is_the_caller_s_mistake(db: None, path: str, told: str) -> None:
    answer = post(path, BrokenOff())
    assert answer.status_code == 400
    assert told in answer.content.decode()
    assert answer["X-Request-Id"]


def test_without_a_server_that_ends_it_nobody_waits_for_it(user: User) -> None:
    whole = BytesIO(json.dumps(REFILL).encode())
    answer = refill(user, whole, **{"wsgi.input_terminated": False})
    assert_problem(answer, 422, "invalid_request")
