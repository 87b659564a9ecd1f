"""Requests as the web server hands them over."""

from typing import Any

from django.core.handlers.wsgi import WSGIRequest
from django.utils.http import parse_header_parameters


class Request(WSGIRequest):
    """Django's, but what a caller says of its body's characters is not believed of the address.

    Django reads the address by that charset, and does so while it makes the request, where no
    middleware helps: "rot13", or a thousand parameters, would be an error of the server.
    """

    def _set_content_type_params(self, meta: dict[str, Any]) -> None:
        self.content_type, self.content_params = parse_header_parameters(
            meta.get("CONTENT_TYPE", "")
        )
