"""The charging run: charges everything that is due at a given time, exactly once.

A run takes users with something due, several at a time: it locks their balances, decides what is
due (`due.decide`), posts it, and commits the new state of the subscriptions together with the
charges and the run's figures. So it can be killed at any moment and started again, and any number
of runs and workers can work at once: each skips what another has locked, and what is charged is no
longer due.

The time is an argument; no function here reads a clock.
"""

import logging
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import batched
from typing import Final

from django.db import DatabaseError, InterfaceError, OperationalError, connection, transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from billing import ledger
from billing.models import (
    Channel,
    ChargingBatch,
    ChargingFailure,
    ChargingRun,
    Plan,
    Subscription,
    Transaction,
)
from billing.money import ZERO
from billing.plans import posting
from billing.plans.due import Decision
from billing.plans.schedule import last_scheduled
from users.database import Busy

log = logging.getLogger(__name__)

# Users per database transaction. Larger is faster but holds their balances longer; 400 is where the
# gain levels off.
USERS_AT_ONCE: Final = 400
# Users per batch, the part of a run that one worker takes.
USERS_PER_BATCH: Final = 5_000
# How long a run waits for a locked balance: long enough for any batch of postings, but not for a
# program that hangs, which would stop the users after this one.
WAIT_MAX_SECONDS: Final = 10

# How long the job that resumes one user waits: briefly, because it is tried again.
RESUME_WAIT_MAX_SECONDS: Final = 1
# For all locked balances together: the worker is needed for other users.
WAIT_FOR_ALL_MAX_SECONDS: Final = 60
# Classes of PostgreSQL's error codes that are no user's fault: connection, resources used up,
# operator intervention, system, and internal errors.
OUTAGES: Final = frozenset({"08", "53", "57", "58", "XX"})

SCHEDULING: Final = 0x63686172  # the advisory lock for opening a scheduled run


@dataclass
class Figures:
    """What was done; the columns of ChargingRun of the same names add it up."""

    charged: int = 0
    suspended: int = 0
    resumed: int = 0
    skipped: int = 0
    failed: int = 0
    total: Decimal = ZERO

    def __iadd__(self, other: "Figures") -> "Figures":
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        return self


@dataclass
class Done:
    """What was done in one database transaction. `posted` is filled in dry runs only.

    `due` is the number of subscriptions that were looked at.
    """

    figures: Figures = field(default_factory=Figures)
    decisions: Sequence[Decision] = ()
    posted: Sequence[Transaction] = ()
    due: int = 0

    def __iadd__(self, other: "Done") -> "Done":
        self.figures += other.figures
        self.decisions = [*self.decisions, *other.decisions]
        self.posted = [*self.posted, *other.posted]
        self.due += other.due
        return self


# --- A run --------------------------------------------------------------------------------------


def open_run(at: datetime, started_by: ChargingRun.Start) -> ChargingRun:
    """Creates a run over everything that is due at `at`, divided into batches."""
    with transaction.atomic():
        run = ChargingRun.objects.create(at=at, started_by=started_by, due=count_due(at))
        ChargingBatch.objects.bulk_create(
            ChargingBatch(run=run, first_user_id=first, last_user_id=last)
            for first, last in _stretches(_day(at))
        )
        _finish_if_done(run.pk)
    return run


def open_run_if_due(at: datetime) -> ChargingRun | None:
    """Creates the scheduled run, unless there is one since the last 00:05 UTC. Returns it or None.

    So it does not matter how often, how late and by how many workers this is called. A finished run
    of a command counts, too; an unfinished one leaves the rest to the scheduled run.
    """
    due_since = last_scheduled(at)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [SCHEDULING])
        runs = ChargingRun.objects.filter(at__gte=due_since, started_at__gte=due_since)
        is_scheduled = Q(started_by=ChargingRun.Start.SCHEDULE)
        if runs.filter(is_scheduled | Q(finished_at__isnull=False)).exists():
            return None
        return open_run(at, ChargingRun.Start.SCHEDULE)


def charge_batch(batch: ChargingBatch) -> Iterator[Done]:
    """Charges the users of a batch; yields after each commit. A batch can be repeated.

    A user who cannot be charged, for any reason, is recorded with the run and left to the next run.
    The others are charged.
    """
    day = _day(batch.run.at)
    yield from _charge(day, batch.first_user_id, batch.last_user_id, batch.run_id)
    with transaction.atomic():
        ChargingBatch.objects.filter(pk=batch.pk, finished_at=None).update(finished_at=Now())
        _finish_if_done(batch.run_id)


