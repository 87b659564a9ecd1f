"""The middleware that calls of the Billing API pass: `API_MIDDLEWARE` in the settings.

A call is made with a key or a session hash of its own. It has no cookies, no login and no form, so
it passes none of the middleware that the panel needs for these.
"""

from collections.abc import Callable
from typing import Any, Final, cast

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.base import BaseHandler
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.module_loading import import_string

Handler = Callable[[HttpRequest], HttpResponseBase]

# Of these, Django calls only those in MIDDLEWARE.
HOOKS: Final = ("process_view", "process_exception", "process_template_response")


class Views(BaseHandler):
    """Finds the view of an address and calls it, as Django does, with no middleware around it."""

    _get_response: Callable[[HttpRequest], HttpResponseBase]

    def __init__(self) -> None:
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self._get_response(request)


def api_stack() -> Handler:
    """Returns what answers a call: the view, inside `API_MIDDLEWARE`."""
    handler: Any = convert_exception_to_response(Views())
    for name in reversed(settings.API_MIDDLEWARE):
        middleware = import_string(name)(handler)
        if any(hasattr(middleware, hook) for hook in HOOKS):
            raise ImproperlyConfigured(
                f"{name} cannot be in API_MIDDLEWARE: there is nobody to call its process_ methods."
            )
        handler = convert_exception_to_response(middleware)
    return cast(Handler, handler)
