"""Generates a client from the OpenAPI description, and calls a running panel with it."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.request import urlopen

import pytest
from pytest_django.live_server_helper import LiveServer

from tests.api.rest.programs import program_of_administrator
from tests.config.processes import PATIENCE_SECONDS, environment
from tests.factories import PlanFactory, ServiceFactory, plan_with

PACKAGE = "generated_billing_client"
NO_TOOLS_AFTERWARDS = "post_hooks: []\n"  # formatters, which may not be installed


class Generated:
    """The generated package: its client, its calls by their names, and its models."""

    def __init__(self, url: str, secret: str) -> None:
        self.client = self.module("client").AuthenticatedClient(
            base_url=url, token=secret, raise_on_unexpected_status=True
        )
        self.models = self.module("models")

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{PACKAGE}.{name}")

    def call(self, name: str, *path: Any, **said: Any) -> Any:
        """Makes a call. Returns the status, the parsed answer and the headers."""
        call = self.module(f"api.{name}").sync_detailed(*path, client=self.client, **said)
        return call.status_code.value, call.parsed, call.headers


@pytest.fixture
def generated(
    live_panel: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Generated]:
    description, config = tmp_path / "openapi.json", tmp_path / "config.yml"
    address = f"{live_panel.url}/api/v1/openapi.json"
    with urlopen(address, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 - the test's own
        description.write_bytes(answer.read())
    config.write_text(NO_TOOLS_AFTERWARDS)
    made = subprocess.run(
        [
            *(sys.executable, "-m", "openapi_python_client", "generate"),
            *("--path", description, "--output-path", tmp_path / PACKAGE),
            *("--config", config, "--meta", "none", "--fail-on-warning"),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    monkeypatch.syspath_prepend(tmp_path)
    made_client = Generated(live_panel.url, program_of_administrator().secret)
    yield made_client
    made_client.client.get_httpx_client().close()
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


def test_a_generated_client_does_what_programs_do(generated: Generated) -> None:
    models, call = generated.models, generated.call
    sms = ServiceFactory(code="outgoing_sms")
    plan, other = plan_with({sms: "0.3"}, price="10"), PlanFactory(price="5")

    status, user, _ = call("users.create_user", body=models.UserIn(email="ada@example.net"))
    assert (status, user.email, user.first_name) == (201, "ada@example.net", "")

    refill = models.BalanceChangeIn(description="Bank transfer 4711", amount="25.00")
    keyed: dict[str, Any] = {"body": refill, "idempotency_key": "transfer-4711"}
    status, first, _ = call("balance_changes.change_balance", user.id, **keyed)
    assert (status, first.new_balance, first.number) == (201, "25.0000", 1)
    status, again, headers = call("balance_changes.change_balance", user.id, **keyed)
    assert (status, again, headers["Idempotency-Replayed"]) == (200, first, "true")

    entries = [
        models.BatchEntryIn(user_id=user.id, description=f"Transfer {number}", amount="1")
        for number in range(5)
    ]
    batch: dict[str, Any] = {"body": models.BatchIn(entries=entries), "idempotency_key": "day 1"}
    status, posted, _ = call("balance_changes.change_balances", **batch)
    assert (status, [each.outcome.value for each in posted.results]) == (200, ["posted"] * 5)
    status, repeated, headers = call("balance_changes.change_balances", **batch)
    assert (status, repeated, headers["Idempotency-Replayed"]) == (200, posted, "true")

    numbers, cursor = [], {}
    while True:
        status, page, _ = call("transactions.list_transactions_of_user", user.id, limit=4, **cursor)
        numbers += [row.number for row in page.transactions]
        if page.next_cursor is None:
            break
        cursor = {"cursor": page.next_cursor}
    assert numbers == [6, 5, 4, 3, 2, 1]

    start = models.SubscriptionIn(plan_id=plan.pk)
    status, started, headers = call("subscriptions.start_subscription", user.id, body=start)
    assert (status, started.subscription.status.value) == (201, "active")
    change = models.PlanChangeIn(plan_id=other.pk, pay_back=True, charge_now=True)
    where = (user.id, started.subscription.id)
    status, problem, _ = call("subscriptions.change_plan", *where, body=change, if_match='"old"')
    assert (status, problem.code) == (412, "precondition_failed")
    use = models.ServiceChargeIn(service="outgoing_sms", quantity="10")
    status, quote, _ = call("service_charges.quote_service", user.id, body=use)
    assert (status, quote.cost) == (200, "3.0000")
    status, charged, _ = call("service_charges.charge_service", user.id, body=use)
    assert (status, charged.amount) == (201, "-3.0000")
    status, changed, _ = call(
        "subscriptions.change_plan", *where, body=change, if_match=headers["ETag"]
    )
    assert (status, changed.subscription.plan_id) == (200, other.pk)

    why = models.ReversalIn(description="Charged for the wrong device")
    status, reversal, _ = call(
        "transactions.reverse_transaction", user.id, charged.number, body=why
    )
    assert (status, reversal.reverses) == (201, charged.number)

    much = models.BalanceChangeIn(description="More than there is", amount="-1000")
    status, problem, _ = call("balance_changes.change_balance", user.id, body=much)
    assert (status, problem.code) == (402, "insufficient_funds")
    assert problem.additional_properties["needed"] == "1000.0000"
