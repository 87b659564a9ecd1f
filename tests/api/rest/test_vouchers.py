"""Redeeming a voucher over REST."""

import json
from decimal import Decimal
from typing import Any

import pytest

from billing import ledger
from billing.models import Subscription, Transaction, Voucher, VoucherRedemption
from tests.api.rest.programs import Program, assert_problem
from tests.factories import PlanFactory, UserFactory, a_voucher, user_with
from users.models import User


def redeem(program: Program, user: User, code: str, **options: Any) -> Any:
    body = {"code": code} | {name: options.pop(name) for name in ("dry_run",) if name in options}
    return program.post(f"/users/{user.pk}/vouchers", body, **options)


def test_a_voucher_is_redeemed_and_answered_with_its_transaction(
    program: Program, user: User
) -> None:
    voucher = a_voucher(amount=Decimal(10), bonus=Decimal(5), bonus_days=30)
    response = redeem(program, user, voucher.shown_code.lower())
    assert response.status_code == 201, response.content
    posted = Transaction.objects.get(user=user, subtype="voucher")
    place = f"/api/v1/users/{user.pk}/transactions/{posted.number}"
    assert response["Location"] == place
    answer = response.json()
    assert answer["voucher"] == {"id": voucher.pk, "title": "Spring"}
    read = program.get(place.removeprefix("/api/v1")).json()
    assert answer["transaction"].items() <= read.items()
    assert answer["transaction"]["amount"] == "10.0000"
    assert answer["transaction"]["bonus_expires_at"] is not None
    assert (answer["subscription"], answer["charges"]) == (None, [])
    assert voucher.code not in response.content.decode()
    assert posted.actor == program.owner


def test_a_second_redemption_is_refused_with_the_number_of_the_first(
    program: Program, user: User
) -> None:
    voucher = a_voucher(uses_max=None)
    number = redeem(program, user, voucher.code).json()["transaction"]["number"]
    problem = assert_problem(redeem(program, user, voucher.code), 409, "voucher_redeemed")
    assert problem["number"] == number
    assert problem["voucher"] == voucher.pk
    assert VoucherRedemption.objects.count() == 1


def test_the_same_key_is_answered_the_same(program: Program, user: User) -> None:
    voucher = a_voucher()
    first = redeem(program, user, voucher.code, key="17")
    again = redeem(program, user, voucher.code, key="17")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert again["Location"] == first["Location"]


def test_a_plan_comes_with_its_subscription_and_charge(program: Program, db: None) -> None:
    user = user_with(real=8)
    voucher = a_voucher(plan=PlanFactory(name="Start", price=8))
    response = redeem(program, user, voucher.code)
    assert response.status_code == 201, response.content
    answer = response.json()
    subscription = Subscription.objects.get(user=user)
    assert response["Location"] == f"/api/v1/users/{user.pk}/subscriptions/{subscription.pk}"
    assert answer["transaction"] is None
    assert answer["subscription"]["id"] == subscription.pk
    assert answer["subscription"]["next_charge"] is not None
    assert [row["amount"] for row in answer["charges"]] == ["-8.0000"]
    assert answer["charges"][0]["id"] == Transaction.objects.get(user=user, number=2).pk


def test_a_plan_that_cannot_be_paid_refuses_all(program: Program, user: User) -> None:
    before = ledger.balance(user)
    voucher = a_voucher(amount=Decimal(1), plan=PlanFactory(price=9999))
    assert_problem(redeem(program, user, voucher.code), 402, "insufficient_funds")
    assert ledger.balance(user) == before
    assert not VoucherRedemption.objects.exists()


def test_a_dry_run_answers_what_would_happen(program: Program, db: None) -> None:
    user = UserFactory()
    voucher = a_voucher(amount=Decimal(10), plan=PlanFactory(price=8))
    response = redeem(program, user, voucher.code, dry_run=True)
    assert response.status_code == 200
    assert "Location" not in response
    answer = response.json()
    assert "id" not in answer["transaction"]
    assert answer["transaction"]["new_balance"] == "10.0000"
    assert answer["charges"][0]["new_balance"] == "2.0000"
    assert answer["subscription"]["id"] is None
    assert not Transaction.objects.filter(user=user).exists()
    assert not VoucherRedemption.objects.exists()
    assert Voucher.objects.get().uses == 0


@pytest.mark.parametrize("code", ["", "ABC", "A" * 12, "x" * 100, "ÄÖÜ-ÄÖÜ"])
def test_what_is_no_code_is_unknown(program: Program, user: User, code: str) -> None:
    assert_problem(redeem(program, user, code), 404, "unknown_voucher")


def test_a_code_is_no_number_and_not_too_long(program: Program, user: User) -> None:
    for code in (123456789234, None, "x" * 101, "a\0b"):
        assert_problem(
            program.post(f"/users/{user.pk}/vouchers", {"code": code}), 422, "invalid_request"
        )


def test_no_code_is_logged(
    program: Program, user: User, lines: list[str], with_bodies: None
) -> None:
    voucher = a_voucher()
    for code in (voucher.code, voucher.shown_code, voucher.code.lower()):
        redeem(program, user, code)
        program.get(f"/users?code={code}")
        program.get(f"/users?search={code}")
        address = f"/api/v1/users/{user.pk}/vouchers"
        form = "application/x-www-form-urlencoded"
        program.client.post(address, f"code={code}", content_type=form)
        program.client.post(address, {"code": code})  # multipart
        program.get(f"/users/{user.pk}/vouchers/{code}")
    text = "".join(lines).lower().replace("-", "")
    assert voucher.code.lower() not in text
    first = json.loads(lines[0])
    assert json.loads(first["request"]) == {"code": "***"}
    assert first["path"] == f"/api/v1/users/{user.pk}/vouchers"
    assert json.loads(first["response"])["voucher"] == {"id": voucher.pk, "title": "Spring"}
