"""The Subscriptions tab and its pages, tested by sending forms. tests/browser/ tests clicks."""

import re
from datetime import date, timedelta
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from billing import ledger, operations
from billing.models import Channel, Plan, Subject, Subscription, Transaction, UserDefaults
from billing.plans import subscriptions
from billing.plans.pricing import Cycle
from tests.factories import PlanFactory, UserFactory, subscribed, user_with
from tests.operators import client_of, operator_with
from tests.recorded import sentences_of
from users.models import User

BY_API: dict[str, Any] = {"actor": None, "channel": Channel.API}
TENTH = date(2026, 4, 10)


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> date:
    """Makes it 10 April 2026 for all pages."""
    set_today(monkeypatch, TENTH)
    return TENTH


def set_today(monkeypatch: pytest.MonkeyPatch, day: date) -> None:
    for module in ("subscriptions", "subscription_forms", "users"):
        monkeypatch.setattr(f"billing.admin.{module}.utc_today", lambda: day)


@pytest.fixture
def customer(db: None) -> User:
    return user_with(real=100, bonus=20)


@pytest.fixture
def business(db: None) -> Plan:
    return PlanFactory(name="Business", price="12.55", proportional_charge=True)


@pytest.fixture
def basic(db: None) -> Plan:
    return PlanFactory(name="Basic", price="3", proportional_charge=True)


def tab(user: User, query: str = "") -> str:
    return f"/admin/users/user/{user.pk}/subscriptions/{query}"


def add_page(user: User) -> str:
    return f"{tab(user)}add/"


def page_of(subscription: Subscription, action: str) -> str:
    return f"{tab(subscription.user)}{subscription.pk}/{action}/"


def text_of(response: Any) -> str:
    """Returns the text of the page without its markup."""
    page = re.sub(r"(?s)<(script|style).*?</\1>", "", response.content.decode())
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def second_step(response: Any) -> dict[str, str]:
    """Returns the hidden fields of a preview, which the browser sends when it is confirmed."""
    assert response.status_code == 200, response
    assert response.context["step"].preview, response.context["form"].errors
    form = response.content.decode().split('class="panel-confirm"')[1].split("</form>")[0]
    fields = re.findall(r'<input type="hidden" name="(\w+)"(?: value="([^"]*)")?', form)
    return {name: unescape(value) for name, value in fields if name != "csrfmiddlewaretoken"}


def confirm(panel: Client, address: str, sent: dict[str, str]) -> Any:
    return panel.post(address, sent | {"confirm": "1"})


def rows(user: User) -> list[tuple[str, Decimal, Decimal, Decimal]]:
    """Returns the user's transactions after number 1, which is the money to start with."""
    listed = Transaction.objects.filter(user=user, number__gt=1).order_by("number")
    return list(listed.values_list("description", "amount", "old_balance", "new_balance"))


def previewed(response: Any) -> list[tuple[str, Decimal, Decimal, Decimal]]:
    posted = response.context["step"].preview.posted
    return [(row.description, row.amount, row.old_balance, row.new_balance) for row in posted]


def sentences(user: User) -> list[str]:
    return sentences_of(Subject.USER, user.pk)


# --- Adding -------------------------------------------------------------------------------------


def test_what_is_confirmed_is_what_was_previewed(
    panel: Client, administrator: User, customer: User, business: Plan
) -> None:
    preview = panel.post(add_page(customer), {"plan": business.pk, "device": " 8617 "})
    shown = text_of(preview)
    assert previewed(preview) == [
        ("Plan Business, 10–30 April 2026, device 8617", Decimal("-8.7850"), 100, Decimal("91.215"))
    ]
    assert "−8.7850" in shown
    assert "100.0000 → 91.2150" in shown
    assert "Next charge 12.55 on 2026-05-01" in shown
    assert "Starts 2026-04-10, today (UTC)" in shown
    assert not rows(customer)
    assert not Subscription.objects.exists()

    done = confirm(panel, add_page(customer), second_step(preview))
    assert rows(customer) == previewed(preview)
    subscription = Subscription.objects.get(user=customer, device="8617")
    assert done.status_code == 302
    assert done["Location"] == tab(customer, f"?changed={subscription.pk}")
    sentence = "Subscribed device 8617 to plan Business; 8.7850 charged."
    assert sentence in text_of(panel.get(done["Location"]))
    assert sentences(customer) == [sentence]
    posted = Transaction.objects.get(user=customer, number=2)
    assert (posted.actor, posted.channel) == (administrator, Channel.PANEL)
    assert sentence in text_of(panel.get(f"/admin/users/user/{customer.pk}/history/"))


