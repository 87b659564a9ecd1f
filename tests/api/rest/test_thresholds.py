"""Programs read, set and remove low balance thresholds."""

from typing import Any

import pytest

from billing.models import LowBalanceThreshold, Subject
from tests.api.rest.programs import Program, assert_problem, program_with
from tests.factories import OperatorFactory, user_with
from tests.recorded import sentences_of
from users.models import User


def address(user: User) -> str:
    return f"/users/{user.pk}/low-balance-threshold"


def put(program: Program, user: User, **body: Any) -> Any:
    return program.call("PUT", address(user), body)


def told(program: Program, user: User) -> tuple[str | None, bool]:
    answer = program.get(address(user)).json()
    assert answer["user_id"] == user.pk
    return answer["amount"], answer["is_default"]


def notes(user: User) -> list[str]:
    return sentences_of(Subject.USER, user.pk)


def test_a_user_s_own_threshold_counts_before_the_default(program: Program) -> None:
    user = user_with()
    assert told(program, user) == (None, True)
    LowBalanceThreshold.objects.create(user=None, amount="5")
    assert told(program, user) == ("5.0000", True)
    response = put(program, user, amount="10.50")
    assert response.status_code == 200
    assert response.json() == {"user_id": user.pk, "amount": "10.5000", "is_default": False}
    assert told(program, user) == ("10.5000", False)
    assert put(program, user, amount="10.5").status_code == 200
    assert put(program, user, amount=None).json()["amount"] is None
    assert told(program, user) == (None, False)
    response = program.call("DELETE", address(user))
    assert response.status_code == 200
    assert response.json() == {"user_id": user.pk, "amount": "5.0000", "is_default": True}
    assert program.call("DELETE", address(user)).status_code == 200
    assert LowBalanceThreshold.objects.count() == 1
    assert notes(user) == [
        "Low balance: programs are told below 10.50 (before: below 5.00, by default).",
        "Low balance: programs are told never (before: below 10.50).",
        "Low balance: programs are told below 5.00, by default (before: never).",
    ]


@pytest.mark.parametrize(
    ("amount", "code"),
    [
        ("-1", "invalid_amount"),
        ("NaN", "invalid_amount"),
        ("1e9", "invalid_amount"),
        ("0.00001", "invalid_amount"),
        ("9" * 20, "invalid_amount"),
        ("9" * 41, "invalid_request"),
        (5, "invalid_request"),
        ("", "invalid_amount"),
    ],
)
def test_what_is_no_threshold_is_refused(program: Program, amount: object, code: str) -> None:
    user = user_with()
    assert_problem(put(program, user, amount=amount), 422, code)
    assert not LowBalanceThreshold.objects.exists()


def test_the_amount_has_to_be_said(program: Program) -> None:
    user = user_with()
    assert_problem(put(program, user), 422, "invalid_request")
    assert_problem(put(program, user, amount="1", user_id=1), 422, "invalid_request")
    for method, body in (("GET", None), ("PUT", {"amount": "1"}), ("DELETE", None)):
        response = program.call(method, address(OperatorFactory()), body)
        assert_problem(response, 404, "unknown_user")


def test_each_has_its_permission(db: None) -> None:
    user = user_with()
    viewer = program_with("billing.view_lowbalancethreshold")
    changer = program_with("billing.change_lowbalancethreshold")
    assert viewer.get(address(user)).status_code == 200
    assert_problem(put(viewer, user, amount="1"), 403, "forbidden")
    assert_problem(viewer.call("DELETE", address(user)), 403, "forbidden")
    assert put(changer, user, amount="1").status_code == 200
    assert changer.call("DELETE", address(user)).status_code == 200
    assert_problem(changer.get(address(user)), 403, "forbidden")
