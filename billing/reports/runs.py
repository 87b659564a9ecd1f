"""Charging runs: what has become of them, and whether one is overdue."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Final, Literal, NamedTuple

from django.db.models import Count, Max, OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce

from billing.models import ChargingBatch, ChargingRun, Subscription
from billing.money import ZERO
from billing.plans.schedule import INSTANT, last_scheduled

RUN_MAY_TAKE: Final = timedelta(minutes=30)
# A batch takes a minute at most; a run of which nothing is heard for so long was killed.
SILENCE: Final = timedelta(minutes=10)

RunState = Literal["finished", "running", "interrupted"]


def charging_runs() -> QuerySet[ChargingRun]:
    """The runs, each with its batches counted and the time when it was last heard of."""
    batches = ChargingBatch.objects.filter(run=OuterRef("pk")).order_by().values("run")
    # Looked up for the runs of a page; joined, those of all runs would be counted.
    return ChargingRun.objects.annotate(
        batch_count=Coalesce(Subquery(batches.values(n=Count("*"))), 0),
        batches_done=Coalesce(Subquery(batches.values(n=Count("finished_at"))), 0),
        last_batch_at=Subquery(batches.values(at=Max("finished_at"))),
    )


def state_of(run: ChargingRun, now: datetime) -> RunState:
    """What has become of a run of `charging_runs` by `now`."""
    if run.finished_at is not None:
        return "finished"
    return "running" if now - heard_of(run) <= SILENCE else "interrupted"


def heard_of(run: ChargingRun) -> datetime:
    """When a run of `charging_runs` last did something that left a trace."""
    last_batch_at: datetime | None = run.last_batch_at  # type: ignore[attr-defined]
    return last_batch_at or run.started_at


@dataclass(frozen=True)
class Overdue:
    """No run has done what was due at `since`. `begun` is one that has tried, in this state."""

    since: datetime
    begun: ChargingRun | None
    state: RunState | None


def overdue(now: datetime) -> Overdue | None:
    """Whether the latest daily run that should be over by `now` is not, and since when.

    A run's time to finish is half an hour. An installation that has never had a run is told so
    from the first subscription on that a run should have looked at.
    """
    since = last_scheduled(now - RUN_MAY_TAKE - INSTANT)
    # One that was told to look ahead, on a day before, does not stand in for it.
    late = charging_runs().filter(at__gte=since, started_at__gte=since)
    if late.filter(finished_at__isnull=False).exists():
        return None
    if (
        not ChargingRun.objects.exists()
        and not Subscription.objects.filter(started_on__lt=since.date()).exists()
    ):
        return None
    begun = late.order_by("-id").first()
    return Overdue(since, begun, state_of(begun, now) if begun else None)


class RunsOfDay(NamedTuple):
    """What the runs as of one UTC day charged, all together."""

    runs: int
    charged: int
    total: Decimal


def runs_of_day(day: date) -> RunsOfDay:
    """With cron, or after a run by hand, the last run of a day is mostly one that found nothing."""
    since = datetime.combine(day, time.min, tzinfo=UTC)
    runs = ChargingRun.objects.filter(at__gte=since, at__lt=since + timedelta(days=1))
    figures = runs.aggregate(
        runs=Count("*"), charged=Coalesce(Sum("charged"), 0), total=Coalesce(Sum("total"), ZERO)
    )
    return RunsOfDay(**figures)


def latest_run() -> ChargingRun | None:
    """Of the runs that are over, the one that charged up to the latest time."""
    return ChargingRun.objects.filter(finished_at__isnull=False).order_by("-at", "-id").first()
