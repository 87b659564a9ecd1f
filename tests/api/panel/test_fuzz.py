"""Sends random requests to the Panel API, which never answers with a 500."""

import json
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import ledger
from billing.models import Balance
from tests.api.panel.calls import CALLS, INDIVIDUAL, REST_OF_CREATE, World
from tests.api.panel.client import Program

NAMES = sorted(
    {
        *("hash", "user_id", "tariff_id", "amount", "type", "text", "idempotency_key", "from"),
        *("to", "limit", "offset", "order_by", "ascending", "filter", "format", "columns", "user"),
        *("comment", "default_tariff_id", "discount", "hide_inactive", "device_type", "login"),
        *REST_OF_CREATE,
    }
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["main", "1", "1e999", "NaN", "\0", "\ud800", "2026-05-01 00:00:00", "id"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*INDIVIDUAL, "id", "activated"]) | st.text(max_size=5),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
# Random values for random parameters. The test adds some parameters of a request that succeeds.
PARAMETERS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6)

slowly = settings(max_examples=25, suppress_health_check=list(HealthCheck))


def sound(program: Program, world: World) -> None:
    """Asserts that the user's balances are those after the last transaction, and not negative."""
    row = Balance.objects.get(user=world.user)
    last = world.user.transactions.order_by("-number").first()
    assert last is not None
    assert (row.real, row.bonus) == (last.new_balance, last.new_bonus)
    assert ledger.balance(world.user).real >= 0


@pytest.mark.parametrize("call", CALLS[:-1], ids=str)
@slowly
@given(given_parameters=PARAMETERS, keep=st.integers(0, 2**6))
def test_no_parameters_end_in_a_500(
    program: Program, world: World, call: Any, given_parameters: dict[str, Any], keep: int
) -> None:
    minimal = call.parameters(world)
    kept = {name: value for place, (name, value) in enumerate(minimal.items()) if keep >> place & 1}
    parameters = kept | given_parameters
    answers = [
        program.post(call.path, json.dumps(parameters)),
        program.post(
            call.path,
            json.dumps(parameters, ensure_ascii=False).encode(errors="surrogatepass"),
        ),
    ]
    with suppress(UnicodeEncodeError):  # a form cannot contain half a character
        answers += [program.form(call.path, parameters), program.get(call.path, parameters)]
    for answer in answers:
        assert answer.status in {200, 400, 403, 429}, answer.content
        if answer.status != 200:
            assert answer.body["success"] is False
    sound(program, world)


@slowly
@given(body=st.binary(max_size=60), content_type=st.sampled_from(["application/json", "", "x/y"]))
def test_no_body_ends_in_a_500(program: Program, body: bytes, content_type: str) -> None:
    assert program.post("user/list", body, content_type).status in {200, 400}


@slowly
@given(path=st.text(st.characters(codec="utf-8"), max_size=30))
def test_no_address_ends_in_a_500(program: Program, path: str) -> None:
    assert program(f"x/{quote(path)}").status in {400}


@slowly
@given(header=st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=40))
def test_no_header_ends_in_a_500(program: Program, header: str) -> None:
    answer = program.post("user/list", b"{}", HTTP_AUTHORIZATION=header)
    assert (answer.code, answer.status) in {(3, 400), (4, 400)}
