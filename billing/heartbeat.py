"""Whether workers do background jobs: a job that does nothing else records when it ran.

All times come from the database, so the machines' clocks do not matter.
"""

from datetime import timedelta
from typing import Final

from django.db.models import F
from django.db.models.functions import Now

from billing.models import Heartbeat

# Workers started by cron may be some minutes apart.
SILENT_AFTER: Final = timedelta(minutes=15)


def beat() -> None:
    Heartbeat.objects.bulk_create(
        [Heartbeat(pk=Heartbeat.ONLY_ID, at=Now())],
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=["at"],
    )


def age() -> timedelta | None:
    """Returns how long ago a worker last did a job; None: never."""
    return Heartbeat.objects.values_list(Now() - F("at"), flat=True).first()