def test_without_a_device_it_is_the_users_own_pricing_plan(
    panel: Client, customer: User, business: Plan
) -> None:
    preview = panel.post(add_page(customer), {"plan": business.pk, "device": ""})
    assert "Device None: the user's own pricing plan" in text_of(preview)
    confirm(panel, add_page(customer), second_step(preview))
    assert Subscription.objects.get(user=customer).device == ""
    assert sentences(customer) == ["Subscribed the user to plan Business; 8.7850 charged."]
    assert "Own pricing plan services that name no device" in text_of(panel.get(tab(customer)))


def test_plans_are_offered_with_cycle_and_price_if_they_are_active(
    panel: Client, customer: User, business: Plan
) -> None:
    PlanFactory(name="Per day of use", cycle=Cycle.ACTIVE_DAY, price="0.5")
    PlanFactory(name="Old one", is_active=False)
    shown = text_of(panel.get(add_page(customer)))
    assert "Business · Monthly · 12.55 per month, proportional" in shown
    assert "Per day of use · Active day · 0.50 per active day" in shown
    assert "Old one" not in shown


def test_a_refusal_for_lack_of_money_has_the_figures_and_offers_to_wait(
    panel: Client, business: Plan
) -> None:
    poor = user_with(real=8, bonus=100)
    first = text_of(panel.get(add_page(poor)))
    assert "Start suspended" not in first
    refused = panel.post(add_page(poor), {"plan": business.pk, "device": "8617"})
    shown = text_of(refused)
    assert "Not enough money on the balance: 8.7850 needed, 8.00 available." in shown
    assert "Start suspended until there is money" in shown
    assert 'value="8617"' in refused.content.decode()
    assert f'<option value="{business.pk}" selected' in refused.content.decode()
    assert not rows(poor)

    sent = {"plan": str(business.pk), "device": "8617", "wait_for_money": "on"}
    preview = panel.post(add_page(poor), sent)
    assert previewed(preview) == []
    assert "Status Suspended until there is money" in text_of(preview)
    assert "Nothing: no money moves now." in text_of(preview)
    confirm(panel, add_page(poor), second_step(preview))
    assert Subscription.objects.get(user=poor).status == "suspended"
    assert rows(poor) == []
    assert sentences(poor) == [
        "Subscribed device 8617 to plan Business; nothing charged, suspended until there is money."
    ]
    shown = text_of(panel.get(tab(poor)))
    assert "8.7850 needed now, 0.7850 missing" in shown


def test_money_that_came_meanwhile_is_not_taken_unasked(panel: Client, business: Plan) -> None:
    poor = user_with(real=8)
    sent = {"plan": str(business.pk), "device": "", "wait_for_money": "on"}
    preview = panel.post(add_page(poor), sent)
    ledger.change_balance(poor, amount=50, description="Paid by card", **BY_API)
    again = confirm(panel, add_page(poor), second_step(preview))
    assert "Nothing was posted: something has changed" in text_of(again)
    assert len(previewed(again)) == 1
    assert not Subscription.objects.exists()


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"plan": ""}, "plan", "This field is required."),
        ({"plan": "999999"}, "plan", "This plan can no longer be chosen."),
        ({"plan": "x"}, "plan", "This plan can no longer be chosen."),
        ({"device": "taken"}, "device", "Device taken already has a subscription, to the plan"),
        ({"device": "a" * 101}, "device", "at most 100 characters"),
        ({"device": "turned\u202eround"}, "device", "invisible characters"),
        ({"device": "nul\0"}, "device", "Null characters"),
    ],
)
def test_a_refusal_stands_at_its_field_and_keeps_what_was_typed(  # noqa: PLR0917
    panel: Client, customer: User, basic: Plan, fields: dict[str, str], field: str, sentence: str
) -> None:
    subscribed(customer, basic, device="taken")
    before = rows(customer)
    sent = {"plan": str(basic.pk), "device": "8617"} | fields
    response = panel.post(add_page(customer), sent)
    form = response.context["form"]
    assert sentence in " ".join(form.errors[field])
    assert not form.non_field_errors()
    assert {name: form[name].value() for name in sent} == sent
    assert rows(customer) == before


