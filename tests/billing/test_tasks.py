"""Background jobs: the schedule, batches that any worker may do, and resumptions after refills."""

import json
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from threading import Event
from typing import Any
from unittest.mock import Mock

import pytest
from django.db import OperationalError, transaction
from django.utils import timezone
from procrastinate.contrib.django import app
from procrastinate.contrib.django.models import ProcrastinateJob
from procrastinate.exceptions import JobAborted

from billing import ledger, tasks
from billing.models import (
    Channel,
    ChargingBatch,
    ChargingRun,
    Proof,
    Subscription,
    Transaction,
)
from billing.plans import charging
from billing.plans.pricing import Cycle
from tests.billing.histories import execute
from tests.conftest import Connections
from tests.factories import PlanFactory, subscribed, user_with
from users.models import User

SCHEDULE, COMMAND = ChargingRun.Start.SCHEDULE, ChargingRun.Start.COMMAND
NIGHT = datetime(2026, 4, 10, 0, 5, tzinfo=UTC)


def refill(user: User, amount: Any = 100) -> Transaction:
    return ledger.change_balance(
        user, amount=amount, description="Paid at the desk", actor=None, channel=Channel.PANEL
    )


def suspended(plan: Any = None) -> Subscription:
    subscription = subscribed(user_with(), plan or PlanFactory(), day=NIGHT.date())
    assert subscription.status == "suspended"
    return subscription


def queued(task: str) -> list[Any]:
    jobs = ProcrastinateJob.objects.filter(task_name=f"billing.tasks.{task}")
    return [(job.status, job.args) for job in jobs.order_by("id")]


@pytest.fixture
def due_users(request: pytest.FixtureRequest) -> list[User]:
    """Seven users with a daily fee who have paid for 1 April, and owe each day since."""
    request.getfixturevalue("committed_db" if "committed_db" in request.fixturenames else "db")
    plan = PlanFactory(cycle=Cycle.EVERY_DAY, price=Decimal(30))
    users = [user_with(1000) for _ in range(7)]
    for each in users:
        subscribed(each, plan, day=date(2026, 4, 1))
    return users


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charging, "USERS_AT_ONCE", 1)
    monkeypatch.setattr(charging, "USERS_PER_BATCH", 3)


@pytest.fixture
def at_night(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timezone, "now", lambda: NIGHT)


# --- The schedule -------------------------------------------------------------------------------


def test_a_run_is_opened_once_however_many_workers_ask(
    connections: Connections, small_steps: None, due_users: list[User], at_night: None
) -> None:
    outcomes = connections(4, lambda place: tasks._keep_schedule())
    assert [outcome.error for outcome in outcomes] == [None] * 4
    [run] = ChargingRun.objects.all()
    assert (run.started_by, run.at) == (SCHEDULE, NIGHT)
    batches = run.batches.order_by("id").values_list("id", flat=True)
    assert len(batches) == 3
    assert queued("charge_batch") == [("todo", {"batch_id": batch}) for batch in batches]


@pytest.mark.parametrize(
    ("at", "known", "opens"),
    [
        pytest.param(NIGHT, None, True, id="the first run of an installation"),
        pytest.param(NIGHT, (SCHEDULE, NIGHT - timedelta(days=1), None), True, id="a new day"),
        pytest.param(NIGHT + timedelta(hours=9), None, True, id="missed at night"),
        pytest.param(NIGHT + timedelta(hours=9), (SCHEDULE, NIGHT, None), False, id="under way"),
        pytest.param(
            NIGHT + timedelta(hours=9), (COMMAND, NIGHT, NIGHT), False, id="done by a command"
        ),
        pytest.param(
            NIGHT + timedelta(hours=9), (COMMAND, NIGHT, None), True, id="a command that was killed"
        ),
        pytest.param(
            NIGHT - timedelta(minutes=1),
            (SCHEDULE, NIGHT - timedelta(days=1), None),
            False,
            id="before it is due",
        ),
        pytest.param(
            NIGHT - timedelta(minutes=1),
            (SCHEDULE, NIGHT - timedelta(days=2), None),
            True,
            id="yesterday's, just before the next",
        ),
        pytest.param(
            NIGHT.astimezone(timezone.get_fixed_timezone(13 * 60)),
            (SCHEDULE, NIGHT - timedelta(minutes=6), None),
            True,
            id="asked in another time zone",
        ),
    ],
)
def test_what_is_in_hand_already_opens_no_run(
    db: None, at: datetime, known: tuple[Any, datetime, datetime | None] | None, opens: bool
) -> None:
    if known is not None:
        started_by, known_at, finished_at = known
        ChargingRun.objects.create(at=known_at, started_by=started_by, finished_at=finished_at)
    run = charging.open_run_if_due(at)
    assert (run is not None) == opens
    if run is not None:
        assert (run.at, run.started_by) == (at, SCHEDULE)


