"""Events are append-only, chained by subject, and numbered without gaps."""

import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.core.management import call_command
from django.db import DatabaseError, IntegrityError, transaction

from billing import events, ledger, reports
from billing.models import Channel, Event, Subject
from tests.billing.histories import execute
from tests.config.processes import ROOT
from tests.conftest import Connections
from tests.factories import OperatorFactory, PlanFactory, UserFactory, user_with
from tests.recorded import events_of, sentences_of

pytestmark = pytest.mark.as_owner

SQL = ROOT / "billing" / "migrations" / "sql"


def record(subject_id: int = 1, **data: Any) -> Event:
    return events.record(
        Subject.PLAN, subject_id, "noted", actor=None, channel=Channel.PANEL, **data
    )


def judge() -> None:
    """Runs now the checks that the database runs at commit."""
    execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")


def test_events_of_a_subject_are_numbered_and_dated_in_order(db: None) -> None:
    operator = OperatorFactory()
    with ledger.for_request("4711"):
        first = events.record(
            Subject.USER, 5, "added", actor=operator, channel=Channel.API, a=[1, None]
        )
    other = record(5)
    second = events.record(Subject.USER, 5, "deactivated", actor=None, channel=Channel.PANEL)
    assert [each.number for each in (first, second, other)] == [1, 2, 1]
    assert second.created_at >= first.created_at
    assert (first.actor, first.channel, first.request_id) == (operator, "api", "4711")
    assert (first.data, second.data, second.request_id) == ({"a": [1, None]}, {}, None)
    assert events_of(Subject.USER, 5) == [first, second]
    assert str(second) == "deactivated of user 5"


