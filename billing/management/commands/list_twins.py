from typing import Any

from django.core.management.base import BaseCommand

from users.models import User


class Command(BaseCommand):
    help = (
        "Lists users who share a mailbox, from before this was refused: their addresses are "
        "spelled differently but are the same. Give all but one of them another address."
    )

    def handle(self, **options: Any) -> None:
        for user in User.objects.sharing_mailbox():
            state = "" if user.is_active else ", deactivated"
            kind = "operator" if user.is_staff else "user"
            self.stdout.write(
                f"{user.email_identity}: {kind} {user.pk}, {user.email!a}, "
                f"created {user.created_at:%Y-%m-%d}{state}"
            )