def test_a_run_of_days_ahead_does_not_stand_for_the_days_themselves(db: None) -> None:
    ahead = ChargingRun.objects.create(
        at=NIGHT + timedelta(days=9), started_by=COMMAND, finished_at=NIGHT
    )
    ChargingRun.objects.filter(pk=ahead.pk).update(started_at=NIGHT - timedelta(hours=1))
    assert charging.open_run_if_due(NIGHT) is not None


def test_a_batch_without_a_job_gets_one_unless_it_is_a_commands(
    db: None, small_steps: None, due_users: list[User], at_night: None
) -> None:
    tasks._keep_schedule()
    charging.open_run(NIGHT, COMMAND)
    first, second, third = queued("charge_batch")
    execute(
        "UPDATE procrastinate_jobs SET status = 'doing' WHERE args @> %s", [json.dumps(second[1])]
    )
    execute("DELETE FROM procrastinate_jobs WHERE args @> %s", [json.dumps(third[1])])
    tasks._keep_schedule()
    assert queued("charge_batch") == [first, ("doing", second[1]), third]


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland", "America/St_Johns"])
def test_the_schedule_is_in_utc(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        schedule = app.periodic_registry.periodic_tasks["billing.tasks.run_schedule", ""]
        noon = datetime(2026, 4, 9, 12, tzinfo=UTC).timestamp()
        at = schedule.croniter.get_next(ret_type=float, start_time=noon)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert datetime.fromtimestamp(at, UTC) == NIGHT


# --- Batches ------------------------------------------------------------------------------------


def test_the_jobs_charge_everybody_once(
    work: Callable[[], None], small_steps: None, due_users: list[User], at_night: None
) -> None:
    tasks._keep_schedule()
    work()
    run = ChargingRun.objects.get()
    assert run.finished_at is not None
    assert (run.charged, run.failed) == (7 * 9, 0)  # from 2 to 10 April
    assert not queued("charge_batch"), "jobs that are done go"
    numbers = [row.number for row in Transaction.objects.filter(user=due_users[0]).order_by("id")]
    assert numbers == [*range(1, 12)]


def test_a_worker_that_is_told_to_end_stops_at_the_next_commit_and_another_goes_on(
    db: None, small_steps: None, due_users: list[User]
) -> None:
    batch = charging.open_run(NIGHT, SCHEDULE).batches.earliest("id")
    ending, working = Mock(), Mock()
    ending.should_abort.return_value = True
    working.should_abort.return_value = False

    with pytest.raises(JobAborted):
        tasks.charge_batch(ending, batch_id=batch.pk)
    batch.refresh_from_db()
    assert batch.finished_at is None
    assert ChargingRun.objects.get().charged == 9, "one user's"

    tasks.charge_batch(working, batch_id=batch.pk)
    tasks.charge_batch(working, batch_id=batch.pk)
    batch.refresh_from_db()
    assert batch.finished_at is not None
    assert ChargingRun.objects.get().charged == 3 * 9


def test_a_batch_that_fails_is_tried_again_more_patiently_and_at_once_if_a_worker_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("procrastinate.utils.utcnow", lambda: NIGHT)

    def waits(attempts: int, problem: BaseException) -> float:
        decision = tasks.UntilDone().get_retry_decision(
            exception=problem, job=Mock(attempts=attempts, call_string="charge_batch")
        )
        assert decision.retry_at is not None
        return (decision.retry_at - NIGHT).total_seconds()

    assert waits(5, JobAborted()) == 0
    assert [waits(n, OperationalError()) for n in (0, 3, 500)] == [1, 8, 300]


# --- Refills ------------------------------------------------------------------------------------


def test_a_refill_resumes_what_was_suspended(work: Callable[[], None], at_night: None) -> None:
    subscription = suspended()
    refill(subscription.user)
    work()
    subscription.refresh_from_db()
    assert subscription.status == "active"
    assert ledger.balance(subscription.user_id).real == 90
    assert not queued("resume")


def test_activation_resumes_what_was_suspended_meanwhile(
    work: Callable[[], None], at_night: None
) -> None:
    subscription = suspended()
    everybody = User.objects.filter(pk=subscription.user_id)
    everybody.update(is_active=False)
    refill(subscription.user)
    work()
    subscription.refresh_from_db()
    assert subscription.status == "suspended"
    assert not queued("resume")
    everybody.update(comment="Not active yet")
    assert not queued("resume")
    everybody.update(is_active=True)
    work()
    subscription.refresh_from_db()
    assert subscription.status == "active"
    everybody.update(is_active=True)
    assert not queued("resume")


def test_a_hundred_refills_make_one_job(db: None) -> None:
    subscription = suspended()
    for _ in range(100):
        refill(subscription.user, 1)
    assert queued("resume") == [("todo", {"user_id": subscription.user_id})]
    # A database function queues the job, with the queue and priority that the task declares.
    [job] = ProcrastinateJob.objects.filter(task_name="billing.tasks.resume")
    assert (job.queue_name, job.priority) == (tasks.resume.queue, tasks.resume.priority)


def test_any_way_to_more_real_money_counts(db: None) -> None:
    subscription = suspended()
    execute(
        "SELECT billing_post(%s, NULL, 'import')",
        [
            f'[{{"user_id": {subscription.user_id}, "type": "payment", "subtype": "import",'
            ' "description": "Imported", "amount": "5"}]'
        ],
    )
    assert len(queued("resume")) == 1


def test_nothing_is_queued_where_there_is_nothing_to_resume(db: None) -> None:
    waiting = suspended().user
    refill(user_with())  # no subscription
    refill(subscribed(user_with(100), PlanFactory()).user)  # an active subscription
    ledger.give_bonus(
        waiting, amount=5, description="A gift", subtype="gift", actor=None, channel=Channel.PANEL
    )
    assert queued("resume") == []


def test_a_refill_that_is_rolled_back_queues_nothing(db: None) -> None:
    subscription = suspended()
    with transaction.atomic():
        refill(subscription.user)
        transaction.set_rollback(True)
    assert queued("resume") == []


@pytest.mark.as_owner
def test_a_refill_is_posted_also_if_no_job_can_be_queued(db: None) -> None:
    subscription = suspended()
    execute("ALTER TABLE procrastinate_jobs RENAME TO elsewhere")
    refill(subscription.user, 7)
    assert ledger.balance(subscription.user_id).real == 7


@pytest.mark.parametrize(
    "what",
    [
        "LOCK TABLE procrastinate_jobs IN ACCESS EXCLUSIVE MODE",
        "UPDATE procrastinate_jobs SET status = 'doing'",
    ],
    ids=["table", "job"],
)
def test_a_refill_does_not_wait_for_who_holds_the_jobs(connections: Connections, what: str) -> None:
    subscription = suspended()
    refill(subscription.user, 1)
    held, refilled = Event(), Event()

    def work(place: int) -> None:
        if place == 0:
            with transaction.atomic():
                execute(what)
                held.set()
                assert refilled.wait(60)
        else:
            assert held.wait(60)
            refill(subscription.user, 7)
            refilled.set()

    for outcome in connections(2, work):
        if outcome.error:
            raise outcome.error
    assert ledger.balance(subscription.user_id).real == 8


def test_a_refill_while_the_job_is_under_way_queues_another(db: None) -> None:
    subscription = suspended()
    refill(subscription.user, 1)
    execute("UPDATE procrastinate_jobs SET status = 'doing'")
    refill(subscription.user, 1)
    assert [status for status, _ in queued("resume")] == ["doing", "todo"]


def test_a_resumption_that_fails_is_tried_again_later_but_not_for_ever(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OperationalError("the database is restarting")

    monkeypatch.setattr(charging, "resume", fail)
    tasks.resume(user_id=7)
    tasks.resume(user_id=7)  # after another refill: a job waits already
    assert queued("resume") == [("todo", {"user_id": 7, "attempt": 2})]
    [job] = ProcrastinateJob.objects.all()
    assert job.scheduled_at is not None
    with pytest.raises(OperationalError):
        tasks.resume(user_id=7, attempt=tasks.RESUME_ATTEMPTS)


# --- Workers that die ---------------------------------------------------------------------------


def let_a_worker_die_with(*jobs: str) -> None:
    """Leaves the jobs with these queueing locks as after kill -9: they are under way, and their
    worker's last heartbeat was a minute ago.
    """
    execute(
        "WITH dead AS (INSERT INTO procrastinate_workers (last_heartbeat) "
        "VALUES (now() - interval '1 minute') RETURNING id) "
        "UPDATE procrastinate_jobs SET status = 'doing', worker_id = dead.id FROM dead "
        "WHERE queueing_lock = ANY(%s)",
        [list(jobs)],
    )


def keep_house_now() -> None:
    tasks.keep_house.configure().defer(timestamp=0)


def test_jobs_of_a_worker_that_died_are_done_by_another(
    work: Callable[[], None], due_users: list[User], at_night: None
) -> None:
    tasks._keep_schedule()
    batch = ChargingBatch.objects.get()
    let_a_worker_die_with(f"batch:{batch.pk}")
    keep_house_now()
    work()
    batch.refresh_from_db()
    assert batch.finished_at is not None
    assert ChargingRun.objects.get().charged == 7 * 9


def test_a_job_of_a_dead_worker_that_waits_already_is_not_done_twice(
    work: Callable[[], None], at_night: None
) -> None:
    subscription = suspended()
    refill(subscription.user)
    let_a_worker_die_with(f"resume:{subscription.user_id}")
    refill(subscription.user)
    assert [status for status, _ in queued("resume")] == ["doing", "todo"]
    keep_house_now()
    work()
    assert queued("resume") == []
    subscription.refresh_from_db()
    assert subscription.status == "active"


def test_jobs_of_long_ago_are_removed(work: Callable[[], None], at_night: None) -> None:
    for number, status in enumerate(("succeeded", "failed", "todo")):
        execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, status, scheduled_at) "
            "VALUES ('other', %s, %s, now() + interval '1 year')",
            [f"billing.tasks.old{number}", status],
        )
    execute(
        "INSERT INTO procrastinate_events (job_id, type) SELECT id, 'deferred' "
        "FROM procrastinate_jobs WHERE status <> 'todo'"
    )
    execute("UPDATE procrastinate_events SET at = now() - interval '2 days'")
    keep_house_now()
    work()
    left = ProcrastinateJob.objects.filter(queue_name="other").order_by("id")
    assert [job.status for job in left] == ["failed", "todo"]
    execute("UPDATE procrastinate_events SET at = now() - interval '31 days'")
    keep_house_now()
    work()
    left = ProcrastinateJob.objects.filter(queue_name="other")
    assert [job.status for job in left] == ["todo"]


# --- The proof of the ledger --------------------------------------------------------------------


def test_a_worker_proves_the_ledger_with_several_connections(
    committed_db: None, work: Callable[[], None], settings: Any
) -> None:
    settings.LEDGER_PROOF_PROCESSES = 2
    refill(user_with(1))
    tasks.prove_ledger.defer(timestamp=0)
    work()
    proof = Proof.objects.get()
    assert (proof.problem, proof.transactions) == ("", 2)
    assert (settings.LEDGER_HEADS_DIR / proof.heads).exists()
    assert queued("prove_ledger") == []
