"""`manage.py verify_ledger`: proves from the rows alone that the ledger keeps its guarantees."""

import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, transaction
from django.utils import timezone
from tqdm import tqdm

from billing.ledger import against_heads, heads, proofs, signing, verification
from billing.ledger.heads import Heads, UnusableHeads
from billing.ledger.rules import (
    BALANCE_RULES,
    CLOCK,
    EVENT_RULES,
    GRANT_RULES,
    HEAD,
    SEPARATE_RULES,
    TRANSACTION_RULES,
    USE_RULES,
)
from billing.ledger.signing import PublicKey, UnusableKey
from billing.ledger.verification import Checked, Problem, Stretch
from billing.models import Proof
from billing.sql import guards
from users.texts import counted


class Command(BaseCommand):
    help = (
        "Recomputes every balance, number, sum and digest from the transactions, checks each "
        "guard of the ledger in the database, and exits with 1 if something is wrong. With "
        "--heads, it also finds histories whose end was cut off or rewritten since. It changes "
        "nothing in the ledger and may run while the panel works."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--user", type=int, metavar="ID", help="check only this user's rows")
        against = parser.add_mutually_exclusive_group()
        against.add_argument(
            "--heads",
            type=Path,
            metavar="FILE",
            help="also compare with these signed heads, from manage.py ledger_heads",
        )
        against.add_argument(
            "--since",
            type=Path,
            metavar="FILE",
            help="compare with these signed heads, and check only the rows that came after them",
        )
        parser.add_argument(
            "--public-key",
            metavar="KEY",
            help="the key that the heads were signed for; by default this installation's own",
        )
        parser.add_argument(
            "--processes",
            type=_processes,
            metavar="N",
            help="how many processes of the database check at the same time; by default "
            "LEDGER_PROOF_PROCESSES",
        )

    def handle(self, *, user: int | None, **options: Any) -> None:
        started_at = timezone.now()
        self.processes = options["processes"] or settings.LEDGER_PROOF_PROCESSES
        self.heads = _read(options["heads"] or options["since"], options["public_key"])
        is_since = options["since"] is not None
        proof = Proof(
            kind=Proof.Kind.INCREMENTAL if is_since else Proof.Kind.FULL,
            started_by=Proof.Start.COMMAND,
            started_at=started_at,
            users=0,
            transactions=0,
        )
        # The rows first, since they matter most; the guards say whether it will stay like this.
        try:
            proof.problem = self._check_rows(proof, user)
        except DatabaseError as error:  # somebody changed the tables
            proof.problem = proofs.could_not_check(error)
            self.stderr.write(self.style.ERROR(proof.problem))
        problems = self._check_guards(said_that_all_is_well=not proof.problem)
        proof.problem = proof.problem or " ".join(problems)
        if user is None:
            _record(proof)
        if proof.problem:
            sys.exit(1)

    def _check_rows(self, proof: Proof, user: int | None) -> str:
        """Checks rows and counts them; returns the first problem, or an empty text."""
        stretches = self._stretches(user)
        if proof.kind == Proof.Kind.INCREMENTAL:
            assert self.heads  # noqa: S101 - of --since
            results = against_heads.check_since(self.heads, processes=self.processes, user_id=user)
        else:
            results = self._check_all(stretches, user)
        is_whole = proof.kind == Proof.Kind.FULL
        with tqdm(
            total=sum(stretch.transactions for stretch in stretches) if is_whole else None,
            desc="Checking transactions",
            unit_scale=True,
            leave=False,
            disable=None,  # shown on a terminal only
        ) as bar:
            for checked in results:
                if checked.problem:
                    bar.close()
                    self._report(checked.problem)
                    return str(checked.problem)
                proof.transactions += checked.transactions
                proof.users += checked.users
                bar.update(checked.transactions)
        self._write_rules()
        new = "new " if proof.kind == Proof.Kind.INCREMENTAL else ""
        self.stdout.write(
            self.style.SUCCESS(
                f"All of this holds for {counted(proof.transactions, f'{new}transaction')} "
                f"of {counted(proof.users, 'user')}."
            )
        )
        return ""

    def _stretches(self, user: int | None) -> list[Stretch]:
        if user is None:
            return verification.stretches()
        stretch = verification.stretch_of(user)
        if stretch is None and not (self.heads and self.heads.has_user(user)):
            raise CommandError(f"There is no user with ID {user}.")
        return verification.divided([stretch or Stretch(user - 1, user, 0)])

    def _check_all(self, stretches: list[Stretch], user: int | None) -> Iterator[Checked]:
        tasks = verification.tasks(stretches)
        if self.heads:
            tasks = chain(against_heads.check_heads(self.heads, user_id=user), tasks)
        return verification.in_order(tasks, self.processes)

    def _check_guards(self, *, said_that_all_is_well: bool) -> list[str]:
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
        return problems

    def _report(self, problem: Problem) -> None:
        self.stderr.write(self.style.ERROR(str(problem)))
        for name, value in problem.row.items():
            if name != "said":
                self.stderr.write(f"  {name}: {_shown(value)}")
        if problem.rule is not CLOCK:
            self.stderr.write("It is the first such row; later rows were not checked.")

    def _write_rules(self) -> None:
        if self.heads:
            self.stdout.write(f"Compared with {self.heads}:")
            self.stdout.write(f"  {HEAD.guarantee}  {HEAD.says}")
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


def _processes(typed: str) -> int:
    if not 1 <= int(typed) <= 64:
        raise ValueError
    return int(typed)


def _read(path: Path | None, public_key: str | None) -> Heads | None:
    if path is None:
        if public_key:
            raise CommandError("--public-key is for --heads or --since.")
        return None
    try:
        key = PublicKey.of_text(public_key) if public_key else signing.own_key().public
        return heads.read(path, key)
    except (UnusableKey, UnusableHeads) as problem:
        raise CommandError(f"{problem} Nothing was checked.") from None


def _record(proof: Proof) -> None:
    """Keeps the result where this can be written: not on a replica."""
    try:
        with transaction.atomic():
            proofs.record(proof, finished_at=timezone.now())
    except DatabaseError:
        pass


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes | memoryview) else str(value)
