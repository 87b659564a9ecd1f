"""Gifts, refunds in part and payment dates in the REST API."""

from typing import Any

import pytest

from billing.models import Grant
from tests.api.rest.programs import Program, assert_problem
from tests.billing.histories import BY_PANEL
from tests.factories import UserFactory, charge_cost, user_with


def test_programs_give_bonuses_with_an_expiry_and_read_what_is_left(program: Program) -> None:
    user = UserFactory()
    address = f"/users/{user.pk}/balance-changes"
    first = program.post(
        address,
        {"description": "A gift", "bonus_amount": "5", "bonus_expires_at": "2099-12-31"},
    ).json()
    assert first["bonus_expires_at"] == "2100-01-01T00:00:00.000000Z"
    second = program.post(
        address,
        {
            "description": "Another gift",
            "bonus_amount": "3",
            "bonus_expires_at": "2099-06-30T12:00:00+02:00",
            "payment_date": "2026-11-02",
        },
    ).json()
    assert (second["bonus_expires_at"], second["payment_date"]) == (
        "2099-06-30T10:00:00.000000Z",
        "2026-11-02",
    )
    charge = charge_cost(user, service="traffic", cost=4, description="Traffic", **BY_PANEL)
    assert program.get(f"/users/{user.pk}/grants").json() == {
        "grants": [
            {
                "number": 1,
                "amount": "5.0000",
                "left": "4.0000",
                "expires_at": "2100-01-01T00:00:00.000000Z",
            }
        ]
    }
    told = program.get(f"/users/{user.pk}/transactions/{charge.number}").json()
    assert told["grants_used"] == [
        {"number": 2, "amount": "3.0000"},
        {"number": 1, "amount": "1.0000"},
    ]
    changed = program.call("PATCH", f"/users/{user.pk}/grants/1", {"expires_at": None})
    assert changed.json()["expires_at"] is None
    assert Grant.objects.get(user=user, number=1).expires_at is None


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Midway"])
@pytest.mark.parametrize(
    "given", ["9999-12-31", "9001-01-03", "9999-12-31T23:59:59Z", "9999-12-31T00:00:00+14:00"]
)
def test_an_expiry_that_no_page_could_show_is_refused_everywhere(
    program: Program, settings: Any, zone: str, given: str
) -> None:
    settings.TIME_ZONE = zone
    user = user_with(bonus=5)
    gift = {"description": "A gift", "bonus_amount": "5", "bonus_expires_at": given}
    for answer in (
        program.post(f"/users/{user.pk}/balance-changes", gift),
        program.post("/balance-changes", {"entries": [{**gift, "user_id": user.pk}]}),
        program.call("PATCH", f"/users/{user.pk}/grants/1", {"expires_at": given}),
    ):
        problem = assert_problem(answer, 422, "invalid_expiry")
        assert problem["reason"] == "too_far"
    last = {**gift, "bonus_expires_at": "9000-12-31"}
    assert program.post(f"/users/{user.pk}/balance-changes", last).status_code == 201
    assert Grant.objects.get(user=user, number=1).expires_at is None


@pytest.mark.parametrize("given", ["2099-13-01", "31.12.2099", "2099-12-31T12:00", "soon", 5, ""])
def test_what_is_no_expiry_is_refused_by_name(program: Program, given: Any) -> None:
    user = UserFactory()
    body = {"description": "A gift", "bonus_amount": "5", "bonus_expires_at": given}
    answer = program.post(f"/users/{user.pk}/balance-changes", body)
    assert answer.status_code == 422
    assert "bonus_expires_at" in answer.json()["detail"]


def test_programs_refund_a_part(program: Program) -> None:
    user = user_with(real=10)
    charge = charge_cost(user, service="traffic", cost=5, description="Traffic", **BY_PANEL)
    address = f"/users/{user.pk}/transactions/{charge.number}"
    refund = {"description": "A part of it", "amount": "2"}
    assert program.post(f"{address}/refunds", refund, key="r-1").json()["amount"] == "2.0000"
    assert program.post(f"{address}/refunds", refund, key="r-1").status_code == 200
    told = program.get(address).json()
    assert (told["reversed_by"], told["reversals"]) == (None, [3])
    program.post(f"{address}/reversal", {"description": "And the rest"})
    told = program.get(address).json()
    assert (told["reversed_by"], told["reversals"]) == (4, [3, 4])
    assert program.post(f"{address}/refunds", {"description": "Nothing left"}).status_code == 422


def test_a_batch_has_expiries_and_payment_dates(program: Program) -> None:
    user = UserFactory()
    entry = {"user_id": user.pk, "description": "A gift", "bonus_amount": "5"}
    dated = entry | {"bonus_expires_at": "2099-12-31", "payment_date": "2026-11-02"}
    answer = program.post(
        "/balance-changes",
        {"entries": [dated, entry | {"payment_date": "2999-01-01"}], "skip_refused": True},
    ).json()
    outcomes = [each["outcome"] for each in answer["results"]]
    assert outcomes == ["posted", "refused"]
    assert answer["results"][1]["problem"]["code"] == "invalid_payment_date"
    assert Grant.objects.get(user=user).expires_at is not None
