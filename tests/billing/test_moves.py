"""Moving a payment to the right user: both transactions, or neither."""

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from billing import errors, ledger, operations
from billing.ledger import moving
from billing.models import Channel, Transaction
from tests.billing.clock import database_clock_at
from tests.billing.histories import BY_PANEL, judge
from tests.conftest import Connections
from tests.factories import OperatorFactory, UserFactory, charge_cost, user_with
from tests.operators import client_of, operator_with
from users.models import User


def move(user: User, number: int, to: User, **options: Any) -> ledger.MovedPayment:
    said: dict[str, Any] = {"description": "Of the other customer", **BY_PANEL} | options
    return operations.money.move(user.pk, number=number, to_user_id=to.pk, **said)


def verify() -> None:
    judge()
    call_command("verify_ledger", verbosity=0, stdout=StringIO())


def test_a_payment_is_taken_back_and_posted_for_the_other_user(db: None) -> None:
    wrong, right, made = UserFactory(), user_with(real=1), timezone.now().date() - timedelta(days=4)
    ledger.change_balance(
        wrong, amount=25, description="Transfer 4711", payment_date=made, **BY_PANEL
    )
    moved = move(wrong, 1, right)
    assert (moved.reversal.type, moved.reversal.amount, moved.reversal.reverses) == (
        "reversal", -25, 1,
    )  # fmt: skip
    assert (moved.payment.type, moved.payment.amount, moved.payment.description) == (
        "payment", 25, "Transfer 4711",
    )  # fmt: skip
    assert moved.payment.payment_date == made
    assert moved.reversal.metadata["moved_to"] == {"user_id": right.pk, "number": 2}
    assert moved.payment.metadata["moved_from"] == {"user_id": wrong.pk, "number": 2}
    assert (ledger.balance(wrong).real, ledger.balance(right).real) == (0, 26)
    verify()


def test_a_payment_without_a_date_keeps_the_day_of_its_posting(db: None) -> None:
    wrong, right = user_with(real=5), UserFactory()
    with timezone.override("Pacific/Kiritimati"):  # the operator's; the days are the installation's
        moved = move(wrong, 1, right)
    assert moved.payment.payment_date == moved.reversal.created_at.date()


def test_a_gift_keeps_its_expiry_and_what_was_refunded_stays(db: None) -> None:
    wrong, right, at = UserFactory(), UserFactory(), timezone.now() + timedelta(days=3)
    ledger.change_balance(
        wrong,
        amount=10,
        bonus_amount=4,
        description="Both of them",
        bonus_expires_at=at,
        **BY_PANEL,
    )
    ledger.reverse(wrong, number=1, amount=3, description="A part", **BY_PANEL)
    payment = move(wrong, 1, right).payment
    assert (payment.amount, payment.bonus_amount, payment.bonus_expires_at) == (7, 4, at)
    assert ledger.balance(wrong)[:2] == (0, 0)
    verify()


def test_what_cannot_be_moved_changes_neither_user(db: None) -> None:
    wrong, right = user_with(real=10), user_with(real=1)
    charge_cost(wrong, service="traffic", cost=4, description="Traffic", **BY_PANEL)
    with pytest.raises(errors.InsufficientFunds) as refusal:
        move(wrong, 1, right)
    assert (refusal.value.data["needed"], refusal.value.data["available"]) == ("10.0000", "6.0000")
    for number, to, refused in (
        (2, right, errors.NotMovable),
        (9, right, errors.UnknownTransaction),
        (1, wrong, errors.SameUser),
        (1, OperatorFactory(), errors.UnknownUser),
    ):
        with pytest.raises(refused):
            move(wrong, number, to)
    with pytest.raises(errors.BalanceMoved):
        move(right, 1, wrong, expected_number=0)
    with pytest.raises(errors.InvalidDescription):
        move(right, 1, wrong, description="No")
    assert (ledger.balance(wrong).number, ledger.balance(right).number) == (2, 1)
    move(right, 1, wrong)
    with pytest.raises(errors.AlreadyReversed):
        move(right, 1, wrong)


def test_a_dry_run_moves_nothing(db: None) -> None:
    wrong, right = user_with(real=10), UserFactory()
    assert move(wrong, 1, right, dry_run=True).payment.new_balance == 10
    assert (ledger.balance(wrong).real, ledger.balance(right).number) == (10, 0)


def test_twenty_moves_at_once_move_it_once(connections: Connections) -> None:
    wrong, rights = user_with(real=10), [UserFactory() for _ in range(20)]
    outcomes = connections(20, lambda i: move(wrong, 1, rights[i]))
    assert sum(outcome.error is None for outcome in outcomes) == 1
    assert all(isinstance(o.error, errors.AlreadyReversed) for o in outcomes if o.error)
    assert sum(ledger.balance(right).real for right in rights) == 10
    call_command("verify_ledger", verbosity=0)


