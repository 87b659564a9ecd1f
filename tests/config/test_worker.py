"""`manage.py worker` as real processes: with the panel and alone, stopped or killed."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from config.embedded.server import Server
from tests.config.processes import (
    PATIENCE_SECONDS,
    ROOT,
    Serving,
    environment,
    is_running,
    manage,
    postmaster,
    wait_for,
)

# Seven users who owe a fee for each of three days, and one who has to refill first.
CUSTOMERS = """
from datetime import timedelta
from django.utils import timezone
from billing import ledger
from billing.plans import subscriptions
from billing.models import Channel, Plan
from users.models import User
by = {"actor": None, "channel": Channel.IMPORT}
plan = Plan.objects.create(name="By day", cycle="everyday", price=31)
for number in range(8):
    user = User.objects.create(email=f"user{number}@example.com")
    if number < 7:
        ledger.change_balance(user, amount=50, description="Money to start with", **by)
    day = timezone.now().date() - timedelta(days=3)
    subscriptions.start(user, plan, day=day, wait_for_money=True, **by)
"""
REFILL = """
SELECT billing_post(jsonb_build_array(jsonb_build_object(
    'user_id', user_id, 'type', 'payment', 'subtype', 'partner', 'description', 'Paid by card',
    'amount', '50'
)), NULL, 'api') FROM billing_subscription WHERE status = 'suspended'
"""

HOLD_ONE = """
SELECT FROM billing_balance WHERE user_id = (
    SELECT max(user_id) FROM billing_subscription WHERE status = 'active'
) FOR UPDATE
"""
# Users whom a run has charged.
CHARGED = """
SELECT count(DISTINCT user_id) FROM billing_transaction WHERE channel = 'charging'
"""
UNDER_WAY = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'doing'"
BATCHES_UNDER_WAY = f"{UNDER_WAY} AND task_name = 'billing.tasks.charge_batch'"
CATCH_UP = """
INSERT INTO procrastinate_jobs (queue_name, task_name, args)
VALUES ('schedule', 'billing.tasks.catch_up', '{"timestamp": 0}')
"""
WAITS = """
SELECT count(*) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND query LIKE '%billing_chargingrun%'
"""


@pytest.fixture(scope="module")
def with_customers(prepared_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("customers") / "var"
    subprocess.run(["cp", "-a", prepared_data_dir, data_dir], check=True)
    made = manage("shell", "-v0", "-c", CUSTOMERS, DATA_DIR=str(data_dir))
    assert made.returncode == 0, made.stderr
    return data_dir


@pytest.fixture
def data_dir(with_customers: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "var"
    subprocess.run(["cp", "-a", with_customers, copy], check=True)
    return copy


@pytest.fixture
def running(data_dir: Path) -> Iterator[Path]:
    """A data directory whose database this test keeps running."""
    server = Server.at(data_dir)
    server.ensure_running(database="billing")
    yield data_dir
    server.release()


class Working:
    """`manage.py worker` without a panel. Leaving kills it."""

    def __init__(self, data_dir: Path, **variables: str) -> None:
        self.data_dir = data_dir
        self.variables = {"DATA_DIR": str(data_dir)} | variables
        self.output = data_dir.parent / f"worker-{id(self)}.txt"

    def __enter__(self) -> "Working":
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, ROOT / "manage.py", "worker"],
                env=environment(**self.variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def diary(self) -> list[str]:
        """The lines that the worker logs about itself, without times and numbers of jobs."""
        own = re.findall(r"^.* INFO \S+\.worker\.diary: (.*)$", self.said, re.MULTILINE)
        return [re.sub(r"\[\d+\]\(.*\)|\d+\.\d", "", line) for line in own]

    @property
    def trouble(self) -> str:
        """The rest of its output."""
        return re.sub(r"^.* INFO \S+\.worker\.diary: .*\n", "", self.said, flags=re.MULTILINE)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def connected(data_dir: Path) -> Iterator["psycopg.Connection[Any]"]:
    place = {"host": str(Server.at(data_dir).socket_dir), "user": Server.USER}
    with psycopg.connect(**place, dbname="billing", autocommit=True) as connection:
        yield connection


def answer(data_dir: Path, sql: str) -> Any:
    """Returns the first column of the first row; None if there is no row, or no server yet."""
    try:
        with connected(data_dir) as connection:
            row = connection.execute(sql).fetchone()
    except psycopg.OperationalError:
        return None
    return row[0] if row else None


def change(data_dir: Path, sql: str) -> None:
    with connected(data_dir) as connection:
        connection.execute(sql)


def wait_until_charged(data_dir: Path) -> None:
    finished = "SELECT bool_and(finished_at IS NOT NULL) FROM billing_chargingrun"
    wait_for(lambda: bool(answer(data_dir, finished)))


def wait_until_nobody_is_suspended(data_dir: Path) -> None:
    left = "SELECT count(*) FROM billing_subscription WHERE status = 'suspended'"
    wait_for(lambda: answer(data_dir, left) == 0)


def assert_everybody_is_charged_once(data_dir: Path) -> None:
    """Asserts one fee per user for each day up to that of the run, and one run per 00:05 UTC.

    That is four fees and one run, unless midnight or the time of a run passes during the test.
    """
    days = (
        "SELECT (SELECT max(at AT TIME ZONE 'UTC')::date FROM billing_chargingrun) "
        "- min(started_on) + 1 FROM billing_subscription"
    )
    fees = "SELECT array_agg(fees) FROM ({}) f".format(
        "SELECT count(*) AS fees FROM billing_transaction WHERE type = 'main_charge' "
        "GROUP BY user_id"
    )
    assert answer(data_dir, fees) == [answer(data_dir, days)] * 7
    scheduled = "(at AT TIME ZONE 'UTC' - interval '5 minutes')::date"
    again = f"SELECT count(*) - count(DISTINCT {scheduled}) FROM billing_chargingrun"
    assert answer(data_dir, again) == 0


def test_beside_the_panel_a_worker_charges_what_is_due_and_resumes_after_a_refill(
    data_dir: Path,
) -> None:
    with Serving(data_dir) as panel:
        wait_until_charged(data_dir)
        assert_everybody_is_charged_once(data_dir)
        change(data_dir, REFILL)
        wait_until_nobody_is_suspended(data_dir)

        worker = panel.wait_for_job_worker()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: panel.job_worker not in (None, worker))
        worker, database = panel.wait_for_job_worker(), panel.postmaster
        assert panel.press_ctrl_c() == 0
        assert not is_running(worker)
        wait_for(lambda: not is_running(database))
    greeting, nobody, restarted, *further = panel.said.splitlines()
    assert (greeting.partition(" ")[0], nobody.partition(" ")[0]) == ("The", "Nobody")
    assert restarted.endswith("The worker ended by SIGKILL; it is started again."), panel.said
    # If the worker was in the middle of a job, its successor takes the job over and says so.
    assert all("A worker died with billing.tasks." in line for line in further), panel.said


def test_two_workers_open_one_run_between_them(data_dir: Path) -> None:
    with Working(data_dir) as first, Working(data_dir) as second:
        # Otherwise one might charge everybody before the other handles signals.
        wait_for(lambda: answer(data_dir, "SELECT count(*) FROM procrastinate_workers") == 2)
        wait_until_charged(data_dir)
        assert_everybody_is_charged_once(data_dir)
        assert [first.end(), second.end(signal.SIGINT)] == [0, 0]
        assert (first.trouble, second.trouble) == ("", "")
    assert not (data_dir / "postgres" / "postmaster.pid").exists()


def test_what_a_killed_worker_had_begun_another_finishes(running: Path) -> None:
    # One user's balance is locked, so the batch cannot end, but the others are charged.
    with connected(running) as holder:
        with holder.transaction():
            holder.execute(HOLD_ONE)
            with Working(running) as killed:
                wait_for(lambda: answer(running, CHARGED) == 6)
                killed.process.kill()
                killed.process.wait()
        assert answer(running, BATCHES_UNDER_WAY) == 1
    # As if it had been killed half an hour ago, and no periodic task had run since.
    change(running, "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '30 min'")
    change(running, "DELETE FROM procrastinate_periodic_defers")
    with Working(running) as other:
        wait_until_charged(running)
        assert_everybody_is_charged_once(running)
        assert other.end() == 0
        assert "A worker died with billing.tasks.charge_batch" in other.said
    proof = manage("verify_ledger", DATA_DIR=str(running))
    assert proof.returncode == 0, proof.stderr


def test_a_worker_that_is_told_to_end_leaves_its_batch_to_another(running: Path) -> None:
    first = Working(running)
    with connected(running) as holder, ExitStack() as stack:
        with holder.transaction():
            holder.execute(HOLD_ONE)
            stack.enter_context(first)
            wait_for(lambda: answer(running, CHARGED) == 6)
            first.process.terminate()
        assert first.process.wait(PATIENCE_SECONDS) == 0
        assert first.trouble == ""
        assert "Broke off billing.tasks.charge_batch in  seconds." in first.diary
    assert answer(running, UNDER_WAY) == 0
    with Working(running) as second:
        wait_until_charged(running)
        assert_everybody_is_charged_once(running)
        assert second.end() == 0


def test_a_worker_that_stays_tells_what_it_does(data_dir: Path) -> None:
    with Working(data_dir, LOG_LEVEL="ERROR") as worker:
        wait_for(lambda: "Did billing.tasks.charge_batch" in worker.said)
        assert worker.end() == 0
        assert worker.diary == [
            "The worker is ready and waits for jobs.",
            "Begins billing.tasks.charge_batch.",
            "Did billing.tasks.charge_batch in  seconds.",
            "The worker is stopping.",
            "The worker has ended.",
        ]
        assert worker.trouble == ""


def test_a_worker_outlives_its_database(data_dir: Path) -> None:
    with Working(data_dir) as worker:
        wait_until_charged(data_dir)
        with suppress(psycopg.OperationalError), connected(data_dir) as holder:
            # Kills the database in the middle of a job, which cannot end because of this lock.
            holder.execute("BEGIN; LOCK TABLE billing_chargingrun IN ACCESS EXCLUSIVE MODE")
            change(data_dir, CATCH_UP)
            wait_for(lambda: bool(answer(data_dir, WAITS)))
            os.kill(postmaster(data_dir), signal.SIGKILL)
        wait_for(lambda: answer(data_dir, "SELECT 1") == 1)
        change(data_dir, REFILL)
        wait_until_nobody_is_suspended(data_dir)
        assert worker.process.poll() is None
        assert "Traceback" not in worker.said
        assert worker.end(signal.SIGHUP) == 0
