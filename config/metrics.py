"""`GET /metrics`, for Prometheus: counts kept by processes, and figures from the database.

docs/metrics.md lists all metrics. Counts come from `billing/counters.py`. Everything else is read
from the database at each scrape, so it includes workers on other machines. The queries are grouped
into questions, each cheap on large tables. The database cancels a query after QUESTION_SECONDS;
figures of a question that failed are left out, and `billing_question_failed` names it.

Like health checks, scrapes are answered before any other middleware, on threads of their own
(config/serving.py).
"""

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.core.cache import cache
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models import Sum
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils import timezone
from procrastinate.contrib.django import app
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder

from billing import counters, heartbeat, reports, tasks, webhooks
from billing.models import ChargingBatch, ChargingRun
from billing.plans import charging
from users.database import in_one_line

log = logging.getLogger(__name__)

Handler = Callable[[HttpRequest], HttpResponseBase]

# --- Counting requests --------------------------------------------------------------------------

NO_ROUTE: Final = "(none)"
METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


def count_requests(get_response: Handler) -> Handler:
    def handle(request: HttpRequest) -> HttpResponseBase:
        started = time.monotonic()
        response = get_response(request)
        seconds = time.monotonic() - started
        method = f"{request.method}" if request.method in METHODS else "other"
        counters.request_answered(route_of(request), method, response.status_code, seconds)
        return response

    return handle


def route_of(request: HttpRequest) -> str:
    """Returns the address pattern that the panel declares for the request.

    It never contains text of the request, so there are no more routes than pages and calls.
    """
    match = request.resolver_match
    if match is None:
        # Answered before the address was resolved, or the address does not exist.
        return "/static/(file)" if request.path_info.startswith("/static/") else NO_ROUTE
    if match.url_name == "panel_api":
        return f"/v2/panel/{_panel_call(str(match.kwargs.get('path', '')))}"
    declared = match.route.lstrip("^")
    # A pattern that takes any address is there for addresses that no other pattern takes.
    declared = re.sub(r"\(\?P?.*", "(other)", declared)
    return "/api/(other)" if declared == "api/" else f"/{declared}"


def _panel_call(path: str) -> str:
    from billing.api.panel.dispatch import ACTIONS, OPEN

    *words, action = [word for word in path.split("/") if word] or [""]
    name = ("/".join(words), action)
    return "/".join(name) if name in OPEN or name in ACTIONS else "(other)"


# --- Figures from the database ------------------------------------------------------------------

QUESTION_SECONDS: Final = 1
# After this time no more questions are asked. Prometheus waits ten seconds by default.
ALL_QUESTIONS_SECONDS: Final = 5.0
COUNTED_AT_MOST: Final = 100_000
BACKLOG_CACHE_SECONDS: Final = 60
WORKER_IS_THERE_SECONDS: Final = 30
LAST_DAYS: Final = "the last 7 days"


class Family(NamedTuple):
    """A metric that is read from the database. Prometheus sees counters with a final `_total`."""

    kind: str
    help: str
    labels: tuple[str, ...] = ()


