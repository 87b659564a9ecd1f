"""Workbooks in the background: asked for, written by workers, kept for a day, seen by one."""

import io
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.utils import timezone
from procrastinate.contrib.django.models import ProcrastinateJob
from procrastinate.exceptions import JobAborted
from psycopg import errors

from billing import operations, tasks
from billing.models import Channel, Export, ExportPart, Label
from billing.operations import exports
from billing.reports import Listing
from tests.billing.histories import execute
from tests.conftest import Connections
from tests.factories import UserFactory, user_with
from tests.operators import operator_with
from users.models import User

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
State = Export.State


@pytest.fixture
def reader(request: pytest.FixtureRequest) -> User:
    """An operator who may see transactions."""
    request.getfixturevalue("committed_db" if "committed_db" in request.fixturenames else "db")
    return operator_with(exports.PERMISSION)


def ask(operator: User, listing: Listing | None = None, **options: Any) -> Export:
    options = {"title": "All users", "file_name": "t.xlsx", "total": 3, "now": NOW} | options
    return exports.request(listing or Listing(), operator=operator, **options)


def write(export: Export, *, stop: bool = False, now: datetime = NOW) -> Export:
    exports.write(export.pk, clock=lambda: now, should_stop=lambda: stop)
    export.refresh_from_db()
    return export


def sheet(export: Export) -> str:
    book = zipfile.ZipFile(io.BytesIO(b"".join(exports.content(export))))
    return book.read("xl/worksheets/sheet1.xml").decode()


def jobs() -> list[tuple[str, Any]]:
    rows = ProcrastinateJob.objects.filter(task_name=exports.TASK).order_by("id")
    return [(row.status, row.args) for row in rows]


# --- Asking -------------------------------------------------------------------------------------


def test_asking_queues_a_job_that_writes_the_file(
    reader: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "PART_BYTES", 1000)
    user, other = user_with(real=5), user_with(real=6)
    with timezone.override("Etc/GMT-10"):  # whose short name is no zone
        export = ask(reader, Listing(user_id=user.pk), total=1)
    assert (export.state, export.user, export.total) == (State.WAITING, user, 1)
    assert jobs() == [("todo", {"export_id": export.pk})]
    write(export)
    assert (export.state, export.done, export.finished_at) == (State.FINISHED, 1, NOW)
    assert export.expires_at == NOW + timedelta(hours=24)
    assert export.parts.count() > 2
    assert sum(map(len, exports.content(export))) == export.size
    text = sheet(export)
    assert "date (+10)" in text
    assert user.email in text
    assert other.email not in text
    assert export.is_finished
    exports.try_again(export, NOW)  # only what has failed is tried again
    assert len(jobs()) == 1
    write(export)  # a second time, nothing is done
    assert export.parts.count() == ExportPart.objects.count()


def test_asking_for_the_same_twice_gives_the_one_that_is_under_way(reader: User) -> None:
    first = ask(reader)
    assert ask(reader) == first
    assert ask(reader, Listing(text="other")) != first
    assert ask(operator_with(exports.PERMISSION)) != first
    write(first)
    assert ask(reader) != first
    assert len(jobs()) == 4


def test_an_operator_has_a_few_exports_at_most(reader: User) -> None:
    for place in range(exports.OWN_MAX):
        last = ask(reader, Listing(text=f"{place}"))
    with pytest.raises(exports.TooManyExports):
        ask(reader)
    ask(operator_with(exports.PERMISSION))
    exports.remove(last)
    ask(reader)
    ask(reader, now=NOW + Export.KEPT_FOR)  # what has expired does not count


def test_of_many_requests_at_once_only_as_many_are_granted(
    connections: Connections, committed_db: None, reader: User
) -> None:
    outcomes = connections(exports.OWN_MAX + 3, lambda place: ask(reader, Listing(text=f"{place}")))
    errors = [type(each.error) for each in outcomes if each.error]
    assert errors == [exports.TooManyExports] * 3
    assert Export.objects.count() == exports.OWN_MAX


