"""The demo data look real, and the ledger and the charging rules accept all of them."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection
from django.db.models import Count, F, Sum

from billing import ledger
from billing.ledger import history
from billing.ledger.history import PastTransaction, as_jsonb
from billing.management.demo import catalogue, company, people, story
from billing.management.demo.accounts import Account, Staff
from billing.management.demo.contracts import Contracts
from billing.models import (
    ActiveDay,
    Balance,
    Channel,
    ChargingFailure,
    ChargingRun,
    Plan,
    Reason,
    ServicePrice,
    Subscription,
    Transaction,
    TransactionType,
    UserDefaults,
)
from billing.plans import charging, services
from billing.plans.pricing import Cycle, charge_on, service_cost
from tests.factories import UserFactory
from users.models import User

# Most demo data is copied into the tables, which needs the rights of their owner.
pytestmark = pytest.mark.as_owner

NOW = datetime(2026, 11, 22, 15, 30, tzinfo=UTC)
TODAY = NOW.date()
STAFF = Staff(clerks=(1, 2), gateway=3, platform=4)


def found(**sizes: int) -> None:
    company.found(**({"users": 24, "transactions": 900, "seed": 1, "now": NOW} | sizes))


def told(
    transactions: int = 900,
    *,
    seed: int = 1,
    closing: int = 0,
    until: datetime = NOW,
    contracts: Contracts | None = None,
) -> list[PastTransaction]:
    rng = Random(seed)
    offered = catalogue.draw_up()
    for place, plan in enumerate(offered.plans.values(), start=1):
        plan.pk = place
    accounts = [
        Account(place, user.created_at)
        for place, user in enumerate(people.customers(rng, 24, until), start=10)
    ]
    return list(
        story.tell(
            accounts,
            contracts=contracts or Contracts(),
            catalogue=offered,
            transactions=transactions,
            until=until,
            staff=STAFF,
            rng=rng,
            closing=closing,
        )
    )


# --- The story ----------------------------------------------------------------------------------


@pytest.mark.parametrize("transactions", [1, 7, 50, 100, 900, 5_000])
@pytest.mark.parametrize(
    "until",
    [NOW, datetime(2027, 1, 1, 0, 2, tzinfo=UTC), datetime(2028, 2, 29, 23, 59, tzinfo=UTC)],
    ids=str,
)
def test_the_story_has_exactly_as_many_operations_as_asked_for(
    transactions: int, until: datetime
) -> None:
    closing = transactions // 20
    operations = told(transactions, until=until, closing=closing)
    assert len(operations) == transactions
    assert sum(operation.at == until for operation in operations) >= closing


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


def test_metadata_is_written_as_the_database_writes_it(db: None) -> None:
    metadata = {
        "through": "2026-11-30",
        "plan": 7,
        "from": "ü",
        "pricing": {"price": "0.3", "a": 1},
    }
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::jsonb::text", [as_jsonb(metadata)])
        assert cursor.fetchone() == (as_jsonb(metadata),)


# --- Plans, subscriptions and runs ----------------------------------------------------------------


def charges() -> list[Transaction]:
    """Returns the charges of subscriptions, without remainders."""
    rows = Transaction.objects.filter(type="main_charge").exclude(subtype="remainder")
    return list(rows.order_by("user", "number"))


def test_each_charge_is_what_its_plan_costs_for_its_period(db: None) -> None:
    found(transactions=1_500, users=40)
    plans = Plan.objects.in_bulk()
    subscriptions = Subscription.objects.in_bulk()
    rows = charges()
    assert len(rows) > 300
    for row in rows:
        said = row.metadata
        first, last = date.fromisoformat(said["from"]), date.fromisoformat(said["through"])
        plan, subscription = plans[said["plan"]], subscriptions[said["subscription"]]
        assert (first, last, -row.amount) == charge_on(first, plan.terms)
        assert row.subtype == plan.cycle
        assert row.bonus_amount == 0
        assert (row.user_id, row.device) == (subscription.user_id, subscription.device)
        key, term, day = (row.idempotency_key or "").rsplit(":", 2)
        assert (key, day) == (f"subscription:{subscription.pk}", said["from"])
        assert 1 <= int(term) <= subscription.term


def test_nobody_paid_twice_for_a_day(db: None) -> None:
    found(transactions=1_500, users=40)
    paid: dict[int, set[date]] = defaultdict(set)
    paid_back = 0
    for row in Transaction.objects.filter(type="main_charge").order_by("user", "number"):
        first, last = (date.fromisoformat(row.metadata[name]) for name in ("from", "through"))
        days = {first + timedelta(days=place) for place in range((last - first).days + 1)}
        of_subscription = paid[row.metadata["subscription"]]
        if row.subtype == "remainder":
            paid_back += 1
            assert days <= of_subscription
            of_subscription -= days
        else:
            assert not days & of_subscription
            of_subscription |= days
    assert paid_back > 3
    for subscription in Subscription.objects.filter(pk__in=paid):
        assert subscription.charged_through == max(paid[subscription.pk], default=None)


def test_each_live_subscription_is_paid_through_as_its_last_charge_says(db: None) -> None:
    found(transactions=1_500, users=40)
    last: dict[int, Transaction] = {row.metadata["subscription"]: row for row in charges()}
    compared = 0
    for subscription in Subscription.objects.live().select_related("plan"):
        if not subscription.plan.price:
            assert subscription.charge_number is None
            assert subscription.charged_through == date(2026, 11, 30)
        elif subscription.pk in last:
            row = last[subscription.pk]
            assert subscription.charge_number == row.number
            assert f"{subscription.charged_from}" == row.metadata["from"]
            assert f"{subscription.charged_through}" == row.metadata["through"]
            assert subscription.paid == -row.amount
            compared += 1
        if subscription.status == Subscription.Status.SUSPENDED:
            assert subscription.due_on == TODAY + timedelta(days=1)
        elif subscription.is_by_active_day:
            days = ActiveDay.objects.filter(subscription=subscription, is_charged=False)
            is_waiting = days.filter(day=TODAY).exists()
            assert subscription.due_on == (TODAY + timedelta(days=1) if is_waiting else None)
        else:
            assert subscription.charged_through is not None
            assert subscription.charged_through >= TODAY
            assert subscription.due_on == subscription.charged_through + timedelta(days=1)
    assert compared > 20


def test_exactly_the_active_days_that_were_paid_are_marked_so(db: None) -> None:
    found(transactions=1_500, users=40)
    paid = {
        (row.metadata["subscription"], date.fromisoformat(row.metadata["from"]))
        for row in charges()
        if row.subtype == Cycle.ACTIVE_DAY
    }
    marked = ActiveDay.objects.filter(is_charged=True).values_list("subscription", "day")
    assert len(paid) > 5
    assert set(marked) == paid


def test_each_use_of_a_service_cost_what_the_plan_says(db: None) -> None:
    found()
    prices = {(each.plan_id, each.service.code): each for each in _prices()}
    rows = Transaction.objects.filter(type="tariff_charge")
    assert rows.exists()
    for row in rows:
        pricing = row.metadata["pricing"]
        each = prices[pricing["plan"], row.subtype]
        quantity = Decimal(pricing["quantity"])
        assert Decimal(pricing["price"]) == each.price
        assert -row.amount - row.bonus_amount == service_cost(each.price, quantity)
        assert row.bonus_amount == -min(row.old_bonus, service_cost(each.price, quantity))
        price = services.Price(
            each.service.name, each.service.unit, each.plan_id, each.plan.name, each.price
        )
        assert row.description == services.describe_service(price, quantity, row.device)


def _prices() -> list[ServicePrice]:
    return list(ServicePrice.objects.select_related("plan", "service"))


def test_a_run_right_after_it_is_not_due_and_has_nothing_to_do(db: None) -> None:
    found()
    assert charging.open_run_if_due(NOW) is None
    last = ChargingRun.objects.first()
    assert last is not None
    assert last.charged > 0
    call_command("charge_due", at=NOW, dry_run=False, verbosity=0)
    run = ChargingRun.objects.first()
    assert run is not None
    assert (run.due, run.charged, run.skipped) == (0, 0, 0)
    assert Transaction.objects.count() == 900


@pytest.mark.parametrize("days", [1, 40])
def test_runs_go_on_from_there(db: None, days: int) -> None:
    found()
    at = NOW + timedelta(days=days)
    call_command("charge_due", at=at, dry_run=False, verbosity=0)
    posted = Transaction.objects.count() - 900
    assert posted > 0
    run = ChargingRun.objects.first()
    assert run is not None
    assert (run.charged, run.failed) == (posted, 0)
    call_command("verify_ledger", verbosity=0)


def test_past_runs_have_the_figures_of_what_they_posted(db: None) -> None:
    found()
    runs = list(ChargingRun.objects.filter(started_by=ChargingRun.Start.SCHEDULE).order_by("id"))
    days = [run.at.date() for run in runs]
    assert days == [days[0] + timedelta(days=place) for place in range(len(days))]
    assert days[-1] == TODAY
    by_run = {
        run.pk: Transaction.objects.filter(
            type="main_charge",
            channel=Channel.CHARGING,
            created_at__gte=run.started_at,
            created_at__lte=run.finished_at,
        ).aggregate(count=Count("id"), total=Sum("amount", default=Decimal(0)))
        for run in runs
    }
    assert [(run.charged, run.total) for run in runs] == [
        (by_run[run.pk]["count"], -by_run[run.pk]["total"]) for run in runs
    ]
    assert sum(run.suspended for run in runs) > 0
    assert not any(run.batches.filter(finished_at=None).exists() for run in runs)


def test_who_could_not_be_charged_one_night_was_the_next(db: None) -> None:
    found(transactions=1_500, users=40)
    failures = list(ChargingFailure.objects.select_related("run"))
    assert failures
    for failure in failures:
        assert failure.run.failed == 1
        night = failure.run.at.date()
        made_good = Transaction.objects.filter(
            user=failure.user_id,
            subtype=Cycle.EVERY_DAY,
            metadata__from__in=[f"{night}", f"{night + timedelta(days=1)}"],
        )
        assert {row.created_at.date() for row in made_good} == {night + timedelta(days=1)}
        assert made_good.count() >= 2


def test_what_new_customers_get_is_what_those_of_the_story_got(db: None) -> None:
    found(users=60)
    defaults = UserDefaults.objects.select_related("plan").get()
    assert defaults.plan is not None
    assert (defaults.plan.name, defaults.plan.price) == ("Pay per use", 0)
    gifts = Transaction.objects.filter(subtype="register")
    assert {(row.bonus_amount, row.idempotency_key) for row in gifts} == {
        (defaults.bonus, "registration")
    }
    for gift in gifts:
        own = gift.user.subscriptions.get(device="")
        assert own.started_on == gift.created_at.date()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_first_user_shows_what_there_is(db: None, seed: int) -> None:
    found(users=40, transactions=1_500, seed=seed)
    first = User.objects.filter(is_staff=False).order_by("id").first()
    assert first is not None
    live = Subscription.objects.live().filter(user=first).select_related("plan")
    assert {each.plan.cycle for each in live} == set(Cycle)
    assert [each.device for each in live if each.status == "suspended"] == ["control-room"]
    assert Subscription.objects.filter(user=first, status="cancelled").count() == 1


def test_plans_and_subscriptions_are_of_all_kinds(db: None) -> None:
    found(users=60, transactions=1_500)
    statuses = set(Subscription.objects.values_list("status", flat=True))
    assert statuses == set(Subscription.Status)
    retired = Plan.objects.get(is_active=False)
    assert retired.subscriptions.exists()
    assert Subscription.objects.filter(term__gt=1).exclude(device="control-room").exists()
    for subscription in Subscription.objects.live():
        assert subscription.user.is_active
        subscription.full_clean()
    # Some users joined before the panel was in use, and never subscribed.
    assert User.objects.filter(is_staff=False, is_active=True, subscriptions=None).exists()


# --- In the database ----------------------------------------------------------------------------


def test_the_ledger_of_demo_data_verifies(db: None) -> None:
    found()
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # runs the checks of a commit
    call_command("verify_ledger", verbosity=0)
    assert Transaction.objects.count() == 900


def test_a_load_past_the_guard_verifies_too_and_leaves_the_guard_on(
    committed_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "CHECKED_MAX", 0)
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
    assert {c for (c,) in Transaction.objects.values_list("channel").distinct()} == set(Channel) - {
        Channel.SYSTEM
    }


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
    # The ledger stamps these with the present time, which may be before or after NOW.
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
    assert Reason.objects.count() == len(company.REASONS)


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
    with pytest.raises(CommandError, match="There are already users"):
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

    def interrupted(*arguments: Any, **options: Any) -> Iterator[PastTransaction]:
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
    operation = PastTransaction(
        user.pk, NOW, TransactionType.PAYMENT, "import", "Balance taken over", amount=100
    )
    with pytest.raises(DatabaseError, match="transaction_numbers_are_unique_per_user"):
        history.load_history([operation], expected=1)
