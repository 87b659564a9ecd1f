"""Shows dates in the time zone of the operator who looks at them."""

from collections.abc import Callable
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone

Handler = Callable[[HttpRequest], HttpResponseBase]


def operator_time_zone(get_response: Handler) -> Handler:
    """Activates the operator's own time zone, or the installation's where none is set."""

    def handle(request: HttpRequest) -> HttpResponseBase:
        name = request.user.time_zone if request.user.is_authenticated else ""
        with timezone.override(_zone(name)):
            return get_response(request)

    return handle


def _zone(name: str) -> ZoneInfo | None:
    """None where there is no such zone (any more): a page in UTC is better than none."""
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError):
        return None
