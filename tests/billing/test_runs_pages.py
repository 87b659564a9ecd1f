"""Charging runs: their list, the page of a run, and the warnings on the start page."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from billing import reports
from billing.models import ChargingBatch, ChargingFailure, ChargingRun
from billing.plans import charging
from billing.templatetags.panel import duration
from tests.factories import PlanFactory, UserFactory, subscribed, user_with
from tests.operators import client_of, operator_with

pytestmark = pytest.mark.django_db

RUNS = "/admin/billing/chargingrun/"
DUE = datetime(2026, 11, 22, 0, 5, tzinfo=UTC)
NOON = DUE.replace(hour=12)
SECOND = timedelta(seconds=1)


def run_of(
    at: datetime = DUE, *, started_at: datetime | None = None, took: timedelta | None = SECOND,
    **fields: Any,
) -> ChargingRun:  # fmt: skip
    """Makes a run that finished after `took`, or that is unfinished if `took` is None."""
    started_at = started_at or at
    return ChargingRun.objects.create(
        at=at,
        started_by="schedule",
        started_at=started_at,
        finished_at=None if took is None else started_at + took,
        **fields,
    )


def batch(run: ChargingRun, finished_at: datetime | None = None) -> ChargingBatch:
    return ChargingBatch.objects.create(
        run=run, first_user_id=1, last_user_id=2, finished_at=finished_at
    )


def state(run: ChargingRun, now: datetime) -> str:
    return reports.state_of(reports.charging_runs().get(pk=run.pk), now)


# --- When a run is overdue ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "is_overdue"),
    [
        ("2026-11-22 00:00", False),
        ("2026-11-22 00:05", False),
        ("2026-11-22 00:35", False),
        ("2026-11-22 00:35:00.000001", True),
        ("2026-11-22 12:00", True),
        ("2026-11-22 23:59:59", True),
        ("2026-11-23 00:10", True),  # the run of the day before is still missing
    ],
)
def test_a_run_has_half_an_hour(now: str, *, is_overdue: bool) -> None:
    run_of(DUE - timedelta(days=1))
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    overdue = reports.overdue(moment)
    assert (overdue is not None) == is_overdue
    if overdue:
        assert (overdue.since, overdue.begun) == (DUE, None)


@pytest.mark.parametrize(
    ("at", "is_enough"),
    [("00:04:59.999999", False), ("00:05", True), ("07:30", True)],
)
def test_a_run_is_enough_if_it_charged_up_to_the_day(at: str, *, is_enough: bool) -> None:
    run_of(datetime.fromisoformat(f"2026-11-22 {at}").replace(tzinfo=UTC))
    assert (reports.overdue(NOON) is None) == is_enough


def test_the_day_is_the_utc_day_wherever_the_clock_hangs() -> None:
    run_of(DUE - timedelta(days=1))
    late_in_new_york = datetime.fromisoformat("2026-11-21T20:00-05:00")  # 01:00 UTC of the 22nd
    assert reports.overdue(late_in_new_york)
    early_in_berlin = datetime.fromisoformat("2026-11-22T01:20+01:00")  # 00:20 UTC
    assert not reports.overdue(early_in_berlin)


def test_a_run_of_another_day_that_looked_ahead_does_not_count() -> None:
    run_of(DUE + timedelta(days=30), started_at=DUE - timedelta(days=1))
    assert reports.overdue(NOON)


def test_an_unfinished_run_is_overdue_and_named() -> None:
    run = run_of(took=None)
    batch(run, DUE + SECOND)
    batch(run)
    overdue = reports.overdue(DUE + timedelta(minutes=31))
    assert overdue
    assert (overdue.begun, overdue.state) == (run, "interrupted")
    batch(run, DUE + timedelta(minutes=30))
    overdue = reports.overdue(DUE + timedelta(minutes=31))
    assert overdue
    assert overdue.state == "running"
    assert (overdue.begun.batches_done, overdue.begun.batch_count) == (2, 3)  # type: ignore[union-attr]


def test_a_run_that_was_made_up_for_is_not_overdue() -> None:
    run_of(took=None)
    run_of(NOON - timedelta(hours=1))
    assert reports.overdue(NOON) is None


def test_an_installation_without_subscriptions_is_not_warned() -> None:
    assert reports.overdue(NOON) is None


@pytest.mark.parametrize(
    ("started_on", "is_overdue"), [(date(2026, 11, 22), False), (date(2026, 11, 21), True)]
)
def test_a_first_run_is_missed_from_the_first_subscription_on(
    started_on: date, *, is_overdue: bool
) -> None:
    subscribed(UserFactory(), PlanFactory(), day=started_on)
    assert (reports.overdue(NOON) is not None) == is_overdue


def test_a_run_done_by_the_charging_itself_is_enough() -> None:
    subscribed(user_with(real=100), PlanFactory(), day=date(2026, 4, 1))
    now = datetime(2026, 5, 1, 0, 40, tzinfo=UTC)
    assert reports.overdue(now)
    run = charging.open_run(now, ChargingRun.Start.COMMAND)
    ChargingRun.objects.filter(pk=run.pk).update(started_at=now)
    assert reports.overdue(now)
    for part in run.batches.all():
        list(charging.charge_batch(part))
    assert reports.overdue(now) is None


# --- The state of a run -------------------------------------------------------------------------


def test_a_run_is_running_while_it_is_heard_of() -> None:
    run = run_of(took=None)
    batch(run)
    assert state(run, DUE + reports.SILENCE) == "running"
    assert state(run, DUE + reports.SILENCE + SECOND) == "interrupted"
    batch(run, DUE + timedelta(hours=1))
    assert state(run, DUE + timedelta(hours=1) + reports.SILENCE) == "running"
    assert state(run_of(), DUE + timedelta(days=9)) == "finished"


def test_of_two_finished_runs_the_later_time_is_the_latest_run() -> None:
    later = run_of()
    run_of(DUE - timedelta(days=3), started_at=NOON)  # a missed run, done later
    run_of(DUE + timedelta(days=1), took=None)
    assert reports.latest_run() == later


@pytest.mark.parametrize(
    ("time", "shown"),
    [
        (timedelta(seconds=-1), "0.0 s"),
        (timedelta(seconds=3.44), "3.4 s"),
        (timedelta(seconds=59.94), "59.9 s"),
        (timedelta(minutes=1), "1 min 0 s"),
        (timedelta(minutes=59, seconds=59.9), "59 min 59 s"),
        (timedelta(hours=26, minutes=3, seconds=50), "26 h 3 min"),
    ],
)
def test_a_duration_is_written_for_people(time: timedelta, shown: str) -> None:
    assert duration(time) == shown


# --- Pages --------------------------------------------------------------------------------------


def cells(text: str) -> list[str]:
    body = text.split("<tbody>")[1].split("</tbody>", maxsplit=1)[0]
    return [
        re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", cell)).strip()
        for cell in re.findall(r"<td[^>]*>(.*?)</td>", body, re.DOTALL)
    ]


def test_the_list_shows_every_figure(panel: Client) -> None:
    run = run_of(
        took=timedelta(seconds=75), due=12345, charged=9000, suspended=20, resumed=30, skipped=40,
        failed=5, total="98765.4321",
    )  # fmt: skip
    text = panel.get(RUNS).text
    assert cells(text) == [
        "2026-11-22 00:05 UTC", "Finished", "2026-11-22 00:05:00 Schedule", "1 min 15 s",
        "12,345", "9,000", "20", "30", "40", "5", "98,765.4321",
    ]  # fmt: skip
    assert f'href="{RUNS}{run.pk}/change/"' in text


def test_the_page_of_a_run_says_what_failed_and_leads_to_the_charges(panel: Client) -> None:
    user = UserFactory(email="ada@fleet.example")
    run = run_of(failed=1, charged=7, total="70")
    batch(run, DUE + SECOND)
    ChargingFailure.objects.create(run=run, user=user, problem="No <plan> for it")
    text = panel.get(f"{RUNS}{run.pk}/change/").text
    assert "Charging run of 2026-11-22 00:05 UTC" in text
    assert "No &lt;plan&gt; for it" in text
    assert f'href="/admin/users/user/{user.pk}/change/"' in text
    assert "1 <small>of 1</small>" in text
    [address] = re.findall(r'href="(/admin/billing/transaction/\?[^"]+)"', text)
    assert address == (
        "/admin/billing/transaction/?from_day=2026-11-22&amp;to_day=2026-11-22&amp;type=main_charge"
    )


def test_an_interrupted_run_says_so_and_what_becomes_of_the_rest(panel: Client) -> None:
    run = run_of(took=None)
    batch(run, DUE + SECOND)
    batch(run)
    text = panel.get(f"{RUNS}{run.pk}/change/").text
    assert "This run was interrupted." in text
    assert "1 of its 2 batches are done" in text


def test_failures_are_shown_page_by_page(panel: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports.pages, "PAGE_SIZE", 2)
    run, user = run_of(failed=3), UserFactory()
    for number in range(3):
        ChargingFailure.objects.create(run=run, user=user, problem=f"Problem {number}")
    first = panel.get(f"{RUNS}{run.pk}/change/")
    assert "Problem 2" in first.text
    assert "Problem 0" not in first.text
    second = panel.get(f"{RUNS}{run.pk}/change/?before={first.context['page'].last_key}")
    assert [failure.problem for failure in second.context["page"].rows] == ["Problem 0"]


@pytest.mark.parametrize(
    "number",
    ["0", "99999999999999999999", "x", "1_0", "+1", pytest.param("9" * 5000, id="5000 digits")],
)
def test_a_run_that_does_not_exist_is_not_found(panel: Client, number: str) -> None:
    assert panel.get(f"{RUNS}{number}/change/").status_code == 404


def test_nothing_can_be_done_to_a_run(panel: Client) -> None:
    run = run_of()
    for path, status in (("add/", 404), (f"{run.pk}/delete/", 403), (f"{run.pk}/history/", 404)):
        assert panel.get(f"{RUNS}{path}").status_code == status
        assert panel.post(f"{RUNS}{path}", {"post": "yes"}).status_code == status
    panel.post(f"{RUNS}{run.pk}/change/", {"charged": "5"})
    assert ChargingRun.objects.get().charged == 0


def test_runs_are_for_those_who_may_view_them() -> None:
    run = run_of()
    stranger = client_of(operator_with("users.view_user"))
    viewer = client_of(operator_with(group="Viewer"))
    for path in (RUNS, f"{RUNS}{run.pk}/change/"):
        assert stranger.get(path).status_code == 403
        assert viewer.get(path).status_code == 200


# --- The start page -----------------------------------------------------------------------------


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> datetime:
    monkeypatch.setattr("billing.admin.start_page.timezone.now", lambda: NOON)
    return NOON


def test_the_start_page_warns_when_the_run_has_not_begun(panel: Client, noon: datetime) -> None:
    run_of(DUE - timedelta(days=1))
    text = panel.get("/admin/").text
    assert "The charging run is overdue." in text
    assert "due on 2026-11-22 00:05 UTC, and has not started" in text


def test_the_start_page_warns_of_an_interrupted_run(panel: Client, noon: datetime) -> None:
    run = run_of(took=None)
    batch(run)
    text = panel.get("/admin/").text
    assert "was interrupted after" in text
    assert f'href="{RUNS}{run.pk}/change/">0 of 1 batches' in text


def test_the_start_page_says_that_a_late_run_is_going_on(panel: Client, noon: datetime) -> None:
    batch(run_of(took=None), NOON - timedelta(minutes=1))
    text = panel.get("/admin/").text
    assert "The charging run is late." in text
    assert "overdue" not in text


def test_the_start_page_warns_of_users_who_could_not_be_charged(
    panel: Client, noon: datetime
) -> None:
    run = run_of(failed=2)
    text = panel.get("/admin/").text
    assert "The latest charging run could not charge 2 users." in text
    assert f'href="{RUNS}{run.pk}/change/"' in text
    run_of(NOON - timedelta(hours=1))  # this run could charge them
    assert "could not charge" not in panel.get("/admin/").text


def test_the_start_page_is_calm_when_nothing_is_wrong(panel: Client, noon: datetime) -> None:
    run_of(charged=7, total="70.5")
    text = panel.get("/admin/").text
    assert "panel-notice" not in text
    assert "7 charges, 2026-11-22 UTC" in text
    assert "70.50" in text


def test_the_start_page_adds_up_the_runs_of_the_latest_day(panel: Client, noon: datetime) -> None:
    run_of(DUE - timedelta(days=1), charged=100, total="1000")
    run_of(DUE.replace(hour=0, minute=0), charged=1, total="0.25")
    run_of(charged=7, total="70.5")
    run_of(NOON - timedelta(hours=1))  # by hand, when there was nothing left to charge
    text = panel.get("/admin/").text
    assert "8 charges in 3 runs, 2026-11-22 UTC" in text
    assert "70.75" in text


def test_the_first_steps_are_told_to_who_can_take_them(panel: Client) -> None:
    first_steps = "The first steps of a new installation"
    assert first_steps in panel.get("/admin/").text
    viewer = client_of(operator_with(group="Viewer"))
    assert first_steps not in viewer.get("/admin/").text
    user_with("1")
    assert first_steps not in panel.get("/admin/").text


def test_only_those_who_may_view_runs_are_warned(noon: datetime) -> None:
    run_of(DUE - timedelta(days=1), failed=3)
    text = client_of(operator_with("users.view_user", "billing.view_balance")).get("/admin/").text
    assert "panel-notice" not in text
    assert "charging run" not in text.lower()
    assert "overdue" in client_of(operator_with("billing.view_chargingrun")).get("/admin/").text
