"""Reads events, for tests of operations that record them."""

from billing import events
from billing.models import Event, Subject


def events_of(subject: Subject, subject_id: int) -> list[Event]:
    """Returns the events of a subject, the oldest one first."""
    return list(reversed(events.of_subject(subject, subject_id)))


def sentences_of(subject: Subject, subject_id: int) -> list[str]:
    return [events.sentence(event) for event in events_of(subject, subject_id)]


def all_sentences() -> list[str]:
    """Returns the sentences of all events, the oldest one first."""
    return [events.sentence(event) for event in Event.objects.order_by("pk")]
