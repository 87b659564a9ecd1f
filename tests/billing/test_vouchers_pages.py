"""The pages of vouchers: the list, making and changing, who redeemed, and redeeming for a user."""

import re
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from billing import ledger, operations
from billing.models import Channel, Subject, Subscription, Transaction, Voucher
from tests.billing.test_subscriptions_page import confirm, second_step, text_of
from tests.factories import PlanFactory, UserFactory, a_voucher, user_with
from tests.operators import client_of, operator_with
from tests.recorded import sentences_of
from users.models import User

pytestmark = pytest.mark.usefixtures("db")

LIST = "/admin/billing/voucher/"
ADD = f"{LIST}add/"


def change_page(voucher: Voucher) -> str:
    return f"{LIST}{voucher.pk}/change/"


def redeem_page(user: User) -> str:
    return f"/admin/users/user/{user.pk}/redeem-voucher/"


def redeem(user: User, voucher: Voucher) -> None:
    operations.vouchers.redeem(
        user.pk, voucher.code, now=timezone.now(), actor=None, channel=Channel.API
    )


def sent_to(panel: Client, address: str, **fields: str) -> dict[str, str]:
    """Returns what the form at `address` sends, with some fields filled in."""
    page = panel.get(address).content.decode()
    hidden = dict(re.findall(r'name="(seen|made_as)" value="([^"]*)"', page))
    return hidden | {
        "title": "Spring",
        "amount": "10",
        "bonus": "0",
        "uses_max": "1",
        "is_active": "on",
        **fields,
    }


def added(panel: Client, **fields: str) -> Any:
    return panel.post(ADD, sent_to(panel, ADD, **{"count": "1"} | fields), follow=True)


def errors_of(response: Any) -> dict[str, list[str]]:
    errors: dict[str, list[str]] = response.context["adminform"].form.errors
    return errors


def titles(response: Any) -> list[str]:
    return [row.voucher.title for row in response.context["rows"]]


# --- Making -------------------------------------------------------------------------------------


def test_many_vouchers_are_made_at_once_and_shown_with_a_file(
    panel: Client, administrator: User
) -> None:
    a_voucher(title="Another")
    response = added(panel, count="3", bonus="2.5", bonus_days="30", valid_until="2041-12-31")
    assert "3 vouchers were made. Here are the codes." in text_of(response)
    made = Voucher.objects.filter(title="Spring")
    assert len({each.code for each in made}) == 3
    assert len({each.series for each in made}) == 1
    for each in made:
        assert (each.amount, each.bonus, each.bonus_days, each.uses_max) == (10, 2.5, 30, 1)
        assert (each.created_by, each.valid_until) == (administrator, date(2041, 12, 31))
        assert each.shown_code in text_of(response)
        assert sentences_of(Subject.VOUCHER, each.pk)[0].startswith("Added. Title: “Spring”")
    assert titles(response) == ["Spring"] * 3
    address = re.findall(r'href="(\?[^"]*export=csv[^"]*)"', response.content.decode())[0]
    file = panel.get(LIST + address.replace("&amp;", "&"))
    assert file["Content-Type"] == "text/csv; charset=utf-8"
    lines = b"".join(file.streaming_content).decode().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == (
        "\ufeffcode,title,amount,bonus,bonus_days,bonus_until,plan,uses_max,uses,valid_until,status"
    )
    assert {line.split(",")[0] for line in lines[1:]} == {each.shown_code for each in made}
    assert lines[1].split(",")[1:] == [
        *("Spring", "10.0000", "2.5000", "30", "", "", "1", "0", "2041-12-31", "Open"),
    ]


def test_a_form_that_is_sent_twice_makes_its_vouchers_once(panel: Client) -> None:
    sent = sent_to(panel, ADD, count="2")
    for _ in range(2):
        assert len(titles(panel.post(ADD, sent, follow=True))) == 2
    assert Voucher.objects.count() == 2


