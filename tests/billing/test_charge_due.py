"""`manage.py charge_due`, called in this process, or in its own process to be killed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone
from procrastinate.contrib.django.models import ProcrastinateJob

from billing import ledger
from billing.models import (
    Channel,
    ChargingFailure,
    ChargingRun,
    Subscription,
    Transaction,
)
from billing.money import format_money
from billing.plans import charging, due, subscriptions
from billing.plans.pricing import Cycle
from config.postgresql.url import url_of
from tests.factories import PlanFactory, subscribed, user_with
from users.models import User

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PATIENCE_SECONDS = 300
SYSTEM: dict[str, Any] = {"actor": None, "channel": Channel.API}
FIRST = date(2026, 4, 1)
AT = "2026-05-03T00:05"

# The command, in steps so small that it can be killed between any two users.
SMALL_STEPS = """
import os, sys
sys.path.insert(0, os.getcwd())
os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
import django
django.setup()
from django.core.management import ManagementUtility
from billing.plans import charging
charging.USERS_AT_ONCE, charging.USERS_PER_BATCH = 1, 5
charging.WAIT_MAX_SECONDS = 0  # the one whom the test holds is waited for until the end
try:
    ManagementUtility(["manage.py", "charge_due", *sys.argv[1:]]).execute()
except KeyboardInterrupt:
    sys.exit(1)
