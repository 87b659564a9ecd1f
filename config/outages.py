"""Answers requests that failed: 503 for an outage of the database, 500 for everything else.

Neither this module nor the pages that it shows query the database.
"""

import re
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template.loader import render_to_string

from billing import counters
from billing.api.panel.answers import in_json
from billing.api.panel.errors import database_error
from billing.api.problems import answer, outage_problem
from users import database
from users.database import Outage

Handler = Callable[[HttpRequest], HttpResponseBase]

# Fields of forms that nobody types.
NOT_TYPED: Final = re.compile(
    r"csrfmiddlewaretoken|key|expected_number|seen|confirm|edit|next|_.*|paid_back|.*_FORMS"
)
SECRET: Final = re.compile(r"pass|secret", re.IGNORECASE)


def begin_requests(get_response: Handler) -> Handler:
    """Middleware: forgets that the thread's previous request may have written something."""

    def handle(request: HttpRequest) -> HttpResponseBase:
        database.begin_request()
        return get_response(request)

    return handle


def server_error(request: HttpRequest) -> HttpResponse:
    """Answers an exception of a view, in the format of the channel. Django's handler500."""
    outage = database.outage_of(sys.exception())
    if outage is None:
        return HttpResponse(render_to_string("500.html"), status=500)
    if request.path_info.startswith("/api/"):
        return answer(request, outage_problem(outage))
    if request.path_info.startswith("/v2/"):
        refusal = database_error(outage)
        return HttpResponse(
            in_json(refusal.body),
            status=refusal.status,
            content_type="application/json",
            headers=dict(refusal.headers),
        )
    return _page(request, outage)


class Field(NamedTuple):
    """A field of a form that was sent during the outage; the page shows it to be copied."""

    name: str
    value: str
    is_secret: bool
    is_typed: bool

    @property
    def label(self) -> str:
        return self.name.replace("_", " ").replace("-", " ").capitalize()


def _page(request: HttpRequest, outage: Outage) -> HttpResponse:
    counters.outage(outage.code)
    fields = _fields(request)
    context: dict[str, Any] = {
        "outage": outage,
        "is_form": request.method == "POST",
        "may_have_written": database.may_have_written(),
        "fields": fields,
        "has_key": any(field.name == "key" and field.value for field in fields),
        "address": request.get_full_path(),
    }
    return HttpResponse(
        render_to_string("503.html", context),
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        headers={"Retry-After": str(outage.retry_after_seconds), "Cache-Control": "no-store"},
    )


def _fields(request: HttpRequest) -> list[Field]:
    """Returns the fields that were sent. Secrets come without a value: they are typed again."""
    if request.method != "POST":
        return []
    try:
        sent = [(name, value) for name, values in request.POST.lists() for value in values]
    except Exception:
        return []
    return [
        Field(
            name,
            "" if SECRET.search(name) else value,
            is_secret=bool(SECRET.search(name)),
            is_typed=not NOT_TYPED.fullmatch(name),
        )
        for name, value in sent
    ]
