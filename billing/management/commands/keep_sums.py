"""`manage.py keep_sums`: sums up what the start page shows, as workers do every 15 seconds."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from billing import reports
from billing.ledger import turnovers
from billing.models import KeptSums


class Command(BaseCommand):
    help = (
        "Sums up the transactions posted since the last time, for the start page. Workers do the "
        "same every 15 seconds. With --again, it begins with the first transaction, which sets "
        "right what verify_ledger found wrong about these sums."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--again", action="store_true", help="sum up all transactions again")

    def handle(self, *, again: bool, **options: Any) -> None:
        if again:
            turnovers.begin_again()
        turnovers.sum_up(reports.complete_until())
        until = KeptSums.objects.get().until
        self.stdout.write(f"Summed up: transactions before {until:%Y-%m-%d %H:%M:%S} UTC.")