FAMILIES: Final[Mapping[str, Family]] = {
    "billing_database_up": Family("gauge", "1 if the database answered this scrape, else 0."),
    "billing_question_failed": Family(
        "gauge",
        "1 if some figures could not be read from the database in time, else 0. These "
        "figures are missing then.",
        ("question",),
    ),
    "billing_database_lock_waits": Family(
        "gauge", "Database sessions that are waiting for a lock."
    ),
    "billing_database_lock_wait_max_seconds": Family(
        "gauge", "The longest time that a session has been waiting for a lock; 0 if none waits."
    ),
    "billing_charging_due_subscriptions": Family(
        "gauge",
        "The backlog: subscriptions that a charging run has to look at now. Counted up to "
        f"{COUNTED_AT_MOST}, at most once a minute by each process.",
    ),
    "billing_charging_open_batches": Family(
        "gauge", "Unfinished parts of charging runs that have started."
    ),
    "billing_charging_overdue_seconds": Family(
        "gauge",
        "Seconds by which the latest daily charging run is overdue; 0 if it is not.",
    ),
    "billing_charging_last_run_start_timestamp_seconds": Family(
        "gauge", "The start of the last finished charging run, in seconds since 1970."
    ),
    "billing_charging_last_run_duration_seconds": Family(
        "gauge", "The duration of the last finished charging run."
    ),
    "billing_charging_last_run_results": Family(
        "gauge",
        "Outcomes of the last finished charging run: charges posted; subscriptions "
        "suspended, resumed, or skipped because they still cannot be paid; users who "
        "could not be charged.",
        ("result",),
    ),
    "billing_charging_charges": Family("counter", "Charges posted by all charging runs."),
    "billing_charging_failures": Family(
        "counter", "Users who could not be charged, in all charging runs."
    ),
    "billing_proof_last_end_timestamp_seconds": Family(
        "gauge",
        "The end of the last proof of the ledger, in seconds since 1970. "
        "Missing if there was none.",
    ),
    "billing_proof_last_full_end_timestamp_seconds": Family(
        "gauge",
        "The end of the last proof of all rows, in seconds since 1970. Missing if there was none.",
    ),
    "billing_proof_last_duration_seconds": Family(
        "gauge", "The duration of the last proof of the ledger."
    ),
    "billing_proof_last_transactions": Family(
        "gauge", "Transactions that the last proof of the ledger checked."
    ),
    "billing_proof_clean": Family(
        "gauge", "1 if the last proof of the ledger, and the last of all rows, found no problem."
    ),
    "billing_webhook_waiting_deliveries": Family(
        "gauge",
        "Webhooks to active endpoints that are not yet delivered. Counted up to "
        f"{COUNTED_AT_MOST}.",
    ),
    "billing_webhook_oldest_waiting_seconds": Family(
        "gauge", "The age of the oldest event that is not yet delivered; 0 if there is none."
    ),
    "billing_webhook_failing_endpoints": Family(
        "gauge", "Active endpoints to which nothing could be delivered for five minutes."
    ),
    "billing_webhook_given_up_deliveries": Family(
        "gauge",
        f"Webhooks that were given up in {LAST_DAYS}. Counted up to {COUNTED_AT_MOST}.",
    ),
    "billing_jobs": Family(
        "gauge",
        f"Background jobs: todo, doing, or failed for good. Counted up to {COUNTED_AT_MOST}.",
        ("queue", "status"),
    ),
    "billing_job_oldest_waiting_seconds": Family(
        "gauge", "The waiting time of the oldest background job that could run; 0 if there is none."
    ),
    "billing_workers": Family(
        "gauge",
        f"Workers seen in the last {WORKER_IS_THERE_SECONDS} seconds. "
        "A worker started by cron is counted while it works.",
    ),
    "billing_worker_heartbeat_age_seconds": Family(
        "gauge", "The time since a worker last did a job. Missing if none ever has."
    ),
}

Sample = tuple[str, float, tuple[str, ...]]  # the name, the value, and the labels' values


def _locks() -> Iterator[Sample]:
    # pg_locks lists all sessions of the server; some locks have no database of their own there.
    [(waits, longest)] = _rows(
        "SELECT count(*), max(EXTRACT(epoch FROM clock_timestamp() - l.waitstart)) "
        "FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
        "WHERE NOT l.granted AND a.datname = current_database()"
    )
    yield "billing_database_lock_waits", waits, ()
    yield "billing_database_lock_wait_max_seconds", max(longest or 0, 0), ()


def _backlog() -> Iterator[Sample]:
    """Counts due subscriptions. It reads all of them: no index helps, see the model."""
    due = cache.get_or_set(
        "metrics-due",
        lambda: charging.count_due(timezone.now(), at_most=COUNTED_AT_MOST),
        BACKLOG_CACHE_SECONDS,
    )
    yield "billing_charging_due_subscriptions", float(due or 0), ()


def _charging() -> Iterator[Sample]:
    now = timezone.now()
    open_batches = ChargingBatch.objects.filter(finished_at=None, run__finished_at=None).count()
    yield "billing_charging_open_batches", open_batches, ()
    late = reports.overdue(now)
    seconds = (now - late.since - reports.RUN_MAY_TAKE).total_seconds() if late else 0
    yield "billing_charging_overdue_seconds", max(seconds, 0), ()


