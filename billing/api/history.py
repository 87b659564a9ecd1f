"""Notes what programs did to a user in the user's history, which the panel shows."""

from django.contrib.admin.models import ADDITION, CHANGE, LogEntry

from users.models import User


def note(actor: User, user: User, sentence: str, *, is_new: bool = False) -> None:
    LogEntry.objects.log_actions(
        actor.pk, [user], ADDITION if is_new else CHANGE, sentence, single_object=True
    )
