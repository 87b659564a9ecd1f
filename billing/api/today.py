"""The clock, as calls read it."""

from datetime import UTC, date

from django.utils import timezone


def utc_today() -> date:
    """The day that subscriptions go by."""
    return timezone.now().astimezone(UTC).date()
