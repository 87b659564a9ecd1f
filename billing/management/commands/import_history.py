"""`manage.py import_history`: customers and history of another system. See docs/import.md."""

import sys
from argparse import ArgumentParser
from datetime import UTC
from getpass import getpass
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.utils import timezone
from tqdm import tqdm

from billing.imports import panel_api
from billing.imports.folder import Folder
from billing.imports.panel_api import DownloadFailed
from billing.ledger import verification
from billing.money import format_money
from billing.operations import history
from billing.operations.history import Imported, ImportRefused
from users.models import User
from users.texts import counted

SHOWN_PROBLEMS: Final = 20
PROBLEMS_FILE: Final = "problems.txt"


class Command(BaseCommand):
    help = (
        "Imports customers, plans, subscriptions and dated transactions of another system from a "
        "folder of CSV files or, by way of such a folder, from a Panel API. Can be interrupted "
        "and started again."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "folder", type=Path, metavar="FOLDER", help="the folder with the CSV files"
        )
        parser.add_argument(
            "--check", action="store_true", help="report what would be imported and import nothing"
        )
        parser.add_argument(
            "--fill-gaps",
            action="store_true",
            help="where balances of consecutive operations do not match, add a transaction of "
            "the difference",
        )
        parser.add_argument(
            "--skip-users",
            action="store_true",
            help="leave out users who cannot be imported, and import the others",
        )
        parser.add_argument(
            "--time-zone",
            type=str,
            default="UTC",
            metavar="ZONE",
            help="time zone of times without one, for example Europe/Berlin [%(default)s]",
        )
        parser.add_argument(
            "--operator",
            metavar="E-MAIL",
            help="the operator recorded as actor [none: the system]",
        )
        parser.add_argument(
            "--tell-programs",
            action="store_true",
            help="send webhooks about the imported transactions, too",
        )
        parser.add_argument(
            "--from-panel-api",
            metavar="URL",
            help="first download everything from this Panel API into the folder; for Navixy "
            "https://api.navixy.com/v2/panel",
        )
        parser.add_argument(
            "--login",
            help="login of the Panel API; its password is asked for or read from "
            "PANEL_API_PASSWORD",
        )

    def handle(
        self,
        *,
        folder: Path,
        check: bool,
        fill_gaps: bool,
        skip_users: bool,
        time_zone: str,
        operator: str | None,
        tell_programs: bool,
        from_panel_api: str | None,
        login: str | None,
        **options: Any,
    ) -> None:
        try:
            zone = UTC if time_zone == "UTC" else ZoneInfo(time_zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise CommandError(f"“{time_zone}” is not a known time zone.") from None
        actor = None if operator is None else _operator(operator)
        try:
            if from_panel_api is not None:
                self._download(folder, from_panel_api, login)
            with _Bars() as bars:
                found = history.import_history(
                    Folder(folder, zone),
                    now=timezone.now(),
                    actor=actor,
                    fill_gaps=fill_gaps,
                    skip_users=skip_users,
                    tell_programs=tell_programs,
                    dry_run=check,
                    progress=bars.show,
                )
        except (ImportRefused, DownloadFailed) as refusal:
            raise CommandError(str(refusal)) from None
        except KeyboardInterrupt:
            raise CommandError(
                "Interrupted. Everything imported so far stays; start it again to continue."
            ) from None
        self._summarise(found, folder, skip_users=skip_users)
        if found.is_written:
            self._verify()

    def _download(self, folder: Path, url: str, login: str | None) -> None:
        if login is None:
            raise CommandError("Name the login of the Panel API with --login.")
        password = settings.PANEL_API_PASSWORD or getpass(f"Password of {login}: ")
        with _Bars() as bars:
            panel_api.download(
                folder,
                url=url,
                login=login,
                password=password,
                now=timezone.now(),
                progress=lambda done, total: bars.show("download", done, total),
            )

    def _summarise(self, found: Imported, folder: Path, *, skip_users: bool) -> None:
        if found.problem_count:
            self._report(found, folder)
        if found.problem_count and not found.is_written and (found.stops or not skip_users):
            raise CommandError(
                f"{counted(found.problem_count, 'problem')}. Nothing was imported. "
                "Correct the files and start again"
                + ("." if found.stops else ", or leave these users out with --skip-users.")
            )
        what = "Imported" if found.is_written else "Would be imported"
        counts = [
            counted(found.users, "user"),
            counted(found.transactions, "transaction"),
            counted(found.subscriptions, "subscription"),
            counted(found.plans, "new plan"),
        ]
        self.stdout.write(
            f"{what}: {', '.join(counts)}. The balances are {format_money(found.real)} real and "
            f"{format_money(found.bonus)} bonus in all."
        )
        for number, sentence in (
            (found.kept, "imported earlier, left unchanged"),
            (found.skipped, "left out: see the problems"),
        ):
            if number:
                self.stdout.write(f"{counted(number, 'user')} {sentence}.")
        if found.differences:
            self.stdout.write(
                f"{counted(found.differences, 'transaction')} explain a difference between "
                "operations that did not follow each other."
            )
        if found.as_payments:
            self.stdout.write(
                f"{counted(found.as_payments, 'operation')} became payments, because "
                "the ledger does not allow their original type; "
                "their metadata keep it."
            )

    def _report(self, found: Imported, folder: Path) -> None:
        for problem in found.problems[:SHOWN_PROBLEMS]:
            self.stderr.write(str(problem))
        if found.problem_count > SHOWN_PROBLEMS:
            path = folder / PROBLEMS_FILE
            path.write_text(
                "".join(f"{problem}\n" for problem in found.problems),
                encoding="utf-8",
                errors="backslashreplace",
            )
            kept = (
                "all"
                if found.problem_count == len(found.problems)
                else f"the first {len(found.problems):,}"
            )
            self.stderr.write(f"… {path} has {kept} of {found.problem_count:,} problems.")

    def _verify(self) -> None:
        """Checks the whole ledger as verify_ledger does, and the statistics it is read by."""
        with connection.cursor() as cursor:
            cursor.execute(
                "ANALYZE users_user, billing_balance, billing_transaction, billing_subscription"
            )
        stretches = verification.stretches()
        transactions = 0
        with _Bars() as bars:
            total = sum(stretch.transactions for stretch in stretches)
            for checked in verification.check(stretches):
                if checked.problem:
                    raise CommandError(
                        f"The ledger does not verify: {checked.problem}. Run verify_ledger."
                    )
                transactions += checked.transactions
                bars.show("verify", transactions, total)
        self.stdout.write(
            self.style.SUCCESS(
                f"The ledger verifies: {counted(transactions, 'transaction')} in all."
            )
        )


class _Bars:
    """A progress bar for each stage, on a terminal only. To be used in a `with` statement."""

    TITLES: Final = {
        "download": "Downloading users",
        "check": "Checking users",
        "import": "Importing users",
        "verify": "Verifying transactions",
    }

    def __init__(self) -> None:
        self._stage = ""
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> "_Bars":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self.__exit__()
            self._stage = stage
            self._bar = tqdm(
                total=total, desc=self.TITLES[stage], unit_scale=True, delay=1, disable=None,
                file=sys.stderr,
            )  # fmt: skip
        assert self._bar is not None  # noqa: S101 - just made
        self._bar.update(done - self._bar.n)


def _operator(email: str) -> User:
    operator = User.objects.with_email(email).filter(is_staff=True).first()
    if operator is None:
        raise CommandError(f"There is no operator {email}.")
    return operator
