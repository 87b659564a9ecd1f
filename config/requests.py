"""Corrections to requests and responses at the border to the web server."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.http import parse_header_parameters

# Responses that never have a body, and therefore no Content-Length.
WITHOUT_LENGTH = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class Request(WSGIRequest):
    """Django's request, with two differences.

    The charset of the Content-Type is ignored. Django would decode the address with it too, while
    it makes the request, where no middleware can catch an error: with "rot13", or a thousand
    parameters, it would answer 500.

    The prefix of all addresses (SCRIPT_NAME) is removed from an address that has it. An address
    without it is taken as it is: it comes from a probe, or from a proxy that has removed it.
    """

    def __init__(self, environ: dict[str, Any]) -> None:
        prefix, path = settings.FORCE_SCRIPT_NAME, environ.get("PATH_INFO", "")
        if prefix and (path == prefix or path.startswith(f"{prefix}/")):
            environ["PATH_INFO"] = path[len(prefix) :]
        super().__init__(environ)

    def _set_content_type_params(self, meta: dict[str, Any]) -> None:
        self.content_type, self.content_params = parse_header_parameters(
            meta.get("CONTENT_TYPE", "")
        )


Handler = Callable[[HttpRequest], HttpResponseBase]


def answer_head_without_a_body(get_response: Handler) -> Handler:
    """Middleware: answers HEAD with the headers of a GET, Content-Length included, and no body.

    The web server would leave the body out as well, but logs a complaint each time.
    """

    def handle(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if request.method != "HEAD":
            return response
        if isinstance(response, HttpResponse):
            if response.status_code not in WITHOUT_LENGTH:
                response.headers.setdefault("Content-Length", str(len(response.content)))
            response.content = b""
        elif isinstance(response, StreamingHttpResponse):
            response.streaming_content = ()
        return response

    return handle
