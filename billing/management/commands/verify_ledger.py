"""manage.py verify_ledger: proves from the rows alone that the ledger keeps its guarantees."""

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from tqdm import tqdm

from billing import verification
from billing.verification import BALANCE_RULES, CLOCK, TRANSACTION_RULES, Problem
from users.models import User


class Command(BaseCommand):
    help = (
        "Re-computes every balance, number, sum and digest from the transactions, and exits with "
        "1 if something does not fit. Reads only, and may run while the panel works."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--user", type=int, metavar="ID", help="check this user alone")

    def handle(self, *, user: int | None, **options: Any) -> None:
        stretches = verification.stretches() if user is None else [_stretch_of(user)]
        transactions = users = 0
        with tqdm(
            total=sum(stretch.transactions for stretch in stretches),
            desc="Checking transactions",
            unit_scale=True,
            leave=False,
            disable=None,  # shown on a terminal only
        ) as bar:
            for checked in verification.check(stretches):
                if checked.problem:
                    bar.close()
                    self._report(checked.problem)
                    sys.exit(1)
                transactions += checked.transactions
                users += checked.users
                bar.update(checked.transactions)
        self._write_rules()
        self.stdout.write(
            self.style.SUCCESS(
                f"All of this holds for {_count(transactions, 'transaction')} "
                f"of {_count(users, 'user')}."
            )
        )

    def _report(self, problem: Problem) -> None:
        self.stderr.write(self.style.ERROR(str(problem)))
        for name, value in problem.row.items():
            self.stderr.write(f"  {name}: {_shown(value)}")
        if problem.rule is not CLOCK:
            self.stderr.write("It is the first such row; later ones were not looked at.")

    def _write_rules(self) -> None:
        for of, rules in (("balance", BALANCE_RULES), ("transaction", TRANSACTION_RULES)):
            self.stdout.write(f"Checked of each {of}:")
            for rule in rules:
                self.stdout.write(f"  {rule.guarantee}  {rule.says}")


def _stretch_of(user_id: int) -> verification.Stretch:
    if not User.objects.filter(pk=user_id).exists():
        raise CommandError(f"There is no user with ID {user_id}.")
    return verification.stretch_of(user_id)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes | memoryview) else str(value)
