"""Whether this process can serve, for load balancers and supervisors, and for people.

`GET /healthz` asks whether the database answers, `GET /readyz` also whether it can be written, and
says in JSON what is wrong. Under gunicorn both have threads of their own (config/serving.py).
"""

import logging
import secrets
from collections.abc import Callable
from typing import Final

from django.db import DatabaseError, InterfaceError, connection, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse

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

Handler = Callable[[HttpRequest], HttpResponseBase]


def answer_health_checks(get_response: Handler) -> Handler:
    """Answers before any other middleware: a probe has no session, speaks plain HTTP, and calls
    the machine by a name that is not in ALLOWED_HOSTS.
    """

    def handle(request: HttpRequest) -> HttpResponseBase:
        if request.path_info == "/healthz":
            return health(request)
        if request.path_info == "/readyz":
            return readiness(request)
        return get_response(request)

    return handle


def health(request: HttpRequest) -> HttpResponse:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except (DatabaseError, InterfaceError):
        return HttpResponse(
            "the database does not answer\n",
            status=503,
            content_type="text/plain",
            headers={"Retry-After": str(UNAVAILABLE.retry_after_seconds)},
        )
    return HttpResponse("ok\n", content_type="text/plain")


def readiness(request: HttpRequest) -> HttpResponse:
    """`problems` is empty where all is well; else each has a code and a sentence, and it is 503."""
    outage = _what_is_wrong()
    if outage is None:
        return JsonResponse({"ready": True, "problems": []})
    problem = {"code": outage.code, "sentence": outage.sentence}
    response = JsonResponse({"ready": False, "problems": [problem]}, status=503)
    response["Retry-After"] = str(outage.retry_after_seconds)
    return response


def _what_is_wrong() -> Outage | None:
    """Writes a row and undoes it. A small row may find room on a disk where a posting does not, so
    a disk that was full for a request of this process counts as full for a while.
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
