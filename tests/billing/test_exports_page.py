"""Exports over HTTP: small workbooks at once, large ones from a page that only their owner has."""

from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from billing import ledger, reports
from billing.models import Channel, Export, Heartbeat
from billing.operations import exports
from tests.factories import user_with
from tests.operators import client_of, operator_with
from users.models import User

pytestmark = pytest.mark.usefixtures("db")

PAGE = "/admin/billing/export/"
ALL = "/admin/billing/transaction/?export=xlsx"


@pytest.fixture
def reader() -> User:
    return operator_with(exports.PERMISSION)


@pytest.fixture
def client(reader: User) -> Client:
    return client_of(reader)


@pytest.fixture
def two_are_many(monkeypatch: pytest.MonkeyPatch) -> User:
    """A user with two transactions, which are more than are given at once."""
    monkeypatch.setattr("billing.admin.exports.AT_ONCE_ROWS", 1)
    user = user_with(real=10, email="ada@example.com", first_name="Ada", last_name="Byron")
    ledger.change_balance(user, amount=-1, description="Taken", actor=None, channel=Channel.API)
    return user


def written() -> Export:
    [export] = Export.objects.all()
    exports.write(export.pk, clock=timezone.now, should_stop=lambda: False)
    export.refresh_from_db()
    return export


def body(response: Any) -> bytes:
    return b"".join(response.streaming_content)


def test_a_small_workbook_comes_at_once_by_either_method(client: Client) -> None:
    user_with(real=1)
    for response in (client.get(ALL), client.post(ALL)):
        assert body(response).startswith(b"PK")
    assert not Export.objects.exists()


def test_a_large_workbook_is_asked_for_and_found_on_the_page(
    client: Client, two_are_many: User
) -> None:
    tab = f"/admin/users/user/{two_are_many.pk}/transactions/"
    query = "?export=xlsx&type=deduction&from_day=2020-01-01&type=&direction="
    response = client.post(tab + query)
    assert response["Location"] == PAGE
    page = client.get(PAGE).text
    assert "Ada Byron; From: 2020-01-01" in page
    assert "Waiting" in page
    assert "/file/" not in page
    export = written()
    page = client.get(PAGE).text
    assert f"{export.done:,} transactions" in page
    assert f'href="{PAGE}{export.pk}/file/"' in page
    response = client.get(f"{PAGE}{export.pk}/file/")
    content = body(response)
    assert response["Content-Length"] == str(len(content))
    assert f"transactions-user-{two_are_many.pk}-" in response["Content-Disposition"]
    assert content.startswith(b"PK")


def test_filters_are_told_by_their_names(client: Client, two_are_many: User) -> None:
    query = "&type=deduction&direction=charges&channel=api&q=taken&paid_to=2100-01-01"
    ledger.change_balance(
        two_are_many, amount=-1, description="Taken again", actor=None, channel=Channel.API
    )
    client.post(ALL + query)
    assert Export.objects.get().title == (
        "All users; Type: Deduction; Direction: Charges; Channel: API; Paid to: 2100-01-01; "
        "Description: taken"
    )


def test_a_get_of_a_large_workbook_asks_and_changes_nothing(
    client: Client, two_are_many: User
) -> None:
    page = client.get(ALL).text
    assert "A workbook of 2 transactions takes some minutes." in page
    assert not Export.objects.exists()
    assert client.get("/admin/billing/transaction/?export=csv").status_code == 200


def test_a_search_that_is_slow_to_count_is_left_to_a_worker(
    client: Client, two_are_many: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*args: Any, **options: Any) -> int:
        raise reports.TooSlow

    monkeypatch.setattr("billing.reports.count", slow)
    assert "A workbook of these transactions takes some minutes." in client.get(ALL).text
    client.post(ALL)
    assert Export.objects.get().total is None
    Export.objects.update(state=Export.State.RUNNING, done=1500)
    assert "1,500 transactions" in client.get(PAGE).text
    assert written().total is None


