"""When the charging run is due. Pure: no clock, no queries. Days are UTC days."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Final

RUN_TIME: Final = time(0, 5, tzinfo=UTC)
INSTANT: Final = timedelta(microseconds=1)  # the resolution of the database's times


def run_of(day: date) -> datetime:
    """Returns the moment at which the run of a day is due."""
    return datetime.combine(day, RUN_TIME)


def last_scheduled(at: datetime) -> datetime:
    """Returns when a run was due last: at 00:05 UTC of the day of `at`, or of the day before."""
    at = at.astimezone(UTC)
    today = run_of(at.date())
    return today if today <= at else today - timedelta(days=1)


def start_of(day: date) -> datetime:
    """Returns the first moment of a day."""
    return datetime.combine(day, time(tzinfo=UTC))


def end_of(day: date) -> datetime:
    """Returns the last moment of a day."""
    return start_of(day + timedelta(days=1)) - INSTANT
