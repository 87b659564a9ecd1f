"""docs/api.md lists every call with the permission that it needs."""

from pathlib import Path

from billing.api.keys import RequiresPermission
from billing.api.rest import api
from tests.config.processes import ROOT

PAGE: Path = ROOT / "docs" / "api.md"
MARK = "<!-- calls -->\n\n"


def calls() -> list[str]:
    """Returns the row of the document for each call, in the order of the OpenAPI description."""
    permissions = {}
    for router in api._get_bound_routers():
        for path_view in router.path_operations.values():
            for operation in path_view.operations:
                [needs] = operation.auth_callbacks
                assert isinstance(needs, RequiresPermission)
                permissions[operation.operation_id or operation.view_func.__name__] = (
                    needs.permission
                )
    return [
        f"| `{method.upper()} {path.removeprefix('/api/v1')}` | {call['summary']} "
        f"| `{permissions[call['operationId']]}` |"
        for path, methods in api.get_openapi_schema()["paths"].items()
        for method, call in methods.items()
    ]


def table() -> str:
    heading = ["| call, below `/api/v1` | | permission of the key's owner |", "|---|---|---|"]
    return "\n".join([*heading, *calls()]) + "\n"


def test_the_page_lists_every_call_with_its_permission() -> None:
    assert PAGE.read_text().partition(MARK)[2] == table()
