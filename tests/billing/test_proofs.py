"""The nightly proof of the ledger: what it checks, what it leaves, and who is told."""

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, OperationalError
from django.test import Client
from django.utils import timezone

from billing import reports, tasks
from billing.ledger import heads, proofs, signing, verification
from billing.models import Proof
from tests.billing.histories import execute, judge, tamper, user_with_history
from tests.billing.test_heads import OTHER_KEY, cut_off, go_on
from tests.billing.test_verify_ledger import verify
from tests.config.test_metrics import scraped, value
from tests.factories import user_with
from tests.operators import client_of, operator_with
from tests.roles import as_owner
from users.models import User

NIGHT = datetime(2026, 11, 29, 3, 10, 5, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def folder(tmp_path: Path, settings: Any) -> Path:
    settings.LEDGER_SIGNING_KEY_FILE = tmp_path / "ledger_signing_key"
    settings.LEDGER_HEADS_DIR = folder = tmp_path / "heads"
    return folder


@pytest.fixture
def user(db: None) -> User:
    return user_with_history()


def prove(at: datetime = NIGHT, *, should_stop: Callable[[], bool] = lambda: False) -> Proof | None:
    return proofs.prove(at, clock=lambda: at + timedelta(seconds=7), should_stop=should_stop)


def proved(at: datetime = NIGHT) -> Proof:
    proof = prove(at)
    assert proof is not None
    return proof


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


# --- What is checked, and what is left ----------------------------------------------------------


def test_the_first_proof_is_of_everything_and_leaves_heads(user: User, folder: Path) -> None:
    proof = proved()
    assert (proof.kind, proof.problem, proof.started_by) == ("full", "", "schedule")
    assert (proof.transactions, proof.users) == (7, User.objects.count())
    assert (proof.started_at, proof.finished_at) == (NIGHT, NIGHT + timedelta(seconds=7))
    assert proof.heads == "2026-11-29T03-10-05Z.heads"
    assert names(folder) == [proof.heads]
    found = heads.read(folder / proof.heads, signing.own_key().public)
    assert (found.made_at, found.fully_proved_at) == (NIGHT.replace(microsecond=0),) * 2
    assert Proof.objects.get() == proof


def test_the_next_is_of_what_came_since_and_once_a_week_of_everything(
    user: User, folder: Path
) -> None:
    kinds = []
    for day in range(15):
        go_on(user)
        late = timedelta(minutes=30 * (day % 2))
        proof = proved(NIGHT + day * DAY + late)
        assert proof.problem == ""
        kinds.append((proof.kind, proof.transactions))
    assert [day for day, (kind, _) in enumerate(kinds) if kind == "full"] == [0, 7, 14]
    assert {count for kind, count in kinds if kind == "incremental"} == {1}
    assert kinds[7] == ("full", 7 + 8)
    assert len(names(folder)) == 15


def test_what_is_posted_while_it_runs_is_checked_the_next_night(
    user: User, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads are written before the check. Otherwise nobody would check what came in between."""
    proved()
    original = heads.Draft.sign

    def sign_and_go_on(draft: heads.Draft, key: signing.SigningKey) -> None:
        original(draft, key)
        go_on(user)

    monkeypatch.setattr(heads.Draft, "sign", sign_and_go_on)
    assert proved(NIGHT + DAY).transactions == 1
    monkeypatch.undo()
    assert proved(NIGHT + 2 * DAY).transactions == 1


@pytest.mark.as_owner
@pytest.mark.parametrize("days", [1, 7])
def test_a_tail_cut_off_is_found_and_leaves_no_heads(
    days: int, user: User, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = proved()
    cut_off(user, last=5)
    proof = proved(NIGHT + days * DAY)
    assert proof.kind == ("full" if days == 7 else "incremental")
    assert f"Transaction 7 of user {user.pk} breaks G3: it is missing" in proof.problem
    assert (proof.heads, names(folder)) == ("", [first.heads])
    [record] = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert proof.problem in record.getMessage()
    # Found again each night, until it is repaired.
    assert proved(NIGHT + (days + 1) * DAY).problem == proof.problem


@pytest.mark.as_owner
def test_a_missing_guard_is_found(user: User, folder: Path) -> None:
    judge()
    with as_owner():
        execute("ALTER TABLE billing_transaction DISABLE TRIGGER transactions_are_append_only")
    proof = proved()
    assert proof.problem == "The trigger transactions_are_append_only is disarmed."
    assert names(folder) == []


@pytest.mark.as_owner
def test_tables_that_somebody_changed_are_a_problem_and_no_crash(user: User, folder: Path) -> None:
    judge()
    with as_owner():
        execute("ALTER TABLE billing_transaction RENAME COLUMN device TO gadget")
    proof = proved()
    assert proof.problem.startswith("The rows could not be checked: column t.device does not exist")


def test_a_file_that_was_changed_or_is_not_ours_is_not_relied_on(
    user: User, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proved()
    second = proved(NIGHT + DAY)
    path = folder / second.heads
    path.write_bytes(path.read_bytes().replace(b",7,", b",6,"))
    with heads.drafted(
        folder / heads.name_at(NIGHT + 2 * DAY), OTHER_KEY, made_at=NIGHT, fully_proved_at=NIGHT
    ) as draft:
        draft.publish()
    go_on(user)
    assert proved(NIGHT + 3 * DAY).transactions == 1  # since the first
    said = " ".join(record.getMessage() for record in caplog.records)
    assert f"{path} was changed after it was signed" in said
    assert "was signed with another key" in said


@pytest.mark.as_owner
def test_heads_by_hand_were_not_proved_and_are_not_relied_on(user: User, folder: Path) -> None:
    proved()
    cut_off(user, last=5)
    call_command("ledger_heads", stdout=StringIO())
    assert len(names(folder)) == 2
    assert "breaks G3" in proved(NIGHT + DAY).problem


def test_no_row_of_the_database_decides_with_what_is_compared(user: User, folder: Path) -> None:
    proved()
    Proof.objects.all().delete()
    go_on(user)
    assert (proved(NIGHT + DAY).kind, proved(NIGHT + 2 * DAY).transactions) == ("incremental", 0)


def test_old_files_and_old_results_are_removed(user: User, folder: Path) -> None:
    for age in (400, 40, 20):
        proved(NIGHT - age * DAY)
    (folder / ".draft-of-a-killed-process").write_text("half")
    os.utime(folder / ".draft-of-a-killed-process", (0, 0))
    proved()
    assert Proof.objects.count() == 3
    # Of 400 and 40 days ago, each is the first of its month.
    assert len(names(folder)) == 4
    for age in (39, 38):
        proved(NIGHT - age * DAY)
    proved(NIGHT + DAY)
    assert names(folder)[1] == heads.name_at(NIGHT - 40 * DAY)
    assert names(folder)[2] == heads.name_at(NIGHT - 20 * DAY)


def test_a_place_that_cannot_be_written_is_shown(user: User, folder: Path, settings: Any) -> None:
    settings.LEDGER_HEADS_DIR = Path("/dev/null/heads")
    assert proved().problem == "The heads could not be written to /dev/null/heads: Not a directory."
    settings.LEDGER_SIGNING_KEY_FILE = Path("/dev/null/key")
    assert proved().problem.startswith("The key that signs heads (/dev/null/key) cannot be used")


# --- Interrupted and repeated -------------------------------------------------------------------


def test_told_to_stop_it_leaves_nothing(user: User, folder: Path) -> None:
    assert prove(should_stop=lambda: True) is None
    assert (names(folder), Proof.objects.count()) == ([], 0)


def test_a_lost_database_is_no_finding(
    user: User, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(verification, "check", fail)
    with pytest.raises(DatabaseError):
        prove()
    assert (names(folder), Proof.objects.count()) == ([], 0)


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[[datetime], int]:
    """`job(now)` runs the job, and returns how many proofs there are then."""

    def run(now: datetime) -> int:
        monkeypatch.setattr(timezone, "now", lambda: now)
        tasks.prove_ledger(Mock(should_abort=lambda: False), timestamp=0)
        return Proof.objects.count()

    return run


def test_the_job_proves_once_a_night(user: User, job: Callable[[datetime], int]) -> None:
    hour = timedelta(hours=1)
    assert job(NIGHT) == 1
    assert job(NIGHT) == 1
    assert job(NIGHT + 23 * hour) == 1
    assert job(NIGHT + 24 * hour) == 2
    # A night without a worker is made up for when one runs.
    assert job(NIGHT + 80 * hour) == 3
    assert job(NIGHT + 81 * hour) == 3
    assert job(NIGHT + 96 * hour) == 4


def test_a_proof_by_hand_does_not_replace_that_of_the_night(
    user: User, job: Callable[[datetime], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert job(NIGHT) == 1
    monkeypatch.setattr(timezone, "now", lambda: NIGHT + DAY)
    assert verify()[0] == 0
    assert job(NIGHT + DAY) == 3


@pytest.mark.as_owner
def test_a_finding_is_looked_at_again_once_a_proof_by_hand_is_clean(
    user: User, job: Callable[[datetime], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    minute = timedelta(minutes=1)
    assert job(NIGHT) == 1
    cut_off(user, last=5)
    assert job(NIGHT + DAY) == 2
    assert job(NIGHT + DAY + minute) == 2
    monkeypatch.setattr(timezone, "now", lambda: NIGHT + DAY + 2 * minute)
    assert verify()[0] == 0  # without heads, it cannot see what was cut off
    assert reports.proof_state(NIGHT + DAY).failed is not None
    assert job(NIGHT + DAY + 3 * minute) == 4
    assert job(NIGHT + DAY + 4 * minute) == 4
    assert "breaks G3" in Proof.objects.latest("id").problem


def test_a_job_that_loses_the_database_is_not_a_failed_job(
    user: User,
    job: Callable[[datetime], int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as broken:
        broken.setattr(verification, "check", fail)
        assert job(NIGHT) == 0
    assert "is proved again in some minutes" in caplog.text
    assert job(NIGHT + timedelta(minutes=10)) == 1


@pytest.mark.parametrize(
    ("now", "since"),
    [
        (NIGHT, NIGHT.replace(second=0)),
        (NIGHT - timedelta(seconds=6), NIGHT.replace(second=0) - DAY),
        (NIGHT.replace(second=0), NIGHT.replace(second=0)),
        (NIGHT + timedelta(hours=23), NIGHT.replace(second=0)),
    ],
)
def test_it_is_due_at_ten_past_three(now: datetime, since: datetime) -> None:
    assert tasks.last_proof_time(now) == since


# --- By hand ------------------------------------------------------------------------------------


@pytest.mark.as_owner
def test_a_proof_by_hand_is_recorded_unless_it_is_of_one_user(user: User, folder: Path) -> None:
    verify("--user", str(user.pk))
    assert not Proof.objects.exists()
    verify()
    proof = Proof.objects.get()
    assert (proof.kind, proof.started_by, proof.problem) == ("full", "command", "")
    assert (proof.transactions, proof.heads) == (7, "")
    assert proof.started_at <= proof.finished_at
    tamper("UPDATE billing_transaction SET device = 'Forged' WHERE number = 3")
    verify()
    assert Proof.objects.latest("id").problem.startswith(f"Transaction 3 of user {user.pk}")


def test_a_database_that_can_only_be_read_is_proved_too(user: User, folder: Path) -> None:
    judge()
    execute("SET LOCAL transaction_read_only = on")
    assert verify()[0] == 0


def test_what_was_not_begun_is_not_recorded(user: User, folder: Path) -> None:
    with pytest.raises(CommandError):
        call_command("verify_ledger", "--heads", "/nowhere")
    assert not Proof.objects.exists()


# --- Who is told --------------------------------------------------------------------------------


@pytest.fixture
def panel(db: None, noon: datetime) -> Client:
    return client_of(operator_with("billing.view_transaction"))


def make(
    finished_at: datetime, problem: str = "", kind: str = "incremental", by: str = "schedule"
) -> Proof:
    return Proof.objects.create(
        kind=kind, started_by=by, started_at=finished_at - timedelta(seconds=90),
        finished_at=finished_at, users=3, transactions=12345, problem=problem,
    )  # fmt: skip


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> datetime:
    noon = timezone.now().replace(hour=12, minute=0, second=0, microsecond=0) + DAY
    monkeypatch.setattr(timezone, "now", lambda: noon)
    return noon


def test_the_start_page_says_what_was_proved(panel: Client, noon: datetime) -> None:
    make(noon - 3 * DAY, kind="full")
    make(noon)
    text = panel.get("/admin/").text
    full, last = ((noon - age).strftime("%Y-%m-%d") for age in (3 * DAY, 0 * DAY))
    assert f"{last} 12:00, 12,345 new transactions; all on {full}" in text
    assert "panel-notice" not in text
    make(noon, kind="full")
    assert f"{last} 12:00, all 12,345 transactions" in panel.get("/admin/").text


def test_the_start_page_says_what_is_wrong(panel: Client, noon: datetime) -> None:
    make(noon - DAY, "Transaction 7 of user 5 breaks G3.", kind="full")
    make(noon)  # a proof of new rows does not take it back
    text = panel.get("/admin/").text
    assert "The ledger could not be proved on " in text
    assert "Transaction 7 of user 5 breaks G3." in text
    assert "new transactions" not in text
    make(noon, kind="full")
    assert "panel-notice" not in panel.get("/admin/").text


@pytest.mark.parametrize("kind", ["full", "incremental"])
def test_a_proof_by_hand_takes_back_what_was_found_by_hand_alone(
    noon: datetime, db: None, kind: str
) -> None:
    by_hand = make(noon - 5 * DAY, "Found by hand.", kind="full", by="command")
    assert reports.proof_state(noon).failed == by_hand
    make(noon - 4 * DAY, kind="full", by="command")
    assert reports.proof_state(noon).failed is None
    found = make(noon - 3 * DAY, "Found at night.", kind=kind)
    make(noon - 2 * DAY, kind="full", by="command")
    assert reports.proof_state(noon).failed == found
    make(noon, kind=kind)
    assert reports.proof_state(noon).failed is None


def test_the_start_page_says_that_proofs_are_missing(panel: Client, noon: datetime) -> None:
    assert "has not been proved" not in panel.get("/admin/").text
    user = user_with()
    go_on(user)
    assert "has not been proved" not in panel.get("/admin/").text  # since yesterday
    proof = make(noon - 2 * DAY)
    assert "has not been proved" not in panel.get("/admin/").text
    Proof.objects.filter(pk=proof.pk).update(finished_at=noon - 2 * DAY - timedelta(seconds=1))
    text = panel.get("/admin/").text
    day = (noon - 2 * DAY).strftime("%Y-%m-%d")
    assert f"has not been proved since {day} 11:59." in text
    assert "new transactions" not in text


def test_an_installation_that_never_had_a_proof_says_so_after_two_days(
    db: None, noon: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on(user_with())
    monkeypatch.setattr(timezone, "now", lambda: noon + 2 * DAY)
    panel = client_of(operator_with("billing.view_transaction"))
    assert "The ledger has not been proved yet." in panel.get("/admin/").text
    assert reports.proof_state(noon + 2 * DAY).is_stale


def test_only_those_who_may_see_transactions_are_told(noon: datetime, db: None) -> None:
    make(noon, "Transaction 7 of user 5 breaks G3.")
    client = client_of(operator_with("users.view_user"))
    assert "breaks G3" not in client.get("/admin/").text


def test_metrics_tell_of_proofs(client: Client, noon: datetime, db: None) -> None:
    assert not [name for name, _ in scraped(client) if name.startswith("billing_proof")]
    make(noon - DAY, kind="full")
    make(noon)
    found = scraped(client)
    assert value(found, "billing_proof_clean") == 1
    assert value(found, "billing_proof_last_end_timestamp_seconds") == noon.timestamp()
    full = value(found, "billing_proof_last_full_end_timestamp_seconds")
    assert full == (noon - DAY).timestamp()
    assert value(found, "billing_proof_last_duration_seconds") == 90
    assert value(found, "billing_proof_last_transactions") == 12345
    make(noon, "Something is wrong.")
    found = scraped(client)
    assert found["billing_proof_clean", frozenset()] == 0


def test_readiness_warns_without_saying_what_was_found(
    client: Client, noon: datetime, db: None
) -> None:
    def warnings() -> list[str]:
        report = client.get("/readyz").json()
        assert "user 5" not in str(report)
        assert report["ready"]
        return [each["code"] for each in report["warnings"] if "proof" in each["code"]]

    assert warnings() == []
    proof = make(noon)
    assert warnings() == []
    Proof.objects.update(problem="Transaction 7 of user 5 breaks G3.")
    assert warnings() == ["proof_failed"]
    proof.finished_at = noon - 3 * DAY
    proof.save()
    assert warnings() == ["proof_overdue"]