def _runs() -> Iterator[Sample]:
    finished = ChargingRun.objects.filter(finished_at__isnull=False).order_by("-id").first()
    if finished is not None and finished.finished_at is not None:
        started = finished.started_at
        yield "billing_charging_last_run_start_timestamp_seconds", started.timestamp(), ()
        took = (finished.finished_at - started).total_seconds()
        yield "billing_charging_last_run_duration_seconds", took, ()
        for result in RESULTS:
            yield "billing_charging_last_run_results", getattr(finished, result), (result,)
    sums = ChargingRun.objects.aggregate(charged=Sum("charged"), failed=Sum("failed"))
    yield "billing_charging_charges", sums["charged"] or 0, ()
    yield "billing_charging_failures", sums["failed"] or 0, ()


RESULTS: Final = ("charged", "suspended", "resumed", "skipped", "failed")


def _proofs() -> Iterator[Sample]:
    state = reports.proof_state(timezone.now())
    if state.latest_full is not None:
        ended = state.latest_full.finished_at.timestamp()
        yield "billing_proof_last_full_end_timestamp_seconds", ended, ()
    if (last := state.latest) is not None:
        yield "billing_proof_last_end_timestamp_seconds", last.finished_at.timestamp(), ()
        took = (last.finished_at - last.started_at).total_seconds()
        yield "billing_proof_last_duration_seconds", took, ()
        yield "billing_proof_last_transactions", last.transactions, ()
        yield "billing_proof_clean", int(state.failed is None), ()


def _webhooks() -> Iterator[Sample]:
    now = timezone.now()
    oldest = webhooks.oldest_waiting()
    age = (now - oldest).total_seconds() if oldest else 0
    yield "billing_webhook_oldest_waiting_seconds", max(age, 0), ()
    waiting = webhooks.waiting()[:COUNTED_AT_MOST].count()
    yield "billing_webhook_waiting_deliveries", waiting, ()
    yield "billing_webhook_failing_endpoints", webhooks.failing(now).count(), ()
    given_up = webhooks.given_up_lately(now)[:COUNTED_AT_MOST].count()
    yield "billing_webhook_given_up_deliveries", given_up, ()


STATUSES: Final = ("todo", "doing", "failed")


def _jobs() -> Iterator[Sample]:
    counted = {
        (queue, status): number
        for queue, status, number in _rows(
            "SELECT queue_name, status::text, count(*) FROM ("
            "  SELECT queue_name, status FROM procrastinate_jobs"
            "  WHERE status IN ('todo', 'doing', 'failed') LIMIT %s"
            ") jobs GROUP BY 1, 2",
            COUNTED_AT_MOST,
        )
    }
    for queue in QUEUES:
        for status in STATUSES:
            yield "billing_jobs", counted.get((queue, status), 0), (queue, status)
    # A job without a time waits since its last event. One with a time, like one that is to be tried
    # again, waits since that time.
    waiting = _rows(
        "SELECT EXTRACT(epoch FROM clock_timestamp() - coalesce(j.scheduled_at, ("
        "  SELECT max(e.at) FROM procrastinate_events e WHERE e.job_id = j.id"
        "))) FROM procrastinate_jobs j "
        "WHERE j.status = 'todo' AND (j.scheduled_at IS NULL OR j.scheduled_at <= now()) "
        "ORDER BY j.id LIMIT 1"
    )
    oldest = waiting[0][0] if waiting else 0
    yield "billing_job_oldest_waiting_seconds", max(oldest or 0, 0), ()


QUEUES: Final = sorted(
    {task.queue for task in app.tasks.values() if task.name.startswith(tasks.__name__)}
)


def _workers() -> Iterator[Sample]:
    [(there,)] = _rows(
        "SELECT count(*) FROM procrastinate_workers "
        "WHERE last_heartbeat > clock_timestamp() - %s * interval '1 second'",
        WORKER_IS_THERE_SECONDS,
    )
    yield "billing_workers", there, ()
    age = heartbeat.age()
    if age is not None:
        yield "billing_worker_heartbeat_age_seconds", max(age.total_seconds(), 0), ()