def test_an_amount_that_is_not_filled_in_is_none(panel: Client) -> None:
    assert "Add vouchers" in text_of(panel.get(ADD))
    added(panel, amount="", bonus="5")
    voucher = Voucher.objects.get()
    assert (voucher.amount, voucher.bonus) == (0, 5)


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"count": "0"}, "count", "Ensure this value is greater than or equal to 1."),
        ({"count": "1001"}, "count", "Ensure this value is less than or equal to 1000."),
        ({"amount": "0"}, "__all__", "A voucher gives money, a bonus or a plan."),
        ({"amount": "-5"}, "amount", "A voucher cannot take money."),
        ({"title": ""}, "title", "This field is required."),
        ({"uses_max": "0"}, "uses_max", "Ensure this value is greater than or equal to 1."),
        ({"valid_until": "2020-01-31"}, "valid_until", "This day has passed."),
        ({"valid_until": "31.1.2041"}, "valid_until", "Write the day like 2026-11-28."),
        (
            {"bonus": "1", "bonus_until": "2020-01-31"},
            "bonus_until",
            "This day has passed.",
        ),
        ({"bonus_days": "3"}, "__all__", "Without a bonus there is nothing that expires."),
        (
            {"bonus": "1", "bonus_days": "3", "bonus_until": "2041-01-31"},
            "__all__",
            "Give either the days of the bonus or its last day.",
        ),
    ],
)
def test_what_makes_no_sense_is_said_at_its_field(
    panel: Client, fields: dict[str, str], field: str, said: str
) -> None:
    response = added(panel, **fields)
    assert said in errors_of(response)[field]
    assert not Voucher.objects.exists()


# --- The list -----------------------------------------------------------------------------------


def test_the_list_is_searched_by_title_code_state_and_uses(panel: Client) -> None:
    past, plan = date(2020, 1, 31), PlanFactory(name="Start", price=0)
    open_one = a_voucher(title="Open one", uses_max=None, plan=plan)
    used_up = a_voucher(title="Used up")
    a_voucher(title="Ended", valid_until=past)
    a_voucher(title="Ended with its bonus", bonus=Decimal(1), bonus_until=past)
    a_voucher(title="Inactive", is_active=False)
    redeem(user_with(real=0), used_up)
    for query, found in (
        ("", ["Inactive", "Ended with its bonus", "Ended", "Used up", "Open one"]),
        ("?q=ended+bonus", ["Ended with its bonus"]),
        (f"?q={open_one.code}", ["Open one"]),
        (f"?q={open_one.shown_code.lower()}", ["Open one"]),
        (f"?q={open_one.code[-4:]}", ["Open one"]),
        (f"?q={open_one.code[:8]}", []),
        ("?state=open", ["Open one"]),
        ("?state=used_up", ["Used up"]),
        ("?state=ended", ["Ended with its bonus", "Ended"]),
        ("?state=inactive", ["Inactive"]),
        ("?uses=some", ["Used up"]),
        ("?uses=none", ["Inactive", "Ended with its bonus", "Ended", "Open one"]),
        (f"?series={used_up.series}", ["Used up"]),
    ):
        assert titles(panel.get(LIST + query)) == found, query
    labels = {row.voucher.title: row.state.label for row in panel.get(LIST).context["rows"]}
    assert labels == {
        "Open one": "Open",
        "Used up": "Used up",
        "Ended": "Ended",
        "Ended with its bonus": "Ended",
        "Inactive": "Inactive",
    }
    mistaken = panel.get(f"{LIST}?state=other&export=csv")
    assert "there is a mistake in the filters" in text_of(mistaken)


