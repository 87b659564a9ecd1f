"""Records changes of operators and groups, which Django's own pages save."""

from collections.abc import Sequence

from django.contrib.auth.models import Group

from billing import events
from billing.models import Channel, Event, Subject
from users.models import User


def record_added(row: User | Group, *, actor: User | None, channel: Channel) -> Event:
    """Records that an operator or a group was added."""
    return events.record(_subject_of(row), row.pk, "added", actor=actor, channel=channel)


def record_changed(
    row: User | Group, fields: Sequence[str], *, actor: User | None, channel: Channel
) -> Event:
    """Records which fields of an operator or a group changed, by their labels."""
    return events.record(
        _subject_of(row), row.pk, "changed", actor=actor, channel=channel, fields=list(fields)
    )


def record_deleted(row: User | Group, *, actor: User | None, channel: Channel) -> Event:
    """Records that a group was deleted. Operators are never deleted."""
    return events.record(
        _subject_of(row), row.pk, "deleted", actor=actor, channel=channel, name=str(row)
    )


def record_password_set(operator: User, *, actor: User | None, channel: Channel) -> Event:
    """Records that an operator got a new password."""
    return events.record(
        Subject.OPERATOR, operator.pk, "password_set", actor=actor, channel=channel
    )


def _subject_of(row: User | Group) -> Subject:
    return Subject.GROUP if isinstance(row, Group) else Subject.OPERATOR
