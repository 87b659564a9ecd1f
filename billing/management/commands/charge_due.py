"""`manage.py charge_due`: one charging run, here and now, whether or not there are workers."""

import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from tqdm import tqdm

from billing import charging
from billing.charging import Done, Figures
from billing.models import ChargingRun
from billing.money import format_money


class Command(BaseCommand):
    help = "Charges every subscription that is due, and says what was done."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--at",
            type=_time,
            metavar="ISO-TIME",
            help="charge what is due at this time, UTC unless it says otherwise [now]",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="print what would be posted, and post nothing",
        )

    def handle(self, *, at: datetime | None, dry_run: bool, **options: Any) -> None:
        started = monotonic()
        at = at or timezone.now()
        figures = Figures()
        due = charging.count_due(at)
        with tqdm(
            total=due, desc="Charging", unit=" due", unit_scale=True,
            delay=1, disable=None, file=sys.stderr,
        ) as bar:  # fmt: skip
            for done in self.rehearse(at) if dry_run else self.run(at):
                figures += done.figures
                bar.update(done.due)
        self.stdout.write(
            f"{'Would be charged' if dry_run else 'Charged'} as of "
            f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC: "
            f"{figures.charged:,} charged, {figures.suspended:,} suspended, "
            f"{figures.resumed:,} resumed, {figures.skipped:,} skipped, "
            f"total {format_money(figures.total)}, {monotonic() - started:.1f} seconds."
        )
        if figures.failed:
            raise CommandError(
                f"{figures.failed:,} users could not be charged; the panel's page of this run "
                "says why. The next run tries them again."
            )

    def run(self, at: datetime) -> Iterator[Done]:
        run = charging.open_run(at, ChargingRun.Start.COMMAND)
        for batch in run.batches.order_by("id"):
            yield from charging.charge_batch(batch)

    def rehearse(self, at: datetime) -> Iterator[Done]:
        for done in charging.rehearse(at):
            with tqdm.external_write_mode():  # beside the progress bar
                for row in done.posted:
                    self.stdout.write(
                        f"user {row.user_id}  {row.subtype:<10} {format_money(row.amount):>12}  "
                        f"{format_money(row.old_balance)} → {format_money(row.new_balance)}  "
                        f"{row.description}"
                    )
            yield done


def _time(text: str) -> datetime:
    """A time, or a day, which begins at midnight."""
    try:
        moment = parse_datetime(text)
        if moment is None and (day := parse_date(text)):
            moment = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - made aware below
    except ValueError:
        moment = None
    if moment is None:
        raise ArgumentTypeError(f"“{text}” is no time like 2026-12-01T00:05")
    return moment if timezone.is_aware(moment) else moment.replace(tzinfo=UTC)
