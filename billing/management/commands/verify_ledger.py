"""`manage.py verify_ledger`: proves from the rows alone that the ledger keeps its guarantees."""

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from tqdm import tqdm

from billing.ledger import verification
from billing.ledger.rules import (
    BALANCE_RULES,
    CLOCK,
    EVENT_RULES,
    GRANT_RULES,
    SEPARATE_RULES,
    TRANSACTION_RULES,
    USE_RULES,
)
from billing.ledger.verification import Problem
from billing.sql import guards
from users.texts import counted


class Command(BaseCommand):
    help = (
        "Recomputes every balance, number, sum and digest from the transactions, checks each "
        "guard of the ledger in the database, and exits with 1 if something is wrong. It only "
        "reads and may run while the panel works."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--user", type=int, metavar="ID", help="check only this user's rows")

    def handle(self, *, user: int | None, **options: Any) -> None:
        # The rows first, since they matter most; the guards say whether it will stay like this.
        try:
            rows_are_right = self._check_rows(user)
        except DatabaseError as problem:  # somebody changed the tables
            reason = str(problem).strip().splitlines()[0]
            self.stderr.write(self.style.ERROR(f"The rows could not be checked: {reason}"))
            rows_are_right = False
        guards_are_right = self._check_guards(said_that_all_is_well=rows_are_right)
        if not (rows_are_right and guards_are_right):
            sys.exit(1)

    def _check_rows(self, user: int | None) -> bool:
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
                    return False
                transactions += checked.transactions
                users += checked.users
                bar.update(checked.transactions)
        self._write_rules()
        self.stdout.write(
            self.style.SUCCESS(
                f"All of this holds for {counted(transactions, 'transaction')} "
                f"of {counted(users, 'user')}."
            )
        )
        return True

    def _check_guards(self, *, said_that_all_is_well: bool) -> bool:
        problems = guards.problems()
        for problem in problems:
            self.stderr.write(self.style.ERROR(problem))
        if problems:
            self.stderr.write(
                "Until the guards of the database are restored, rows can be changed that "
                "nobody may change. Migrations install them; grant_roles takes rights back."
            )
        elif said_that_all_is_well:
            self.stdout.write("Each guard of the ledger in the database is present and armed.")
        return not problems

    def _report(self, problem: Problem) -> None:
        self.stderr.write(self.style.ERROR(str(problem)))
        for name, value in problem.row.items():
            self.stderr.write(f"  {name}: {_shown(value)}")
        if problem.rule is not CLOCK:
            self.stderr.write("It is the first such row; later rows were not checked.")

    def _write_rules(self) -> None:
        for of, rules in (
            ("balance", BALANCE_RULES),
            ("transaction", TRANSACTION_RULES + SEPARATE_RULES),
            ("grant", GRANT_RULES),
            ("use of a grant", USE_RULES),
            ("event", EVENT_RULES),
        ):
            self.stdout.write(f"Checked of each {of}:")
            for rule in rules:
                self.stdout.write(f"  {rule.guarantee}  {rule.says}")


def _stretch_of(user_id: int) -> verification.Stretch:
    stretch = verification.stretch_of(user_id)
    if stretch is None:
        raise CommandError(f"There is no user with ID {user_id}.")
    return stretch


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes | memoryview) else str(value)
