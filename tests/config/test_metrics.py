"""/metrics: the counts, the figures from the database, who may read them, and their document."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.db import OperationalError, connection, transaction
from django.test import Client, RequestFactory, override_settings
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from billing import counters, heartbeat, ledger, operations, webhooks
from billing.errors import BillingError
from billing.models import (
    Channel,
    ChargingRun,
    EventType,
    Heartbeat,
    TransactionType,
    WebhookEndpoint,
)
from billing.plans import services, subscriptions
from config import metrics
from tests.billing.histories import execute
from tests.config.processes import ROOT
from tests.config.web import another_connection
from tests.every_page import Things, pages
from tests.factories import PlanFactory, ServiceFactory, plan_with, subscribed, user_with
from users.models import User

BY = {"actor": None, "channel": Channel.API}
DESCRIPTION = "Paid at the desk"

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


def figures(text: str) -> Figures:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(client: Client) -> Figures:
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.content
    return figures(answer.content.decode())


def value(of: Figures, name: str, **labels: str) -> float:
    return of.get((name, frozenset(labels.items())), 0)


class Counted:
    """The difference of counts between its creation and now."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.before = scraped(client)

    def __call__(self, name: str, **labels: str) -> float:
        return value(scraped(self.client), name, **labels) - value(self.before, name, **labels)

    def all_of(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        changed = {
            labels: number - self.before.get((named, labels), 0)
            for (named, labels), number in scraped(self.client).items()
            if named == name
        }
        return {labels: number for labels, number in changed.items() if number}


@pytest.fixture(autouse=True)
def nothing_cached() -> None:
    cache.clear()


@pytest.fixture
def counted(db: None, client: Client) -> Counted:
    return Counted(client)


def refill(user: User, amount: Any = 10, **options: Any) -> Any:
    return ledger.change_balance(user, amount=amount, description=DESCRIPTION, **BY, **options)


# --- Postings and refusals ----------------------------------------------------------------------


def test_postings_are_counted_by_type_and_channel_once_they_are_committed(
    client: Client, committed_db: None
) -> None:
    user = user_with()
    counted = Counted(client)
    for _ in range(3):
        refill(user)
    ledger.give_bonus(user, amount=5, description=DESCRIPTION, actor=None, channel=Channel.PANEL)
    with transaction.atomic():
        refill(user)
        assert counted("billing_postings_total", type="payment", channel="api") == 3
    assert counted("billing_postings_total", type="payment", channel="api") == 4
    assert counted("billing_postings_total", type="bonus_charge", channel="panel") == 1


def test_what_is_rolled_back_or_rehearsed_is_not_counted(
    client: Client, committed_db: None
) -> None:
    user = user_with(10)
    counted = Counted(client)
    with transaction.atomic():
        refill(user)
        transaction.set_rollback(True)
    with ledger.dry_run():
        refill(user)
        with pytest.raises(BillingError):
            refill(user, -1000)
        ledger.post_batch(
            [ledger.balance_change_entry(user, amount=-1000, description=DESCRIPTION)],
            skip_refused=True,
            **BY,
        )
    assert counted.all_of("billing_postings_total") == {}
    assert counted.all_of("billing_refusals_total") == {}


def test_a_change_is_counted_as_refused_once_and_not_if_it_is_a_preview(counted: Counted) -> None:
    user = user_with()
    for user_id, code in ((user.pk, "insufficient_funds"), (2**40, "unknown_user")):
        for dry_run in (True, False):
            with pytest.raises(BillingError):
                operations.money.change_balance(
                    user_id, amount=-5, description=DESCRIPTION, dry_run=dry_run, **BY
                )
        assert counted("billing_refusals_total", code=code, channel="api") == 1


def test_a_repeated_key_is_counted_apart(client: Client, committed_db: None) -> None:
    user = user_with()
    counted = Counted(client)
    for _ in range(3):
        refill(user, idempotency_key="transfer-1")
    assert counted("billing_postings_total", type="payment", channel="api") == 1
    assert counted("billing_replays_total", channel="api") == 2


def test_a_batch_is_counted_by_what_became_of_its_entries(
    client: Client, committed_db: None
) -> None:
    user = user_with()
    refill(user, idempotency_key="known")
    counted = Counted(client)
    entries = [
        ledger.balance_change_entry(user, amount=amount, description=DESCRIPTION, **options)
        for amount, options in (
            *((5, {}), (-1000, {}), ("no", {})),
            (10, {"idempotency_key": "known"}),
        )
    ]
    ledger.post_batch(entries, skip_refused=True, **BY)
    assert counted.all_of("billing_postings_total") == {
        frozenset({("type", "payment"), ("channel", "api")}): 1
    }
    assert counted("billing_refusals_total", code="insufficient_funds", channel="api") == 1
    assert counted("billing_refusals_total", code="invalid_amount", channel="api") == 1
    assert counted("billing_replays_total", channel="api") == 1
    ledger.post_for_numbers(entries[:1] + entries[3:], **BY)
    assert counted("billing_postings_total", type="payment", channel="api") == 2
    assert counted("billing_replays_total", channel="api") == 2


def test_refusals_are_counted_once_by_code_and_channel(counted: Counted) -> None:
    user = user_with(1)
    plan = PlanFactory(price=100)
    with pytest.raises(BillingError):
        refill(user, -5)
    with pytest.raises(BillingError):
        services.charge_service(user, service="nothing", quantity=1, **BY)
    with pytest.raises(BillingError):  # an operation within another
        subscriptions.start(user, plan, day=timezone.now().date(), **BY)
    assert counted.all_of("billing_refusals_total") == {
        frozenset({("code", "insufficient_funds"), ("channel", "api")}): 2,
        frozenset({("code", "unknown_service"), ("channel", "api")}): 1,
    }


def test_what_is_free_of_charge_is_no_refusal(counted: Counted) -> None:
    service = ServiceFactory(code="sms")
    user = user_with(1000)
    subscribed(user, plan_with({service: "0"}))
    before = counted.all_of("billing_refusals_total")
    with pytest.raises(BillingError):
        services.charge_service(user, service="sms", quantity=1, **BY)
    assert counted.all_of("billing_refusals_total") == before


# --- Requests -----------------------------------------------------------------------------------


def test_requests_are_counted_by_route_method_and_status(counted: Counted, client: Client) -> None:
    client.get("/api/v1/users/17/balance")
    client.get("/api/v1/users/18/balance?search=ada")
    route = "/api/v1/users/{int:user_id}/balance"
    labels = {"method": "GET"}
    [(found, number)] = counted.all_of("billing_http_requests_total").items()
    assert number == 2
    route = dict(found)["route"]
    assert "17" not in route
    assert dict(found) == {"route": route, "method": "GET", "status": "401"}
    assert counted("billing_http_request_duration_seconds_count", route=route, **labels) == 2
    assert counted("billing_http_request_duration_seconds_bucket", route=route, le="+Inf", **labels)
    assert counted("billing_api_problems_total", face="rest", code="unauthenticated") == 2


def test_calls_of_the_panel_api_are_told_apart(counted: Counted, client: Client) -> None:
    client.post("/v2/panel/account/auth", {"login": "x@example.com", "password": "x"})
    client.get("/v2/panel/user/list")
    client.get("/v2/panel/user/list/of/anything")
    routes = {dict(labels)["route"] for labels in counted.all_of("billing_http_requests_total")}
    assert routes == {"/v2/panel/account/auth", "/v2/panel/user/list", "/v2/panel/(other)"}


def test_probes_and_scrapes_are_not_counted(counted: Counted, client: Client) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        client.get(path)
    assert counted.all_of("billing_http_requests_total") == {}


def test_an_outage_is_counted(
    counted: Counted, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr("billing.authority.admit", refuse)
    assert client.get("/api/v1/users", headers={"Authorization": "Bearer x"}).status_code == 503
    assert counted("billing_outages_total", code="database_unavailable") == 1


def test_labels_have_few_values_whatever_is_asked_for(
    db: None, client: Client, admin_user_of_metrics: User
) -> None:
    """Opens every page, then twice with other ids, and addresses that do not exist."""
    things = Things(admin_user_of_metrics)
    client.force_login(admin_user_of_metrics)
    every = pages(things)
    for page in every:
        client.get(page.path)
    once = series(client)
    for number in (1, 2):
        for page in every:
            client.get(re.sub(r"\d+", lambda m, n=number: str(int(m[0]) + n * 1000), page.path))
        client.get(f"/nobody/serves/{number}")
        client.get(f"/static/no-{number}.css")
        client.get(f"/admin/no/{number}")
        client.get(f"/api/no/{number}")
        client.get(f"/api/v1/users/{number}/no")
        client.get(f"/v2/panel/no/{number}")
        client.generic(f"METHOD{number}", "/admin/login/")
        client.get(f"/admin/?token={number}", headers={"X-Request-Id": f"caller-{number}"})
        if number == 1:
            twice = series(client)
    assert series(client) == twice
    routes = {dict(labels).get("route", "") for _, labels in twice}
    assert not [route for route in routes if re.search(r"/\d+(/|$)|\(\?P", route)]
    assert "/admin/users/user/<path:object_id>/change/" in routes
    assert {name for name, _ in once} <= {name for name, _ in twice}


@pytest.fixture
def admin_user_of_metrics(db: None) -> User:
    return User.objects.create_superuser("metrics@example.com", "x")


def series(client: Client) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    return {(name, labels) for name, labels in scraped(client) if name.startswith("billing_")}


def test_no_label_is_named_after_something_without_end() -> None:
    labels = {label for metric in counters.ALL for label in metric._labelnames}
    labels |= {label for family in metrics.FAMILIES.values() for label in family.labels}
    assert labels == {
        *("route", "method", "status", "face", "code", "type", "channel", "outcome"),
        *("question", "result", "queue"),
    }


# --- Figures from the database ------------------------------------------------------------------


def test_an_installation_that_has_done_nothing_has_zeros(db: None, client: Client) -> None:
    Heartbeat.objects.all().delete()
    found = scraped(client)
    assert value(found, "billing_database_up") == 1
    for question in metrics.QUESTIONS:
        assert found["billing_question_failed", frozenset({("question", question)})] == 0
    for name in (
        "billing_database_lock_waits",
        "billing_charging_due_subscriptions",
        "billing_charging_overdue_seconds",
        "billing_charging_charges_total",
        "billing_webhook_oldest_waiting_seconds",
        "billing_job_oldest_waiting_seconds",
    ):
        assert found[name, frozenset()] == 0, name
    assert ("billing_worker_heartbeat_age_seconds", frozenset()) not in found


def test_the_last_run_and_the_backlog_are_told(db: None, client: Client) -> None:
    now = timezone.now()
    subscribed(user_with(1000), PlanFactory(price=1), day=now.date() - timedelta(days=400))
    run = ChargingRun.objects.create(
        at=now, started_by="schedule", charged=7, failed=2, suspended=1, due=10
    )
    ChargingRun.objects.filter(pk=run.pk).update(
        started_at=now - timedelta(seconds=90), finished_at=now
    )
    ChargingRun.objects.create(at=now, started_by="command", charged=3)  # not finished
    found = scraped(client)
    assert value(found, "billing_charging_due_subscriptions") == 1
    assert value(found, "billing_charging_last_run_duration_seconds") == 90
    assert value(found, "billing_charging_last_run_start_timestamp_seconds") == pytest.approx(
        (now - timedelta(seconds=90)).timestamp()
    )
    assert value(found, "billing_charging_last_run_results", result="charged") == 7
    assert value(found, "billing_charging_last_run_results", result="failed") == 2
    assert value(found, "billing_charging_charges_total") == 10
    assert value(found, "billing_charging_failures_total") == 2


def test_a_run_that_is_overdue_is_told(db: None, client: Client) -> None:
    subscribed(user_with(1000), PlanFactory(), day=timezone.now().date() - timedelta(days=5))
    assert value(scraped(client), "billing_charging_overdue_seconds") > 0


def test_the_oldest_webhook_that_waits_is_told(db: None, client: Client) -> None:
    endpoint = WebhookEndpoint.objects.create(
        name="CRM",
        url="https://crm.example/",
        secret=webhooks.new_secret(),
        events=EventType.values,
    )
    user = user_with(5)
    refill(user)
    execute("UPDATE billing_webhookevent SET created_at = now() - interval '1 hour' WHERE number=1")
    found = scraped(client)
    assert value(found, "billing_webhook_waiting_deliveries") == 2
    assert 3600 <= value(found, "billing_webhook_oldest_waiting_seconds") < 7200
    WebhookEndpoint.objects.filter(pk=endpoint.pk).update(is_active=False)
    found = scraped(client)
    assert value(found, "billing_webhook_waiting_deliveries") == 0
    assert value(found, "billing_webhook_oldest_waiting_seconds") == 0


def test_jobs_are_told_by_queue_and_status(db: None, client: Client) -> None:
    execute(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, status, scheduled_at) VALUES "
        "('refills', 'x', 'todo', now() - interval '5 minutes'), "
        "('refills', 'x', 'todo', now() + interval '1 hour'), ('charging', 'x', 'failed', NULL)"
    )
    found = scraped(client)
    assert value(found, "billing_jobs", queue="refills", status="todo") == 2
    assert value(found, "billing_jobs", queue="charging", status="failed") == 1
    assert found["billing_jobs", frozenset({("queue", "webhooks"), ("status", "todo")})] == 0
    assert 300 <= value(found, "billing_job_oldest_waiting_seconds") < 3600


def test_whoever_waits_for_a_lock_is_told(client: Client, committed_db: None) -> None:
    user = user_with(5)
    with another_connection() as holder, another_connection() as waiting:
        for each in (holder, waiting):
            each.execute("SET lock_timeout = '60s'")
        holder.execute("SELECT FROM billing_balance WHERE user_id = %s FOR UPDATE", [user.pk])
        pid = waiting.info.backend_pid
        waiting.pgconn.send_query(
            f"SELECT FROM billing_balance WHERE user_id = {user.pk} FOR UPDATE".encode()
        )
        while not execute("SELECT 1 FROM pg_locks WHERE NOT granted AND pid = %s", [pid]):
            pass
        found = scraped(client)
        holder.rollback()
        waiting.pgconn.get_result()
        waiting.pgconn.get_result()
    assert value(found, "billing_database_lock_waits") == 1
    assert value(found, "billing_database_lock_wait_max_seconds") > 0


def test_the_heartbeat_is_told_with_its_age(db: None, client: Client) -> None:
    heartbeat.beat()
    heartbeat.beat()
    Heartbeat.objects.update(at=timezone.now() - timedelta(minutes=3))
    assert 180 <= value(scraped(client), "billing_worker_heartbeat_age_seconds") < 1000
    heartbeat.beat()
    assert value(scraped(client), "billing_worker_heartbeat_age_seconds") < 180


def test_what_takes_too_long_is_left_out_and_named(
    db: None, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow() -> Iterator[metrics.Sample]:
        execute("SELECT pg_sleep(30)")
        yield "billing_workers", 1, ()

    monkeypatch.setitem(metrics.QUESTIONS, "workers", slow)  # type: ignore[arg-type]
    found = scraped(client)
    assert value(found, "billing_question_failed", question="workers") == 1
    assert value(found, "billing_question_failed", question="jobs") == 0
    assert ("billing_workers", frozenset()) not in found
    assert value(found, "billing_database_up") == 1
    assert found["billing_jobs", frozenset({("queue", "webhooks"), ("status", "todo")})] == 0


def test_without_the_database_counts_are_told_all_the_same(
    db: None, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OperationalError("connection refused")

    client.get("/nobody/serves/this")
    with monkeypatch.context() as broken:
        broken.setattr(connection, "cursor", refuse)
        broken.setattr(connection, "is_usable", lambda: False)
        found = scraped(client)
    assert value(found, "billing_database_up") == 0
    assert value(found, "billing_question_failed", question="runs") == 1
    assert value(found, "billing_http_requests_total", route="(none)", method="GET", status="404")


# --- Who may read it ----------------------------------------------------------------------------


def asked(**meta: str) -> int:
    return metrics.answer(RequestFactory().get("/metrics", **meta)).status_code  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("meta", "status"),
    [
        ({}, 200),
        ({"REMOTE_ADDR": "::1"}, 200),
        ({"REMOTE_ADDR": "::ffff:127.0.0.1"}, 200),
        ({"REMOTE_ADDR": "203.0.113.5"}, 403),
        ({"REMOTE_ADDR": ""}, 403),
        ({"HTTP_X_FORWARDED_FOR": "203.0.113.5"}, 403),
        ({"HTTP_X_FORWARDED_FOR": "127.0.0.1, 203.0.113.5"}, 403),
        ({"HTTP_X_FORWARDED_FOR": "203.0.113.5, 127.0.0.1"}, 403),
        ({"HTTP_X_FORWARDED_FOR": "127.0.0.1", "REMOTE_ADDR": "203.0.113.5"}, 403),
        ({"HTTP_X_FORWARDED_FOR": "127.0.0.1"}, 200),
        ({"HTTP_X_FORWARDED_PROTO": "https"}, 403),
        ({"HTTP_X_FORWARDED_PROTO": "https", "HTTP_X_FORWARDED_FOR": "127.0.0.1"}, 200),
        ({"HTTP_AUTHORIZATION": "Bearer "}, 200),
        ({"HTTP_AUTHORIZATION": "Bearer ", "REMOTE_ADDR": "203.0.113.5"}, 403),
    ],
)
def test_without_a_token_only_the_machine_itself_may_read(
    db: None, meta: dict[str, str], status: int
) -> None:
    assert asked(**meta) == status


@override_settings(METRICS_TOKEN="a-long-random-text")
def test_with_the_token_anybody_may_read(db: None) -> None:
    far = {"REMOTE_ADDR": "203.0.113.5"}
    assert asked(**far) == 403
    assert asked(HTTP_AUTHORIZATION="Bearer a-long-random-text", **far) == 200
    assert asked(HTTP_AUTHORIZATION="Bearer another", **far) == 401
    assert asked(HTTP_AUTHORIZATION="Bearer another") == 401
    assert asked() == 200


@override_settings(SECURE_SSL_REDIRECT=True, ALLOWED_HOSTS=["panel.example.com"])
def test_a_scrape_needs_neither_https_nor_the_name_of_the_site_and_makes_no_session(
    db: None, client: Client
) -> None:
    answer = client.get("/metrics", headers={"host": "10.0.0.7"})
    assert answer.status_code == 200
    assert not answer.cookies
    assert answer["Cache-Control"] == "no-store"


def test_it_answers_in_the_format_that_is_asked_for(db: None, client: Client) -> None:
    plain = client.get("/metrics")
    assert plain["Content-Type"].startswith("text/plain; version=0.0.4")
    wanted = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    open_metrics = client.get("/metrics", headers={"Accept": wanted})
    assert open_metrics["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert open_metrics.content.endswith(b"# EOF\n")


def test_it_is_read_only(db: None, client: Client) -> None:
    assert client.head("/metrics").status_code == 200
    refusal = client.post("/metrics")
    assert (refusal.status_code, refusal["Allow"]) == (405, "GET, HEAD")


# --- The document -------------------------------------------------------------------------------


def described() -> dict[str, tuple[str, str, str]]:
    own = {
        f"{metric._name}_total" if metric._type == "counter" else metric._name: (
            metric._type,
            ", ".join(metric._labelnames),
            metric._documentation,
        )
        for metric in counters.ALL
    }
    asked = {
        f"{name}_total" if family.kind == "counter" else name: (
            family.kind,
            ", ".join(family.labels),
            family.help,
        )
        for name, family in metrics.FAMILIES.items()
    }
    return own | asked


def test_every_metric_is_in_the_document_and_the_other_way_round() -> None:
    document = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(billing_\w+)` \| (\w+) \|(.*?)\| (.+?) \|$", document, re.MULTILINE)
    listed = {
        name: (kind, labels.replace("`", "").strip(), text) for name, kind, labels, text in rows
    }
    assert listed == described()


def test_names_follow_the_conventions_of_prometheus() -> None:
    for name, (kind, _, text) in described().items():
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(ms|millis|minutes|hours|days|count|sum|bucket)$", name), name
        assert text.endswith("."), name


def test_the_rules_of_the_document_name_metrics_that_exist() -> None:
    document = (ROOT / "docs" / "metrics.md").read_text()
    names = set(re.findall(r"\bbilling_[a-z_]+", document))
    known = set(described())
    known |= {
        f"billing_http_request_duration_seconds_{part}" for part in ("bucket", "count", "sum")
    }
    assert names <= known, names - known


def test_types_and_channels_are_those_of_the_ledger() -> None:
    document = (ROOT / "docs" / "metrics.md").read_text()
    for code in (*TransactionType.values, *Channel.values):
        assert f"`{code}`" in document
