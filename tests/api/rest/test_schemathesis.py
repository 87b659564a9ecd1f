"""Checks `/api/v1/` against its OpenAPI description, with requests that Schemathesis makes.

The requests are valid or invalid. They use a key with every permission, and users with money, plans
and subscriptions. Each request is rolled back. SCHEMATHESIS_EXAMPLES=500 makes more requests.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, connection, transaction
from schemathesis.config import SchemathesisConfig

from billing.api.rest import api
from config.requests import Request
from tests.api.rest.programs import Program, program_of_administrator
from tests.factories import PlanFactory, ServiceFactory, plan_with, subscribed, user_with

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "5"))


handler = WSGIHandler()
handler.request_class = Request


def application(environ: dict[str, Any], start_response: Any) -> Any:
    """Calls the panel as a server does, without compression, which Schemathesis cannot read."""
    environ.pop("HTTP_ACCEPT_ENCODING", None)
    return handler(environ, start_response)


# A well-formed request may still ask for more than the balance, for an unknown plan, or for an
# invalid e-mail. An ETag that matches nothing is refused before anything else is checked.
REFUSED_BY_RULES = ["402", "412", "422"]
MALFORMED = [
    "400",
    "401",
    "403",
    "404",
    "405",
    "406",
    "409",
    "412",
    "415",
    "422",
    "428",
    "429",
    "5xx",
]
CONFIG = SchemathesisConfig.from_dict(
    {
        "seed": 1,
        "generation": {"max-examples": EXAMPLES, "deterministic": True, "database": "none"},
        "checks": {
            "positive_data_acceptance": {
                "expected-statuses": ["2xx", "401", "403", "404", "409", *REFUSED_BY_RULES]
            },
            "negative_data_rejection": {"expected-statuses": MALFORMED},
        },
    }
)
schema = schemathesis.openapi.from_dict(dict(api.get_openapi_schema()), config=CONFIG)
schema.app = application


@schema.hook
def map_path_parameters(context: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """Replaces positive IDs by 1, 2 or 3, because most random IDs do not exist."""
    return {
        name: 1 + value % 3 if type(value) is int and value > 0 else value
        for name, value in (parameters or {}).items()
    }


@pytest.fixture
def connection_stays() -> Iterator[None]:
    """Keeps the connection open, as Django's test client does.

    Otherwise a request would end the test's transaction.
    """
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.fixture
def world(db: None, connection_stays: None) -> Program:
    """Makes users, plans and subscriptions with the IDs 1 to 3, and an administrator's program."""
    with connection.cursor() as cursor:
        for table in ("users_user", "billing_plan", "billing_subscription"):
            cursor.execute("SELECT setval(pg_get_serial_sequence(%s, 'id'), 1, false)", [table])
    users = [user_with(real="1000", bonus="50") for _ in range(3)]
    sms = ServiceFactory(code="outgoing_sms")
    plans = [plan_with({sms: "0.3"}), PlanFactory(), PlanFactory(is_active=False)]
    for user in users:
        subscription = subscribed(user, plans[0])
    assert {users[-1].pk, plans[-1].pk, subscription.pk} == {3}
    return program_of_administrator()


@schema.parametrize()
def test_the_api_does_what_it_says_of_itself(case: schemathesis.Case, world: Program) -> None:
    with transaction.atomic():
        case.call_and_validate(headers={"Authorization": f"Bearer {world.secret}"})
        transaction.set_rollback(True)
