"""The clock of API calls."""

from datetime import UTC, date

from django.utils import timezone


def utc_today() -> date:
    """Returns today's date in UTC, which subscriptions use."""
    return timezone.now().astimezone(UTC).date()
