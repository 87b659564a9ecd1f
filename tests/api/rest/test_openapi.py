"""The OpenAPI description of `/api/v1/`, and the pages that show the API to people."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import pytest
from django.test import Client
from django.test.utils import override_script_prefix
from django.utils import timezone

from billing import ledger, webhooks
from billing.api import messages
from billing.api.openapi import TAGS
from billing.api.pages import kinds
from billing.api.problems import OWN, STATUS_BY_CODE
from billing.api.rest import ROUTERS
from billing.api.schemas import RequestModel
from billing.errors import ERRORS_BY_CODE
from billing.models import (
    Channel,
    EventType,
    LowBalanceThreshold,
    WebhookEndpoint,
    WebhookEvent,
)
from billing.plans import subscriptions
from billing.webhooks import messages as messages_of_webhooks
from tests.billing.clock import database_clock_at
from tests.factories import PlanFactory, subscribed, user_with
from tests.test_architecture import ROOT

METHODS = ("get", "post", "put", "patch", "delete")


@pytest.fixture
def described(db: None, client: Client) -> dict[str, Any]:
    response = client.get("/api/v1/openapi.json")
    assert response.status_code == HTTPStatus.OK
    description: dict[str, Any] = response.json()
    return description


def calls(described: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", call)
        for path, by_method in described["paths"].items()
        for method, call in by_method.items()
    ]


def test_every_call_of_every_router_is_described(described: dict[str, Any]) -> None:
    views = {
        operation.view_func.__name__
        for router in ROUTERS
        for path_view in router.path_operations.values()
        for operation in path_view.operations
    }
    names = [call["operationId"] for _, call in calls(described)]
    assert sorted(names) == sorted(views)
    assert not [name for name in names if not re.fullmatch(r"[a-z]+(_[a-z]+)+", name)]


def test_every_call_says_what_it_does_and_asks_for(described: dict[str, Any]) -> None:
    assert [tag["name"] for tag in described["tags"]] == [name for name, _ in TAGS]
    for name, call in calls(described):
        assert call["summary"][0].isupper(), name
        assert not call["summary"].endswith("."), name
        assert re.search(r"Needs the permission `(billing|users)\.\w+`\.", call["description"]), (
            name
        )
        assert len(call["tags"]) == 1, name
        assert call["tags"][0] in dict(TAGS), name
        assert call["security"] == [{"bearer": []}], name
    assert described["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


def test_problems_are_described_in_the_type_they_come_in(described: dict[str, Any]) -> None:
    for name, call in calls(described):
        statuses = {int(status) for status in call["responses"]}
        assert {400, 401, 403, 422, 429, 500, 503} < statuses, name
        if "requestBody" in call:
            assert {413, 415} < statuses, name
        if "{" in name:
            assert 404 in statuses, name
        for status, response in call["responses"].items():
            assert "X-Request-Id" in response["headers"], name
            if status == "304":
                assert "content" not in response
                continue
            [media_type] = response["content"]
            if int(status) < 400:
                assert media_type == "application/json", name
                continue
            assert media_type == "application/problem+json", name
            content = response["content"][media_type]
            assert content["schema"] == {"$ref": "#/components/schemas/ProblemOut"}
            assert content["example"]["status"] == int(status)
        assert "Retry-After" in call["responses"]["429"]["headers"]
        assert "Retry-After" in call["responses"]["503"]["headers"]


def test_calls_that_post_tell_of_replays(described: dict[str, Any]) -> None:
    keyed = {
        name: call
        for name, call in calls(described)
        if any(each["name"] == "Idempotency-Key" for each in call["parameters"])
    }
    assert len(keyed) == 20
    for call in keyed.values():
        assert "Idempotency-Replayed" in call["responses"]["200"]["headers"]
        assert {"409", "412"} < set(call["responses"])
        if "201" in call["responses"]:
            assert "Location" in call["responses"]["201"]["headers"]
            assert "Location" in call["responses"]["200"]["headers"]


def test_what_has_an_etag_says_so(described: dict[str, Any]) -> None:
    tagged = {
        name for name, call in calls(described) if "ETag" in call["responses"]["200"]["headers"]
    }
    for name, call in calls(described):
        headers = {each["name"] for each in call["parameters"]}
        is_read = name.startswith("GET ")
        assert ("If-None-Match" in headers) == (name in tagged and is_read)
        assert ("If-Match" in headers) == (name in tagged and not is_read)
        assert ("304" in call["responses"]) == (name in tagged and is_read)
    assert {
        name.removeprefix("GET /api/v1/users/{user_id}") for name in tagged if "GET" in name
    } == {
        "",
        "/low-balance-threshold",
        "/subscriptions/{subscription_id}",
        "/transactions/{number}",
        "GET /api/v1/plans/{plan_id}",
    }


def test_no_field_that_may_be_left_out_has_a_default(described: dict[str, Any]) -> None:
    """Client generators treat a field with a default as a field that is always present."""
    schemas = described["components"]["schemas"]
    for name, schema in schemas.items():
        required = set(schema.get("required", ()))
        for field, about in schema.get("properties", {}).items():
            assert "default" not in about or field in required or name.endswith("Out"), (
                name,
                field,
            )
    assert schemas["BatchReversalIn"]["required"] == ["description"]
    assert "required" not in schemas["BalanceChangeIn"]
    amount = schemas["BalanceChangeIn"]["properties"]["amount"]
    assert amount["description"] == 'A string with at most four decimals. Without it: "0".'
    for name, call in calls(described):
        for parameter in call["parameters"]:
            assert "default" not in parameter["schema"], name


@pytest.mark.parametrize("prefix", ["", "/billing"])
def test_the_description_says_where_it_is_served(db: None, client: Client, prefix: str) -> None:
    with override_script_prefix(f"{prefix}/"):
        described = client.get("/api/v1/openapi.json").json()
    assert described["servers"] == [{"url": prefix or "/"}]
    assert "/api/v1/users" in described["paths"]


def test_webhooks_are_described_with_what_they_send(described: dict[str, Any]) -> None:
    assert set(described["webhooks"]) == {*EventType.values, messages_of_webhooks.TEST_TYPE}
    for name, webhook in described["webhooks"].items():
        call = webhook["post"]
        headers = {each["name"] for each in call["parameters"]}
        sent = messages_of_webhooks.headers(
            messages_of_webhooks.new_secret(), "evt_1", timezone.now(), b"{}"
        )
        assert headers == set(sent)
        schema = call["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        properties = described["components"]["schemas"][schema.rpartition("/")[2]]["properties"]
        assert properties["type"]["const"] == name


def test_each_webhook_is_as_it_is_described(db: None) -> None:
    WebhookEndpoint.objects.create(
        name="CRM",
        url="https://crm.example.com/hooks",
        secret=messages_of_webhooks.new_secret(),
        events=EventType.values,
    )
    user = user_with(real="20")
    LowBalanceThreshold.objects.create(user=user, amount="10")
    ledger.change_balance(
        user, amount="-15", description="Correction", actor=None, channel=Channel.API
    )
    suspended = subscribed(user, PlanFactory(price="100"))
    ledger.change_balance(user, amount="500", description="Refill", actor=None, channel=Channel.API)
    subscriptions.change_plan(
        suspended,
        PlanFactory(price="5"),
        day=suspended.started_on,
        pay_back=False,
        charge_now=True,
        actor=None,
        channel=Channel.API,
    )
    soon = timezone.now() + timedelta(days=1)
    gift = ledger.give_bonus(
        user,
        amount=5,
        description="A gift",
        bonus_expires_at=soon,
        actor=None,
        channel=Channel.API,
    )
    webhooks.tell_of_expiring(timezone.now(), 7)
    with database_clock_at(gift.bonus_expires_at):
        ledger.expire_grants([user.pk])
    told = {}
    for event in WebhookEvent.objects.all():
        body = json.loads(messages_of_webhooks.body_of(event))
        model = messages.MESSAGES[event.type]
        shown = model.model_validate(body)
        assert json.loads(shown.model_dump_json()) == body
        told[event.type] = body
    assert set(told) == set(EventType.values)
    test = json.loads(messages_of_webhooks.test_body("msg_1", timezone.now()))
    shown = messages.MESSAGES["webhook.test"].model_validate(test)
    assert json.loads(shown.model_dump_json()) == test


def test_no_parameter_is_null_and_none_has_examples_in_the_wrong_form(
    described: dict[str, Any],
) -> None:
    """In OpenAPI, a parameter's own examples need names. The examples of its schema are a list."""
    for name, call in calls(described):
        for parameter in call["parameters"]:
            assert "examples" not in parameter, (name, parameter)
            assert "anyOf" not in parameter["schema"], (name, parameter)


