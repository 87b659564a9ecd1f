"""`manage.py charge_due`: does a charging run in this process, without workers."""

import logging
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from procrastinate.contrib.django import app
from procrastinate.contrib.django.models import ProcrastinateJob
from tqdm import tqdm

from billing import counters
from billing.models import ChargingRun
from billing.money import format_money
from billing.plans import charging
from billing.plans.charging import Done, Figures
from users.texts import counted

log = logging.getLogger(__name__)

INTERRUPTED: Final = 130  # the exit status of shells for Ctrl-C
FIRST_YEAR: Final = 2000  # years outside are typing errors
LAST_YEAR: Final = 2199


class Command(BaseCommand):
    help = "Charges every subscription that is due and reports what was done."

    def run_from_argv(self, argv: list[str]) -> None:
        counters.keep_in(settings.METRICS_DIR)
        super().run_from_argv(argv)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--at",
            type=_time,
            metavar="ISO-TIME",
            help="charge everything due at this time, in UTC unless an offset is given [now]",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="print what would be posted and post nothing",
        )

    def handle(self, *, at: datetime | None, dry_run: bool, **options: Any) -> None:
        started, now = monotonic(), timezone.now()
        is_now = at is None
        at = at or now
        if ahead := _ahead(at, now):
            self.stderr.write(f"As of {_in_utc(at)}, which is {ahead} ahead.")
        figures = Figures()
        with tqdm(
            total=charging.count_due(at), desc="Charging", unit=" due", unit_scale=True,
            delay=1, disable=None, file=sys.stderr,
        ) as bar:  # fmt: skip
            try:
                for done in self.dry_run(at) if dry_run else self.run(at):
                    figures += done.figures
                    bar.update(done.due)
                if is_now and not dry_run:
                    for resumed in self.resume_after_refills(at):
                        figures += resumed
            except KeyboardInterrupt:
                raise CommandError(
                    "Interrupted; nothing was posted."
                    if dry_run
                    else "Interrupted. The charges listed above were posted; start it again "
                    "for the rest.",
                    returncode=INTERRUPTED,
                ) from None
            finally:
                bar.close()
                self.summarise(figures, at, monotonic() - started, dry_run=dry_run)
        if figures.failed:
            who = counted(figures.failed, "user")
            raise CommandError(
                f"{who} could not be charged; see the messages above."
                if dry_run
                else f"{who} could not be charged; see the panel's page of this run or the messages"
                " above. The next run tries again."
            )

    def summarise(self, figures: Figures, at: datetime, seconds: float, *, dry_run: bool) -> None:
        self.stdout.write(
            f"{'Would be charged' if dry_run else 'Charged'} as of {_in_utc(at)}: "
            f"{figures.charged:,} charged, {figures.suspended:,} suspended, "
            f"{figures.resumed:,} resumed, {figures.skipped:,} skipped, "
            f"total {format_money(figures.total)}, {seconds:.1f} seconds."
        )
        self.stdout.flush()

    def run(self, at: datetime) -> Iterator[Done]:
        run = charging.open_run(at, ChargingRun.Start.COMMAND)
        for batch in run.batches.order_by("id"):
            yield from charging.charge_batch(batch)

    def resume_after_refills(self, at: datetime) -> Iterator[Figures]:
        """Does the jobs that refills have queued; without workers nobody else would.

        Deletes a job before it locks the balance: in the other order, this and a refill could wait
        for each other. If this is killed in between, the next day's run resumes.
        """
        waiting = ProcrastinateJob.objects.filter(task_name="billing.tasks.resume", status="todo")
        for job_id, arguments in list(waiting.order_by("id").values_list("id", "args")):
            if not app.job_manager.cancel_job_by_id(job_id, delete_job=True):
                continue  # a worker has it
            try:
                yield charging.resume(arguments["user_id"], at)
            except Exception:
                if not connection.is_usable():
                    raise
                log.exception("User %s could not be resumed.", arguments["user_id"])
                yield Figures(failed=1)

    def dry_run(self, at: datetime) -> Iterator[Done]:
        for done in charging.dry_run(at):
            with tqdm.external_write_mode():  # beside the progress bar
                for row in done.posted:
                    self.stdout.write(
                        f"user {row.user_id}  {row.subtype:<10} {format_money(row.amount):>12}  "
                        f"{format_money(row.old_balance)} → {format_money(row.new_balance)}  "
                        f"{row.description}"
                    )
                for step in done.decisions:
                    if step.outcome in ("suspended", "resumed"):
                        of = step.subscription
                        self.stdout.write(
                            f"user {of.user_id}  {step.outcome:<10} {'':>12}  on {step.day}: {of}"
                        )
            yield done


def _in_utc(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _ahead(at: datetime, now: datetime) -> str:
    """Returns in words how far a time is in the future; "" if it is not."""
    if at <= now:
        return ""
    days = (at.astimezone(UTC).date() - now.astimezone(UTC).date()).days
    return counted(days, "day") if days else "less than a day"


def _time(text: str) -> datetime:
    """Parses a time, or a day, which means its midnight."""
    try:
        moment = parse_datetime(text)
        if moment is None and (day := parse_date(text)):
            moment = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - made aware below
    except ValueError:
        moment = None
    if moment is None:
        raise ArgumentTypeError(f"“{text}” is no time like 2026-12-01T00:05")
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise ArgumentTypeError(f"“{text}” is not between the years {FIRST_YEAR} and {LAST_YEAR}")
    return moment if timezone.is_aware(moment) else moment.replace(tzinfo=UTC)
