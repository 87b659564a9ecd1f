"""The pages of batches: the list, one batch, and reversing it with a preview."""

import re
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client

from billing import ledger, operations
from billing.models import Batch, Channel
from billing.operations.batches import Sheet
from tests.factories import OperatorFactory, user_with
from tests.operators import operator_with
from users.models import User

pytestmark = pytest.mark.usefixtures("db")
BY: dict[str, Any] = {"actor": None, "channel": Channel.API}


@pytest.fixture
def users() -> list[User]:
    return [user_with(), user_with()]


@pytest.fixture
def batch(users: list[User]) -> Batch:
    entries = [
        ledger.balance_change_entry(user, amount=5, bonus_amount=1, description="An apology")
        for user in users
    ]
    sheet = Sheet(
        kind=Batch.Kind.FILE, title="Apologies <3", file_name="march.csv", file_hash="ab" * 32
    )
    batch = operations.batches.post(
        entries, sheet, actor=OperatorFactory(first_name="Olga"), channel=Channel.API
    ).batch
    assert batch is not None
    return batch


def reverse(panel: Client, batch: Batch, step: str, **fields: str) -> HttpResponse:
    said = {"description": "The wrong month", step: "1"} | fields
    response: HttpResponse = panel.post(f"/admin/billing/batch/{batch.pk}/reverse/", said)
    return response


def test_the_list_and_the_page_show_who_what_and_how_much(panel: Client, batch: Batch) -> None:
    for place in ("", f"{batch.pk}/change/"):
        page = panel.get(f"/admin/billing/batch/{place}").content.decode()
        for text in ("Apologies &lt;3", "march.csv", "Olga", "+10.00", "+2.00"):
            assert text in page
    assert f"/admin/billing/transaction/?batch={batch.pk}" in page
    assert "ab" * 32 in page
    rows = panel.get(f"/admin/billing/transaction/?batch={batch.pk}").content.decode()
    assert rows.count("An apology") == 2
    assert f"Only batch {batch.pk}." in rows
    one = batch.transactions.earliest("pk")
    shown = panel.get(f"/admin/billing/transaction/{one.pk}/change/").content.decode()
    assert f"/admin/billing/batch/{batch.pk}/change/" in shown


def test_without_batches_the_list_says_what_would_stand_there(panel: Client) -> None:
    assert "There are no batches yet." in panel.get("/admin/billing/batch/").content.decode()


def test_a_batch_is_reversed_after_a_preview(
    panel: Client, batch: Batch, users: list[User]
) -> None:
    page = reverse(panel, batch, "preview").content.decode()
    assert re.search(r"2 transactions: balance .*−10\.00.*, bonus .*−2\.00", page)
    assert ledger.balance(users[0]).real == 5
    response = reverse(panel, batch, "confirm")
    reversal = Batch.objects.get(kind="reversal")
    assert ">Reversed</span>" in panel.get("/admin/billing/batch/").content.decode()
    assert response["Location"] == f"/admin/billing/batch/{reversal.pk}/change/"
    assert [ledger.balance(user)[:2] for user in users] == [(0, 0), (0, 0)]
    for each in (batch, reversal):
        page = panel.get(f"/admin/billing/batch/{each.pk}/change/").content.decode()
        assert f"Reversal of batch {batch.pk}" in page
    again = reverse(panel, batch, "confirm").content.decode()
    assert f"Nothing is left of batch {batch.pk} to reverse." in again
    assert Batch.objects.count() == 2


def test_what_cannot_be_reversed_stands_there_with_its_reason(
    panel: Client, batch: Batch, users: list[User]
) -> None:
    ledger.change_balance(users[0], amount=-3, description="Spent since", **BY)
    page = reverse(panel, batch, "preview").content.decode()
    assert "Not enough money on the balance: 5.00 needed, 2.00 available." in page
    assert "Reverse the other 1" in page
    assert 'name="skip_refused" value="1"' in page
    # Confirmed without that field, as if it had been possible to reverse all of it.
    page = reverse(panel, batch, "confirm").content.decode()
    assert "Nothing was reversed: something has changed since the preview." in page
    assert ledger.balance(users[1]).real == 5
    assert reverse(panel, batch, "confirm", skip_refused="1").status_code == 302
    assert [ledger.balance(user).real for user in users] == [2, 0]


def test_a_description_that_is_too_short_is_refused_at_its_field(
    panel: Client, batch: Batch
) -> None:
    page = reverse(panel, batch, "preview", description="No").content.decode()
    assert "A description has 5 to 200 characters." in page
    assert 'value="No"' in page


def test_each_page_takes_its_permission(client: Client, batch: Batch) -> None:
    client.force_login(operator_with("billing.view_batch"))
    assert client.get("/admin/billing/batch/").status_code == 200
    page = client.get(f"/admin/billing/batch/{batch.pk}/change/")
    assert "reverse/" not in page.content.decode()
    assert client.get(f"/admin/billing/batch/{batch.pk}/reverse/").status_code == 403
    client.force_login(operator_with("billing.view_transaction"))
    for place in ("", f"{batch.pk}/change/"):
        assert client.get(f"/admin/billing/batch/{place}").status_code == 403


@pytest.mark.parametrize("batch_id", ["0", "99999", "seven", "9" * 30])
def test_an_unknown_batch_is_not_found(panel: Client, batch_id: str) -> None:
    for place in ("change", "reverse"):
        assert panel.get(f"/admin/billing/batch/{batch_id}/{place}/").status_code == 404
