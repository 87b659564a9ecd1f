"""When a bonus expires. Its days are those of the installation's time zone."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from django.conf import settings
from django.utils import timezone

LAST_DAY_WITH_AN_END: Final = date.max - timedelta(days=3)


def end_of_bonus(expires_at: date | datetime | None) -> datetime | None:
    """Returns the moment from which a bonus cannot be spent.

    A day is the last on which it can, in the installation's time zone.
    """
    if expires_at is None or isinstance(expires_at, datetime):
        return expires_at
    zone = ZoneInfo(settings.TIME_ZONE)
    # The last days there are have no end in every time zone. They are refused as too far ahead.
    after = min(expires_at, LAST_DAY_WITH_AN_END) + timedelta(days=1)
    return datetime.combine(after, time(tzinfo=zone)).astimezone(UTC)


def usual_last_day() -> date | None:
    """Returns the last day of a bonus that is given today, if the installation has one."""
    return days_from_today(settings.BONUS_DAYS) if settings.BONUS_DAYS else None


def days_from_today(days: int) -> date:
    """Returns the day that is so many days after today, in the installation's time zone."""
    return timezone.localdate(timezone=ZoneInfo(settings.TIME_ZONE)) + timedelta(days=days)
