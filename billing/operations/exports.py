"""Workbooks of many transactions: asked for by operators, written by workers, kept for a day.

A workbook takes minutes, so no request waits for it. The file is kept in the database, in parts:
there all web processes and workers reach it, without a directory that machines would have to share,
and nobody but the panel does. OWN_MAX limits what operators can fill it with; a workbook of as many
rows as a sheet holds has about 100 MB.

An export is no record of anything: nothing refers to it, and it leaves no event.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from tempfile import TemporaryFile
from typing import IO, Any, Final

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from procrastinate.contrib.django import app
from procrastinate.contrib.django.django_connector import DjangoConnector
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.manager import JobManager

from billing.files.exports import XLSX_MAX_ROWS, TooManyRows, write_xlsx
from billing.models import Export, ExportPart
from billing.reports import Listing
from users.database import lock_row
from users.models import User

PERMISSION: Final = "billing.view_transaction"
OWN_MAX: Final = 5  # files of one operator, with those that are not finished
CRASHES_MAX: Final = 2
PART_BYTES: Final = 2**20
# So many exports are written at the same time. Each worker can do more jobs than that.
LANES: Final = 2
TASK: Final = "billing.tasks.write_export"

TOO_MANY_ROWS: Final = (
    f"A spreadsheet holds at most {XLSX_MAX_ROWS:,} transactions; choose a shorter period, or CSV."
)
CRASHED: Final = (
    "The work on it was broken off several times. The log of the workers says why; try again later."
)
NOT_ALLOWED: Final = "You may not see transactions any more."
FORGOTTEN: Final = "A person was forgotten who may be named in this file. Try again."

State = Export.State


class TooManyExports(Exception):
    """The operator has OWN_MAX exports."""


class Gone(Exception):
    """The export was removed, or another worker has begun it again."""


class Stopped(Exception):
    """The worker is to end."""


# --- Asking -------------------------------------------------------------------------------------


def own(operator: User, now: datetime) -> QuerySet[Export]:
    """Returns the exports that an operator may see: nobody sees those of others."""
    rows = Export.objects.filter(operator=operator.pk).exclude(_expired(now))
    return rows if operator.has_perm(PERMISSION) else rows.none()


def request(
    listing: Listing,
    *,
    operator: User,
    title: str,
    file_name: str,
    total: int | None,
    now: datetime,
) -> Export:
    """Lets a worker write a workbook of these transactions, with dates in the present time zone.

    Returns the export that is under way already if the operator has asked for the same.
    Raises TooManyExports.
    """
    asked: dict[str, Any] = {
        "user_id": listing.user_id,
        "listing": listing.as_data(),
        "time_zone": f"{timezone.get_current_timezone()}",
    }
    with transaction.atomic():
        lock_row(User.objects.filter(pk=operator.pk), operator.pk)  # one request after the other
        mine = Export.objects.filter(operator=operator.pk).exclude(_expired(now))
        same = mine.filter(state__in=(State.WAITING, State.RUNNING), **asked).first()
        if same is not None:
            return same
        if mine.count() >= OWN_MAX:
            raise TooManyExports
        export = Export.objects.create(
            operator=operator,
            title=title,
            file_name=file_name,
            total=total,
            requested_at=now,
            **asked,
        )
        _queue(export)
    return export


def try_again(export: Export, now: datetime) -> None:
    """Lets a worker try again what has failed."""
    with transaction.atomic():
        failed = Export.objects.filter(pk=export.pk, state=State.FAILED)
        if failed.update(
            state=State.WAITING,
            problem="",
            done=0,
            crashes=0,
            requested_at=now,
            started_at=None,
            finished_at=None,
        ):
            _queue(export)


def remove(export: Export) -> None:
    """Deletes an export with its file. A worker that is writing it stops."""
    Export.objects.filter(pk=export.pk).delete()


def _queue(export: Export) -> None:
    """Queues the job within the present database transaction, unless one waits already."""
    job = app.configure_task(
        TASK,
        lock=f"exports:{export.operator_id % LANES}",
        queueing_lock=f"export:{export.pk}",
        task_kwargs={"export_id": export.pk},
    ).job
    with suppress(AlreadyEnqueued), transaction.atomic():
        JobManager(DjangoConnector()).batch_defer_jobs([job])


# --- Writing ------------------------------------------------------------------------------------


def write(
    export_id: int, *, clock: Callable[[], datetime], should_stop: Callable[[], bool]
) -> None:
    """Writes the file of an export, unless it was removed or is finished.

    Begins from the start, also if another worker was broken off: a workbook cannot be continued.
    Raises Stopped if `should_stop` returns True; the export then waits for another worker.
    """
    export = _begin(export_id, clock())
    if export is None:
        return

    def tell(done: int) -> None:
        if should_stop():
            _ours(export).update(state=State.WAITING, done=0)
            raise Stopped
        if not _ours(export).update(done=done):
            raise Gone

    try:
        with TemporaryFile() as workbook, timezone.override(export.time_zone):
            write_xlsx(Listing.from_data(export.listing), workbook, tell)
            _keep(export, workbook, clock())
    except TooManyRows:
        _fail(export, TOO_MANY_ROWS, clock())
    except Gone:
        return


def _begin(export_id: int, now: datetime) -> Export | None:
    """Returns the export as it is begun now; None if there is nothing to do."""
    with transaction.atomic():
        export = lock_row(Export.objects.filter(pk=export_id), export_id)
        if export is None or not export.is_under_way:
            return None
        if export.state == State.RUNNING:
            export.crashes += 1
        export.state, export.started_at, export.done = State.RUNNING, now, 0
        export.save(update_fields=["state", "started_at", "done", "crashes"])
        if export.crashes > CRASHES_MAX:
            _fail(export, CRASHED, now)
            return None
        if not export.operator.has_perm(PERMISSION):
            _fail(export, NOT_ALLOWED, now)
            return None
    return export


def _ours(export: Export) -> QuerySet[Export]:
    """Returns the export; nothing if it was removed or another worker has begun it since."""
    return Export.objects.filter(pk=export.pk, state=State.RUNNING, started_at=export.started_at)


def _keep(export: Export, workbook: IO[bytes], now: datetime) -> None:
    size = workbook.seek(0, 2)
    workbook.seek(0)
    with transaction.atomic():
        if not _ours(export).update(state=State.FINISHED, finished_at=now, size=size):
            raise Gone
        for number in range(_parts(size)):
            ExportPart.objects.create(
                export=export, number=number, content=workbook.read(PART_BYTES)
            )


def _fail(export: Export, problem: str, now: datetime) -> None:
    _ours(export).update(state=State.FAILED, problem=problem, finished_at=now)


# --- Reading and deleting -----------------------------------------------------------------------


def content(export: Export) -> Iterator[bytes]:
    """Yields the file of a finished export. Raises Gone if it is deleted meanwhile."""
    for number in range(_parts(export.size)):
        parts = ExportPart.objects.filter(export=export.pk, number=number)
        part = parts.values_list("content", flat=True).first()
        if part is None:
            raise Gone
        yield bytes(part)


def _parts(size: int) -> int:
    return math.ceil(size / PART_BYTES)


def delete_old(now: datetime) -> None:
    """Deletes what has expired, and what no worker has begun for as long."""
    Export.objects.filter(_expired(now)).delete()


def _expired(now: datetime) -> Q:
    since = now - Export.KEPT_FOR
    return Q(finished_at__lte=since) | Q(finished_at=None, requested_at__lte=since)


def forget_about(user_ids: Iterable[int]) -> None:
    """Deletes all files that may name one of these users. What was asked of all can be retried."""
    Export.objects.filter(user__in=list(user_ids)).delete()
    ExportPart.objects.filter(export__user=None).delete()
    of_all = Export.objects.filter(user=None).exclude(state=State.WAITING)
    of_all.update(state=State.FAILED, problem=FORGOTTEN, finished_at=timezone.now(), size=0)
