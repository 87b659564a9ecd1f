"""Health checks, for load balancers, supervisors and people.

`GET /healthz` says that the process is alive. It does not ask the database: restarting the panel
does not bring a database back. `GET /readyz` says in JSON whether the panel can serve, and what
else is wrong with it. Under gunicorn both have threads of their own (config/serving.py).

A problem of the workers is a warning, not a 503: with a 503, a load balancer would take away all
web processes at once, although they can serve.
"""

import logging
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils import timezone

from billing import heartbeat, reports
from config import metrics
from users.database import (
    FULL,
    READ_ONLY,
    UNAVAILABLE,
    Outage,
    in_one_line,
    outage_of,
    was_full_lately,
)

log = logging.getLogger(__name__)

_IS_READ_ONLY: Final = (
    "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean"
)
_WRITE: Final = "INSERT INTO billing_apiallowance (bearer, spent_until) VALUES (%s, now())"
RETRY_AFTER_SECONDS: Final = 30  # for problems that are no outage of the database

Handler = Callable[[HttpRequest], HttpResponseBase]


def answer_health_checks(get_response: Handler) -> Handler:
    """Middleware: answers health checks and /metrics before any other middleware.

    A probe has no session, speaks plain HTTP, and uses a host name that is not in ALLOWED_HOSTS.
    """

    def handle(request: HttpRequest) -> HttpResponseBase:
        if request.path_info == "/healthz":
            return health(request)
        if request.path_info == "/readyz":
            return readiness(request)
        if request.path_info == "/metrics":
            return metrics.answer(request)
        return get_response(request)

    return handle


def health(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok\n", content_type="text/plain")


@dataclass(frozen=True)
class Check:
    """The result of one check. `code` is for programs, and empty if all is well."""

    name: str
    sentence: str
    code: str = ""
    keeps_from_serving: bool = False
    retry_after_seconds: int = RETRY_AFTER_SECONDS
    figures: tuple[tuple[str, Any], ...] = ()

    @property
    def ok(self) -> bool:
        return not self.code


def readiness(request: HttpRequest) -> HttpResponse:
    """Answers /readyz: 503 if there are `problems`; with `warnings` alone, the panel can serve."""
    checks = list(_checks())
    problems = [each for each in checks if not each.ok and each.keeps_from_serving]
    warnings = [each for each in checks if not each.ok and not each.keeps_from_serving]
    response = JsonResponse(
        {
            "ready": not problems,
            "problems": [{"code": each.code, "sentence": each.sentence} for each in problems],
            "status": "unavailable" if problems else "degraded" if warnings else "ok",
            "warnings": [{"code": each.code, "sentence": each.sentence} for each in warnings],
            "checks": {
                each.name: {"ok": each.ok, "sentence": each.sentence, **dict(each.figures)}
                for each in checks
            },
        },
        status=503 if problems else 200,
    )
    if problems:
        response["Retry-After"] = str(max(each.retry_after_seconds for each in problems))
    return response


def _checks() -> Iterator[Check]:
    outage = _database_outage()
    if outage is None:
        yield Check("database", "The database answers and can be written.")
    else:
        yield Check(
            "database",
            outage.sentence,
            outage.code,
            keeps_from_serving=True,
            retry_after_seconds=outage.retry_after_seconds,
        )
    for name, look in (
        ("migrations", _migrations),
        ("worker", _worker),
        ("run", _run),
        ("proof", _proof),
    ):
        if outage is UNAVAILABLE:
            yield _not_known(name)  # without waiting for the database again
            continue
        try:
            with transaction.atomic():
                metrics.limit_questions()
                yield look()
        except (DatabaseError, InterfaceError) as error:
            log.warning("Not known: %s: %s", name, in_one_line(error))
            yield _not_known(name)


def _not_known(name: str) -> Check:
    return Check(name, "Not known: the database did not answer.", "not_known")


def _migrations() -> Check:
    applied = MigrationRecorder(connection).applied_migrations()
    missing = sorted(".".join(each) for each in _own_migrations() if each not in applied)
    if not missing:
        return Check("migrations", "All migrations are applied.")
    named = ", ".join(missing[:3]) + (" and others" if len(missing) > 3 else "")
    return Check(
        "migrations",
        f"Migrations are missing: {named}. Run manage.py migrate.",
        "migrations_missing",
        keeps_from_serving=True,
    )


@cache
def _own_migrations() -> frozenset[tuple[str, str]]:
    """Returns (app, name) of this version's migrations, without those that replace others."""
    on_disk = MigrationLoader(None, ignore_no_migrations=True).disk_migrations
    return frozenset(key for key, migration in on_disk.items() if not migration.replaces)


def _worker() -> Check:
    age = heartbeat.age()
    if age is None:
        return Check(
            "worker",
            "No worker has done a job yet: nothing is charged and no webhook is sent. "
            "Start one: manage.py worker.",
            "worker_silent",
            figures=(("age_seconds", None),),
        )
    seconds = max(round(age.total_seconds()), 0)
    figures = (("age_seconds", seconds),)
    if age > heartbeat.SILENT_AFTER:
        return Check(
            "worker",
            f"No worker has done a job for {seconds // 60} minutes: nothing is charged and no "
            "webhook is sent. Make sure that one is running: manage.py worker.",
            "worker_silent",
            figures=figures,
        )
    return Check("worker", f"A worker did a job {seconds} seconds ago.", figures=figures)


def _run() -> Check:
    late = reports.overdue(timezone.now())
    if late is None:
        return Check("run", "No charging run is overdue.")
    became = {
        None: "has not started: subscriptions are not being charged. Make sure that a "
        "worker is running: manage.py worker.",
        "running": "is still going on.",
        "interrupted": "was interrupted. Make sure that a worker is running: manage.py worker.",
    }
    sentence = f"The charging run of {late.since:%Y-%m-%d %H:%M} UTC {became[late.state]}"
    return Check("run", sentence, "run_overdue", figures=(("since", late.since.isoformat()),))


def _proof() -> Check:
    """Does not say what was found: /readyz is open to everybody."""
    state = reports.proof_state(timezone.now())
    if state.failed is not None:
        return Check(
            "proof",
            "A proof of the ledger found a problem. See the start page, or run "
            "manage.py verify_ledger.",
            "proof_failed",
        )
    if state.is_stale:
        days = reports.PROOF_STALE_AFTER.days
        return Check(
            "proof",
            f"The ledger has not been proved for {days} days. Make sure that a worker is "
            "running: manage.py worker.",
            "proof_overdue",
        )
    if state.latest is None:
        return Check("proof", "The ledger has not been proved yet.")
    return Check("proof", "The latest proofs of the ledger found no problem.")


def _database_outage() -> Outage | None:
    """Writes a row, undoes it, and returns what is wrong with the database, if anything.

    A disk may have room for this small row and not for a posting. So a disk that was full for a
    request of this process counts as full for a while.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute(_IS_READ_ONLY)
            if cursor.fetchone()[0]:
                return READ_ONLY
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(_WRITE, [f"readyz:{secrets.token_hex(8)}"])
            transaction.set_rollback(True)
    except (DatabaseError, InterfaceError) as error:
        log.warning("Not ready: %s", in_one_line(error))
        return outage_of(error) or UNAVAILABLE
    return FULL if was_full_lately() else None
