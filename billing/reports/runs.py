"""Charging runs: their state and figures, and whether one is overdue."""

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
# A batch takes at most a minute: a run without a sign of life for this long was killed.
SILENCE: Final = timedelta(minutes=10)

RunState = Literal["finished", "running", "interrupted"]


def charging_runs() -> QuerySet[ChargingRun]:
    """Returns the runs, each with its number of batches and the time of its last sign of life."""
    batches = ChargingBatch.objects.filter(run=OuterRef("pk")).order_by().values("run")
    # Subqueries count the batches of the runs on a page; a join would count those of all runs.
    return ChargingRun.objects.annotate(
        batch_count=Coalesce(Subquery(batches.values(n=Count("*"))), 0),
        batches_done=Coalesce(Subquery(batches.values(n=Count("finished_at"))), 0),
        last_batch_at=Subquery(batches.values(at=Max("finished_at"))),
    )


def state_of(run: ChargingRun, now: datetime) -> RunState:
    """Returns the state of a run of `charging_runs` at `now`."""
    if run.finished_at is not None:
        return "finished"
    return "running" if now - last_progress_at(run) <= SILENCE else "interrupted"


def last_progress_at(run: ChargingRun) -> datetime:
    """Returns when a run of `charging_runs` last finished something."""
    last_batch_at: datetime | None = run.last_batch_at  # type: ignore[attr-defined]
    return last_batch_at or run.started_at


@dataclass(frozen=True)
class Overdue:
    """What was due at `since` is not done. `begun` is a run that has begun it, with its state."""

    since: datetime
    begun: ChargingRun | None
    state: RunState | None


def overdue(now: datetime) -> Overdue | None:
    """Returns since when the latest daily run is overdue at `now`; None if it is not.

    A run has half an hour to finish. In an installation that never had a run, it is overdue as soon
    as there is a subscription that a run should have looked at.
    """
    since = last_scheduled(now - RUN_MAY_TAKE - INSTANT)
    # A run of an earlier day that was told to charge ahead does not count.
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
    """What all runs of one UTC day charged together."""

    runs: int
    charged: int
    total: Decimal


def runs_of_day(day: date) -> RunsOfDay:
    """Adds up the runs of a day: with cron, or after one by hand, the last is mostly empty."""
    since = datetime.combine(day, time.min, tzinfo=UTC)
    runs = ChargingRun.objects.filter(at__gte=since, at__lt=since + timedelta(days=1))
    figures = runs.aggregate(
        runs=Count("*"), charged=Coalesce(Sum("charged"), 0), total=Coalesce(Sum("total"), ZERO)
    )
    return RunsOfDay(**figures)


def latest_run() -> ChargingRun | None:
    """Returns the finished run that charged up to the latest time."""
    return ChargingRun.objects.filter(finished_at__isnull=False).order_by("-at", "-id").first()
