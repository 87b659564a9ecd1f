"""The History tab: everything that was done, including transactions, latest first."""

import re

import pytest
from django.test import Client

from billing import ledger, operations, reports
from billing.models import Channel
from tests.factories import PlanFactory, charge_cost, user_with
from tests.operators import client_of, operator_with
from users.models import User


def history(user: User) -> str:
    return f"/admin/users/user/{user.pk}/history/"


def numbers(page: reports.HistoryPage) -> list[int]:
    """Returns the numbers of transactions, and the negated numbers of events."""
    return [
        each.transaction.number if each.transaction else -each.event.number if each.event else 0
        for each in page.deeds
    ]


def test_it_tells_all_that_was_done_whoever_did_it(panel: Client, administrator: User) -> None:
    user = user_with(real=50)
    by_hand = {"actor": administrator, "channel": Channel.PANEL}
    charge_cost(
        user, service="traffic", cost=2, description="Some traffic", actor=None, channel=Channel.API
    )
    operations.thresholds.set_own(user.pk, 10, **by_hand)
    reversal = ledger.reverse(user, number=2, description="Not his traffic", **by_hand)
    ledger.change_balance(user, amount=-3, description="Taken by hand", **by_hand)
    answer = panel.get(history(user))
    assert numbers(answer.context["page"]) == [4, 3, -1, 2, 1]
    page = answer.text
    for said in ("Not his traffic", "Taken by hand", "Some traffic", administrator.email):
        assert said in page
    assert "Low balance: programs are told below 10.00 (before: never, by default)." in page
    assert f'href="/admin/billing/transaction/{reversal.pk}/change/">Reversal No. 3</a>' in page
    assert "Reversed by" in page
    assert "System" in page


def test_an_empty_history_says_so(panel: Client) -> None:
    assert "Nothing is recorded here yet." in panel.get(history(user_with())).text
    of_plan = panel.get(f"/admin/billing/plan/{PlanFactory().pk}/history/").text
    assert "Nothing is recorded here yet." in of_plan
    assert "transactions" not in re.sub(r"(?s)<nav.*?</nav>", "", of_plan).lower()


def test_whoever_may_not_see_transactions_is_told_that_money_is_left_out(db: None) -> None:
    operator = operator_with("users.view_user")
    user = user_with(real=50)
    ledger.change_balance(
        user, amount=1, description="Paid in cash", actor=operator, channel=Channel.PANEL
    )
    page = client_of(operator).get(history(user)).text
    assert "Paid in cash" not in page
    assert "Changes of the user's balances are not listed here" in page


@pytest.mark.parametrize("odd", ["999999", "x", "%00", "9" * 30])
def test_there_is_no_history_of_nobody(panel: Client, odd: str) -> None:
    assert panel.get(f"/admin/users/user/{odd}/history/", follow=True).status_code in (200, 404)


def test_nobody_sees_a_history_who_may_not_see_the_page(db: None) -> None:
    plan = PlanFactory()
    answer = client_of(operator_with("users.view_user")).get(
        f"/admin/billing/plan/{plan.pk}/history/"
    )
    assert answer.status_code in (302, 403)


def test_each_page_goes_on_where_the_one_before_it_ended(
    panel: Client, administrator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports.history, "ENTRIES_PER_PAGE", 2)
    user = user_with(real=50)
    by_hand = {"actor": administrator, "channel": Channel.PANEL}
    for amount in (1, 2):
        ledger.change_balance(user, amount=amount, description="By hand", **by_hand)
        operations.thresholds.set_own(user.pk, amount, **by_hand)
    seen, address = [], history(user)
    while address:
        answer = panel.get(address)
        seen.append(numbers(answer.context["page"]))
        following = re.search(r'rel="next" href="\?([^"]*)"', answer.text)
        address = f"{history(user)}?{following[1].replace('&amp;', '&')}" if following else ""
    assert seen == [[-2, 3], [-1, 2], [1]]


@pytest.mark.parametrize(
    "query", ["event=x", "transaction=%00", "event=-1&transaction=", "event=0"]
)
def test_an_odd_place_is_no_error(panel: Client, query: str) -> None:
    assert panel.get(f"{history(user_with(real=1))}?{query}").status_code == 200
