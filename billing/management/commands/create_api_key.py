"""`manage.py create_api_key`: makes a key of the Billing API, and prints it once."""

from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import operations
from billing.models import ApiKey, EventChannel
from users.models import User

DAYS_MAX: Final = 36_500


class Command(BaseCommand):
    help = (
        "Adds an API key for an operator and prints only the key on standard output. It "
        "cannot be shown again. The panel lists and revokes keys under API keys."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--owner", required=True, metavar="EMAIL", help="the operator in whose name it acts"
        )
        parser.add_argument("--name", required=True, help="the program that uses it")
        parser.add_argument("--read-only", action="store_true", help="may read, but change nothing")
        parser.add_argument(
            "--expires",
            type=_days,
            metavar="DAYS",
            help="how long it is valid [until it is revoked]",
        )

    def handle(
        self, *, owner: str, name: str, read_only: bool, expires: int | None, **options: Any
    ) -> None:
        operator = User.objects.with_email(owner).filter(is_staff=True, is_active=True).first()
        if operator is None:
            raise CommandError(f"“{owner}” is not the login of an active operator.")
        name = name.strip()
        try:
            ApiKey._meta.get_field("name").clean(name, None)
        except ValidationError as problem:
            raise CommandError(f"--name: {' '.join(problem.messages)}") from None
        _, secret = operations.keys.add(
            name=name,
            owner=operator,
            is_read_only=read_only,
            expires_at=None if expires is None else timezone.now() + timedelta(days=expires),
            actor=operator,
            channel=EventChannel.COMMAND,
        )
        self.stdout.write(secret)


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= DAYS_MAX:
        raise ArgumentTypeError(f"“{text}” is not a whole number of days from 1 to {DAYS_MAX:,}")
    return int(text)