"""


def charge_due(**options: Any) -> str:
    output = StringIO()
    call_command("charge_due", stdout=output, stderr=output, **options)
    return output.getvalue()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def customers() -> list[User]:
    """Makes users of each cycle. Some run out of money, and one is deactivated."""
    plans = [
        PlanFactory(name=f"Plan {cycle}", cycle=cycle, price=Decimal(12))
        for cycle in (Cycle.MONTHLY, Cycle.EVERY_DAY, Cycle.ACTIVE_DAY, Cycle.ANNUAL)
    ]
    users = []
    for number in range(16):
        user = user_with(real=(100, 12, 30)[number % 3])
        for device, plan in enumerate((plans[number % 4], plans[1])):
            subscription = subscribed(user, plan, day=FIRST, device=f"device {device}")
            if subscription.is_by_active_day:
                for offset in range(5):
                    day = FIRST + timedelta(days=offset)
                    subscriptions.record_active_day(
                        user, device=subscription.device, day=day, today=day
                    )
        users.append(user)
    User.objects.filter(pk=users[3].pk).update(is_active=False)
    return users


def outcome() -> tuple[list[Any], list[Any]]:
    """Returns all transactions and subscriptions, without times and transaction IDs."""
    posted = Transaction.objects.order_by("user", "number").values_list(
        *("user", "number", "type", "subtype", "amount", "bonus_amount", "description", "device")
    )
    states = Subscription.objects.order_by("id").values_list(
        *("id", "status", "status_since", "charged_from", "charged_through", "paid"),
        *("charge_number", "due_on"),
    )
    return list(posted), list(states)


# --- Output -------------------------------------------------------------------------------------


def test_the_summary_has_the_figures(db: None) -> None:
    customers()
    said = charge_due(at=at(AT))
    run = ChargingRun.objects.get()
    assert said.startswith(
        f"Charged as of 2026-05-03 00:05 UTC: {run.charged} charged, {run.suspended} suspended, "
        f"{run.resumed} resumed, {run.skipped} skipped, total "
    )
    assert said.endswith(" seconds.\n")
    assert run.charged
    assert run.suspended
    assert "0 charged, 0 suspended" in charge_due(at=at(AT))


def test_a_rehearsal_prints_what_a_run_then_posts_and_changes_nothing(db: None) -> None:
    customers()
    before = outcome()
    rehearsed = charge_due(at=at(AT), dry_run=True).splitlines()
    assert outcome() == before
    assert not ChargingRun.objects.exists()

    known = Transaction.objects.order_by("-id").values_list("id", flat=True)[0]
    summary = charge_due(at=at(AT)).splitlines()[-1]
    posted = Transaction.objects.filter(id__gt=known)
    assert sorted(line for line in rehearsed if "→" in line) == sorted(
        f"user {row.user_id}  {row.subtype:<10} {format_money(row.amount):>12}  "
        f"{format_money(row.old_balance)} → {format_money(row.new_balance)}  {row.description}"
        for row in posted
    )
    suspended = sum("  suspended  " in line for line in rehearsed)
    assert suspended == ChargingRun.objects.get().suspended > 0
    assert figures(rehearsed[-1]) == figures(summary).replace("Charged", "Would be charged")


def figures(summary: str) -> str:
    return summary.rpartition(",")[0]


@pytest.mark.parametrize(
    ("ahead", "words"),
    [
        (timedelta(days=3), "3 days ahead"),
        (timedelta(days=1), "1 day ahead"),
        (timedelta(hours=2), "less than a day ahead"),
        (timedelta(0), None),
        (-timedelta(days=3), None),
    ],
)
def test_a_time_in_the_future_is_said(
    db: None, ahead: timedelta, words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timezone, "now", lambda: at("2026-04-10T12:00"))
    said = charge_due(at=at("2026-04-10T12:00") + ahead)
    assert (words in said) if words else ("ahead" not in said)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tomorrow", "is no time like 2026-12-01T00:05"),
        ("2026-02-30", "is no time like 2026-12-01T00:05"),
        ("2026-04-10T25:00", "is no time like 2026-12-01T00:05"),
        ("20260-04-10", "is no time like 2026-12-01T00:05"),
        ("9999-12-31", "is not between the years 2000 and 2199"),
    ],
)
def test_a_time_that_is_none_is_refused_in_a_sentence(text: str, problem: str) -> None:
    with pytest.raises(CommandError, match=f"“{text}” {problem}"):
        call_command("charge_due", f"--at={text}")


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-04-10", "2026-04-10T00:00"),
        ("2026-04-10T00:05", "2026-04-10T00:05"),
        ("2026-04-10 00:05:00Z", "2026-04-10T00:05"),
        ("2026-04-10T00:05+02:00", "2026-04-09T22:05"),
    ],
)
def test_a_time_is_in_utc_unless_it_says_otherwise(db: None, text: str, utc: str) -> None:
    call_command("charge_due", f"--at={text}", stdout=StringIO())
    assert ChargingRun.objects.get().at == at(utc)


def test_users_who_cannot_be_charged_make_it_fail_after_the_others_are(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = PlanFactory(cycle=Cycle.EVERY_DAY, price=Decimal(30))
    poor, fine = (subscribed(user_with(100), plan, day=FIRST) for _ in range(2))
    decide = due.decide

    def fail_for_one(its: Any, **options: Any) -> Any:
        its = list(its)
        if its[0].user_id == poor.user_id:
            raise ValueError("made to fail")
        return decide(its, **options)

    monkeypatch.setattr(due, "decide", fail_for_one)
    output = StringIO()
    with pytest.raises(
        CommandError, match="1 user could not be charged; see the panel's page of this run"
    ):
        call_command("charge_due", at=at("2026-04-03"), stdout=output)
    assert "2 charged" in output.getvalue(), "the summary comes all the same"
    assert Transaction.objects.filter(user=fine.user_id).count() == 4
    assert ChargingFailure.objects.get().user_id == poor.user_id


def test_without_workers_it_resumes_what_was_refilled_since(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timezone, "now", lambda: at("2026-04-01T12:00"))
    resumed, poor = (subscribed(user_with(), PlanFactory(), day=FIRST) for _ in range(2))
    for subscription, amount in ((resumed, 50), (poor, 5)):
        ledger.change_balance(
            subscription.user, amount=amount, description="Paid by card", **SYSTEM
        )
    assert "1 resumed, 1 skipped" in charge_due()
    resumed.refresh_from_db()
    assert resumed.status == "active"
    assert not ProcrastinateJob.objects.exists()
    assert "0 resumed, 0 skipped" in charge_due()


def test_an_interruption_says_what_was_done_and_that_it_can_be_started_again(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    customers()
    with ledger.dry_run():
        charge_due(at=at(AT))
        uninterrupted = outcome()
    monkeypatch.setattr(charging, "USERS_AT_ONCE", 1)
    charge_batch = charging.charge_batch

    def interrupted(batch: Any) -> Any:
        for place, done in enumerate(charge_batch(batch)):
            yield done
            if place == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(charging, "charge_batch", interrupted)
    output = StringIO()
    with pytest.raises(CommandError, match=r"Interrupted.*start it again") as refusal:
        call_command("charge_due", at=at(AT), stdout=output)
    assert refusal.value.returncode == 130
    assert f"{ChargingRun.objects.get().charged} charged" in output.getvalue()
    assert outcome() != uninterrupted

    monkeypatch.setattr(charging, "charge_batch", charge_batch)
    charge_due(at=at(AT))
    assert outcome() == uninterrupted


# --- Killed -------------------------------------------------------------------------------------


def address_of_test_database() -> str:
    return url_of(connection.get_connection_params())


def start() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SMALL_STEPS, "--at", AT],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": address_of_test_database()}
        | {name: os.environ[name] for name in ("DATA_DIR", "HOME") if name in os.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def charged_users() -> int:
    rows = Transaction.objects.filter(channel=Channel.CHARGING)
    return rows.values("user").distinct().count()


def wait_for(done: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.002)


def test_killed_anywhere_and_started_again_it_comes_to_one_clean_run(committed_db: None) -> None:
    users = customers()
    with ledger.dry_run():
        charge_due(at=at(AT))
        uninterrupted, to_charge = outcome(), charged_users()
    assert not charged_users()

    # The last user's balance is locked, so that no attempt can end before it is killed.
    # An attempt is only killed once it has opened its run: earlier attempts may already have
    # charged enough users.
    points = sorted(random.sample(range(1, to_charge), 3))
    for runs, point in enumerate(points, start=1):
        with transaction.atomic():
            ledger.lock_balances([users[-1].pk])
            with start() as process:
                wait_for(
                    lambda runs=runs, point=point: (
                        ChargingRun.objects.count() == runs and charged_users() >= point
                    ),
                    process,
                )
                process.send_signal(signal.SIGKILL)
                assert process.wait() == -signal.SIGKILL
    assert outcome() != uninterrupted

    with start() as process:
        said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    assert outcome() == uninterrupted
    unfinished, finished = (
        ChargingRun.objects.filter(finished_at__isnull=is_left).count() for is_left in (True, False)
    )
    assert (unfinished, finished) == (3, 1)
    call_command("verify_ledger", stdout=StringIO())
