"""Shows dates in the time zone of the operator who looks at them."""

from collections.abc import Callable
from zoneinfo import ZoneInfo

from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone

Handler = Callable[[HttpRequest], HttpResponseBase]


def operator_time_zone(get_response: Handler) -> Handler:
    """Activates the operator's own time zone, or the installation's where none is set."""

    def handle(request: HttpRequest) -> HttpResponseBase:
        name = request.user.time_zone if request.user.is_authenticated else ""
        with timezone.override(ZoneInfo(name) if name else None):
            return get_response(request)

    return handle