def test_two_users_who_exchange_payments_do_not_wait_for_each_other(
    connections: Connections,
) -> None:
    one, other = (user_with(real=50) for _ in range(2))
    for user in (one, other):
        for _ in range(10):
            ledger.change_balance(user, amount=1, description="A payment", **BY_PANEL)
    outcomes = connections(
        20,
        lambda i: move(*((one, i // 2 + 2, other) if i % 2 else (other, i // 2 + 2, one))),
    )
    assert not any(outcome.error for outcome in outcomes)
    assert (ledger.balance(one).real, ledger.balance(other).real) == (60, 60)


# --- The page -----------------------------------------------------------------------------------


@pytest.fixture
def panel(db: None) -> Client:
    return client_of(
        operator_with("billing.view_transaction", "billing.change_balance", "billing.view_balance")
    )


def page_of(row: Transaction, name: str = "change") -> str:
    return f"/admin/billing/transaction/{row.pk}/{name}/"


@pytest.mark.parametrize("named", ["id", "#id", "email"])
def test_a_payment_is_moved_after_a_preview(panel: Client, named: str) -> None:
    wrong, right = user_with(real=10), UserFactory()
    row = Transaction.objects.get(user=wrong)
    assert page_of(row, "move") in panel.get(page_of(row)).text
    to = {"id": f"{right.pk}", "#id": f" #{right.pk} ", "email": right.email.upper()}[named]
    sent = {"to_user": to, "description": "Of another customer"}
    page = panel.post(page_of(row, "move"), sent)
    assert f"ID {right.pk}" in page.text
    assert ledger.balance(wrong).real == 10
    seen = page.context["step"].preview.fingerprint
    done = panel.post(page_of(row, "move"), sent | {"seen": seen, "confirm": "1"})
    assert done["Location"] == f"/admin/users/user/{right.pk}/transactions/?posted=1"
    assert (ledger.balance(wrong).real, ledger.balance(right).real) == (0, 10)
    reversal = Transaction.objects.get(user=wrong, number=2)
    assert "Moved to" in panel.get(page_of(reversal)).text
    assert "Moved from" in panel.get(page_of(Transaction.objects.get(user=right))).text
    assert "This cannot be moved" in panel.get(page_of(row, "move")).text


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"to_user": "nobody@example.com"}, "to_user", "There is no user nobody@example.com."),
        ({"to_user": "99999999"}, "to_user", "There is no user 99999999."),
        ({"description": "No"}, "description", "5 to 200 characters"),
    ],
)
def test_a_mistake_is_said_at_its_field(
    panel: Client, fields: dict[str, str], field: str, said: str
) -> None:
    wrong, right = user_with(real=10), UserFactory()
    row = Transaction.objects.get(user=wrong)
    sent = {"to_user": f"{right.pk}", "description": "Of another customer"} | fields
    page = panel.post(page_of(row, "move"), sent)
    assert said in " ".join(page.context["form"].errors[field])
    assert ledger.balance(wrong).number == 1


def test_metadata_of_others_ties_nothing(panel: Client) -> None:
    user, other = UserFactory(), user_with(real=1)
    posted = ledger.change_balance(
        user, amount=1, description="Not moved", actor=None, channel=Channel.API,
        metadata={"moved_from": {"user_id": other.pk, "number": 1}},
    )  # fmt: skip
    assert "Moved from" not in panel.get(page_of(posted)).text


def test_who_may_not_change_balances_may_not_move(db: None) -> None:
    row = Transaction.objects.get(user=user_with(real=1))
    client = client_of(operator_with("billing.view_transaction"))
    assert client.get(page_of(row, "move")).status_code == 403
    assert page_of(row, "move") not in client.get(page_of(row)).text


def test_the_two_name_each_other_although_a_gift_expires_in_between(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, right = user_with(real=5), UserFactory()
    at = timezone.now() + timedelta(hours=1)
    ledger.give_bonus(right, amount=3, description="For an hour", bonus_expires_at=at, **BY_PANEL)
    expire, tried = moving.expire_grants, []

    def too_early_at_first(user_ids: list[int]) -> None:
        tried.append(user_ids)
        if len(tried) > 1:
            expire(user_ids)

    monkeypatch.setattr(moving, "expire_grants", too_early_at_first)
    with database_clock_at(at):
        moved = move(wrong, 1, right)
    assert len(tried) == 2
    assert moved.payment.number == 3  # 2 is the expiry
    assert moved.reversal.metadata["moved_to"] == {"user_id": right.pk, "number": 3}
    assert Transaction.objects.filter(user=wrong).count() == 2
    verify()
