"""Reasons of balance changes: what they allow, what they add, and that they are kept."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models.deletion import ProtectedError
from django.utils import timezone

from billing import errors, ledger, operations, reports
from billing.models import Channel, Grant, Reason, Transaction
from tests.billing.histories import BY_PANEL, execute, judge
from tests.billing.test_verify_ledger import verify
from tests.factories import charge_cost, reason, user_with
from users.models import User

pytestmark = pytest.mark.usefixtures("db")
BY: dict[str, Any] = {"actor": None, "channel": Channel.API}


@pytest.fixture
def user() -> User:
    return user_with(real=100, bonus=20)


def attempt(statement: str) -> None:
    """Runs a statement, and then the checks that the database runs at commit."""
    with transaction.atomic():
        execute(statement)
        judge()


def change(user: User, **options: Any) -> Transaction:
    return operations.money.change_balance(user.pk, **BY | options)


def test_a_change_gets_the_description_of_its_reason_and_keeps_its_code(user: User) -> None:
    reason("bank_transfer", template="Bank transfer")
    posted = change(user, amount=5, reason="bank_transfer")
    assert (posted.description, posted.reason_id, posted.form) == (
        "Bank transfer",
        "bank_transfer",
        2,
    )
    said = change(user, amount=5, reason="bank_transfer", description="Transfer of the 3rd")
    assert said.description == "Transfer of the 3rd"
    assert change(user, amount=5, description="For no reason").reason_id is None
    judge()
    assert verify()[0] == 0


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "retired": ({"is_active": False}, {"amount": 5}),
    "real_only": ({"balances": "real"}, {"amount": 5, "bonus_amount": 1}),
    "bonus_only": ({"balances": "bonus"}, {"amount": 5, "bonus_amount": 1}),
    "adds_only": ({"direction": "adds"}, {"amount": 5, "bonus_amount": -1}),
    "takes_only": ({"direction": "takes"}, {"amount": -5, "bonus_amount": 1}),
    "fields": ({"template": "Transfer {reference} of {day}"}, {"amount": 5}),
    "comment": ({"is_comment_required": True}, {"amount": 5}),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_does_not_fit_its_reason_is_refused(why: str, user: User) -> None:
    terms, changes = REFUSED[why]
    reason(**terms)
    with pytest.raises(errors.ReasonRefused) as refused:
        change(user, reason="goodwill", **changes)
    assert refused.value.data["why"] == why
    assert str(refused.value).endswith(".")
    assert ledger.balance(user).number == 1


@pytest.mark.parametrize(
    ("terms", "changes"),
    [
        ({"balances": "real"}, {"amount": 5}),
        ({"balances": "bonus"}, {"bonus_amount": -5}),
        ({"direction": "adds"}, {"amount": 5, "bonus_amount": 1}),
        ({"direction": "takes"}, {"amount": -5, "bonus_amount": -1}),
        ({"template": "Transfer {reference}"}, {"amount": 5, "description": "Transfer {4711"}),
        ({"is_comment_required": True}, {"amount": 5, "description": "Goodwill: a late delivery"}),
    ],
)
def test_what_fits_its_reason_is_posted(
    terms: dict[str, Any], changes: dict[str, Any], user: User
) -> None:
    reason(**terms)
    assert change(user, reason="goodwill", **changes).reason_id == "goodwill"


def test_only_changes_gifts_and_reversals_have_a_reason(user: User) -> None:
    reason(direction="takes")
    with pytest.raises(errors.ReasonRefused) as refused:
        charge_cost(user, cost=1, service="sms", description="A message", reason="goodwill", **BY)
    assert refused.value.data["why"] == "type"
    taken = ledger.reverse(user, number=1, description="Taken back", reason="goodwill", **BY_PANEL)
    assert taken.reason_id == "goodwill"  # whatever a reversal does


def test_an_unknown_reason_is_refused_also_without_a_description(user: User) -> None:
    for description in ("", "Something else"):
        with pytest.raises(errors.UnknownReason):
            change(user, amount=5, reason="no_reason", description=description)
    with pytest.raises(errors.UnknownReason):
        ledger.change_balance(user, amount=5, description="Said so", reason="no_reason", **BY_PANEL)


def test_a_bonus_lasts_as_long_as_its_reason_says(
    user: User, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.TIME_ZONE = "Asia/Tokyo"
    reason(bonus_days=30)
    now = timezone.now().replace(hour=20, minute=0)  # the next day in Tokyo
    monkeypatch.setattr(timezone, "now", lambda: now)
    posted = change(user, bonus_amount=3, reason="goodwill")
    assert posted.bonus_expires_at is not None
    last_moment = posted.bonus_expires_at.astimezone(UTC)
    assert (last_moment.date() - now.date()).days == 31
    assert (last_moment.hour, last_moment.minute) == (15, 0)  # midnight in Tokyo
    assert Grant.objects.get(user=user, number=posted.number).expires_at == posted.bonus_expires_at
    own = datetime(2098, 1, 1, tzinfo=UTC)
    assert (
        change(user, bonus_amount=3, reason="goodwill", bonus_expires_at=own).bonus_expires_at
        == own
    )
    assert change(user, amount=3, reason="goodwill").bonus_expires_at is None
    assert change(user, bonus_amount=-3, reason="goodwill").bonus_expires_at is None


def test_a_repeated_call_gets_the_expiry_of_the_first(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason(bonus_days=30)
    about: dict[str, Any] = {"bonus_amount": 3, "reason": "goodwill", "idempotency_key": "gift-1"}
    first = change(user, **about)
    later = timezone.now() + timezone.timedelta(days=2)
    monkeypatch.setattr(timezone, "now", lambda: later)
    again = change(user, **about)
    assert (again.number, again.replayed) == (first.number, True)
    with pytest.raises(errors.IdempotencyConflict):
        change(user, **about | {"reason": None, "description": "Goodwill"})


def test_operators_need_a_reason_if_the_installation_says_so(user: User, settings: Any) -> None:
    reason()
    settings.REASON_REQUIRED = True
    by_panel = {"channel": Channel.PANEL}
    with pytest.raises(errors.ReasonRequired):
        change(user, amount=5, description="For no reason", **by_panel)
    change(user, amount=5, reason="goodwill", **by_panel)
    change(user, amount=5, description="By a program")


def test_a_reason_that_transactions_have_is_kept(user: User) -> None:
    given = reason()
    unused = reason("unused")
    change(user, amount=5, reason="goodwill")
    with pytest.raises(ProtectedError):
        given.delete()
    for statement in (
        "DELETE FROM billing_reason WHERE code = 'goodwill'",
        "UPDATE billing_reason SET code = 'other' WHERE code = 'goodwill'",
    ):
        with pytest.raises(IntegrityError, match="foreign key"):
            attempt(statement)
    unused.delete()


@pytest.mark.parametrize("template", ["Transfer {", "Transfer {}", "Transfer }x{", "a {b {c} d"])
def test_a_field_is_a_name_in_braces(template: str) -> None:
    row = Reason(code="transfer", label="Transfer", template=template)
    with pytest.raises(ValidationError, match="name in braces"):
        row.full_clean()


def test_fields_are_those_of_the_template() -> None:
    Reason(code="transfer", label="Transfer", template="Transfer {number}").full_clean()
    assert Reason(template="Transfer {reference} of {day}").fields == ["reference", "day"]


def test_a_moved_payment_keeps_a_reason_that_is_still_used(user: User) -> None:
    given = reason()
    other = user_with()
    about: dict[str, Any] = {"to_user_id": other.pk, "description": "Wrong user", **BY_PANEL}
    first = change(user, amount=5, reason="goodwill")
    moved = operations.money.move(user.pk, number=first.number, **about)
    assert moved.payment.reason_id == "goodwill"
    second = change(user, amount=5, reason="goodwill")
    Reason.objects.filter(pk=given.pk).update(is_active=False)
    moved = operations.money.move(user.pk, number=second.number, **about)
    assert moved.payment.reason_id is None


def test_sums_by_reason(user: User) -> None:
    reason("cash_payment"), reason("chargeback"), reason("unused")
    for amount in (5, 7):
        change(user, amount=amount, bonus_amount=1, reason="cash_payment")
    change(user, amount=-3, reason="chargeback")
    change(user, amount=9, description="For no reason")
    found = reports.by_reason(reports.Listing())
    assert [(row.reason and row.reason.code, row.number) for row in found] == [
        ("cash_payment", 2),
        ("chargeback", 1),
        (None, 2),
    ]
    assert found[0].real == (12, 0, 0)
    assert found[0].bonus == (2, 0, 0)
    assert found[1].real == (0, 3, 0)
