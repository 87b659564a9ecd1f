"""Background jobs of `manage.py worker`. They read the clock and call the code that does the work.

- `run_schedule` opens the charging run at 00:05 UTC, with a job for each of its batches.
- `catch_up` does the same for a run that no worker opened, and for batches without a job; every ten
  minutes, and when a first worker starts.
- `charge_batch` charges one batch. All workers take batches, in parallel.
- `resume` charges one user, and resumes subscriptions that can be paid now. A trigger queues it
  after each refill of a user with suspended subscriptions (function billing_queue_resumption, which
  names this task and its argument).
- `send_webhooks` sends what waits for one endpoint. Triggers queue it with each event (function
  billing_wake_webhooks, which names this task and its argument).
- `sweep_webhooks`, every fifteen seconds, queues `send_webhooks` for endpoints with something due:
  for another attempt, or because no trigger could queue it in time.
- `expire_grants`, every minute, posts what has expired of gifts. (Nothing that has expired can be
  spent, whether this job has run or not.) `tell_of_expiring`, every hour, tells programs of gifts
  that expire soon.
- `prove_ledger` proves the ledger once a night, from 03:10 UTC on. It looks every ten minutes
  whether that is still to be done, so a night without a worker is made up for.
- `sum_up`, every fifteen seconds, adds new transactions to the sums that the start page shows.
- `write_export` writes a workbook that an operator has asked for in the panel.
- `heartbeat`, every fifteen seconds, records that jobs are done.
- `keep_house`, every minute, gives jobs of dead workers to others; `tidy_up`, every hour, deletes
  old rows.

Every job may run twice, or again from the middle: what is charged is no longer due, and a message
that is sent twice has the same ID.
"""

import logging
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from typing import Final

from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.utils import timezone
from procrastinate import JobContext, RetryDecision, exceptions, jobs
from procrastinate.contrib.django import app
from procrastinate.contrib.django.django_connector import DjangoConnector
from procrastinate.contrib.django.models import ProcrastinateJob
from procrastinate.manager import JobManager
from procrastinate.retry import BaseRetryStrategy

from billing import answers, authority, ledger, operations, reports, webhooks
from billing import heartbeat as heartbeats
from billing.ledger import proofs, turnovers
from billing.models import ChargingBatch, ChargingRun
from billing.plans import charging
from billing.plans.schedule import RUN_TIME

log = logging.getLogger(__name__)

# Jobs with a higher priority are taken first. The trigger sets the one of `resume`.
HOUSEKEEPING: Final = 20
RESUMING: Final = 10
CHARGING: Final = 0
PROVING: Final = -10
EXPORTING: Final = -20

RETRY_MAX_SECONDS: Final = 300
RESUME_ATTEMPTS: Final = 8
# Jobs that failed finally are kept for inspection.
KEEP_FAILED_HOURS: Final = 30 * 24
KEEP_SUCCEEDED_HOURS: Final = 24


class UntilDone(BaseRetryStrategy):
    """Retries without limit, after longer and longer waits; at once if only the worker ends."""

    def get_retry_decision(self, *, exception: BaseException, job: jobs.Job) -> RetryDecision:
        if isinstance(exception, exceptions.JobAborted):
            return RetryDecision(retry_in={"seconds": 0})
        seconds = retry_seconds(job.attempts)
        log.warning("%s failed; again in %s seconds: %s", job.call_string, seconds, exception)
        return RetryDecision(retry_in={"seconds": seconds})


def retry_seconds(attempts: int) -> int:
    return int(min(2 ** min(attempts, 20), RETRY_MAX_SECONDS))


# --- The charging run ---------------------------------------------------------------------------


@app.periodic(cron=f"{RUN_TIME:%M %H} * * *", queueing_lock="run_schedule")  # always in UTC
@app.task(name="billing.tasks.run_schedule", queue="schedule", priority=HOUSEKEEPING)
def run_schedule(timestamp: int) -> None:
    _keep_schedule()


@app.periodic(cron="*/10 * * * *", queueing_lock="catch_up")
@app.task(name="billing.tasks.catch_up", queue="schedule", priority=HOUSEKEEPING)
def catch_up(timestamp: int) -> None:
    _keep_schedule()


def _keep_schedule() -> None:
    """Opens the scheduled run if it is due, and queues a job for each batch without one."""
    with transaction.atomic():
        charging.open_run_if_due(timezone.now())
        _queue_batches()