def test_more_than_a_sheet_holds_is_refused_at_once(
    client: Client, two_are_many: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.files.exports.XLSX_MAX_ROWS", 1)
    response = client.post(ALL)
    assert response.status_code == 400
    assert response.text == exports.TOO_MANY_ROWS
    assert not Export.objects.exists()


def test_too_many_exports_are_refused_with_what_to_do(client: Client, two_are_many: User) -> None:
    for place in range(exports.OWN_MAX):
        client.post(f"{ALL}&from_day=2020-01-0{place + 1}")
    page = client.post(f"{ALL}&from_day=2020-02-01", follow=True).text
    assert "No file was begun: you have 5 already. Remove one of them first." in page
    assert Export.objects.count() == exports.OWN_MAX


def test_nobody_else_sees_a_file_whatever_they_may(
    client: Client, two_are_many: User, administrator: User
) -> None:
    panel = client_of(administrator)
    client.post(ALL)
    export = written()
    assert "You have no exports." in panel.get(PAGE).text
    for place in ("file", "again", "remove"):
        for response in (
            panel.get(f"{PAGE}{export.pk}/{place}/"),
            panel.post(f"{PAGE}{export.pk}/{place}/"),
        ):
            assert response.status_code == 404
    assert Client().get(f"{PAGE}{export.pk}/file/").status_code == 302  # to the login page
    assert Export.objects.filter(pk=export.pk).exists()


def test_without_the_permission_there_is_no_file_any_more(
    client: Client, reader: User, two_are_many: User
) -> None:
    client.post(ALL)
    export = written()
    reader.user_permissions.clear()
    for address in (PAGE, f"{PAGE}{export.pk}/file/", f"{PAGE}{export.pk}/again/"):
        assert client.get(address).status_code == 403
    assert client.post(f"{PAGE}{export.pk}/remove/").status_code == 403


@pytest.mark.parametrize("key", ["0", "x", "1.5", str(2**63), "9" * 5000])
def test_there_is_no_file_of_no_export(client: Client, key: str) -> None:
    for place in ("file", "again", "remove", "change"):
        assert client.get(f"{PAGE}{key}/{place}/").status_code == 404


def test_what_has_expired_is_not_given_even_before_it_is_deleted(
    client: Client, two_are_many: User
) -> None:
    client.post(ALL)
    export = written()
    assert export.finished_at is not None
    Export.objects.update(finished_at=export.finished_at - Export.KEPT_FOR)
    assert client.get(f"{PAGE}{export.pk}/file/").status_code == 404
    assert "You have no exports." in client.get(PAGE).text


def test_what_failed_says_why_and_can_be_tried_again(client: Client, two_are_many: User) -> None:
    client.post(ALL)
    Export.objects.update(state=Export.State.FAILED, problem=exports.CRASHED)
    export = Export.objects.get()
    page = client.get(PAGE).text
    assert exports.CRASHED in page
    assert "Try again" in page
    client.get(f"{PAGE}{export.pk}/again/")  # changes nothing
    assert Export.objects.get().state == Export.State.FAILED
    assert client.post(f"{PAGE}{export.pk}/again/")["Location"] == PAGE
    assert Export.objects.get().state == Export.State.WAITING


def test_a_file_can_be_removed(client: Client, two_are_many: User) -> None:
    client.post(ALL)
    export = written()
    client.get(f"{PAGE}{export.pk}/remove/")  # changes nothing
    assert Export.objects.exists()
    page = client.post(f"{PAGE}{export.pk}/remove/", follow=True).text
    assert f"{export.file_name} was removed." in page
    assert not Export.objects.exists()


def test_it_is_said_if_there_is_no_worker(client: Client, two_are_many: User) -> None:
    sentence = "No file is being written."
    assert sentence not in client.get(PAGE).text
    client.post(ALL)
    assert sentence in client.get(PAGE).text
    Heartbeat.objects.create(pk=Heartbeat.ONLY_ID, at=timezone.now())
    assert sentence not in client.get(PAGE).text
