"""How `/api/v1/` describes itself, to programs and to people."""

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
from django.test import Client

from billing.api.openapi import TAGS
from billing.api.pages import kinds
from billing.api.problems import OWN, STATUS_BY_CODE
from billing.api.rest import ROUTERS
from billing.api.schemas import Taken
from billing.errors import ERRORS_BY_CODE
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
    posting = {
        name: call
        for name, call in calls(described)
        if any(each["name"] == "Idempotency-Key" for each in call["parameters"])
    }
    assert len(posting) == 3
    for call in posting.values():
        assert "Idempotency-Replayed" in call["responses"]["200"]["headers"]
        assert "Location" in call["responses"]["201"]["headers"]


def test_no_parameter_is_null_and_none_has_examples_in_the_wrong_form(
    described: dict[str, Any],
) -> None:
    """OpenAPI wants a parameter's own examples named; those of its schema are a list."""
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
    listed["invalid_request"] = {"errors"}  # and what is in them
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


def subclasses(model: type[Taken]) -> Iterator[type[Taken]]:
    for each in model.__subclasses__():
        yield from (each, *subclasses(each))


@pytest.mark.parametrize("model", [*subclasses(Taken)], ids=lambda model: model.__name__)
def test_what_the_page_fills_in_to_try_a_call_is_valid(model: type[Taken]) -> None:
    schema = model.model_json_schema()  # as the page makes one up, where there is no whole example
    told = schema.get("examples") or [
        {
            name: field["examples"][0] if "examples" in field else field.get("default", True)
            for name, field in schema["properties"].items()
        }
    ]
    for body in told:
        model.model_validate(body)