def test_every_reference_leads_somewhere(described: dict[str, Any]) -> None:
    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            found = {value["$ref"]} if "$ref" in value else set()
            return found.union(*(references(each) for each in value.values()))
        if isinstance(value, list):
            return set().union(*(references(each) for each in value))
        return set()

    schemas = {f"#/components/schemas/{name}" for name in described["components"]["schemas"]}
    assert references(described) <= schemas


# --- Pages --------------------------------------------------------------------------------------


def test_every_problem_has_its_place_on_the_page(db: None, client: Client) -> None:
    response = client.get("/api/v1/problems")
    page = response.content.decode()
    assert response.status_code == HTTPStatus.OK
    codes = re.findall(r'<tr id="(\w+)">\s*<td title="[^"]+">(\d+)</td>', page)
    expected = {code: status for code, (status, _) in OWN.items()} | {
        code: STATUS_BY_CODE.get(code, 422) for code in ERRORS_BY_CODE
    }
    assert {code: int(status) for code, status in codes} == expected
    assert "<script" not in page
    assert "{" not in page
    assert 'href="/api/v1/docs"' in page


def test_the_figures_on_the_page_are_those_of_the_document() -> None:
    document = (ROOT / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|(?: \d+ \|)? .*? \| (.*?) ?\|$", document, re.MULTILINE)
    listed = {code: set(re.findall(r"`(\w+)`", figures)) for code, figures in rows}
    shown = {kind.code: set(kind.figures) for kind in kinds()}
    listed["invalid_request"] = {"errors"}  # the document also lists the fields of an error
    assert shown == listed


@pytest.mark.parametrize("page", ["docs", "problems"])
def test_the_pages_ask_nothing_of_other_hosts(db: None, client: Client, page: str) -> None:
    response = client.get(f"/api/v1/{page}")
    html = response.content.decode()
    assert response.status_code == HTTPStatus.OK
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', html)
    assert "default-src 'self'" in response["Content-Security-Policy"]
    assert client.post(f"/api/v1/{page}").status_code == HTTPStatus.METHOD_NOT_ALLOWED


def test_the_documentation_leads_to_the_problems(described: dict[str, Any], client: Client) -> None:
    assert "(/api/v1/problems)" in described["info"]["description"]
    assert '"validatorUrl": null' in client.get("/api/v1/docs").content.decode()


def subclasses(model: type[RequestModel]) -> Iterator[type[RequestModel]]:
    for each in model.__subclasses__():
        yield from (each, *subclasses(each))


@pytest.mark.parametrize("model", [*subclasses(RequestModel)], ids=lambda model: model.__name__)
def test_what_the_page_fills_in_to_try_a_call_is_valid(model: type[RequestModel]) -> None:
    schema = model.model_json_schema()
    # Without a whole example, the page builds one from the fields.
    told = schema.get("examples") or [
        {
            name: field["examples"][0] if "examples" in field else field.get("default", True)
            for name, field in schema["properties"].items()
        }
    ]
    for body in told:
        model.model_validate(body)
