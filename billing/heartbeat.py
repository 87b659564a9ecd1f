"""Whether anybody does background jobs: a job that does nothing else notes when it was done.

Both times are the database's, so no machine's clock matters.
"""

from datetime import timedelta
from typing import Final

from django.db.models import F
from django.db.models.functions import Now

from billing.models import Heartbeat

# Where cron starts workers, up to some minutes pass between two of them.
SILENT_AFTER: Final = timedelta(minutes=15)


def beat() -> None:
    Heartbeat.objects.bulk_create(
        [Heartbeat(pk=Heartbeat.ONLY_ID, at=Now())],
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=["at"],
    )


def age() -> timedelta | None:
    """How long ago a worker last did a job; None: never."""
    return Heartbeat.objects.values_list(Now() - F("at"), flat=True).first()
