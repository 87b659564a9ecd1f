"""Transactions of the past are written as `billing_post` would have written them."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction

from billing import ledger
from billing.ledger import history
from billing.ledger.history import PastTransaction, as_jsonb, load_history
from billing.models import Channel, Plan, Subscription, Transaction, TransactionType
from billing.plans.takeover import Payment, ends_with_its_period, paid_period, take_over
from tests.factories import UserFactory, user_with
from users.models import User

pytestmark = pytest.mark.as_owner

AT = datetime(2025, 3, 1, 9, 30, 0, 123456, tzinfo=UTC)
REFILL = TransactionType.PAYMENT


def past(user: User, *amounts: int, **fields: Any) -> list[PastTransaction]:
    return [
        PastTransaction(
            user.pk, AT + timedelta(days=n), REFILL, "import", f"Number {n}", amount=each, **fields
        )
        for n, each in enumerate(amounts)
    ]


def guards() -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE conrelid = 'billing_transaction'::regclass "
            "UNION ALL SELECT tgname, tgenabled::text FROM pg_trigger "
            "WHERE tgrelid = 'billing_transaction'::regclass AND NOT tgisinternal ORDER BY 1, 2"
        )
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


@pytest.mark.parametrize("checked_max", [50_000, 0], ids=["checked", "unchecked"])
def test_a_history_verifies_and_can_be_gone_on_with(
    committed_db: None, monkeypatch: pytest.MonkeyPatch, checked_max: int
) -> None:
    monkeypatch.setattr(history, "CHECKED_MAX", checked_max)
    ada, bob = UserFactory(), UserFactory()
    before = guards()
    both = [
        each
        for pair in zip(past(ada, 50_000, -1, 7), past(bob, 1, 2, 3), strict=True)
        for each in pair
    ]
    assert load_history(both, expected=6) == 6
    assert guards() == before
    posted = ledger.change_balance(
        ada, amount=1, description="Afterwards", actor=None, channel=Channel.PANEL
    )
    assert (posted.number, f"{posted.old_balance}") == (4, "5.0006")
    assert posted.pk > max(Transaction.objects.filter(number__lt=4).values_list("pk", flat=True))
    call_command("verify_ledger", verbosity=0, stdout=StringIO())


def test_nothing_is_left_of_a_load_that_fails(
    committed_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "CHECKED_MAX", 0)
    before = guards()
    user = UserFactory()
    with pytest.raises(DatabaseError, match="a_transaction_does_what_its_type_allows"):
        load_history(past(user, 5, -6), expected=2)
    assert guards() == before
    assert not Transaction.objects.exists()
    assert ledger.balance(user).number == 0


def wrong_actor(user: User) -> list[PastTransaction]:
    return past(user, 5, actor_id=user.pk + 1_000_000)


def backwards(user: User) -> list[PastTransaction]:
    return past(user, 5, 6)[::-1]


def of_the_future(user: User) -> list[PastTransaction]:
    return [each._replace(at=datetime(2999, 1, 1, tzinfo=UTC)) for each in past(user, 5)]


@pytest.mark.parametrize("wrong", [wrong_actor, backwards, of_the_future])
def test_what_the_ledger_would_never_have_written_is_refused_at_commit(
    committed_db: None, wrong: Callable[[User], list[PastTransaction]]
) -> None:
    user = UserFactory()
    with pytest.raises(DatabaseError), transaction.atomic():
        load_history(wrong(user), expected=2)
    assert not Transaction.objects.exists()


def test_a_user_who_has_transactions_gets_no_other_history(db: None) -> None:
    with pytest.raises(DatabaseError, match="transaction_numbers_are_unique_per_user"):
        load_history(past(user_with(real=1), 5), expected=1)


@pytest.mark.parametrize(
    "value",
    [
        {"b": 1, "a": {"long": "ü", "x": None}, "cc": True},
        {"list": [1, "two", {"b": "\u2028", "a": '"\\\n'}], "é": [], "zz": {}},
        {"amount": "12.5000", "€": "€", "ab": 10**17},
    ],
)
def test_metadata_are_written_as_the_database_writes_them(db: None, value: dict[str, Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::jsonb::text", [as_jsonb(value)])
        assert cursor.fetchone() == (as_jsonb(value),)


# --- Subscriptions that are taken over ----------------------------------------------------------


@pytest.mark.parametrize(
    ("cycle", "started_on", "paid_through", "first"),
    [
        ("monthly", date(2025, 1, 5), date(2026, 3, 31), date(2026, 3, 1)),
        ("monthly", date(2026, 3, 10), date(2026, 3, 31), date(2026, 3, 10)),
        ("monthly", date(2026, 5, 1), date(2026, 3, 31), date(2026, 3, 31)),
        ("every_year", date(2025, 1, 5), date(2026, 12, 31), date(2026, 1, 1)),
        ("every_year", date(2026, 2, 5), date(2026, 12, 31), date(2026, 2, 5)),
        ("everyday", date(2025, 1, 5), date(2026, 3, 30), date(2026, 3, 30)),
    ],
)
def test_the_period_that_is_paid(
    cycle: str, started_on: date, paid_through: date, first: date
) -> None:
    assert paid_period(cycle, started_on, paid_through) == (first, paid_through)


@pytest.mark.parametrize(
    ("cycle", "day", "ends"),
    [
        ("monthly", date(2026, 2, 28), True),
        ("monthly", date(2026, 2, 27), False),
        ("every_year", date(2026, 12, 31), True),
        ("every_year", date(2026, 6, 30), False),
        ("everyday", date(2026, 2, 27), True),
    ],
)
def test_whether_a_period_ends_as_periods_do_here(cycle: str, day: date, ends: bool) -> None:
    assert ends_with_its_period(cycle, day) is ends


@pytest.mark.parametrize("is_user_active", [True, False])
def test_what_was_paid_for_is_kept_while_it_waits(is_user_active: bool) -> None:
    subscription = Subscription(plan=Plan(cycle="every_year"), started_on=date(2025, 5, 1))
    take_over(
        subscription,
        paid_through=date(2026, 12, 31),
        payment=Payment(3, Decimal(120), date(2026, 1, 1)),
        is_suspended=True,
        is_user_active=is_user_active,
        now=datetime(2026, 11, 29, 7, tzinfo=UTC),
    )
    assert subscription.status == "suspended"
    assert subscription.suspension_reason == ("no_money" if is_user_active else "user_deactivated")
    assert (subscription.paid, subscription.charge_number) == (120, 3)
    assert subscription.due_on == date(2026, 11, 30)
