"""`manage.py ledger_heads [FILE]`: writes the signed heads of the ledger."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing.ledger import heads, signing
from billing.ledger.heads import UnusableHeads
from billing.ledger.signing import UnusableKey
from users.texts import counted


class Command(BaseCommand):
    help = (
        "Writes the last number and digest of every user's transactions, and of every subject's "
        "events, to one signed file. Kept where nobody of this installation can write, it shows "
        "later whether the end of a history was cut off or rewritten: verify_ledger --heads FILE."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "file",
            nargs="?",
            type=Path,
            metavar="FILE",
            help="where to write it; by default in DATA_DIR/heads, named by the time",
        )
        parser.add_argument(
            "--public-key",
            action="store_true",
            help="write nothing; print the key with which anybody can check the signature",
        )

    def handle(self, *, file: Path | None, public_key: bool, **options: Any) -> None:
        now = timezone.now()
        try:
            key = signing.own_key()
            if public_key:
                self.stdout.write(f"{key.public}")
                return
            path = file or settings.LEDGER_HEADS_DIR / heads.name_at(now)
            with heads.drafted(path, key, made_at=now) as draft:
                draft.publish()
        except (UnusableKey, UnusableHeads) as problem:
            raise CommandError(f"{problem}") from None
        except OSError as problem:
            raise CommandError(f"{path} cannot be written: {problem.strerror}.") from None
        self.stdout.write(
            f"Wrote the heads of {counted(draft.users, 'user')} with "
            f"{counted(draft.transactions, 'transaction')} and {counted(draft.events, 'event')} "
            f"to {path}, signed with the key {key.public.id}."
        )