def dry_run(at: datetime) -> Iterator[Done]:
    """Yields what a run at `at` would do. Posts and changes nothing."""
    for first, last in _stretches(_day(at)):
        yield from _charge(_day(at), first, last, run_id=None)


def resume(user_id: int, at: datetime) -> Figures:
    """Charges what is due for one user, and resumes suspended subscriptions that can be paid now.

    Raises OperationalError after a short wait if somebody else has locked the user's balance. The
    caller tries again later, so that the worker is free for other users.
    """
    with transaction.atomic():
        return _charge_together([user_id], _day(at), retry=True)[1].figures


def count_due(at: datetime, *, at_most: int | None = None) -> int:
    """Returns how many subscriptions a run at `at` would look at, at most `at_most`."""
    return Subscription.objects.filter(due_on__lte=_day(at))[:at_most].count()


def _day(at: datetime) -> date:
    return at.astimezone(UTC).date()


def _stretches(day: date) -> list[tuple[int, int]]:
    """Returns the first and last user ID of each USERS_PER_BATCH users with something due."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT min(user_id), max(user_id) FROM ("
            "  SELECT user_id, (row_number() OVER (ORDER BY user_id) - 1) / %s AS stretch"
            "  FROM (SELECT DISTINCT user_id FROM billing_subscription WHERE due_on <= %s) due"
            ") numbered GROUP BY stretch ORDER BY stretch",
            [USERS_PER_BATCH, day],
        )
        return list(cursor.fetchall())


def _finish_if_done(run_id: int) -> None:
    # Locked, so that of two batches that end at once, the second one sees the first.
    run = ChargingRun.objects.select_for_update().get(pk=run_id)
    if run.finished_at is None and not run.batches.filter(finished_at=None).exists():
        ChargingRun.objects.filter(pk=run_id).update(finished_at=Now())


# --- Users, some at a time ----------------------------------------------------------------------


def _charge(day: date, first: int, last: int, run_id: int | None) -> Iterator[Done]:
    """Charges the users with these IDs. Without a run, it is a dry run."""
    locked_by_others: list[int] = []
    for user_ids in batched(_due_users(day, first, last), USERS_AT_ONCE):
        taken = yield from _charge_or_one_by_one(user_ids, day, run_id, skip_locked=True)
        locked_by_others += [user_id for user_id in user_ids if user_id not in taken]
    # Usually another run has charged these by now. The rest is waited for one by one, so that one
    # long lock does not delay the other users.
    if locked_by_others:
        still_due = set(_due_users(day, first, last))
        give_up_at = time.monotonic() + WAIT_FOR_ALL_MAX_SECONDS
        for user_id in locked_by_others:
            if user_id in still_due:
                if time.monotonic() > give_up_at and run_id is not None:
                    # Perhaps locked by a program that hangs: many users together, like a batch.
                    yield _left_to_the_next_run(run_id, user_id)
                    continue
                yield from _charge_or_one_by_one([user_id], day, run_id, skip_locked=False)


def _left_to_the_next_run(run_id: int, user_id: int) -> Done:
    problem = Busy("The balance is locked by another operation, as were those of other users.")
    _note_failure(run_id, user_id, problem)
    return Done(Figures(failed=1))


def _due_users(day: date, first: int, last: int) -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT user_id FROM billing_subscription "
            "WHERE due_on <= %s AND user_id BETWEEN %s AND %s ORDER BY user_id",
            [day, first, last],
        )
        return [row[0] for row in cursor.fetchall()]


def _charge_or_one_by_one(
    user_ids: Sequence[int], day: date, run_id: int | None, *, skip_locked: bool
) -> Generator[Done, None, set[int]]:
    """Charges these users together; if that fails, each separately, as far as possible.

    Yields what was done after each commit. Returns the users that were not locked by others.
    """
    try:
        held, done = _charge_and_note(user_ids, day, run_id, skip_locked=skip_locked)
    except Exception:
        if not connection.is_usable():  # the database is gone
            raise
        if len(user_ids) > 1:
            log.warning("Users %s to %s are charged one by one.", user_ids[0], user_ids[-1])
    else:
        yield done
        return held
    taken: set[int] = set()
    for user_id in user_ids:
        try:
            held, done = _charge_and_note([user_id], day, run_id, skip_locked=skip_locked)
        except Exception as problem:
            if _is_outage(problem):
                raise
            log.exception("User %s could not be charged.", user_id)
            if run_id is not None:
                _note_failure(run_id, user_id, problem)
            held, done = {user_id}, Done(Figures(failed=1))
        taken |= held
        yield done
    return taken


def _is_outage(problem: Exception) -> bool:
    """Returns whether the database failed, and not this user: a cut connection, a server that stops
    or is full. The caller of the run tries the rest again."""
    if not connection.is_usable():
        return True
    if not isinstance(problem, DatabaseError | InterfaceError):
        return False
    sqlstate = getattr(problem.__cause__, "sqlstate", None)
    if sqlstate is None:  # not from the server
        return isinstance(problem, OperationalError | InterfaceError)
    return sqlstate[:2] in OUTAGES


def _charge_and_note(
    user_ids: Sequence[int], day: date, run_id: int | None, *, skip_locked: bool
) -> tuple[set[int], Done]:
    """Charges users and adds the run's figures, in one database transaction."""
    with ledger.dry_run() if run_id is None else transaction.atomic():
        held, done = _charge_together(
            user_ids, day, skip_locked=skip_locked, is_dry_run=run_id is None
        )
        if run_id is not None:
            _check_now()
            ChargingRun.objects.filter(pk=run_id).update(
                **{
                    each.name: F(each.name) + getattr(done.figures, each.name)
                    for each in fields(Figures)
                }
            )
    return held, done