def test_whole_codes_are_for_those_who_may_change_vouchers(panel: Client) -> None:
    voucher = a_voucher()
    page = f"{LIST}{voucher.pk}/redemptions/"
    for address in (LIST, change_page(voucher)):
        assert voucher.shown_code in text_of(panel.get(address))
        looking = client_of(operator_with(group="Billing operator"))
        text = looking.get(address).content.decode()
        assert voucher.hidden_code in text
        assert voucher.shown_code not in text
        assert voucher.code not in text
    assert looking.get(page).status_code == 200
    assert looking.get(f"{LIST}?export=csv").status_code == 403
    assert looking.get(ADD).status_code == 403
    assert looking.post(change_page(voucher), {"title": "Mine"}).status_code == 403
    assert "export=csv" not in looking.get(LIST).content.decode()
    viewer = client_of(operator_with(group="Viewer"))
    for address in (LIST, change_page(voucher), page, redeem_page(UserFactory())):
        assert viewer.get(address).status_code == 403, address
    assert panel.get(f"{LIST}{voucher.pk}/delete/").status_code == 403


# --- Changing -----------------------------------------------------------------------------------


def test_all_of_a_voucher_can_be_changed_until_it_is_redeemed(panel: Client) -> None:
    voucher = a_voucher(uses_max=5)
    address = change_page(voucher)
    panel.post(address, sent_to(panel, address, amount="12", uses_max="3"))
    voucher.refresh_from_db()
    assert (voucher.amount, voucher.uses_max) == (12, 3)
    sent = sent_to(panel, address, amount="99", title="Summer", uses_max="2")
    redeem(UserFactory(), voucher)
    assert "somebody has changed this" in str(errors_of(panel.post(address, sent))["__all__"])
    page = panel.get(address)
    assert "what it gives cannot be changed any more" in text_of(page)
    assert "1 of 3" in text_of(page)
    sent = sent_to(panel, address, amount="99", title="Summer", uses_max="2")
    sent |= {"valid_until": "2041-01-31"}
    sent.pop("is_active")
    assert panel.post(address, sent).status_code == 302
    voucher.refresh_from_db()
    assert (voucher.amount, voucher.uses_max, voucher.title) == (12, 2, "Summer")
    assert (voucher.valid_until, voucher.is_active) == (date(2041, 1, 31), False)
    assert voucher.uses == 1
    assert sentences_of(Subject.VOUCHER, voucher.pk)[-1] == (
        "Title changed from “Spring” to “Summer”; Uses at most changed from “3” to “2”; "
        "Valid until changed from nothing to “2041-01-31”; Active changed from yes to no."
    )


def test_the_uses_cannot_be_fewer_than_there_were(panel: Client) -> None:
    voucher = a_voucher(uses_max=5)
    for _ in range(2):
        redeem(UserFactory(), voucher)
    address = change_page(voucher)
    response = panel.post(address, sent_to(panel, address, uses_max="1"))
    assert errors_of(response)["uses_max"] == ["2 users have redeemed it already."]


def test_a_retired_plan_stays_the_plan_of_a_voucher(panel: Client) -> None:
    plan = PlanFactory(name="Start")
    voucher = a_voucher(plan=plan)
    plan.is_active = False
    plan.save()
    address = change_page(voucher)
    sent = sent_to(panel, address, amount="0", title="Summer", plan=str(plan.pk))
    assert panel.post(address, sent).status_code == 302
    voucher.refresh_from_db()
    assert (voucher.title, voucher.plan) == ("Summer", plan)


def test_the_page_says_who_redeemed_it(panel: Client) -> None:
    voucher = a_voucher(uses_max=None)
    page = f"{LIST}{voucher.pk}/redemptions/"
    assert "Nobody has redeemed this voucher yet." in text_of(panel.get(page))
    ada, bob = UserFactory(email="ada@example.net"), user_with(real=1, email="bob@example.net")
    redeem(ada, voucher)
    redeem(bob, voucher)
    text = panel.get(page).content.decode()
    assert text.index("bob@example.net") < text.index("ada@example.net")
    posted = Transaction.objects.get(user=bob, number=2)
    assert f"/admin/billing/transaction/{posted.pk}/change/" in text
    only_plan = a_voucher(plan=PlanFactory(price=0))
    redeem(ada, only_plan)
    page = f"{LIST}{only_plan.pk}/redemptions/"
    assert "None: only a plan" in text_of(panel.get(page))
    looking = client_of(operator_with("billing.view_voucher"))
    shown = text_of(looking.get(page))
    assert f"User {ada.pk}" in shown
    assert "ada@example.net" not in shown


