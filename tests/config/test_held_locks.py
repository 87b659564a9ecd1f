"""A locked row delays only requests that need this row. Over real sockets."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from billing.models import Transaction
from tests.api.rest.programs import program_of_administrator
from tests.config.web import Answer, Web, another_connection
from tests.factories import UserFactory, user_with
from users.models import User

WORKERS = 2
AT_ONCE = 60  # far more than there are threads


@pytest.fixture
def key(committed_db: None) -> str:
    return program_of_administrator().secret


@pytest.fixture
def web(key: str, tmp_path: Path) -> Iterator[Web]:
    with Web(tmp_path, workers=WORKERS) as web:
        yield web


def refill(web: Web, key: str, user: User) -> Answer:
    return web.post(
        f"/api/v1/users/{user.pk}/balance-changes",
        json.dumps({"description": "Bank transfer", "amount": "5"}),
        Authorization=f"Bearer {key}",
        Content_Type="application/json",
    )


def test_a_held_balance_delays_its_own_user_only(web: Web, key: str) -> None:
    user, other = user_with("10"), UserFactory()
    with another_connection() as psql, ThreadPoolExecutor(AT_ONCE) as programs:
        psql.execute("SELECT FROM billing_balance WHERE user_id = %s FOR UPDATE", [user.pk])
        refused = [programs.submit(refill, web, key, user) for _ in range(AT_ONCE)]
        # All of these are answered while the balance is locked, which is until the block ends.
        assert web.get("/healthz").status == 200
        assert web.get("/admin/login/").status == 200
        assert refill(web, key, other).status == 201
        for answer in (each.result() for each in refused):
            assert answer.status == 503
            assert answer.headers["retry-after"] == "2"
            problem = json.loads(answer.text)
            assert problem["code"] == "busy"
            assert "Nothing was changed." in problem["detail"]
        assert web.get("/healthz").status == 200
    assert refill(web, key, user).status == 201
    assert Transaction.objects.filter(user=user).count() == 2
