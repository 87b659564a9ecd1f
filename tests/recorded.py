"""What events say, for tests of whatever leaves one."""

from billing import events
from billing.models import Event, Subject


def events_of(subject: Subject, subject_id: int) -> list[Event]:
    """The events of a subject, the first one first."""
    return list(reversed(events.of_subject(subject, subject_id)))


def sentences_of(subject: Subject, subject_id: int) -> list[str]:
    return [events.sentence(event) for event in events_of(subject, subject_id)]


def all_sentences() -> list[str]:
    """What all events say, in the order in which they were written."""
    return [events.sentence(event) for event in Event.objects.order_by("pk")]