def _check_now() -> None:
    """Runs the guards' checks now, before the run's row is locked.

    Workers take turns with that row, and should not wait for each other's checks, too.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")


def _note_failure(run_id: int, user_id: int, problem: Exception) -> None:
    with transaction.atomic():
        ChargingFailure.objects.create(
            run_id=run_id, user_id=user_id, problem=f"{problem}" or type(problem).__name__
        )
        ChargingRun.objects.filter(pk=run_id).update(failed=F("failed") + 1)


def _charge_together(
    user_ids: Sequence[int],
    day: date,
    *,
    skip_locked: bool = False,
    retry: bool = False,
    is_dry_run: bool = False,
) -> tuple[set[int], Done]:
    """Decides and posts what is due for these users, in the caller's database transaction."""
    if not skip_locked:
        with connection.cursor() as cursor:
            seconds = min(RESUME_WAIT_MAX_SECONDS, WAIT_MAX_SECONDS) if retry else WAIT_MAX_SECONDS
            cursor.execute(f"SET LOCAL lock_timeout = {seconds * 1000:d}")
    balances = ledger.lock_balances(user_ids, skip_locked=skip_locked)
    is_due = Q(due_on__lte=day)
    if retry:
        is_due |= Q(status=Subscription.Status.SUSPENDED)
    due = list(Subscription.objects.filter(is_due, user__in=balances).order_by("user", "id"))
    plans = Plan.objects.in_bulk({subscription.plan_id for subscription in due})
    for subscription in due:
        subscription.plan = plans[subscription.plan_id]
    decisions, posted = posting.charge_due(
        due,
        through=day,
        real={user_id: balance.real for user_id, balance in balances.items()},
        retry=retry,
        actor=None,
        channel=Channel.CHARGING,
        in_full=is_dry_run,
    )
    return set(balances), Done(figures_of(decisions), decisions, posted, len(due))


def figures_of(decisions: Sequence[Decision]) -> Figures:
    """Returns what these decisions add to the figures of their run."""
    charges = [decision.charge.amount for decision in decisions if decision.charge is not None]
    outcomes = Counter(decision.outcome for decision in decisions)
    skipped = {decision.subscription.pk for decision in decisions if decision.outcome == "skipped"}
    others = {decision.subscription.pk for decision in decisions if decision.outcome != "skipped"}
    return Figures(
        charged=sum(1 for amount in charges if amount),
        suspended=outcomes["suspended"],
        resumed=outcomes["resumed"],
        skipped=len(skipped - others),  # suspended before and still
        total=sum(charges, ZERO),
    )
