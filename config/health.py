"""`GET /healthz`: whether this process can serve, for load balancers and supervisors."""

from collections.abc import Callable

from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, HttpResponseBase

Handler = Callable[[HttpRequest], HttpResponseBase]


def answer_health_checks(get_response: Handler) -> Handler:
    """Answers before any other middleware: a probe has no session, speaks plain HTTP, and calls
    the machine by a name that is not in ALLOWED_HOSTS.
    """

    def handle(request: HttpRequest) -> HttpResponseBase:
        if request.path_info == "/healthz":
            return health(request)
        return get_response(request)

    return handle


def health(request: HttpRequest) -> HttpResponse:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return HttpResponse("the database does not answer\n", status=503, content_type="text/plain")
    return HttpResponse("ok\n", content_type="text/plain")
