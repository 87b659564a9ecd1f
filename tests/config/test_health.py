"""/healthz and /readyz, as load balancers and supervisors read them."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test import Client, override_settings
from django.utils import timezone

from billing import heartbeat
from billing.models import Heartbeat
from config import health
from tests.factories import PlanFactory, subscribed, user_with
from users import database


@pytest.fixture(autouse=True)
def no_disk_was_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets that another test of this process may have met a full disk."""
    monkeypatch.setattr(database._Process, "full_at", None)


@pytest.fixture
def no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(connection, "cursor", refuse)


def readiness(client: Client) -> tuple[int, dict[str, Any]]:
    answer = client.get("/readyz")
    return answer.status_code, answer.json()


def codes(of: list[dict[str, str]]) -> list[str]:
    return [each["code"] for each in of]


def test_a_process_that_answers_is_alive(db: None, client: Client) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.content) == (200, b"ok\n")


def test_that_a_process_is_alive_does_not_depend_on_the_database(
    client: Client, no_database: None
) -> None:
    """Otherwise a supervisor would restart the panel, which does not bring the database back."""
    assert client.get("/healthz").status_code == 200


@override_settings(SECURE_SSL_REDIRECT=True, ALLOWED_HOSTS=["panel.example.com"])
def test_a_probe_needs_neither_https_nor_the_name_of_the_site(db: None, client: Client) -> None:
    assert client.get("/healthz", headers={"host": "10.0.0.7"}).status_code == 200
    assert client.get("/readyz", headers={"host": "10.0.0.7"}).status_code == 200
    assert client.get("/admin/", headers={"host": "10.0.0.7"}).status_code == 400


def test_a_panel_with_a_worker_is_ready(db: None, client: Client) -> None:
    heartbeat.beat()
    status, report = readiness(client)
    assert status == 200
    assert (report["ready"], report["problems"]) == (True, [])
    assert (report["status"], report["warnings"]) == ("ok", [])
    assert set(report["checks"]) == {"database", "migrations", "worker", "run", "proof"}
    assert all(check["ok"] and check["sentence"] for check in report["checks"].values())
    assert report["checks"]["worker"]["age_seconds"] < 900


def test_a_database_that_does_not_answer_is_503(
    db: None, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OperationalError("connection refused")

    with monkeypatch.context() as broken:
        broken.setattr(connection, "cursor", refuse)
        answer = client.get("/readyz")
    report = answer.json()
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert (report["ready"], report["status"]) == (False, "unavailable")
    assert codes(report["problems"]) == ["database_unavailable"]
    assert codes(report["warnings"]) == ["not_known"] * 4
    assert not report["checks"]["run"]["ok"]


def test_a_silent_worker_is_a_warning_and_takes_no_web_process_away(
    db: None, client: Client
) -> None:
    heartbeat.beat()
    Heartbeat.objects.update(at=timezone.now() - timedelta(minutes=14))
    assert readiness(client)[1]["status"] == "ok"
    Heartbeat.objects.update(at=timezone.now() - timedelta(minutes=17))
    status, report = readiness(client)
    assert (status, report["ready"], report["problems"]) == (200, True, [])
    assert (report["status"], codes(report["warnings"])) == ("degraded", ["worker_silent"])
    assert not report["checks"]["worker"]["ok"]
    assert "for 17 minutes" in report["checks"]["worker"]["sentence"]


def test_a_panel_that_never_had_a_worker_says_so(db: None, client: Client) -> None:
    Heartbeat.objects.all().delete()
    status, report = readiness(client)
    assert (status, codes(report["warnings"])) == (200, ["worker_silent"])
    assert report["checks"]["worker"]["age_seconds"] is None


def test_an_overdue_run_is_a_warning(db: None, client: Client) -> None:
    heartbeat.beat()
    subscribed(user_with(1000), PlanFactory(), day=timezone.now().date() - timedelta(days=5))
    status, report = readiness(client)
    assert (status, report["ready"], report["status"]) == (200, True, "degraded")
    assert codes(report["warnings"]) == ["run_overdue"]
    assert "has not started" in report["checks"]["run"]["sentence"]


def test_missing_migrations_are_503_and_named(
    db: None, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = health._own_migrations() | {("billing", "9999_to_come")}
    monkeypatch.setattr(health, "_own_migrations", lambda: expected)
    status, report = readiness(client)
    assert (status, report["ready"]) == (503, False)
    assert codes(report["problems"]) == ["migrations_missing"]
    assert "billing.9999_to_come" in report["problems"][0]["sentence"]
