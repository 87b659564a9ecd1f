"""Requests as the web server hands them over."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.http import parse_header_parameters

# These have no body at all, and so no length of it.
WITHOUT_LENGTH = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class Request(WSGIRequest):
    """Django's, with two differences.

    What a caller says of its body's characters is not believed of the address. Django reads the
    address by that charset, and does so while it makes the request, where no middleware helps:
    "rot13", or a thousand parameters, would be an error of the server.

    The prefix of all addresses (SCRIPT_NAME) is taken off an address that has it. One without it is
    taken as it is: it comes from a probe, or from a proxy that has taken it off.
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
    """Middleware: a HEAD has the headers of a GET, its Content-Length too, and nothing after them.

    The web server would leave the body out as well, but complains of it in its log each time.
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
