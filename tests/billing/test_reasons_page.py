"""Reasons on the Change balance page and the lists, and the pages of reasons."""

import re
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from billing import ledger
from billing.models import Channel, Reason, Subject, Transaction
from tests.billing.test_change_balance_page import address, filled_in
from tests.factories import reason, user_with
from tests.recorded import sentences_of
from users.models import User

pytestmark = pytest.mark.usefixtures("db")


@pytest.fixture
def customer() -> User:
    return user_with(real=100, bonus=20)


def last(user: User) -> Transaction:
    return Transaction.objects.filter(user=user).latest("number")


def change(panel: Client, user: User, **fields: str) -> str:
    """Posts the form. Returns the page as it answers; "" after a redirect."""
    response = panel.post(address(user), filled_in(panel, user, **{"description": ""} | fields))
    return "" if response.status_code == 302 else response.content.decode()


def errors_of(page: str) -> list[str]:
    return re.findall(r'<p class="error">(.*?)</p>', page)


def test_a_reason_is_chosen_by_its_label_or_its_code(panel: Client, customer: User) -> None:
    reason("bank_transfer", label="Bank transfer", template="Transfer from the bank")
    for typed in ("Bank transfer", " bank TRANSFER ", "bank_transfer"):
        assert change(panel, customer, reason=typed, amount="5") == ""
        posted = last(customer)
        assert (posted.description, posted.reason_id) == ("Transfer from the bank", "bank_transfer")


def test_the_page_offers_the_reasons_that_are_used(panel: Client, customer: User) -> None:
    reason("cash", label="Cash", template="Paid in cash", position=2, direction="adds")
    reason("gift", label="Gift <3", template="A small gift", bonus_days=10, balances="bonus")
    reason("old", label="Old", template="Of former times", is_active=False)
    page = panel.get(address(customer)).content.decode()
    offered = re.findall(r'<option value="([^"]*)" data-template="([^"]*)"', page)
    assert offered == [("Gift &lt;3", "A small gift"), ("Cash", "Paid in cash")]
    assert ">adds</option>" in page
    assert ">bonus balance</option>" in page
    assert re.search(r'data-last-day="\d{4}-\d\d-\d\d"', page)


def test_what_does_not_fit_is_said_at_its_field_and_nothing_is_lost(
    panel: Client, customer: User
) -> None:
    reason("transfer", template="Transfer {reference}", direction="adds")
    page = change(panel, customer, reason="Transfer", amount="5")
    assert errors_of(page) == ["Fill in what stands in braces in the description of “Transfer”."]
    assert 'value="Transfer {reference}"' in page  # to be completed
    assert 'value="5"' in page
    page = change(panel, customer, reason="Transfer", amount="-5", description="Transfer 4711")
    assert errors_of(page) == ["“Transfer” only adds to a balance."]
    page = change(panel, customer, reason="Transfers", amount="5", description="Transfer 4711")
    assert errors_of(page) == ["There is no reason “Transfers”. Choose one from the list."]
    assert 'value="Transfers"' in page
    Reason.objects.update(is_active=False)
    page = change(panel, customer, reason="Transfer", amount="5", description="Transfer 4711")
    assert errors_of(page) == ["There is no reason “Transfer”. Choose one from the list."]
    assert last(customer).number == 1


def test_without_a_reason_a_description_is_needed(panel: Client, customer: User) -> None:
    assert errors_of(change(panel, customer, amount="5")) == ["This field is required."]
    assert change(panel, customer, amount="5", description="In my own words") == ""
    assert last(customer).reason_id is None


def test_a_wording_that_is_typed_as_it_stands_has_its_reason(panel: Client, customer: User) -> None:
    reason("cash", template="Paid in cash")
    assert change(panel, customer, amount="5", description="Paid in cash") == ""
    assert last(customer).reason_id == "cash"


def test_an_installation_can_require_a_reason(panel: Client, customer: User, settings: Any) -> None:
    settings.REASON_REQUIRED = True
    reason("cash", template="Paid in cash")
    page = change(panel, customer, amount="5", description="In my own words")
    assert errors_of(page) == ["This field is required."]
    assert change(panel, customer, amount="5", reason="Cash") == ""


