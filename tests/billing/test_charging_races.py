"""Runs, operators, programs and refills work on the same users at the same moment."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from itertools import pairwise
from threading import Event
from time import sleep
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError, OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext

from billing import errors, ledger
from billing.models import (
    ChargingFailure,
    ChargingRun,
    Plan,
    ServicePrice,
    Subscription,
    Transaction,
)
from billing.plans import charging, posting, services, subscriptions
from billing.plans.pricing import Cycle
from tests.billing.histories import BY_PANEL, execute
from tests.conftest import Connections, Outcome
from tests.factories import (
    PlanFactory,
    ServiceFactory,
    UserFactory,
    plan_with,
    subscribed,
    user_with,
)
from users.models import User

DAY = timedelta(days=1)
MARCH_1 = date(2026, 3, 1)
APRIL_3 = datetime(2026, 4, 3, 0, 5, tzinfo=UTC)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets runs wait for locks without a limit: a slow machine may need longer than the limit."""
    monkeypatch.setattr(charging, "WAIT_MAX_SECONDS", 0)  # PostgreSQL: no limit


def until_somebody_waits_for_this() -> None:
    """Returns as soon as another connection waits for this connection's transaction.

    It looks only for waits for this connection: pg_locks lists the locks of all databases,
    including those of other tests.
    """
    while not execute(
        "SELECT 1 FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    ):
        sleep(0.01)


def run(at: datetime = APRIL_3) -> ChargingRun:
    run, failed = charging.open_run(at, ChargingRun.Start.COMMAND), 0
    for batch in run.batches.order_by("id"):
        failed += sum(done.figures.failed for done in charging.charge_batch(batch))
    run.refresh_from_db()
    assert failed <= run.failed  # others may have added to it
    return run


def assert_no_errors(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.error:
            raise outcome.error


def assert_charged_right(users: list[User]) -> None:
    """Checks that a term of a subscription pays each day at most once, and that no charge failed.

    Also checks that transactions follow each other, and that verify_ledger finds nothing.
    """
    for user in users:
        rows = list(Transaction.objects.filter(user=user).order_by("number"))
        assert [row.number for row in rows] == list(range(1, len(rows) + 1))
        for before, row in pairwise(rows):
            assert (row.old_balance, row.old_bonus) == (before.new_balance, before.new_bonus)
        paid: Counter[tuple[str, date]] = Counter()
        for row in rows:
            if row.type == "main_charge" and row.subtype != "remainder":
                assert row.bonus_amount == 0
                assert row.idempotency_key is not None
                term = row.idempotency_key.rsplit(":", 1)[0]
                day = date.fromisoformat(row.metadata["from"])
                while day <= date.fromisoformat(row.metadata["through"]):
                    paid[term, day] += 1
                    day += DAY
        assert set(paid.values()) <= {1}
    assert not ChargingFailure.objects.exists()
    call_command("verify_ledger", verbosity=0, stdout=StringIO())


def customers(count: int) -> list[User]:
    """Creates users with a monthly, a daily and an active-day subscription, all from 1 March."""
    plans = [PlanFactory(cycle=cycle, price=31) for cycle in Cycle]
    users = [user_with(real=200, bonus=50) for _ in range(count)]
    for user in users:
        for place, plan in enumerate(plans[:3]):
            device = f"Device {place}"
            subscribed(user, plan, day=MARCH_1, device=device)
            subscriptions.record_active_day(user, device=device, day=MARCH_1, today=MARCH_1)
    return users


@pytest.mark.parametrize("at_once", [1, 3, 400])
def test_runs_at_once_charge_what_one_run_would(
    connections: Connections, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(charging, "USERS_AT_ONCE", at_once)
    users = customers(8)
    [alone] = charging.dry_run(APRIL_3) if at_once == 400 else [None]
    outcomes = connections(4, lambda i: run())
    assert_no_errors(outcomes)
    assert_charged_right(users)
    runs = [outcome.result for outcome in outcomes]
    assert all(run.finished_at is not None for run in runs)
    posted = Transaction.objects.filter(channel="charging")
    assert sum(run.charged for run in runs) == posted.count()
    assert sum(run.total for run in runs) == -sum(row.amount for row in posted)
    # The monthly fee of April, 33 daily fees from 2 March to 3 April, and one active day.
    assert posted.count() == 8 * (1 + 33 + 1)
    if alone is not None:
        assert posted.count() == alone.figures.charged
    assert not Subscription.objects.filter(due_on__lte=APRIL_3.date()).exists()


def test_a_batch_that_two_workers_have_is_charged_once(connections: Connections) -> None:
    users = customers(5)
    of_run = charging.open_run(APRIL_3, ChargingRun.Start.SCHEDULE)
    batch = of_run.batches.get()
    outcomes = connections(4, lambda i: list(charging.charge_batch(batch)))
    assert_no_errors(outcomes)
    assert_charged_right(users)
    of_run.refresh_from_db()
    posted = Transaction.objects.filter(channel="charging")
    assert (of_run.charged, of_run.total) == (
        posted.count(),
        -sum(row.amount for row in posted),
    )


def test_batches_that_end_at_once_finish_the_run(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charging, "USERS_PER_BATCH", 1)
    customers(6)
    of_run = charging.open_run(APRIL_3, ChargingRun.Start.SCHEDULE)
    batches = list(of_run.batches.order_by("id"))
    assert len(batches) == 6
    assert_no_errors(connections(6, lambda i: list(charging.charge_batch(batches[i]))))
    of_run.refresh_from_db()
    assert of_run.finished_at is not None
    assert of_run.charged == Transaction.objects.filter(channel="charging").count()


def test_what_one_holds_a_run_passes_by_and_comes_back_to(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One connection holds the first user until a run on the other has charged the third user."""
    users = customers(3)
    monkeypatch.setattr(charging, "USERS_AT_ONCE", 1)
    held, third_charged = Event(), Event()

    def charge(place: int) -> Any:
        if place == 0:
            with transaction.atomic():
                ledger.lock_balances([users[0].pk])
                held.set()
                assert third_charged.wait(60)
            return None
        assert held.wait(60)
        order = []
        of_run = charging.open_run(APRIL_3, ChargingRun.Start.SCHEDULE)
        for done in charging.charge_batch(of_run.batches.get()):
            order.append({step.subscription.user_id for step in done.decisions})
            if len(order) == 3:
                third_charged.set()
        return order

    outcomes = connections(2, charge)
    assert_no_errors(outcomes)
    first, second, third = ({user.pk} for user in users)
    assert outcomes[1].result == [set(), second, third, first]
    assert_charged_right(users)


def test_who_is_waited_for_keeps_nobody_else_from_their_money(connections: Connections) -> None:
    """A run skips two locked users. The first is released, and is refilled while the run waits for
    the second.
    """
    users = customers(2)
    held, passed_by = Event(), Event()

    def work(place: int) -> Any:
        if place == 0:
            with transaction.atomic():
                ledger.lock_balances([users[1].pk])
                with transaction.atomic():
                    ledger.lock_balances([users[0].pk])
                    held.set()
                    assert passed_by.wait(60)
                    transaction.set_rollback(True)  # releases the first user
                until_somebody_waits_for_this()
                execute("SET LOCAL lock_timeout = '500ms'")  # shorter than deadlock_timeout
                return ledger.change_balance(users[0], amount=5, description="Refill", **BY_PANEL)
        assert held.wait(60)
        of_run = charging.open_run(APRIL_3, ChargingRun.Start.SCHEDULE)
        for _ in charging.charge_batch(of_run.batches.get()):
            passed_by.set()
        return None

    assert_no_errors(connections(2, work))
    assert_charged_right(users)
    assert Transaction.objects.filter(channel="charging").count() == 2 * (1 + 33 + 1)


def test_a_run_does_not_wait_for_each_of_many_who_are_held(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a batch that hangs holds many users, waiting for each would occupy a worker for hours."""
    users = customers(4)
    monkeypatch.setattr(charging, "WAIT_MAX_SECONDS", 1)
    monkeypatch.setattr(charging, "WAIT_FOR_ALL_MAX_SECONDS", 0)
    held, over = Event(), Event()
    waited_for: list[list[int]] = []
    charge = charging._charge_or_one_by_one

    def note(user_ids: Any, *arguments: Any, **options: Any) -> Any:
        if not options["skip_locked"]:
            waited_for.append(user_ids)
        return charge(user_ids, *arguments, **options)

    monkeypatch.setattr(charging, "_charge_or_one_by_one", note)

    def work(place: int) -> Any:
        if place == 0:
            with transaction.atomic():
                ledger.lock_balances([user.pk for user in users[:3]])
                held.set()
                assert over.wait(60)
            return None
        assert held.wait(60)
        try:
            return run()
        finally:
            over.set()

    outcomes = connections(2, work)
    assert_no_errors(outcomes)
    assert len(waited_for) < 3
    assert outcomes[1].result.failed == 3
    assert {failure.user for failure in ChargingFailure.objects.all()} == set(users[:3])


def test_resuming_waits_for_whoever_holds_the_user_for_a_second_only(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits, the job occupies one of a worker's few places. It is tried again later."""
    [user] = customers(1)
    monkeypatch.setattr(charging, "WAIT_MAX_SECONDS", 10)
    held, over = Event(), Event()

    def work(place: int) -> Any:
        if place == 0:
            with transaction.atomic():
                ledger.lock_balances([user.pk])
                held.set()
                assert over.wait(60)
            return []
        assert held.wait(60)
        try:
            with (
                CaptureQueriesContext(connection) as asked,
                pytest.raises(OperationalError, match="lock timeout"),
            ):
                charging.resume(user.pk, APRIL_3)
            return [query["sql"] for query in asked]
        finally:
            over.set()

    outcomes = connections(2, work)
    assert_no_errors(outcomes)
    assert "SET LOCAL lock_timeout = 1000" in outcomes[1].result


def test_who_is_held_for_ever_is_noted_and_stops_nobody(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = customers(2)
    monkeypatch.setattr(charging, "USERS_PER_BATCH", 1)
    monkeypatch.setattr(charging, "WAIT_MAX_SECONDS", 1)
    held, over = Event(), Event()

    def work(place: int) -> Any:
        if place == 0:
            with transaction.atomic():
                ledger.lock_balances([users[0].pk])
                held.set()
                assert over.wait(60)
            return None
        assert held.wait(60)
        try:
            with pytest.raises(OperationalError, match="lock timeout"):
                charging.resume(users[0].pk, APRIL_3)
            return run()
        finally:
            over.set()

    outcomes = connections(2, work)
    assert_no_errors(outcomes)
    first = outcomes[1].result
    assert first.finished_at is not None
    assert (first.failed, first.charged) == (1, 1 + 33 + 1)
    failure = ChargingFailure.objects.get()
    assert failure.user == users[0]
    assert "lock timeout" in failure.problem
    ChargingFailure.objects.all().delete()
    assert run().charged == 1 + 33 + 1
    assert_charged_right(users)


def test_everything_at_once(connections: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixes runs, resumptions, refills, charges of services, active days, changes of plan,
    cancellations and new subscriptions.
    """
    monkeypatch.setattr(charging, "USERS_AT_ONCE", 2)
    sms = ServiceFactory(code="outgoing_sms")
    plans = [plan_with({sms: "0.30"}, cycle=cycle, price=31) for cycle in Cycle]
    users = [user_with(real=70, bonus=20) for _ in range(4)]
    for user in users:
        for place in range(3):
            subscribed(user, plans[place], day=MARCH_1, device=f"Device {place}")
    today = APRIL_3.date()

    def act(place: int) -> Counter[str]:
        seen: Counter[str] = Counter()
        for turn in range(12):
            user = users[(place + turn) % len(users)]
            device = f"Device {turn % 4}"
            live = Subscription.objects.live().filter(user=user, device=device).first()
            try:
                match (place * 5 + turn) % 8:
                    case 0:
                        assert run(APRIL_3 + (turn // 4) * DAY).failed == 0
                    case 1:
                        ledger.change_balance(user, amount=10, description="Refill", **BY_PANEL)
                        charging.resume(user.pk, APRIL_3)
                    case 2:
                        services.charge_service(
                            user, service="outgoing_sms", quantity=3, device=device, **BY_PANEL
                        )
                    case 3 | 4 if live is not None:
                        subscriptions.change_plan(
                            live, plans[turn % 4], day=today, pay_back=bool(turn % 2),
                            charge_now=bool(turn % 3), **BY_PANEL,
                        )  # fmt: skip
                    case 5 if live is not None and turn > 6:
                        subscriptions.cancel(live, day=today, pay_back=True, **BY_PANEL)
                    case 6:
                        subscribed(user, plans[turn % 4], day=today, device=device)
                    case _:
                        subscriptions.record_active_day(
                            user, device=device, day=today - DAY, today=today
                        )
                seen["done"] += 1
            except errors.BillingError as refusal:
                seen[refusal.code] += 1
        return seen

    outcomes = connections(8, act)
    assert_no_errors(outcomes)
    total = sum((outcome.result for outcome in outcomes), Counter[str]())
    assert total["done"] >= 30, total
    run(APRIL_3 + 3 * DAY)
    assert_charged_right(users)


def test_a_resumption_beside_a_run_charges_once(connections: Connections) -> None:
    plan = PlanFactory(price=10)
    users = [UserFactory() for _ in range(5)]
    for user in users:
        subscribed(user, plan, day=date(2026, 4, 1))
        ledger.change_balance(user, amount=100, description="Refill", **BY_PANEL)

    def work(place: int) -> Any:
        if place % 2:
            return run()
        return [charging.resume(user.pk, APRIL_3) for user in users]

    assert_no_errors(connections(6, work))
    assert_charged_right(users)
    assert [ledger.balance(user)[::2] for user in users] == [(90, 2)] * 5


def test_of_many_who_subscribe_a_device_one_does(connections: Connections) -> None:
    user, plan = user_with(real=100), PlanFactory(price=10)
    outcomes = connections(
        8,
        lambda i: subscriptions.start(user, plan, device="8617", day=MARCH_1, **BY_PANEL),
    )
    refusals = [outcome.error for outcome in outcomes if outcome.error]
    assert len(refusals) == 7
    assert all(isinstance(error, errors.SubscriptionExists) for error in refusals)
    assert ledger.balance(user)[::2] == (90, 2)


def test_of_many_who_change_or_cancel_each_finds_what_the_one_before_left(
    connections: Connections,
) -> None:
    user = user_with(real=310)
    subscription = subscribed(user, PlanFactory(price=31), day=MARCH_1)
    plans = [PlanFactory(price=31) for _ in range(6)]

    def work(place: int) -> Any:
        if place == 0:
            return subscriptions.cancel(subscription, day=MARCH_1, pay_back=True, **BY_PANEL)
        return subscriptions.change_plan(
            subscription, plans[place], day=MARCH_1, pay_back=True, charge_now=True, **BY_PANEL
        )

    for outcome in connections(6, work):
        assert outcome.error is None or isinstance(outcome.error, errors.SubscriptionCancelled)
    assert_charged_right([user])
    assert ledger.balance(user).real == 310  # each charge was paid back


def test_one_key_charges_a_service_once_also_while_its_price_changes(
    connections: Connections,
) -> None:
    sms = ServiceFactory(code="outgoing_sms")
    user = user_with(real=100)
    subscribed(user, plan_with({sms: "0.30"}, price=0), day=MARCH_1)

    def work(place: int) -> Any:
        if place % 4 == 3:
            return ServicePrice.objects.update(price=Decimal(place + 1) / 10)
        return services.charge_service(
            user, service="outgoing_sms", quantity=10, idempotency_key="k", **BY_PANEL
        )

    outcomes = connections(16, work)
    assert_no_errors(outcomes)
    found = {o.result.pk for o in outcomes if isinstance(o.result, Transaction)}
    assert len(found) == 1
    assert ledger.balance(user).number == 2


def test_an_active_day_that_everybody_records_is_charged_once(connections: Connections) -> None:
    user = user_with(real=100)
    subscribed(user, PlanFactory(cycle=Cycle.ACTIVE_DAY, price=1), day=MARCH_1)
    today = APRIL_3.date()

    def work(place: int) -> Any:
        if place % 3 == 2:
            return run()
        return subscriptions.record_active_day(
            user, device=f"Device {place % 2}", day=today - DAY, today=today
        )

    assert_no_errors(connections(9, work))
    run()
    assert_charged_right([user])
    assert ledger.balance(user)[::2] == (99, 2)


# --- Plans that change while somebody subscribes ------------------------------------------------


@pytest.mark.parametrize("turn", range(3))
def test_a_plan_s_cycle_changes_before_or_not_at_all(connections: Connections, turn: int) -> None:
    """All charges use the plan's final cycle, whether the change or a subscription came first."""
    users = [user_with(real=100) for _ in range(4)]
    plan = PlanFactory(cycle=Cycle.MONTHLY, price=10)

    def work(place: int) -> Any:
        if place == turn:
            return Plan.objects.filter(pk=plan.pk).update(cycle=Cycle.ANNUAL)
        return subscribed(users[place], plan, day=MARCH_1)

    outcomes = connections(4, work)
    changed = outcomes.pop(turn)
    assert_no_errors(outcomes)
    plan.refresh_from_db()
    if changed.error is None:
        assert plan.cycle == Cycle.ANNUAL
    else:
        assert isinstance(changed.error, DatabaseError)
        assert "keeps its billing cycle" in str(changed.error)
        assert plan.cycle == Cycle.MONTHLY
    charged = Transaction.objects.filter(type="main_charge").values_list("subtype", flat=True)
    assert list(charged) == [plan.cycle] * 3


def test_who_subscribes_waits_for_who_is_changing_the_plan(connections: Connections) -> None:
    """The change of the plan is not yet committed when the other connection subscribes the user."""
    user, plan = user_with(real=100), PlanFactory(price=10)
    changed = Event()

    def work(place: int) -> Any:
        if place == 0:
            with transaction.atomic():
                Plan.objects.filter(pk=plan.pk).update(cycle=Cycle.ANNUAL, is_active=False)
                changed.set()
                until_somebody_waits_for_this()
            return None
        assert changed.wait(60)
        return subscriptions.start(user, plan, day=MARCH_1, **BY_PANEL)

    outcomes = connections(2, work)
    assert outcomes[0].error is None
    assert isinstance(outcomes[1].error, errors.PlanRetired)
    assert not Subscription.objects.exists()
    assert ledger.balance(user).number == 1


def test_who_changes_the_plan_waits_for_who_is_subscribing(connections: Connections) -> None:
    user, plan = user_with(real=100), PlanFactory(price=10)
    subscribing = Event()

    def work(place: int) -> Any:
        if place == 1:
            assert subscribing.wait(60)
            return Plan.objects.filter(pk=plan.pk).update(cycle=Cycle.ANNUAL)
        with transaction.atomic():
            subscriptions.start(user, plan, day=MARCH_1, **BY_PANEL)
            subscribing.set()
            until_somebody_waits_for_this()
        return None

    outcomes = connections(2, work)
    assert outcomes[0].error is None
    assert "keeps its billing cycle" in str(outcomes[1].error)


# --- A connection that is lost ------------------------------------------------------------------


def lose_connection_at(
    user: User, monkeypatch: pytest.MonkeyPatch, *, for_good: bool, times: int = 1
) -> None:
    """Cuts the connection while this user is charged, `times` times.

    With `for_good`, no new connection can be made afterwards.
    """
    store = posting.store
    left = iter(range(times - 1, -1, -1))

    def refuse(parameters: Any) -> Any:
        raise OperationalError("the server is down")

    def wait_for_the_end_of(server_process: int) -> None:
        """Until the server process ends, it may hold the lock, and a retry would skip the user."""
        another = connection.copy()
        with another.cursor() as cursor:
            running = True
            while running:
                cursor.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [server_process])
                running = cursor.fetchone() is not None
        another.close()

    def lost(changed: Any) -> None:
        if changed[0].user_id == user.pk:
            if next(left) == 0:
                monkeypatch.setattr(posting, "store", store)
            server_process = connection.connection.info.backend_pid
            connection.connection.close()
            wait_for_the_end_of(server_process)
            if for_good:
                connection.get_new_connection = refuse  # type: ignore[method-assign]
        store(changed)

    monkeypatch.setattr(posting, "store", lost)


def test_a_server_that_is_gone_stops_the_run_and_the_rest_is_charged_by_the_next(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server stops at the third of five users. Two are charged, none is marked as failed."""
    monkeypatch.setattr(charging, "USERS_AT_ONCE", 1)
    users = customers(5)
    lose_connection_at(users[2], monkeypatch, for_good=True)
    [outcome] = connections(1, lambda i: run())
    assert isinstance(outcome.error, OperationalError)
    of_run = ChargingRun.objects.get()
    assert (of_run.finished_at, of_run.failed) == (None, 0)
    assert of_run.charged == Transaction.objects.filter(channel="charging").count() == 2 * 35
    still_due = Subscription.objects.filter(due_on__lte=APRIL_3.date())
    assert {s.user_id for s in still_due} == {user.pk for user in users[2:]}
    assert run().charged == 3 * 35
    assert_charged_right(users)


@pytest.mark.parametrize("at_once", [1, 400])
def test_a_connection_that_comes_back_goes_on_with_whom_it_was_lost(
    connections: Connections, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(charging, "USERS_AT_ONCE", at_once)
    users = customers(3)
    lose_connection_at(users[0], monkeypatch, for_good=False)
    [outcome] = connections(1, lambda i: run())
    assert_no_errors([outcome])
    assert (outcome.result.charged, outcome.result.failed) == (3 * 35, 0)
    assert_charged_right(users)


@pytest.mark.parametrize("at_once", [1, 400])
def test_a_connection_that_is_lost_again_ends_the_run_and_is_nobody_s_failure(
    connections: Connections, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Each time, a new connection can be made at once. No user is marked as failed."""
    monkeypatch.setattr(charging, "USERS_AT_ONCE", at_once)
    users = customers(3)
    lose_connection_at(users[0], monkeypatch, for_good=False, times=2)
    [outcome] = connections(1, lambda i: run())
    assert isinstance(outcome.error, OperationalError)
    assert ChargingRun.objects.get().failed == 0
    assert not ChargingFailure.objects.exists()
    assert run().charged == 3 * 35
    assert_charged_right(users)