def test_a_deactivated_user_is_not_subscribed(panel: Client, basic: Plan) -> None:
    gone = user_with(real=100, is_active=False)
    response = panel.post(add_page(gone), {"plan": basic.pk, "device": ""})
    assert "Nothing was posted. The user is deactivated." in text_of(response)


def test_another_transaction_in_between_asks_again_with_the_new_preview(
    panel: Client, customer: User, business: Plan
) -> None:
    preview = panel.post(add_page(customer), {"plan": business.pk, "device": "8617"})
    ledger.change_balance(customer, amount=-50, description="Meanwhile, by the API", **BY_API)
    before = rows(customer)
    again = confirm(panel, add_page(customer), second_step(preview))
    assert "Nothing was posted: something has changed since the preview." in text_of(again)
    assert "50.0000 → 41.2150" in text_of(again)
    assert rows(customer) == before
    assert not sentences(customer)
    assert confirm(panel, add_page(customer), second_step(again)).status_code == 302
    assert ledger.balance(customer).real == Decimal("41.2150")


def test_a_price_that_changed_in_between_asks_again(
    panel: Client, customer: User, business: Plan
) -> None:
    preview = panel.post(add_page(customer), {"plan": business.pk, "device": "8617"})
    Plan.objects.filter(pk=business.pk).update(price=20)
    again = confirm(panel, add_page(customer), second_step(preview))
    assert "Nothing was posted: something has changed" in text_of(again)
    assert not Subscription.objects.exists()


