"""Events: the record of operations that are not told by one transaction.

Only `billing.operations` calls `record`, in the same database transaction as the operation. An
event stores data; pages show a sentence made from it (`sentence`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from django.db.models import QuerySet

from billing import ledger
from billing.events.sentences import sentence
from billing.models import Event, EventChannel, Subject
from users.models import User

__all__ = ["Note", "of_subject", "record", "record_all", "record_forgetting", "sentence"]

_NOTE: Final = "SELECT (noted).* FROM billing_note_events(%s, %s, %s, %s) AS noted"
_FORGET: Final = "SELECT (noted).* FROM billing_forget(%s, %s, %s, %s) AS noted"


class Note(NamedTuple):
    """An event to record. `action` is one of `billing.events.sentences.SENTENCES`."""

    subject: Subject
    subject_id: int
    action: str
    data: Mapping[str, Any]


def record(
    subject: Subject,
    subject_id: int,
    action: str,
    *,
    actor: User | None,
    channel: EventChannel | str,
    **data: Any,
) -> Event:
    """Writes one event. `data` must be JSON-serialisable."""
    [event] = record_all([Note(subject, subject_id, action, data)], actor=actor, channel=channel)
    return event


def record_all(
    notes: Sequence[Note], *, actor: User | None, channel: EventChannel | str
) -> list[Event]:
    """Writes many events, in one statement."""
    if not notes:
        return []
    written = json.dumps([each._asdict() for each in notes])
    arguments = [written, None if actor is None else actor.pk, channel, ledger.current_request()]
    return list(Event.objects.raw(_NOTE, arguments))


def record_forgetting(user_id: int, *, actor: User | None, channel: EventChannel | str) -> Event:
    """Erases what events say about a person, and records it: docs/ledger.md.

    The user is marked as forgotten, deactivated, and without money and subscriptions.
    """
    arguments = [user_id, None if actor is None else actor.pk, channel, ledger.current_request()]
    [event] = Event.objects.raw(_FORGET, arguments)
    return event


def of_subject(subject: Subject, subject_id: int) -> QuerySet[Event]:
    """Returns the events of a subject, the latest first."""
    rows = Event.objects.filter(subject=subject, subject_id=subject_id)
    return rows.select_related("actor").order_by("-number")