def test_a_listing_survives_as_json(reader: User) -> None:
    for listing in (
        Listing(),
        Listing(
            user_id=7, since=NOW, until=NOW + timedelta(days=1), type="payment", subtype="partner",
            direction="adds", kind="refills", label=Label.GIFT, text="ä", device="d",
            exact_device="", channel="api", reason="cash", batch=3,
            paid_from=date(2026, 1, 2), paid_to=date(2026, 1, 3),
        ),
    ):  # fmt: skip
        user = UserFactory(pk=7) if listing.user_id else None
        export = Export.objects.get(pk=ask(reader, listing).pk)
        assert export.user == user
        assert Listing.from_data(export.listing) == listing


# --- Writing ------------------------------------------------------------------------------------


def test_it_tells_how_far_it_is(reader: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.files.exports.XLSX_CHUNK_ROWS", 1)
    for _ in range(3):
        user_with(real=1)
    export = ask(reader)
    seen: list[Any] = []

    def should_stop() -> bool:
        row = Export.objects.get(pk=export.pk)
        seen.append((row.state, row.done, row.left(NOW + timedelta(seconds=10))))
        return False

    exports.write(export.pk, clock=lambda: NOW, should_stop=should_stop)
    assert seen == [
        (State.RUNNING, 0, None),
        (State.RUNNING, 1, timedelta(seconds=20)),
        (State.RUNNING, 2, timedelta(seconds=5)),
    ]
    export.refresh_from_db()
    assert (export.done, export.left(NOW)) == (3, None)


def test_a_worker_that_ends_leaves_it_to_the_next(reader: User) -> None:
    user_with(real=1)
    export = ask(reader)
    with pytest.raises(exports.Stopped):
        write(export, stop=True)
    export.refresh_from_db()
    assert (export.state, export.crashes) == (State.WAITING, 0)
    context: Any = type("Context", (), {"should_abort": staticmethod(lambda: True)})
    with pytest.raises(JobAborted):
        tasks.write_export.func(context, export_id=export.pk)
    assert write(export).state == State.FINISHED


def test_a_killed_worker_s_export_begins_again_twice_and_then_fails(reader: User) -> None:
    user_with(real=1)
    export = ask(reader)
    for crash in range(exports.CRASHES_MAX + 1):
        Export.objects.filter(pk=export.pk).update(
            state=State.RUNNING, started_at=NOW, done=2, crashes=crash
        )
        write(export)
        if crash < exports.CRASHES_MAX:
            assert (export.state, export.done, export.crashes) == (State.FINISHED, 1, crash + 1)
            export.parts.all().delete()
    assert (export.state, export.problem) == (State.FAILED, exports.CRASHED)
    exports.try_again(export, NOW)
    export.refresh_from_db()
    assert (export.state, export.problem, export.crashes) == (State.WAITING, "", 0)
    assert write(export).state == State.FINISHED


def test_an_outage_of_the_database_leaves_it_to_another_attempt(
    reader: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = ask(reader)

    def fail(*args: Any) -> None:
        raise errors.AdminShutdown

    with monkeypatch.context() as broken:
        broken.setattr(exports, "write_xlsx", fail)
        with pytest.raises(errors.AdminShutdown):
            write(export)
    assert write(export, now=NOW + timedelta(seconds=1)).state == State.FINISHED
    assert export.crashes == 1


def test_two_workers_never_write_the_same_file(
    reader: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was taken for dead goes on while another has begun again."""
    user_with(real=1)
    export = ask(reader)

    def should_stop() -> bool:
        if Export.objects.get(pk=export.pk).crashes == 0:
            write(export, now=NOW + timedelta(minutes=1))
        return False

    exports.write(export.pk, clock=lambda: NOW, should_stop=should_stop)
    export.refresh_from_db()
    assert export.finished_at == NOW + timedelta(minutes=1)
    assert "<row" in sheet(export)


def test_the_work_on_what_was_removed_ends(reader: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.files.exports.XLSX_CHUNK_ROWS", 1)
    for _ in range(3):
        user_with(real=1)
    export = ask(reader)
    asked: list[None] = []

    def should_stop() -> bool:
        asked.append(None)
        exports.remove(export)
        return False

    for _ in range(2):  # the second time, there is nothing to begin
        exports.write(export.pk, clock=lambda: NOW, should_stop=should_stop)
    assert len(asked) == 1
    assert not ExportPart.objects.exists()


def test_what_was_removed_at_the_last_moment_is_not_kept(
    reader: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = ask(reader)
    monkeypatch.setattr(exports, "write_xlsx", lambda *args: exports.remove(export))
    exports.write(export.pk, clock=lambda: NOW, should_stop=lambda: False)
    assert not ExportPart.objects.exists()


def test_too_many_rows_for_a_sheet_are_explained(
    reader: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.files.exports.XLSX_MAX_ROWS", 1)
    user_with(real=1)
    user_with(real=1)
    export = write(ask(reader, total=None))
    assert (export.state, export.problem) == (State.FAILED, exports.TOO_MANY_ROWS)
    assert "1,048,575" in export.problem
    assert "CSV" in export.problem


def test_who_may_not_see_transactions_any_more_gets_no_file(reader: User) -> None:
    export = ask(reader)
    assert exports.own(reader, NOW).get() == export
    reader.user_permissions.remove(Permission.objects.get(codename="view_transaction"))
    reader = User.objects.get(pk=reader.pk)
    assert not exports.own(reader, NOW).exists()
    write(export)
    assert (export.state, export.problem) == (State.FAILED, exports.NOT_ALLOWED)


def test_workers_do_it_in_lanes_behind_everything_else(
    reader: User, work: Callable[[], None], committed_db: None
) -> None:
    user_with(real=1)
    export = ask(reader, now=timezone.now())  # a worker also deletes what has expired
    [job] = ProcrastinateJob.objects.filter(task_name=exports.TASK)
    assert job.lock in {f"exports:{lane}" for lane in range(exports.LANES)}
    assert job.priority < tasks.CHARGING
    work()
    export.refresh_from_db()
    assert (export.state, export.done) == (State.FINISHED, 1)
    assert sheet(export).count("<row") == 2


# --- Keeping and deleting -----------------------------------------------------------------------


def test_a_file_that_is_deleted_during_a_download_breaks_it_off(
    reader: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "PART_BYTES", 1000)
    export = write(ask(reader))
    pieces = exports.content(export)
    next(pieces)
    exports.remove(export)
    with pytest.raises(exports.Gone):
        list(pieces)


def test_files_are_stored_as_they_are(db: None) -> None:
    assert execute(
        "SELECT attstorage FROM pg_attribute "
        "WHERE attrelid = 'billing_exportpart'::regclass AND attname = 'content'"
    ) == [("e",)]


def test_what_has_expired_is_deleted(reader: User) -> None:
    finished = write(ask(reader, Listing(text="a")))
    waiting = ask(reader, Listing(text="b"))
    day = timedelta(hours=24)
    assert {*exports.own(reader, NOW)} == {finished, waiting}
    assert not exports.own(reader, NOW + day).exists()
    exports.delete_old(NOW + day - timedelta(seconds=1))
    assert Export.objects.count() == 2
    exports.delete_old(NOW + day)
    assert not Export.objects.exists()
    assert not ExportPart.objects.exists()
    assert finished.expires_at == NOW + day


def test_tidying_up_deletes_what_has_expired(reader: User) -> None:
    export = write(ask(reader))
    context: Any = type("Context", (), {"should_abort": staticmethod(lambda: False)})
    tasks.tidy_up.func(context, 0)  # NOW is in the past
    assert not Export.objects.filter(pk=export.pk).exists()


def test_forgetting_a_person_deletes_the_files_that_may_name_them(reader: User) -> None:
    person, other = user_with(is_active=False), user_with(real=1)
    of_person = write(ask(reader, Listing(user_id=person.pk)))
    of_other = write(ask(reader, Listing(user_id=other.pk)))
    of_all, waiting = write(ask(reader)), ask(reader, Listing(text="later"))
    operations.forgetting.forget(person.pk, actor=None, channel=Channel.PANEL)
    assert not Export.objects.filter(pk=of_person.pk).exists()
    assert sheet(of_other)
    of_all.refresh_from_db()
    assert (of_all.state, of_all.problem) == (State.FAILED, exports.FORGOTTEN)
    assert not of_all.parts.exists()
    exports.try_again(of_all, NOW)
    assert person.email not in sheet(write(of_all))
    waiting.refresh_from_db()
    assert waiting.state == State.WAITING
