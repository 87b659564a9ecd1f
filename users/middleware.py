"""Shows dates in the time zone of the operator who looks at them."""

from collections.abc import Callable
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone

Handler = Callable[[HttpRequest], HttpResponseBase]


def operator_time_zone(get_response: Handler) -> Handler:
    """Middleware: activates the operator's time zone, or the installation's if none is set."""

    def handle(request: HttpRequest) -> HttpResponseBase:
        name = request.user.time_zone if request.user.is_authenticated else ""
        with timezone.override(_zone(name)):
            return get_response(request)

    return handle


def _zone(name: str) -> ZoneInfo | None:
    """Returns the zone; None if it is unknown, perhaps because it was removed from the tz data.

    A page in UTC is better than no page.
    """
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError):
        return None