def test_the_expiry_of_a_reason_counts_unless_another_day_is_typed(
    panel: Client, customer: User, settings: Any
) -> None:
    settings.BONUS_DAYS = 5
    reason("gift", template="A small gift", bonus_days=10)
    usual = (timezone.now() + timezone.timedelta(days=5)).date().isoformat()
    assert change(panel, customer, bonus_amount="5", reason="Gift", bonus_expires_on=usual) == ""
    given = last(customer).bonus_expires_at
    assert given is not None
    assert (given.date() - timezone.now().date()).days == 11
    assert (
        change(panel, customer, bonus_amount="5", reason="Gift", bonus_expires_on="2099-12-31")
        == ""
    )
    given = last(customer).bonus_expires_at
    assert given is not None
    assert given.date().isoformat() == "2100-01-01"


def test_a_reason_with_transactions_is_retired_not_deleted(panel: Client, customer: User) -> None:
    used, unused = reason("used_once"), reason("never_used")
    ledger.change_balance(
        customer, amount=1, description="Used once", reason="used_once", actor=None,
        channel=Channel.PANEL,
    )  # fmt: skip
    page = panel.get(f"/admin/billing/reason/{used.pk}/change/").content.decode()
    assert "so it cannot be deleted" in page
    assert f"/admin/billing/reason/{used.pk}/delete/" not in page
    panel.post(f"/admin/billing/reason/{used.pk}/delete/", {"post": "yes"})
    panel.post(f"/admin/billing/reason/{unused.pk}/delete/", {"post": "yes"})
    assert list(Reason.objects.all()) == [used]


def test_a_reason_is_added_and_changed_with_a_history(panel: Client) -> None:
    sent = {
        "label": "Bank transfer",
        "code": "bank_transfer",
        "template": "Bank transfer {reference}",
        "direction": "adds",
        "balances": "real",
        "position": "1",
        "is_active": "on",
        "seen": "",
    }
    response = panel.post("/admin/billing/reason/add/", sent)
    assert response.status_code == 302, response.context["errors"]
    row = Reason.objects.get()
    page = panel.get(f"/admin/billing/reason/{row.pk}/change/").content.decode()
    [seen] = re.findall(r'name="seen" value="([^"]*)"', page)
    changed = sent | {"label": "Transfer", "code": "other_code", "seen": seen}
    panel.post(f"/admin/billing/reason/{row.pk}/change/", changed)
    row.refresh_from_db()
    assert (row.label, row.code) == ("Transfer", "bank_transfer")
    assert "Label changed from “Bank transfer” to “Transfer”." in sentences_of(
        Subject.REASON, row.pk
    )
    page = panel.post("/admin/billing/reason/add/", sent | {"code": "Bank Transfer"})
    assert "Write small letters, digits and underscores" in page.content.decode()


def test_lists_are_filtered_and_summed_up_by_reason(panel: Client, customer: User) -> None:
    reason("cash_payment")
    for code in ("cash_payment", None):
        ledger.change_balance(
            customer, amount=7, description=f"Because of {code}", reason=code, actor=None,
            channel=Channel.PANEL,
        )  # fmt: skip
    today = timezone.now().date().isoformat()
    for place in ("/admin/billing/transaction/", f"/admin/users/user/{customer.pk}/transactions/"):
        page = panel.get(f"{place}?reason=cash_payment").content.decode()
        assert "Because of cash_payment" in page
        assert "Because of None" not in page
        page = panel.get(f"{place}?from_day={today}").content.decode()
        assert "Balance changes by reason" in page
        assert "Without a reason" in page
        assert re.search(r"reason=cash_payment", page)
    export = panel.get("/admin/billing/transaction/?export=csv&reason=cash_payment")
    lines = b"".join(export.streaming_content).decode().splitlines()  # type: ignore[attr-defined]
    assert lines[0].endswith("reason,batch")
    assert [line.split(",")[-2:] for line in lines[1:]] == [["cash_payment", ""]]
    shown = panel.get(f"/admin/billing/transaction/{last(customer).pk - 1}/change/")
    assert "Cash payment" in shown.content.decode()