# --- Redeeming ----------------------------------------------------------------------------------


def test_a_voucher_is_previewed_then_redeemed(panel: Client, administrator: User) -> None:
    user = user_with(real=1)
    plan = PlanFactory(name="Start", price=8)
    voucher = a_voucher(bonus=Decimal(5), amount=Decimal(10), bonus_until=date(2041, 1, 31),
        plan=plan)  # fmt: skip
    preview = panel.post(redeem_page(user), {"code": f" {voucher.shown_code.lower()} "})
    shown = text_of(preview)
    assert "Voucher Spring" in shown
    assert "Balance +10.00" in shown
    assert "Bonus +5.00, until the end of 2041-01-31 (UTC)" in shown
    assert "Plan Start · Monthly · 8.00 per month" in shown
    assert "Afterwards: 3.00" in shown
    assert ledger.balance(user).real == 1
    assert not Subscription.objects.exists()
    sent = second_step(preview)
    done = confirm(panel, redeem_page(user), sent)
    assert done.url == f"/admin/users/user/{user.pk}/transactions/?posted=2"
    assert "Redeemed the voucher “Spring”: 10.00 and a bonus of 5.00." in text_of(
        panel.get(done.url)
    )
    posted = Transaction.objects.get(user=user, number=2)
    assert (posted.actor, posted.channel) == (administrator, "panel")
    assert (ledger.balance(user).real, ledger.balance(user).bonus) == (3, 5)
    again = confirm(panel, redeem_page(user), sent)
    assert "Nothing more was done." in text_of(panel.get(again.url))
    assert ledger.balance(user).real == 3


def test_a_voucher_for_a_plan_alone_leads_back_to_the_user(panel: Client) -> None:
    user = UserFactory()
    voucher = a_voucher(plan=PlanFactory(name="Start", price=0))
    preview = panel.post(redeem_page(user), {"code": voucher.code})
    done = confirm(panel, redeem_page(user), second_step(preview))
    assert done.url == f"/admin/users/user/{user.pk}/change/"
    assert "Subscribed the user to plan Start" in text_of(panel.get(done.url))


def test_what_is_refused_is_said_and_nothing_is_lost(panel: Client) -> None:
    user = UserFactory()
    response = panel.post(redeem_page(user), {"code": "2222-3333-4444"})
    assert response.context["form"].errors == {
        "code": ["There is no voucher with this code, or it is no longer active."]
    }
    assert 'value="2222-3333-4444"' in response.content.decode()
    voucher = a_voucher(amount=Decimal(1), plan=PlanFactory(price=8))
    response = panel.post(redeem_page(user), {"code": voucher.code})
    assert "Nothing was posted. Not enough money on the balance" in text_of(response)
    assert not Transaction.objects.exists()


def test_redeeming_needs_the_permission_to_change_balances() -> None:
    user = UserFactory()
    operator = operator_with(group="Billing operator")
    page = client_of(operator).get(f"/admin/users/user/{user.pk}/change/").content.decode()
    assert redeem_page(user) in page
    assert client_of(operator).get(redeem_page(user)).status_code == 200
    viewer = client_of(operator_with(group="Viewer"))
    voucher = a_voucher()
    assert viewer.post(redeem_page(user), {"code": voucher.code}).status_code == 403
    assert redeem_page(user) not in viewer.get(f"/admin/users/user/{user.pk}/change/").text
