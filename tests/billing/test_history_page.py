"""The History tab of a user: what operators changed, and what they did to the user's money."""

import pytest
from django.test import Client

from billing import ledger, reports
from billing.models import Channel, Transaction
from tests.factories import PlanFactory, charge_cost, user_with
from tests.operators import client_of, operator_with
from users.models import User


def history(user: User) -> str:
    return f"/admin/users/user/{user.pk}/history/"


def test_it_tells_what_operators_did_to_the_money(panel: Client, administrator: User) -> None:
    user = user_with(real=50)
    by_hand = {"actor": administrator, "channel": Channel.PANEL}
    charge_cost(
        user, service="traffic", cost=2, description="Some traffic", actor=None, channel=Channel.API
    )
    reversal = ledger.reverse(user, number=2, description="Not his traffic", **by_hand)
    ledger.change_balance(user, amount=-3, description="Taken by hand", **by_hand)
    answer = panel.get(history(user))
    assert [row.number for row in answer.context["posted"]] == [4, 3]
    page = answer.text
    assert "Not his traffic" in page
    assert "Taken by hand" in page
    assert "Some traffic" not in page
    assert administrator.email in page
    assert f'href="/admin/billing/transaction/{reversal.pk}/change/">Reversal No. 3</a>' in page
    assert "No operator has changed anything" not in page
    link = f"/admin/users/user/{user.pk}/transactions/?channel=panel"
    assert f'href="{link}"' in page
    assert [row.number for row in panel.get(link).context["page"].rows] == [4, 3]


def test_an_empty_history_says_only_what_is_true(panel: Client) -> None:
    user = user_with(real=50)
    page = panel.get(history(user)).text
    assert "No change of the user's data or subscriptions is recorded here yet." in page
    assert "Nothing among the user's last 2,000 transactions was posted by an operator" in page
    of_plan = panel.get(f"/admin/billing/plan/{PlanFactory().pk}/history/").text
    assert "No change is recorded here yet." in of_plan


def test_whoever_may_not_see_transactions_is_told_that_money_is_left_out(db: None) -> None:
    operator = operator_with("users.view_user")
    user = user_with(real=50)
    ledger.change_balance(
        user, amount=1, description="Paid in cash", actor=operator, channel=Channel.PANEL
    )
    page = client_of(operator).get(history(user)).text
    assert "Paid in cash" not in page
    assert "What was done to the user's money is not listed here." in page


@pytest.mark.parametrize("odd", ["999999", "x", "%00", "9" * 30])
def test_there_is_no_history_of_nobody(panel: Client, odd: str) -> None:
    assert panel.get(f"/admin/users/user/{odd}/history/", follow=True).status_code in (200, 404)


def test_a_long_history_of_charges_is_not_read_to_its_beginning(
    panel: Client, administrator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports.pages, "LOOKED_THROUGH", 2)
    user = user_with(real=50)
    by_hand = {"actor": administrator, "channel": Channel.PANEL}
    for place in range(3):
        ledger.change_balance(user, amount=1, description=f"By hand, {place}", **by_hand)
    assert Transaction.objects.filter(user=user).count() == 4
    assert [row.number for row in panel.get(history(user)).context["posted"]] == [4, 3]
