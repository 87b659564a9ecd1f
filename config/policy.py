"""The Content-Security-Policy of answers to programs: that of the settings, put together once."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from csp.constants import HEADER
from csp.utils import build_policy
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase

Handler = Callable[[HttpRequest], HttpResponseBase]

# With DEBUG, Django answers these with pages that the policy would break.
EXPLAINED: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.INTERNAL_SERVER_ERROR)


def send_policy(get_response: Handler) -> Handler:
    """Middleware. Pages need that of `csp`, which can differ from one answer to another."""
    policy = build_policy()

    def handle(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if not (settings.DEBUG and response.status_code in EXPLAINED):
            response.headers.setdefault(HEADER, policy)
        return response

    return handle