ATTACKS = {
    "edit": "UPDATE billing_event SET action = 'other'",
    "delete": "DELETE FROM billing_event",
    "truncate": "TRUNCATE billing_event",
    "edit to the same": "UPDATE billing_event SET action = action",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_events_are_append_only(db: None, attack: str) -> None:
    record()
    judge()
    with pytest.raises(DatabaseError, match="Events are append-only"), transaction.atomic():
        execute(ATTACKS[attack])


COPY = (
    "INSERT INTO billing_event (subject, subject_id, number, action, channel, data, created_at, "
    "digest) SELECT subject, subject_id, {number}, action, channel, data, {at}, digest "
    "FROM billing_event; SET CONSTRAINTS ALL IMMEDIATE"
)


@pytest.mark.parametrize("number", [0, 2, 3])
@pytest.mark.parametrize("at", ["created_at", "created_at - interval '1 day'"])
def test_a_row_that_does_not_follow_is_refused(db: None, number: int, at: str) -> None:
    record()
    with pytest.raises(DatabaseError, match="does not follow"), transaction.atomic():
        execute(COPY.format(number=number, at=at))


def test_a_number_is_taken_once(db: None) -> None:
    record()
    with pytest.raises(IntegrityError), transaction.atomic():
        execute(COPY.format(number=1, at="created_at"))


def test_those_who_write_at_once_get_numbers_one_after_the_other(connections: Connections) -> None:
    outcomes = connections(8, lambda n: record(7, n=n))
    assert [each.error for each in outcomes] == [None] * 8
    assert [event.number for event in events_of(Subject.PLAN, 7)] == [*range(1, 9)]
    assert verify() == ""


def test_many_are_written_at_once_in_the_order_of_each_subject(db: None) -> None:
    notes = [events.Note(Subject.PLAN, n % 2, "noted", {"n": n}) for n in range(6)]
    events.record_all(notes, actor=None, channel=Channel.PANEL)
    assert [event.data["n"] for event in events_of(Subject.PLAN, 1)] == [1, 3, 5]
    assert events.record_all([], actor=None, channel=Channel.PANEL) == []


def verify() -> str:
    said = StringIO()
    try:
        call_command("verify_ledger", stdout=StringIO(), stderr=said)
    except SystemExit:
        assert said.getvalue()
    return said.getvalue()


def with_triggers_off(statement: str) -> Callable[[], None]:
    def tamper() -> None:
        execute("ALTER TABLE billing_event DISABLE TRIGGER USER")
        execute(statement)
        execute("ALTER TABLE billing_event ENABLE TRIGGER USER")

    return tamper


EDITS = {
    "action": ("UPDATE billing_event SET action = 'other' WHERE number = 2", 2, "G9"),
    "data": ("UPDATE billing_event SET data = '{}' WHERE number = 2", 2, "G9"),
    "actor": (
        "ALTER TABLE billing_event "
        "DROP CONSTRAINT billing_event_actor_id_14b9b8e7_fk_users_user_id; "
        "UPDATE billing_event SET actor_id = 0 WHERE number = 2",
        2,
        "G8",
    ),
    "gone": ("DELETE FROM billing_event WHERE number = 1", 2, "G2"),
    "last but one gone": ("DELETE FROM billing_event WHERE number = 2", 3, "G2"),
    "earlier": (
        "UPDATE billing_event SET created_at = created_at - interval '1 day' WHERE number = 3",
        3,
        "G2",
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_past_the_guards_is_found(db: None, edit: str) -> None:
    for n in range(3):
        record(n=n)
    assert verify() == ""
    statement, number, guarantee = EDITS[edit]
    judge()
    with_triggers_off(statement)()
    assert f"Event {number} of plan 1 breaks {guarantee}" in verify()
    transaction.set_rollback(True)


def test_what_was_logged_before_is_worded_as_it_was(db: None) -> None:
    said = {
        "Revoked.": {"message": "Revoked.", "flag": 2, "name": "x"},
        "Added.": {"message": json.dumps([{"added": {}}]), "flag": 1, "name": "x"},
        "Deleted.": {"message": "", "flag": 3, "name": "x"},
    }
    for place, (sentence, data) in enumerate(said.items()):
        assert events.sentence(record(place, **data)) == sentence


def test_the_history_that_was_kept_before_becomes_events(db: None) -> None:
    operator, user, other = OperatorFactory(), UserFactory(), UserFactory()
    plan = PlanFactory()
    for row, flag, message in (
        (user, ADDITION, "Added by the API."),
        (other, CHANGE, json.dumps([{"changed": {"fields": ["City"]}}])),
        (user, CHANGE, "Deactivated."),
        (operator, CHANGE, "API key “x” (bill_1…) was added."),
        (plan, DELETION, ""),
    ):
        LogEntry.objects.log_actions(operator.pk, [row], flag, message, single_object=True)
    LogEntry.objects.filter(object_id=str(plan.pk)).update(object_id="odd")
    execute((SQL / "0029_earlier_history.sql").read_text())
    judge()
    assert sentences_of(Subject.USER, user.pk) == ["Added by the API.", "Deactivated."]
    assert sentences_of(Subject.USER, other.pk) == ["Changed City."]
    assert sentences_of(Subject.OPERATOR, operator.pk) == ["API key “x” (bill_1…) was added."]
    first = events_of(Subject.USER, user.pk)[0]
    assert (first.actor, first.channel, first.action) == (operator, "api", "noted")
    assert first.created_at == LogEntry.objects.get(change_message="Added by the API.").action_time
    assert Event.objects.count() == 4  # the entry with an odd ID becomes no event
    assert LogEntry.objects.count() == 5
    assert verify() == ""


def test_a_history_has_events_and_transactions_by_their_times(db: None) -> None:
    user = user_with(real=5)
    record(user.pk)
    for place in range(2):
        events.record(Subject.USER, user.pk, "activated", actor=None, channel=Channel.API)
        ledger.change_balance(
            user, amount=1, description=f"By hand, {place}", actor=None, channel=Channel.API
        )
    whole = reports.history_of(Subject.USER, user.pk, reports.Before(), with_money=True)
    assert [
        each.sentence if each.event else each.transaction and each.transaction.number
        for each in whole.deeds
    ] == [3, "Activated.", 2, "Activated.", 1]
    assert whole.older is None
    second = reports.Before(event=2, transaction=2)
    rest = reports.history_of(Subject.USER, user.pk, second, with_money=True)
    assert [bool(each.event) for each in rest.deeds] == [True, False]
    without = reports.history_of(Subject.USER, user.pk, reports.Before())
    assert [each.channel for each in without.deeds] == ["API", "API"]


def test_a_page_of_a_history_says_where_the_next_one_begins(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports.history, "ENTRIES_PER_PAGE", 2)
    for n in range(3):
        record(9, n=n)
    first = reports.history_of(Subject.PLAN, 9, reports.Before())
    assert [each.event and each.event.number for each in first.deeds] == [3, 2]
    assert first.older == reports.Before(event=2)


def test_a_dry_run_leaves_no_event(db: None) -> None:
    with ledger.dry_run():
        record()
    assert not Event.objects.exists()
    assert UserFactory().pk
