"""`manage.py seed_demo`: loads demo data into an empty installation."""

from argparse import ArgumentParser, ArgumentTypeError
from time import monotonic
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

USERS_DEFAULT: Final = 60
TRANSACTIONS_DEFAULT: Final = 6_000
MAX: Final = 100_000_000


class Command(BaseCommand):
    help = "Loads demo data: users, months of transactions, and the operator operator@example.com."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--users", type=_count, default=USERS_DEFAULT, help="how many users [%(default)s]"
        )
        parser.add_argument(
            "--transactions",
            type=_count,
            default=TRANSACTIONS_DEFAULT,
            help="how many transactions, a tenth of them of one user [%(default)s]",
        )
        parser.add_argument(
            "--seed", type=int, default=1, help="another number makes another history [%(default)s]"
        )

    def handle(self, *, users: int, transactions: int, seed: int, **options: Any) -> None:
        from billing.management.demo import company, people

        started = monotonic()
        try:
            company.found(users=users, transactions=transactions, seed=seed, now=timezone.now())
        except company.UsersExist:
            raise CommandError(
                "There are already users; demo data is loaded only into an empty installation."
            ) from None
        except KeyboardInterrupt:
            raise CommandError("Interrupted; nothing was loaded.") from None
        if options["verbosity"]:
            self.stdout.write(
                f"Demo data: {users:,} users and {transactions:,} transactions "
                f"in {monotonic() - started:,.0f} seconds.\n"
                f"Log in as {people.JOBS[0].email} with the password {people.PASSWORD}."
            )


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX:
        raise ArgumentTypeError(f"“{text}” is not a whole number from 1 to {MAX:,}")
    return int(text)