QUESTIONS: Final[Mapping[str, Callable[[], Iterable[Sample]]]] = {
    "workers": _workers,
    "locks": _locks,
    "jobs": _jobs,
    "charging": _charging,
    "runs": _runs,
    "proofs": _proofs,
    "webhooks": _webhooks,
    "backlog": _backlog,
}


def _rows(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())


def ask_database() -> Iterator[Metric]:
    samples: list[Sample] = []
    failed: dict[str, bool] = {}
    is_up = True
    give_up_at = time.monotonic() + ALL_QUESTIONS_SECONDS
    for name, question in QUESTIONS.items():
        failed[name] = True
        if not is_up or time.monotonic() > give_up_at:
            continue
        try:
            with transaction.atomic():
                limit_questions()
                samples += list(question())
            failed[name] = False
        except (DatabaseError, InterfaceError) as problem:
            log.warning("Metrics lack %s: %s", name, in_one_line(problem))
            is_up = connection.connection is not None and connection.is_usable()
    samples.append(("billing_database_up", int(is_up), ()))
    samples += [("billing_question_failed", int(failed[name]), (name,)) for name in QUESTIONS]
    for name, family in FAMILIES.items():
        metric = Metric(name, family.help, family.kind)
        for named, value, labels in samples:
            if named == name:
                full_name = f"{name}_total" if family.kind == "counter" else name
                metric.add_sample(
                    full_name, dict(zip(family.labels, labels, strict=True)), float(value)
                )
        yield metric


def limit_questions() -> None:
    """Limits the time of each statement until the database transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = {QUESTION_SECONDS * 1000:d}")


# --- Answering ----------------------------------------------------------------------------------


class _Everything:
    def collect(self) -> Iterator[Metric]:
        yield from counters.collect()
        yield from ask_database()


def answer(request: HttpRequest) -> HttpResponse:
    refusal = _refusal(request)
    if refusal is not None:
        return refusal
    registry = CollectorRegistry()
    registry.register(_Everything())
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(
        encode(registry), content_type=content_type, headers={"Cache-Control": "no-store"}
    )


def _refusal(request: HttpRequest) -> HttpResponse | None:
    if request.method not in ("GET", "HEAD"):
        return _plain_text("Metrics are read with GET.", 405, Allow="GET, HEAD")
    given = request.headers.get("Authorization")
    if given is not None and settings.METRICS_TOKEN:
        wanted = f"Bearer {settings.METRICS_TOKEN}"
        if secrets.compare_digest(given.encode(), wanted.encode()):
            return None
        return _plain_text(
            "This is not the token of METRICS_TOKEN.", 401, **{"WWW-Authenticate": "Bearer"}
        )
    if comes_from_near(request):
        return None
    return _plain_text(
        "Metrics can be read from the networks in METRICS_NETWORKS, or with the token in "
        "METRICS_TOKEN.",
        403,
    )


def _plain_text(sentence: str, status: int, **headers: str) -> HttpResponse:
    return HttpResponse(
        f"{sentence}\n",
        status=status,
        content_type="text/plain; charset=utf-8",
        headers={"Cache-Control": "no-store"} | headers,
    )


def comes_from_near(request: HttpRequest) -> bool:
    """True if the client and all proxies are in METRICS_NETWORKS.

    Every address in X-Forwarded-For counts, so a caller gains nothing by adding some. A request
    from a proxy that names no client may come from anywhere, and is refused.
    """
    forwarded = request.headers.get("X-Forwarded-For", "")
    is_by_proxy = any(name in request.headers for name in BY_PROXY)
    if is_by_proxy and not forwarded.strip():
        return False
    addresses = [each.strip() for each in forwarded.split(",") if each.strip()]
    return all(_is_near(address) for address in (*addresses, request.META.get("REMOTE_ADDR", "")))


BY_PROXY: Final = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", "Via")


def _is_near(address: str) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:  # a Unix socket has no address
        return False
    mapped = getattr(parsed, "ipv4_mapped", None) or parsed
    return any(mapped in network for network in settings.METRICS_NETWORKS)
