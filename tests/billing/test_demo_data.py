"""Demo data is believable, and in order: as far as the ledger can tell, it was lived."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection
from django.db.models import Count, F, Sum

from billing import ledger
from billing.management.demo import bulk, company, people, story
from billing.models import Balance, Channel, StandardDescription, Transaction
from tests.factories import UserFactory
from users.models import User

NOW = datetime(2026, 11, 22, 15, 30, tzinfo=UTC)
STAFF = story.Staff(clerks=(1, 2), gateway=3)


def found(**sizes: int) -> None:
    company.found(**({"users": 24, "transactions": 900, "seed": 1, "now": NOW} | sizes))


def told(transactions: int = 900, *, seed: int = 1, closing: int = 0) -> list[story.Operation]:
    rng = Random(seed)
    accounts = [
        story.Account(place, user.created_at)
        for place, user in enumerate(people.customers(rng, 24, NOW), start=10)
    ]
    return list(
        story.tell(
            accounts, transactions=transactions, until=NOW, staff=STAFF, rng=rng, closing=closing
        )
    )


# --- The story ----------------------------------------------------------------------------------


@pytest.mark.parametrize("transactions", [1, 7, 100, 900, 5_000])
def test_the_story_has_exactly_as_many_operations_as_asked_for(transactions: int) -> None:
    assert len(told(transactions)) == transactions


def test_the_same_seed_tells_the_same_story_and_another_one_another() -> None:
    assert told(seed=5) == told(seed=5)
    assert told(seed=5) != told(seed=6)


def test_the_story_goes_forward_in_time_and_ends_now() -> None:
    times = [operation.at for operation in told(closing=20)]
    assert times == sorted(times)
    assert times[-1] == NOW
    assert times[0] < NOW - timedelta(days=60)


def test_something_happens_on_each_of_the_last_30_days() -> None:
    days = {operation.at.date() for operation in told()}
    assert {NOW.date() - timedelta(days=back) for back in range(30)} <= days


def test_a_tenth_of_everything_is_the_first_users() -> None:
    firsts = sum(operation.user_id == 10 for operation in told(5_000))
    assert firsts == pytest.approx(500, rel=0.1)


def test_nobody_ever_has_less_than_nothing() -> None:
    balances: dict[int, tuple[int, int]] = {}
    for operation in told(5_000):
        real, bonus = balances.get(operation.user_id, (0, 0))
        balances[operation.user_id] = real + operation.amount, bonus + operation.bonus_amount
        assert min(balances[operation.user_id]) >= 0


@pytest.mark.parametrize(
    ("plan", "day", "units", "period"),
    [
        ("monthly", "2026-11-01", 125_500, "November 2026"),
        ("monthly", "2026-04-10", 87_850, "10–30 April 2026"),
        ("everyday", "2026-10-01", 9_677, "1 October 2026"),
        ("everyday", "2026-10-02", 9_678, "2 October 2026"),
        ("activeday", "2026-11-01", 5_000, "active on 31 October 2026"),
        ("every_year", "2026-01-01", 1_200_000, "2026"),
        ("every_year", "2026-11-22", 131_507, "22 November 2026 – 31 December 2026"),
    ],
)
def test_fees_are_those_of_the_pricing_rules(plan: str, day: str, units: int, period: str) -> None:
    plans = (story.MONTHLY[1], story.BY_DAY, story.ACTIVE_DAY, story.ANNUAL)
    [chosen] = [candidate for candidate in plans if candidate.cycle == plan]
    price, said, _ = story.fee(chosen, datetime.fromisoformat(day).date())
    assert (price, said) == (units, period)


# --- In the database ----------------------------------------------------------------------------


def test_the_ledger_of_demo_data_verifies(db: None) -> None:
    found()
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what a commit would check
    call_command("verify_ledger", verbosity=0)
    assert Transaction.objects.count() == 900


def test_a_load_past_the_guard_verifies_too_and_leaves_the_guard_on(
    committed_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "GUARDED_MAX", 0)
    before = triggers_and_keys()
    found()
    call_command("verify_ledger", verbosity=0)
    assert triggers_and_keys() == before


def triggers_and_keys() -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE conrelid = 'billing_transaction'::regclass "
            "UNION ALL SELECT tgname, tgenabled::text FROM pg_trigger "
            "WHERE tgrelid = 'billing_transaction'::regclass AND NOT tgisinternal ORDER BY 1, 2"
        )
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def test_every_type_and_subtype_occurs(db: None) -> None:
    found()
    kinds = set(Transaction.objects.values_list("type", "subtype"))
    assert {
        ("payment", "partner"),
        ("payment", "import"),
        ("bonus_charge", "register"),
        ("main_charge", "monthly"),
        ("main_charge", "everyday"),
        ("main_charge", "activeday"),
        ("main_charge", "every_year"),
        ("main_charge", "remainder"),
        ("tariff_charge", "incoming_sms"),
        ("tariff_charge", "outgoing_sms"),
        ("tariff_charge", "service_sms"),
        ("tariff_charge", "phone_call"),
        ("tariff_charge", "traffic"),
        ("reversal", "tariff_charge"),
    } <= kinds
    assert {c for (c,) in Transaction.objects.values_list("channel").distinct()} == set(Channel)


def test_balances_are_the_sums_of_all_amounts(db: None) -> None:
    found()
    sums = Transaction.objects.values("user").annotate(
        real=Sum("amount"), bonus=Sum("bonus_amount"), count=Count("id")
    )
    by_user = {row["user"]: (row["real"], row["bonus"], row["count"]) for row in sums}
    for balance in Balance.objects.all():
        assert by_user.get(balance.pk, (0, 0, 0)) == (
            balance.real,
            balance.bonus,
            balance.last_number,
        )


def test_the_last_operations_went_through_the_ledger(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted = 0
    post_batch = ledger.post_batch

    def counting(entries: Any, **options: Any) -> Any:
        nonlocal posted
        results = post_batch(entries, **options)
        posted += len(results)
        return results

    monkeypatch.setattr(ledger, "post_batch", counting)
    found()
    assert posted == 900 // 20
    # Stamped by the ledger's clock, not by the story's.
    assert Transaction.objects.exclude(created_at__lte=NOW).count() in (0, posted)


def test_people_differ(db: None) -> None:
    found(users=60)
    customers = User.objects.filter(is_staff=False)
    assert customers.count() == 60
    assert {kind for (kind,) in customers.values_list("legal_type")} == set(User.LegalType)
    assert len({country for (country,) in customers.values_list("country")}) >= 5
    assert customers.filter(is_active=False).exists()
    assert Balance.objects.filter(user__in=customers, real=0).exists()
    for customer in customers:
        customer.clean_fields(exclude=["password"])
        customer.clean()
    assert not Transaction.objects.filter(created_at__lt=F("user__created_at")).exists()
    assert StandardDescription.objects.count() == len(company.STANDARD_DESCRIPTIONS)


def test_the_demo_operator_can_log_in_and_customers_cannot(db: None) -> None:
    found()
    operator = User.objects.get(email="operator@example.com")
    assert operator.is_staff
    assert operator.is_superuser
    assert operator.check_password("operator")
    customer = User.objects.filter(is_staff=False).first()
    assert customer is not None
    assert not customer.has_usable_password()


def test_operators_are_in_their_groups(db: None) -> None:
    found()
    groups = dict(User.objects.filter(is_staff=True).values_list("email", "groups__name"))
    assert groups["operator@example.com"] == "Administrator"
    assert groups["billing@example.com"] == "Billing operator"
    assert groups["viewer@example.com"] == "Viewer"


# --- When it is refused, and when it is interrupted ---------------------------------------------


def test_demo_data_is_refused_where_there_are_users(db: None) -> None:
    UserFactory()
    with pytest.raises(CommandError, match="There are users already"):
        call_command("seed_demo", verbosity=0)
    assert User.objects.count() == 1


@pytest.mark.parametrize("count", ["0", "-5", "many", "1000000001"])
def test_a_size_that_makes_no_sense_is_refused(count: str) -> None:
    with pytest.raises(CommandError, match="is not a whole number"):
        call_command("seed_demo", f"--users={count}")


def test_an_interrupted_load_leaves_nothing_and_can_be_started_again(
    committed_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = story.tell

    def interrupted(*arguments: Any, **options: Any) -> Iterator[story.Operation]:
        for place, operation in enumerate(tell(*arguments, **options)):
            if place == 100:
                raise KeyboardInterrupt
            yield operation

    size = {"users": 24, "transactions": 300, "verbosity": 0}
    monkeypatch.setattr(company, "tell", interrupted)
    with pytest.raises(CommandError, match="nothing was loaded"):
        call_command("seed_demo", **size)
    assert not User.objects.exists()

    monkeypatch.setattr(company, "tell", tell)
    call_command("seed_demo", **size)
    call_command("verify_ledger", verbosity=0)
    assert Transaction.objects.count() == 300


def test_a_user_with_transactions_cannot_be_given_another_history(db: None) -> None:
    user = UserFactory()
    ledger.change_balance(
        user, amount=5, description="Money to start with", actor=None, channel=Channel.IMPORT
    )
    operation = story.Operation(
        user.pk, NOW, story.TransactionType.PAYMENT, "import", "Balance taken over", amount=100
    )
    with pytest.raises(DatabaseError, match="transaction_numbers_are_unique_per_user"):
        bulk.load([operation], expected=1)