@app.task(
    name="billing.tasks.charge_batch",
    queue="charging",
    priority=CHARGING,
    retry=UntilDone(),
    pass_context=True,
)
def charge_batch(context: JobContext, *, batch_id: int) -> None:
    batch = ChargingBatch.objects.select_related("run").filter(pk=batch_id).first()
    if batch is None or batch.finished_at is not None:
        return
    for _ in charging.charge_batch(batch):
        if context.should_abort():
            raise exceptions.JobAborted


def _queue_batches() -> None:
    """Queues the unfinished batches of scheduled runs. A command does its own batches."""
    left = ChargingBatch.objects.filter(
        finished_at=None, run__finished_at=None, run__started_by=ChargingRun.Start.SCHEDULE
    )
    locks = {f"batch:{batch_id}": batch_id for batch_id in left.values_list("pk", flat=True)}
    queued = ProcrastinateJob.objects.filter(
        queueing_lock__in=locks, status__in=(jobs.Status.TODO.value, jobs.Status.DOING.value)
    )
    for lock in queued.values_list("queueing_lock", flat=True):
        locks.pop(lock, None)
    _defer(
        [
            charge_batch.configure(
                lock=lock, queueing_lock=lock, task_kwargs={"batch_id": batch_id}
            ).job
            for lock, batch_id in locks.items()
        ]
    )


def _defer(new: list[jobs.Job]) -> None:
    """Queues jobs within the present database transaction.

    procrastinate's usual way would use a connection of its own.
    """
    if new:
        JobManager(DjangoConnector()).batch_defer_jobs(new)


# --- Refills ------------------------------------------------------------------------------------


@app.task(name="billing.tasks.resume", queue="refills", priority=RESUMING)
def resume(*, user_id: int, attempt: int = 1) -> None:
    """Resumes what a refill can pay for. If that fails, tries again later; finally the run does it.

    Queues a new job instead of retrying: a job cannot return to the queue if another one waits.
    """
    try:
        charging.resume(user_id, timezone.now())
    except DatabaseError as problem:
        if attempt >= RESUME_ATTEMPTS:
            raise
        seconds = retry_seconds(attempt)
        log.warning("User %s is resumed in %s seconds: %s", user_id, seconds, problem)
        if not connection.is_usable():
            connection.close()
        again = resume.configure(
            schedule_in={"seconds": seconds},
            queueing_lock=f"resume:{user_id}",
            task_kwargs={"user_id": user_id, "attempt": attempt + 1},
        )
        with suppress(exceptions.AlreadyEnqueued), transaction.atomic():
            _defer([again.job])  # unless another refill has queued one


# --- Webhooks -----------------------------------------------------------------------------------


@app.task(name="billing.tasks.send_webhooks", queue="webhooks", pass_context=True)
def send_webhooks(context: JobContext, *, endpoint_id: int) -> None:
    """Sends for some seconds. If more is due, queues another job, behind those that wait.

    Never retried, because new events would have to wait for the retry.
    """
    try:
        if webhooks.send_due(endpoint_id, should_stop=context.should_abort, clock=timezone.now):
            webhooks.wake(endpoint_id)
    except DatabaseError as problem:
        log.warning("Webhooks to endpoint %s go on in some seconds: %s", endpoint_id, problem)
        if not connection.is_usable():
            connection.close()


@app.periodic(cron="* * * * * */15", queueing_lock="sweep_webhooks")  # the sixth field: seconds
@app.task(name="billing.tasks.sweep_webhooks", queue="schedule", priority=HOUSEKEEPING)
def sweep_webhooks(timestamp: int) -> None:
    """Queues sending jobs with another queueing lock than the triggers' jobs, but the same lock.

    A trigger's job may be invisible for hours, if its posting is not committed.
    """
    for endpoint_id in webhooks.endpoints_to_wake(timezone.now()):
        again = send_webhooks.configure(
            lock=f"webhooks:{endpoint_id}",
            queueing_lock=f"webhooks-swept:{endpoint_id}",
            task_kwargs={"endpoint_id": endpoint_id},
        )
        with suppress(exceptions.AlreadyEnqueued), transaction.atomic():
            _defer([again.job])


# --- The proof of the ledger --------------------------------------------------------------------

# Well after the charging run, and before people come to work in most of the world.
PROOF_TIME: Final = time(3, 10, tzinfo=UTC)


