"""Histories of users, plans, …: events, and for users also transactions. Latest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Final

from billing import events
from billing.models import Event, Subject, Transaction
from billing.reports.pages import tie_reversals
from users.models import User

ENTRIES_PER_PAGE: Final = 50


@dataclass(frozen=True)
class HistoryEntry:
    """One entry of a history: an event or a transaction."""

    at: datetime
    actor: User | None
    channel: str
    event: Event | None = None
    transaction: Transaction | None = None

    @classmethod
    def of_event(cls, event: Event) -> "HistoryEntry":
        return cls(event.created_at, event.actor, event.get_channel_display(), event=event)

    @classmethod
    def of_transaction(cls, row: Transaction) -> "HistoryEntry":
        return cls(row.created_at, row.actor, row.get_channel_display(), transaction=row)

    @property
    def sentence(self) -> str:
        """The sentence of an event. A page words transactions itself."""
        return events.sentence(self.event) if self.event is not None else ""


@dataclass(frozen=True)
class Before:
    """Where a page of a history begins: below these numbers. None: with the latest."""

    event: int | None = None
    transaction: int | None = None


@dataclass(frozen=True)
class HistoryPage:
    """Some entries, and where the next page begins. None: nothing is older."""

    deeds: Sequence[HistoryEntry]
    older: Before | None


def history_of(
    subject: Subject, subject_id: int, before: Before, *, with_money: bool = False
) -> HistoryPage:
    """Returns a page of the history of a subject; `with_money`, also transactions of a user.

    Both are read by number, so every page costs the same, however long the history is.
    """
    of_subject = events.of_subject(subject, subject_id)
    if before.event is not None:
        of_subject = of_subject.filter(number__lt=before.event)
    deeds = [HistoryEntry.of_event(event) for event in of_subject[: ENTRIES_PER_PAGE + 1]]
    if with_money and subject == Subject.USER:
        rows = Transaction.objects.filter(user=subject_id).select_related("actor")
        if before.transaction is not None:
            rows = rows.filter(number__lt=before.transaction)
        found = list(rows.order_by("-number")[: ENTRIES_PER_PAGE + 1])
        deeds += [HistoryEntry.of_transaction(row) for row in found]
    # Stable: at the same moment events come first, and each kind stays in order of its numbers.
    deeds.sort(key=attrgetter("at"), reverse=True)
    shown, has_older = deeds[:ENTRIES_PER_PAGE], len(deeds) > ENTRIES_PER_PAGE
    tie_reversals([each.transaction for each in shown if each.transaction is not None])
    return HistoryPage(shown, _end(shown, before) if has_older else None)


def _end(shown: Sequence[HistoryEntry], before: Before) -> Before:
    seen_events = [each.event.number for each in shown if each.event is not None]
    seen_rows = [each.transaction.number for each in shown if each.transaction is not None]
    return Before(
        min(seen_events, default=before.event), min(seen_rows, default=before.transaction)
    )