def test_midnight_in_between_asks_again(
    panel: Client, customer: User, business: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    preview = panel.post(add_page(customer), {"plan": business.pk, "device": "8617"})
    set_today(monkeypatch, TENTH + timedelta(days=1))
    again = confirm(panel, add_page(customer), second_step(preview))
    assert "Starts 2026-04-11" in text_of(again)
    assert not Subscription.objects.exists()


def test_money_that_went_in_between_is_told_and_nothing_typed_is_lost(
    panel: Client, customer: User, business: Plan
) -> None:
    preview = panel.post(add_page(customer), {"plan": business.pk, "device": "8617"})
    ledger.change_balance(customer, amount=-95, description="Meanwhile, by the API", **BY_API)
    again = confirm(panel, add_page(customer), second_step(preview))
    assert "Not enough money on the balance: 8.7850 needed, 5.00 available." in text_of(again)
    assert again.context["form"]["device"].value() == "8617"


def test_a_plan_retired_in_between_is_told(panel: Client, customer: User, business: Plan) -> None:
    preview = panel.post(add_page(customer), {"plan": business.pk, "device": "8617"})
    Plan.objects.filter(pk=business.pk).update(is_active=False)
    PlanFactory()
    again = confirm(panel, add_page(customer), second_step(preview))
    assert "This plan can no longer be chosen." in text_of(again)


def test_sent_twice_it_is_done_once(panel: Client, customer: User, business: Plan) -> None:
    preview = panel.post(add_page(customer), {"plan": business.pk, "device": "8617"})
    first = confirm(panel, add_page(customer), second_step(preview))
    again = confirm(panel, add_page(customer), second_step(preview))
    assert again["Location"] == first["Location"]
    assert "Nothing more was done. Device 8617 already has a subscription" in text_of(
        panel.get(again["Location"])
    )
    assert len(rows(customer)) == 1
    assert len(sentences(customer)) == 1


def test_back_leads_to_the_form_as_it_was(panel: Client, customer: User, business: Plan) -> None:
    preview = panel.post(add_page(customer), {"plan": business.pk, "device": "8617"})
    back = panel.post(add_page(customer), second_step(preview) | {"edit": "1"})
    assert back.context["form"]["device"].value() == "8617"
    assert not back.context["form"].errors
    assert 'class="panel-form"' in back.content.decode()
    assert not rows(customer)


def test_where_there_is_no_plan_the_page_says_so(panel: Client, customer: User) -> None:
    PlanFactory(is_active=False)
    assert "There is no plan to subscribe to." in text_of(panel.get(add_page(customer)))
    subscription = subscribed(customer, PlanFactory())
    page = panel.get(page_of(subscription, "change-plan"))
    assert "There is no other plan to subscribe to." in text_of(page)


# --- Changing the plan --------------------------------------------------------------------------


def test_a_change_of_plan_shows_and_posts_all_its_transactions_in_order(
    panel: Client, customer: User, business: Plan, basic: Plan
) -> None:
    subscription = subscribed(customer, basic, device="8617")  # charges 3.00 on 1 April
    address = page_of(subscription, "change-plan")
    asked = text_of(panel.get(address))
    assert "Business · Monthly" in asked
    sent = {"plan": business.pk, "pay_back": "on", "charge_now": "on"}
    preview = panel.post(address, sent)
    assert previewed(preview) == [
        (
            "Remainder of plan Basic, 10–30 April 2026, device 8617",
            Decimal("2.1"),
            97,
            Decimal("99.1"),
        ),
        (
            "Plan Business, 10–30 April 2026, device 8617",
            Decimal("-8.7850"),
            Decimal("99.1"),
            Decimal("90.315"),
        ),
    ]
    assert "Next charge 12.55 on 2026-05-01" in text_of(preview)
    assert len(rows(customer)) == 1
    done = confirm(panel, address, second_step(preview))
    assert rows(customer)[1:] == previewed(preview)
    assert sentences(customer) == [
        "Changed the plan of device 8617 from Basic to Business; 2.10 paid back, 8.7850 charged."
    ]
    assert sentences(customer)[0] in text_of(panel.get(done["Location"]))


def test_a_change_of_plan_can_wait_until_what_was_paid_is_used_up(
    panel: Client, customer: User, business: Plan, basic: Plan
) -> None:
    subscription = subscribed(customer, basic)
    address = page_of(subscription, "change-plan")
    preview = panel.post(address, {"plan": business.pk})
    assert previewed(preview) == []
    assert "Its fee applies from 2026-05-01" in text_of(preview)
    assert "Next charge 12.55 on 2026-05-01" in text_of(preview)
    sent = second_step(preview)
    assert (sent["pay_back"], sent["charge_now"]) == ("False", "False")
    confirm(panel, address, sent)
    assert len(rows(customer)) == 1
    assert sentences(customer) == ["Changed the plan from Basic to Business; nothing charged."]


@pytest.mark.parametrize(
    ("pay_back", "charge_now", "uncharged", "not_paid_back"),
    [
        (True, True, False, False),
        (True, False, True, False),
        (False, True, False, True),
        (False, False, False, False),
    ],
)
def test_the_preview_of_a_change_of_plan_says_what_is_free_and_what_is_lost(  # noqa: PLR0917
    panel: Client,
    customer: User,
    business: Plan,
    pay_back: bool,
    charge_now: bool,
    uncharged: bool,
    not_paid_back: bool,
) -> None:
    annual = PlanFactory(name="Annual", cycle=Cycle.ANNUAL, price="60")
    subscription = subscribed(customer, business, day=TENTH, device="8617")
    choices = {"pay_back": pay_back, "charge_now": charge_now}
    sent = {"plan": annual.pk} | {name: "on" for name, chosen in choices.items() if chosen}
    shown = text_of(panel.post(page_of(subscription, "change-plan"), sent))
    free = "Nothing is charged for 10 April 2026 – 31 December 2026"
    assert (free in shown) == uncharged
    assert ("Not paid back 8.7850, paid for 10–30 April 2026" in shown) == not_paid_back


def test_no_days_are_free_that_were_paid_for(
    panel: Client, customer: User, business: Plan, basic: Plan
) -> None:
    subscription = subscribed(customer, business, day=date(2026, 3, 31))
    set_subscription = {"due_on": date(2026, 5, 1), "charged_through": date(2026, 4, 12)}
    Subscription.objects.filter(pk=subscription.pk).update(**set_subscription)
    shown = text_of(panel.post(page_of(subscription, "change-plan"), {"plan": basic.pk}))
    assert "Its fee applies from 2026-04-13" in shown
    assert "Nothing is charged for" not in shown


def test_a_cancellation_says_what_is_not_paid_back(
    panel: Client, customer: User, basic: Plan
) -> None:
    address = page_of(subscribed(customer, basic, day=date(2026, 4, 1)), "cancel")
    kept = "Not paid back 2.10, paid for 10–30 April 2026"
    assert kept in text_of(panel.post(address, {}))
    assert kept not in text_of(panel.post(address, {"pay_back": "on"}))
    ledger.reverse(customer, number=2, description="Charged by mistake", **BY_API)
    assert "Not paid back" not in text_of(panel.post(address, {}))


def test_a_change_that_cannot_be_paid_is_refused_with_the_figures(
    panel: Client, business: Plan, basic: Plan
) -> None:
    poor = user_with(real=5)
    subscription = subscribed(poor, basic)
    address = page_of(subscription, "change-plan")
    response = panel.post(address, {"plan": business.pk, "pay_back": "on", "charge_now": "on"})
    assert "Not enough money on the balance: 8.7850 needed, 4.10 available." in text_of(response)
    assert len(rows(poor)) == 1
    assert response.context["form"]["pay_back"].value() is True


def test_a_change_of_plan_sent_twice_is_done_once(
    panel: Client, customer: User, business: Plan, basic: Plan
) -> None:
    subscription = subscribed(customer, basic)
    address = page_of(subscription, "change-plan")
    preview = panel.post(address, {"plan": business.pk, "pay_back": "on", "charge_now": "on"})
    confirm(panel, address, second_step(preview))
    before = rows(customer)
    again = confirm(panel, address, second_step(preview))
    assert again.status_code == 302
    assert rows(customer) == before
    assert "Nothing more was done. The subscription is already on this plan: Business." in text_of(
        panel.get(again["Location"])
    )


def test_the_present_plan_is_not_offered_and_refused(
    panel: Client, customer: User, business: Plan, basic: Plan
) -> None:
    subscription = subscribed(customer, basic)
    address = page_of(subscription, "change-plan")
    options = re.findall(r'<option value="(\d+)"', panel.get(address).content.decode())
    assert options == [str(business.pk)]
    response = panel.post(address, {"plan": basic.pk})
    assert response.context["form"].errors["plan"] == [
        "The subscription is already on this plan: Basic."
    ]


def test_a_subscription_that_changed_in_between_asks_again(
    panel: Client, customer: User, business: Plan, basic: Plan
) -> None:
    subscription = subscribed(customer, basic)
    address = page_of(subscription, "change-plan")
    preview = panel.post(address, {"plan": business.pk})
    other = PlanFactory(name="Another")
    subscriptions.change_plan(
        subscription, other, day=TENTH, pay_back=False, charge_now=False, **BY_API
    )
    again = confirm(panel, address, second_step(preview))
    assert "Nothing was posted: something has changed" in text_of(again)
    assert "Present plan Another" in text_of(again)
    subscription.refresh_from_db()
    assert subscription.plan == other


# --- Cancelling ---------------------------------------------------------------------------------


def test_a_cancellation_shows_what_it_pays_back(panel: Client, customer: User, basic: Plan) -> None:
    subscription = subscribed(customer, basic, device="8617")
    address = page_of(subscription, "cancel")
    assert "Pay back the remainder" in text_of(panel.get(address))
    preview = panel.post(address, {"pay_back": "on"})
    assert [row[:2] for row in previewed(preview)] == [
        ("Remainder of plan Basic, 10–30 April 2026, device 8617", Decimal("2.1"))
    ]
    done = confirm(panel, address, second_step(preview))
    assert rows(customer)[1:] == previewed(preview)
    sentence = "Cancelled the subscription of device 8617, plan Basic; 2.10 paid back."
    assert sentences(customer) == [sentence]
    page = text_of(panel.get(done["Location"]))
    assert sentence in page
    assert "Cancelled (1)" in page


def test_a_cancellation_charges_the_active_days_that_are_outstanding(
    panel: Client, customer: User
) -> None:
    plan = PlanFactory(name="Per day", cycle=Cycle.ACTIVE_DAY, price="0.5")
    subscription = subscribed(customer, plan, device="8617")
    for day in (8, 10):
        subscriptions.record_active_day(
            customer, device="8617", day=date(2026, 4, day), today=TENTH
        )
    preview = panel.get(page_of(subscription, "cancel"))  # nothing to fill in: this is the preview
    assert [row[1] for row in previewed(preview)] == [Decimal("-0.5"), Decimal("-0.5")]
    assert not rows(customer)
    confirm(panel, page_of(subscription, "cancel"), second_step(preview))
    assert rows(customer) == previewed(preview)
    assert sentences(customer)[0].endswith("; 1.00 charged.")


@pytest.mark.parametrize("action", ["cancel", "change-plan"])
def test_what_is_cancelled_leads_back_to_the_tab(
    panel: Client, customer: User, basic: Plan, action: str
) -> None:
    subscription = subscribed(customer, basic)
    address = page_of(subscription, "cancel")
    sent = second_step(panel.post(address, {"pay_back": ""}))
    confirm(panel, address, sent)
    for again in (
        lambda: confirm(panel, page_of(subscription, action), sent),
        lambda: panel.get(page_of(subscription, action)),
    ):
        response = again()
        assert response.status_code == 302
        shown = text_of(panel.get(response["Location"]))
        assert "Nothing more was done. This subscription was cancelled on 2026-04-10." in shown
    assert len(sentences(customer)) == 1


# --- The tab ------------------------------------------------------------------------------------


def test_the_own_plan_comes_first_then_devices_and_cancelled_ones_apart(
    panel: Client, customer: User, basic: Plan
) -> None:
    for device in ("b", "", "a", "gone"):
        subscribed(customer, basic, device=device)
    gone = Subscription.objects.get(device="gone")
    subscriptions.cancel(gone, day=TENTH, **BY_API)
    context = panel.get(tab(customer)).context
    assert [line.subscription.device for line in context["lines"]] == ["", "a", "b"]
    assert list(context["cancelled"]) == [gone]


def test_the_tab_says_when_and_how_much_is_charged_next(panel: Client, basic: Plan) -> None:
    user = user_with(real=20)
    yearly = PlanFactory(cycle=Cycle.ANNUAL, price=1000)
    daily = PlanFactory(cycle=Cycle.EVERY_DAY, price=30)
    active = PlanFactory(cycle=Cycle.ACTIVE_DAY, price="0.5")
    subscribed(user, basic, device="a", day=TENTH)
    subscribed(user, daily, device="b", day=TENTH)
    subscribed(user, active, device="c", day=TENTH)
    subscribed(user, yearly, device="d", day=TENTH)
    page = panel.get(tab(user))
    a, b, c, d = page.context["lines"]
    assert (a.next_day, a.amount) == (date(2026, 5, 1), 3)
    assert (b.next_day, b.amount) == (date(2026, 4, 11), 1)
    assert (c.next_day, c.amount) == (None, Decimal("0.5"))
    left = 20 - Decimal("2.1") - 1
    assert (d.amount, d.missing) == (1000, 1000 - left)
    shown = text_of(page)
    assert "0.50 after each active day" in shown
    assert f"1,000.00 needed now, {1000 - left:.2f} missing" in shown
    assert f"1 suspended: to resume, 1,000.00 is needed, {1000 - left:.2f} missing" in shown


def test_money_does_not_resume_what_a_deactivated_user_has(panel: Client, basic: Plan) -> None:
    user = user_with()
    subscribed(user, basic)  # suspended: the user has no money
    ledger.change_balance(user, amount=50, description="Money after all", **BY_API)
    assert "resumes with the next run" in text_of(panel.get(tab(user)))
    User.objects.filter(pk=user.pk).update(is_active=False)
    shown = text_of(panel.get(tab(user)))
    assert "1 suspended while the user is deactivated" in shown
    assert "None while the user is deactivated" in shown
    assert "resumes with the next run" not in shown
    assert "is needed and there" not in shown


def test_a_charge_that_the_run_missed_is_overdue(
    panel: Client, customer: User, basic: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribed(customer, basic)
    set_today(monkeypatch, date(2026, 5, 2))
    assert "2026-05-01 3.00 , overdue" in text_of(panel.get(tab(customer)))


def test_hundreds_of_devices_are_paged_and_filtered_with_as_many_queries_as_one(
    panel: Client, basic: Plan
) -> None:
    one, many = user_with(real=100), user_with(real=10_000)
    subscribed(one, basic, device="d000")
    for number in range(120):
        subscribed(many, basic, device=f"d{number:03}")
    panel.get(tab(one))
    with CaptureQueriesContext(
        connection,
    ) as few:
        panel.get(tab(one))
    with CaptureQueriesContext(connection) as lots:
        first = panel.get(tab(many))
    assert len(lots) == len(few)
    assert [each.subscription.device for each in first.context["lines"]][::49] == ["d000", "d049"]
    assert "1 – 50 of 120" in text_of(first)
    last = panel.get(tab(many, "?page=3"))
    assert len(last.context["lines"]) == 20
    found = panel.get(tab(many, "?device=D11&status=active"))
    assert len(found.context["lines"]) == 10
    assert not panel.get(tab(many, "?device=D11&status=suspended")).context["lines"]
    changed = Subscription.objects.get(user=many, device="d077")
    there = panel.get(tab(many, f"?changed={changed.pk}"))
    assert changed in [each.subscription for each in there.context["lines"]]
    assert 'class="marked" id="posted"' in there.content.decode()


@pytest.mark.parametrize(
    "query",
    [
        *("?page=x", "?page=99", "?changed=x", f"?changed={9**40}", "?status=x", "?device=%00"),
        pytest.param(f"?changed={'9' * 5000}", id="5000 digits"),
    ],
)
def test_odd_addresses_do_no_harm(panel: Client, customer: User, basic: Plan, query: str) -> None:
    subscribed(customer, basic)
    assert panel.get(tab(customer, query)).status_code == 200


def test_an_empty_tab_says_what_to_do(panel: Client, customer: User) -> None:
    page = panel.get(tab(customer))
    assert f"{customer} has no subscriptions yet." in text_of(page)
    assert f'href="{add_page(customer)}"' in page.content.decode()


def test_names_of_devices_and_plans_are_text(panel: Client, customer: User) -> None:
    evil = "<script>alert(1)</script>"
    plan = PlanFactory(name="<b>Plan</b>")
    other = PlanFactory(name="<i>Other</i>")
    preview = panel.post(add_page(customer), {"plan": plan.pk, "device": evil})
    done = confirm(panel, add_page(customer), second_step(preview))
    subscription = Subscription.objects.get(user=customer)
    assert subscription.device == evil
    for response in (
        preview,
        panel.get(done["Location"]),
        panel.get(page_of(subscription, "change-plan")),
        panel.post(page_of(subscription, "change-plan"), {"plan": other.pk}),
        panel.post(page_of(subscription, "cancel"), {}),
        panel.get(tab(customer, "?device=%3Cscript%3E")),
    ):
        page = response.content.decode()
        assert "&lt;script&gt;" in page
        assert not [word for word in (evil, "<b>Plan", "<i>Other") if word in page]


# --- Who may ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("permissions", "allowed"),
    [
        ((), set()),
        (("billing.view_subscription",), {"tab"}),
        (("billing.add_subscription",), {"add"}),
        (("billing.change_subscription",), {"change-plan", "cancel"}),
        (("billing.change_balance", "billing.view_transaction", "users.change_user"), set()),
    ],
)
def test_each_page_takes_its_permission(
    customer: User, business: Plan, basic: Plan, permissions: tuple[str, ...], allowed: set[str]
) -> None:
    subscription = subscribed(customer, basic)
    client = client_of(operator_with(*permissions))
    addresses = {
        "tab": tab(customer),
        "add": add_page(customer),
        "change-plan": page_of(subscription, "change-plan"),
        "cancel": page_of(subscription, "cancel"),
    }
    before = rows(customer)
    sent = {"plan": business.pk, "device": "x", "confirm": "1"}
    for name, address in addresses.items():
        expected = 200 if name in allowed else 403
        assert client.get(address).status_code == expected, name
        if name != "tab":
            assert client.post(address, sent).status_code == expected, name
    assert rows(customer) == before


def test_the_tab_offers_what_the_operator_may_do(customer: User, basic: Plan) -> None:
    subscription = subscribed(customer, basic)
    viewers = client_of(operator_with("billing.view_subscription")).get(tab(customer))
    group = client_of(operator_with(group="Billing operator")).get(tab(customer))
    for address in (
        add_page(customer),
        page_of(subscription, "change-plan"),
        page_of(subscription, "cancel"),
        f"/admin/users/user/{customer.pk}/charge-service/",
    ):
        assert f'href="{address}"' in group.content.decode()
        assert f'href="{address}"' not in viewers.content.decode()


def test_who_may_add_but_not_look_is_led_elsewhere_afterwards(
    customer: User, business: Plan
) -> None:
    client = client_of(operator_with("billing.add_subscription"))
    preview = client.post(add_page(customer), {"plan": business.pk, "device": ""})
    done = confirm(client, add_page(customer), second_step(preview))
    assert client.get(done["Location"]).status_code == 200
    assert len(rows(customer)) == 1


def test_operators_and_nobody_have_no_such_pages(
    panel: Client, administrator: User, customer: User, basic: Plan
) -> None:
    subscription = subscribed(customer, basic)
    stranger = UserFactory()
    for address in (
        tab(administrator),
        add_page(administrator),
        f"{tab(stranger)}{subscription.pk}/cancel/",
        f"{tab(stranger)}{subscription.pk}/change-plan/",
        f"{tab(customer)}{2**70}/cancel/",
        f"/admin/users/user/{2**70}/subscriptions/",
    ):
        assert panel.get(address).status_code == 404, address


# --- New users ----------------------------------------------------------------------------------

NEW_USER = {"email": "new@example.com", "legal_type": "individual", "is_active": "on"}


def created(client: Client, address: str = "/admin/users/user/add/", **changes: str) -> Any:
    answer = client.post(address, NEW_USER | changes)
    assert answer.status_code == 302, answer.context["adminform"].form.errors
    return client.get(answer["Location"])


def defaults(**fields: Any) -> None:
    UserDefaults.objects.update_or_create(id=UserDefaults.ONLY_ID, defaults=fields)


def test_a_new_user_gets_what_the_defaults_say_and_the_operator_is_told(business: Plan) -> None:
    defaults(bonus="5", plan=business)
    operator = operator_with(group="Billing operator")
    page = created(client_of(operator))
    user = User.objects.get(email="new@example.com")
    assert ledger.balance(user) == (0, 5, 1)
    gift = Transaction.objects.get(user=user)
    assert (gift.subtype, gift.actor_id, gift.channel) == ("register", operator.pk, Channel.PANEL)
    subscription = Subscription.objects.get(user=user)
    assert (subscription.plan, subscription.device) == (business, "")
    assert (subscription.status, subscription.started_on) == ("suspended", TENTH)
    told = (
        "A bonus of 5.00 was given. "
        "Subscribed the user to plan Business; nothing charged, suspended until there is money."
    )
    assert "new@example.com was created." in text_of(page)
    assert told in text_of(page)
    assert sentences(user) == [f"Added. {told}"]


def test_a_plan_that_costs_nothing_at_first_is_active_at_once(
    panel: Client,
) -> None:
    defaults(plan=PlanFactory(name="Pay as you go", price=0))
    page = created(panel)
    assert "Subscribed the user to plan Pay as you go; nothing charged." in text_of(page)
    assert Subscription.objects.get().status == "active"


@pytest.mark.parametrize("configured", [False, True])
def test_nothing_is_given_or_told_where_the_defaults_say_nothing(
    panel: Client, *, configured: bool
) -> None:
    if configured:
        defaults(bonus=0, plan=None)
    page = text_of(created(panel))
    user = User.objects.get(email="new@example.com")
    assert ledger.balance(user) == (0, 0, 0)
    assert "bonus of" not in page
    assert "Subscribed" not in page
    assert len(sentences(user)) == 1


def test_a_user_who_is_not_active_yet_gets_a_plan_that_waits(panel: Client, business: Plan) -> None:
    defaults(bonus="5", plan=business)
    created(panel, is_active="")
    user = User.objects.get(email="new@example.com")
    assert ledger.balance(user).bonus == 5
    assert Subscription.objects.get(user=user).status == "suspended"


def test_only_creating_gives(panel: Client, customer: User, business: Plan) -> None:
    defaults(bonus="5", plan=business)
    panel.post(
        f"/admin/users/user/{customer.pk}/change/",
        NEW_USER | {"email": customer.email, "first_name": "Changed"},
    )
    customer.refresh_from_db()
    assert customer.first_name == "Changed"
    assert ledger.balance(customer).number == 1
    assert not Subscription.objects.exists()


def test_an_operators_account_gets_nothing(panel: Client, business: Plan) -> None:
    defaults(bonus="5", plan=business)
    address = "/admin/users/operator/add/"
    form = panel.get(address).context["adminform"].form
    passwords = {name: "correct horse battery" for name in form.fields if "password" in name}
    answer = panel.post(address, NEW_USER | passwords)
    assert answer.status_code == 302, answer.context["adminform"].form.errors
    operator = User.objects.get(email="new@example.com")
    assert operator.is_staff
    assert ledger.balance(operator).number == 0
    assert not Subscription.objects.exists()


def test_a_deactivated_user_with_money_is_not_said_to_lack_it(
    panel: Client, business: Plan
) -> None:
    user = user_with(real=1000)
    subscription = subscribed(user, business, day=date(2026, 3, 1))
    User.objects.filter(pk=user.pk).update(is_active=False)
    changed = operations.subscriptions.change_plan(
        user.pk,
        subscription.pk,
        PlanFactory(name="Other").pk,
        day=TENTH,
        pay_back=False,
        charge_now=False,
        **BY_API,
    )
    assert changed.subscription.suspension_reason == "user_deactivated"
    assert changed.sentence.endswith("nothing charged, suspended until the user is active again.")
    shown = text_of(panel.get(tab(user)))
    assert "until the user is active again" in shown
    assert "until there is money" not in shown