@app.periodic(cron="*/10 * * * *", queueing_lock="prove_ledger")
@app.task(
    name="billing.tasks.prove_ledger",
    queue="schedule",
    priority=PROVING,
    lock="prove_ledger",
    pass_context=True,
)
def prove_ledger(context: JobContext, timestamp: int) -> None:
    """Proves the ledger if that was not done since 03:10 UTC.

    Never retried: if it was interrupted or the database was away, the next job begins again.
    """
    now = timezone.now()
    try:
        if proofs.is_due(last_proof_time(now)):
            proofs.prove(now, clock=timezone.now, should_stop=context.should_abort)
    except DatabaseError as problem:
        log.warning("The ledger is proved again in some minutes: %s", problem)
        if not connection.is_usable():
            connection.close()


def last_proof_time(now: datetime) -> datetime:
    today = datetime.combine(now.astimezone(UTC).date(), PROOF_TIME)
    return today if today <= now else today - timedelta(days=1)


# --- Exports ------------------------------------------------------------------------------------


@app.task(
    name=operations.exports.TASK,
    queue="exports",
    priority=EXPORTING,
    retry=UntilDone(),
    pass_context=True,
)
def write_export(context: JobContext, *, export_id: int) -> None:
    """Writes a workbook. If it is broken off, the next attempt begins from the start."""
    try:
        operations.exports.write(export_id, clock=timezone.now, should_stop=context.should_abort)
    except operations.exports.Stopped:
        raise exceptions.JobAborted from None


# --- Housekeeping -------------------------------------------------------------------------------


@app.periodic(cron="* * * * *", queueing_lock="expire_grants")
@app.task(name="billing.tasks.expire_grants", queue="schedule", priority=HOUSEKEEPING)
def expire_grants(timestamp: int) -> None:
    ledger.expire_due(timezone.now())


@app.periodic(cron="7 * * * *", queueing_lock="tell_of_expiring")
@app.task(name="billing.tasks.tell_of_expiring", queue="schedule", priority=HOUSEKEEPING)
def tell_of_expiring(timestamp: int) -> None:
    if settings.BONUS_EXPIRING_DAYS:
        webhooks.tell_of_expiring(timezone.now(), settings.BONUS_EXPIRING_DAYS)


@app.periodic(cron="* * * * * */15", queueing_lock="sum_up")
@app.task(name="billing.tasks.sum_up", queue="schedule", priority=HOUSEKEEPING, pass_context=True)
def sum_up(context: JobContext, timestamp: int) -> None:
    turnovers.sum_up(reports.complete_until(), should_stop=context.should_abort)


@app.periodic(cron="* * * * * */15", queueing_lock="heartbeat")
@app.task(name="billing.tasks.heartbeat", queue="schedule", priority=HOUSEKEEPING)
def heartbeat(timestamp: int) -> None:
    heartbeats.beat()


@app.periodic(cron="* * * * *", queueing_lock="keep_house")
@app.task(
    name="billing.tasks.keep_house", queue="schedule", priority=HOUSEKEEPING, pass_context=True
)
async def keep_house(context: JobContext, timestamp: int) -> None:
    manager = context.app.job_manager
    await _retry_stalled_jobs(manager)
    await manager.delete_old_jobs(nb_hours=KEEP_SUCCEEDED_HOURS)
    await manager.delete_old_jobs(
        nb_hours=KEEP_FAILED_HOURS,
        include_failed=True,
        include_cancelled=True,
        include_aborted=True,
    )


@app.periodic(cron="17 * * * *", queueing_lock="tidy_up")
@app.task(name="billing.tasks.tidy_up", queue="schedule", pass_context=True)
def tidy_up(context: JobContext, timestamp: int) -> None:
    authority.forget_allowances(timezone.now())
    answers.forget_old(timezone.now())
    operations.exports.delete_old(timezone.now())
    webhooks.delete_old(timezone.now(), should_stop=context.should_abort)


async def _retry_stalled_jobs(manager: JobManager) -> None:
    """Gives the jobs of dead workers to others."""
    for job in await manager.get_stalled_jobs():
        log.warning("A worker died with %s; another takes it.", job.call_string)
        try:
            await manager.retry_job(job)
        except exceptions.UniqueViolation:
            # The same job is already queued, so this one can go.
            await manager.finish_job(job, status=jobs.Status.ABORTED, delete_job=True)
        except exceptions.ConnectorException as problem:
            log.info("%s is taken already: %s", job.call_string, problem.__cause__)
