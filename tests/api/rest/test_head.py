"""HEAD works wherever GET does: it gets the same answer without a body, and changes nothing."""

import pytest
from django.test import Client

from billing import ledger
from billing.api.panel.dispatch import READING
from tests.api.panel.calls import CALLS as PANEL_CALLS
from tests.api.panel.calls import PanelCall
from tests.api.panel.calls import World as PanelWorld
from tests.api.panel.client import BASE, as_form
from tests.api.panel.client import Program as PanelProgram
from tests.api.rest.calls import CALLS, RestCall, make_world
from tests.api.rest.programs import Program, assert_problem
from tests.factories import AdministratorFactory, PlanFactory, user_with

READS = [call for call in CALLS if call.method == "GET"]


@pytest.mark.parametrize("call", READS, ids=str)
def test_head_answers_what_get_answers_but_the_body(program: Program, call: RestCall) -> None:
    path = call.path_in(make_world())
    got, head = program.get(path), program.call("HEAD", path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    for name in ("Content-Type", "Content-Length", "ETag"):
        assert head.get(name) == got.get(name)


def test_head_is_refused_where_get_is(program: Program) -> None:
    assert program.call("HEAD", "/users", Authorization=None).status_code == 401
    assert program.call("HEAD", "/users/999999").status_code == 404
    assert program.call("HEAD", "/balance-changes").status_code == 405
    refused = program.call("DELETE", "/users")
    assert_problem(refused, 405, "method_not_allowed", allowed="GET, HEAD, POST")
    assert refused["Allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize(
    "path",
    [
        *("/healthz", "/readyz", "/metrics", "/admin/login/", "/"),
        *("/api/v1/openapi.json", "/api/v1/docs", "/api/v1/problems"),
    ],
)
def test_every_other_address_takes_head_too(db: None, client: Client, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")


@pytest.mark.parametrize("call", PANEL_CALLS, ids=str)
def test_the_panel_api_takes_head_where_nothing_is_changed(db: None, call: PanelCall) -> None:
    world = PanelWorld(user_with(real="100"), PlanFactory())
    program = PanelProgram(AdministratorFactory())
    session = {"HTTP_AUTHORIZATION": f"NVX {program.hash}"}
    address = f"{BASE}{call.path}?{as_form(call.parameters(world))}"
    head = program.client.head(address, **session)
    assert b"".join(head) == b""
    if call.path.rpartition("/")[2] in READING:
        assert head.status_code == 200
    else:
        assert head.status_code == 400
        assert ledger.balance(world.user).number == 1
        assert program.client.get(address, **session).status_code == 200  # still logged in
