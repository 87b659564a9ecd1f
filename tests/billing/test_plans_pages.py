"""The pages of services, plans with their prices, and defaults for new users."""

import re
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError
from django.test import Client

from billing import ledger, reports
from billing.models import (
    Channel,
    Plan,
    Service,
    ServicePrice,
    Subscription,
    TransactionType,
    UserDefaults,
)
from tests.factories import (
    PlanFactory,
    ServiceFactory,
    UserFactory,
    charge_cost,
    plan_with,
    subscribed,
    user_with,
)
from tests.operators import client_of, operator_with
from tests.recorded import all_sentences
from users.models import User

pytestmark = pytest.mark.django_db

PLANS = "/admin/billing/plan/"
SERVICES = "/admin/billing/service/"
SUBSCRIPTIONS = "/admin/billing/subscription/"
DEFAULTS = "/admin/billing/userdefaults/1/change/"


def page_of(obj: Plan | Service, action: str = "change") -> str:
    return f"/admin/billing/{obj._meta.model_name}/{obj.pk}/{action}/"


def form_data(panel: Client, path: str) -> dict[str, Any]:
    """Returns the fields that a page's form sends if nothing is changed."""
    form = panel.get(path).context["adminform"].form
    sent = {}
    for bound in form:
        value = bound.value()
        if value not in (None, False):
            sent[bound.html_name] = "on" if value is True else str(value)
    return sent


def save(panel: Client, path: str, sent: dict[str, Any]) -> str:
    """Sends a form and returns the text of the page that follows."""
    return panel.post(path, {key: value for key, value in sent.items() if value is not None},
                      follow=True).text  # fmt: skip


def change(panel: Client, path: str, **values: Any) -> str:
    return save(panel, path, form_data(panel, path) | values)


def history() -> list[str]:
    return all_sentences()


def price_of(service: Service) -> str:
    return f"service_{service.pk}"


# --- Plans --------------------------------------------------------------------------------------


def test_a_plan_is_added_with_its_prices_on_one_page(panel: Client) -> None:
    sms = ServiceFactory(name="Outgoing SMS")
    calls = ServiceFactory(name="Phone call")
    ServiceFactory(name="Traffic")
    save(
        panel,
        f"{PLANS}add/",
        {
            "name": "Business",
            "cycle": "every_year",
            "price": " 1 200.5 ",
            "proportional_charge": "on",
            "is_active": "on",
            price_of(sms): "0.0001",
            price_of(calls): "0",
        },
    )
    plan = Plan.objects.get()
    assert (plan.name, plan.cycle, plan.price) == ("Business", "every_year", Decimal("1200.5"))
    assert plan.proportional_charge
    prices = dict(plan.service_prices.values_list("service__name", "price"))
    assert prices == {"Outgoing SMS": Decimal("0.0001"), "Phone call": 0}
    [added] = history()
    assert added == (
        "Added. Name: “Business”; Billing cycle: Annual; Price: 1,200.50; "
        "Proportional charge: yes; Active: yes; Price of Outgoing SMS: 0.0001; "
        "Price of Phone call: 0.00."
    )


def test_the_history_says_what_was_changed_from_what_to_what(panel: Client) -> None:
    sms, calls, traffic = (ServiceFactory(name=name) for name in ("SMS", "Calls", "Traffic"))
    plan = plan_with({sms: "0.30", calls: "0.05"}, name="Basic", price="12.55")
    change(
        panel,
        page_of(plan),
        **{
            "price": "13",
            "is_active": None,
            price_of(sms): "0.25",
            price_of(calls): "",
            price_of(traffic): "1",
        },
    )
    assert history() == [
        "Price changed from 12.55 to 13.00; Active changed from yes to no; "
        "Price of Calls changed from 0.05 to nothing; Price of SMS changed from 0.30 to 0.25; "
        "Price of Traffic changed from nothing to 1.00."
    ]
    prices = dict(plan.service_prices.values_list("service__name", "price"))
    assert prices == {"SMS": Decimal("0.25"), "Traffic": 1}
    shown = panel.get(page_of(plan, "history")).text
    assert "Price changed from 12.55 to 13.00" in shown


@pytest.mark.parametrize(("meant", "price"), [("1.5", "1.5"), ("1500", "1500")])
def test_a_price_that_could_be_two_is_asked_about_with_a_click_for_each(
    panel: Client, meant: str, price: str
) -> None:
    sms = ServiceFactory()
    plan = plan_with({sms: "1"}, price="10", name="Basic")
    for name in ("price", price_of(sms)):
        sent = form_data(panel, page_of(plan)) | {name: "1,500", "name": f"Renamed {name}"}
        page = save(panel, page_of(plan), sent)
        assert f'name="{name}_meant" value="{meant}"' in page
        save(panel, page_of(plan), sent | {f"{name}_meant": meant})
    plan.refresh_from_db()
    assert (plan.price, plan.service_prices.get().price) == (Decimal(price), Decimal(price))
    assert plan.name == f"Renamed {price_of(sms)}"


def test_a_fee_finer_than_money_is_asked_about_once_and_a_price_of_a_service_is_not(
    panel: Client,
) -> None:
    sms = ServiceFactory()
    plan = plan_with({sms: "1"}, price="10", name="Basic")
    page = change(panel, page_of(plan), **{"price": "10.0005", price_of(sms): "0.0375"})
    assert "10.0005 has more decimals than the currency: USD has 2 decimals." in page
    change(panel, page_of(plan), **{"price_meant": "10.0005", price_of(sms): "0.0375"})
    change(panel, page_of(plan), name="Renamed")  # an unchanged price is not asked about
    plan.refresh_from_db()
    assert (plan.name, plan.price) == ("Renamed", Decimal("10.0005"))
    assert plan.service_prices.get().price == Decimal("0.0375")


def test_a_gift_that_could_be_two_amounts_is_asked_about(panel: Client) -> None:
    page = change(panel, DEFAULTS, bonus="1,500")
    assert 'name="bonus_meant" value="1500"' in page
    change(panel, DEFAULTS, bonus="1,500", bonus_meant="1500")
    assert UserDefaults.objects.get().bonus == 1500


def test_a_history_lists_the_latest_change_first(panel: Client) -> None:
    plan = PlanFactory(price="1")
    address = page_of(plan, "history")
    assert "Nothing is recorded here yet." in panel.get(address).text
    for price in ("2", "3"):
        change(panel, page_of(plan), price=price)
    text = panel.get(address).text
    assert 0 < text.index("from 2.00 to 3.00") < text.index("from 1.00 to 2.00")


def test_saving_without_a_change_writes_nothing(panel: Client) -> None:
    sms = ServiceFactory()
    plan = plan_with({sms: "1234.50"}, price="1234.5000")
    data = form_data(panel, page_of(plan))
    assert (data["price"], data[price_of(sms)]) == ("1234.50", "1234.50")
    save(panel, page_of(plan), data)
    assert history() == []


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("", "This field is required."),
        ("abc", "is not a number"),
        ("1e3", "is not a number"),
        ("NaN", "is not a number"),
        ("1,500", "Did you mean"),
        ("1 5", "The digits of 1 5 do not make one number."),
        ("50 EUR", "write the amount in USD, without EUR."),
        ("-1", "A price cannot be negative."),
        ("−0.01", "A price cannot be negative."),
        ("0.12345", "at most four decimals"),
        ("9" * 16, "An amount has at most 15 digits"),
    ],
)
def test_a_price_is_refused_with_a_sentence(panel: Client, typed: str, why: str) -> None:
    sms = ServiceFactory()
    plan = plan_with({sms: "1"}, price="10")
    assert why in change(panel, page_of(plan), price=typed)
    if typed:
        text = change(panel, page_of(plan), **{price_of(sms): typed})
        assert why in text
        assert f'value="{typed}"' in text
    plan.refresh_from_db()
    assert (plan.price, plan.service_prices.get().price) == (10, 1)
    assert history() == []


def test_a_plan_in_use_keeps_its_cycle_and_changes_otherwise(panel: Client) -> None:
    plan = PlanFactory(cycle="monthly", price="10")
    assert "It cannot be changed" not in panel.get(page_of(plan)).text
    subscription = subscribed(user_with(real=100), plan)
    text = panel.get(page_of(plan)).text
    assert "It cannot be changed, because subscribers have paid for" in text
    assert 'name="cycle"' not in text
    change(panel, page_of(plan), cycle="every_year", price="20", name="Renamed")
    plan.refresh_from_db()
    assert (plan.cycle, plan.price, plan.name) == ("monthly", 20, "Renamed")
    subscription.refresh_from_db()
    assert subscription.paid == 10  # earlier charges do not change


def test_a_plan_that_nobody_has_used_can_get_another_cycle(panel: Client) -> None:
    plan = PlanFactory(cycle="monthly")
    change(panel, page_of(plan), cycle="everyday")
    plan.refresh_from_db()
    assert plan.cycle == "everyday"
    assert history() == ["Billing cycle changed from Monthly to Monthly, by day."]


def test_a_cycle_is_not_changed_by_a_page_from_before_the_first_subscription(
    panel: Client,
) -> None:
    plan = PlanFactory(cycle="monthly")
    seen = form_data(panel, page_of(plan)) | {"cycle": "every_year"}
    subscribed(user_with(real=100), plan)
    assert "Nothing was saved" in save(panel, page_of(plan), seen)
    plan.refresh_from_db()
    assert plan.cycle == "monthly"


def test_a_plan_that_was_subscribed_to_cannot_be_deleted(panel: Client) -> None:
    plan = PlanFactory(name="Business")
    subscription = subscribed(UserFactory(), plan)
    Subscription.objects.filter(pk=subscription.pk).update(status="cancelled", due_on=None)
    for page in (panel.get(page_of(plan)), panel.get(page_of(plan, "delete"), follow=True),
                 panel.post(page_of(plan, "delete"), {"post": "yes"}, follow=True)):  # fmt: skip
        assert page.status_code == 200
        assert "cannot be deleted: it has had subscriptions. Retire it" in page.text
    assert f'href="{page_of(plan, "delete")}"' not in panel.get(page_of(plan)).text
    assert Plan.objects.filter(pk=plan.pk).exists()


def test_a_plan_of_new_users_cannot_be_deleted(panel: Client) -> None:
    plan = PlanFactory()
    UserDefaults.objects.create(pk=1, plan=plan)
    text = panel.post(page_of(plan, "delete"), {"post": "yes"}, follow=True).text
    assert "it is the default plan of new users" in text
    assert Plan.objects.filter(pk=plan.pk).exists()


def test_an_unused_plan_is_deleted_with_its_prices(panel: Client) -> None:
    service = ServiceFactory()
    plan = plan_with({service: "1"})
    assert f'href="{page_of(plan, "delete")}"' in panel.get(page_of(plan)).text
    panel.post(page_of(plan, "delete"), {"post": "yes"})
    assert not Plan.objects.exists()
    assert not ServicePrice.objects.exists()
    assert Service.objects.exists()


def test_a_plan_that_comes_into_use_while_it_is_deleted_stays(
    panel: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = PlanFactory(name="Business")
    monkeypatch.setattr(
        "billing.admin.plans.PlanAdmin.delete_model",
        lambda *args: (_ for _ in ()).throw(IntegrityError("still referenced")),
    )
    text = panel.post(page_of(plan, "delete"), {"post": "yes"}, follow=True).text
    assert "“Business” cannot be deleted: it has just come into use." in text


def test_a_refused_form_does_not_pass_off_what_was_entered_as_the_plan(panel: Client) -> None:
    plan = PlanFactory(name="Business", price="10")
    subscribed(user_with(real=100), plan)
    seen = form_data(panel, page_of(plan)) | {"name": "Renamed", "price": "11"}
    change(panel, page_of(plan), price="12")
    text = save(panel, page_of(plan), seen)
    assert "Nothing was saved" in text
    assert '<p class="figure money">12.00' in text
    assert "“Business” cannot be deleted" in text


def test_what_somebody_else_saved_meanwhile_is_not_undone_unseen(panel: Client) -> None:
    sms = ServiceFactory(name="SMS")
    plan = plan_with({sms: "0.30"}, price="10")
    seen = form_data(panel, page_of(plan)) | {"name": "Renamed"}
    change(panel, page_of(plan), **{price_of(sms): "0.25"})
    text = save(panel, page_of(plan), seen)
    assert "Nothing was saved: somebody has changed this since you opened the page" in text
    assert "Price of SMS changed from 0.30 to 0.25). Below is what you entered." in text
    assert plan.service_prices.get().price == Decimal("0.25")
    # The operator has read that, and may send the form again.
    [token] = re.findall(r'name="seen" value="([\w-]+)"', text)
    save(panel, page_of(plan), seen | {"seen": token})
    plan.refresh_from_db()
    assert plan.name == "Renamed"
    assert plan.service_prices.get().price == Decimal("0.30")
    assert history()[-1].endswith("Price of SMS changed from 0.25 to 0.30.")


def test_two_plans_of_one_name_are_refused(panel: Client) -> None:
    PlanFactory(name="Business")
    text = save(panel, f"{PLANS}add/", {"name": "Business", "cycle": "monthly", "price": "1"})
    assert "Plan with this Name already exists." in text


@pytest.mark.parametrize("name", ["Busi\u202eness", "Busi\u200eness", "Busi\u2028ness"])
def test_a_name_that_would_garble_a_history_is_refused(panel: Client, name: str) -> None:
    """Each charge of such a plan would be refused by the ledger, night after night."""
    sentence = "This contains invisible characters."
    assert sentence in save(panel, f"{PLANS}add/", {"name": name, "cycle": "monthly", "price": "1"})
    service = {"name": name, "code": "geo", "unit": ""}
    assert sentence in save(panel, f"{SERVICES}add/", service)
    assert sentence in save(panel, f"{SERVICES}add/", service | {"name": "Geo", "unit": name})
    assert not Plan.objects.exists()
    assert not Service.objects.exists()


def test_a_retired_service_is_shown_where_it_has_a_price(panel: Client) -> None:
    retired = ServiceFactory(name="Fax", is_active=False)
    ServiceFactory(name="Telex", is_active=False)
    plan = plan_with({retired: "1"})
    text = panel.get(page_of(plan)).text
    assert "Fax" in text
    assert "Retired" in text
    assert "Telex" not in text


def test_the_list_counts_live_subscriptions_and_leads_to_them(panel: Client) -> None:
    plan, other = PlanFactory(name="Business", price="12.55"), PlanFactory(name="Other")
    for status in ("active", "suspended", "cancelled"):
        subscription = subscribed(user_with(real=100), plan)
        due_on = None if status == "cancelled" else date(2026, 5, 1)
        Subscription.objects.filter(pk=subscription.pk).update(
            status=status,
            suspension_reason="no_money" if status == "suspended" else "",
            due_on=due_on,
        )
    subscribed(user_with(real=100), other)
    text = panel.get(PLANS).text
    [count] = re.findall(rf'plan={plan.pk}&amp;status=live"[^>]*>(\d+)<', text)
    assert count == "2"
    assert ">12.55</span> per month" in text
    shown = panel.get(f"{SUBSCRIPTIONS}?plan={plan.pk}&status=live").context["rows"]
    assert {row.subscription.status for row in shown} == {"active", "suspended"}
    assert {row.subscription.plan for row in shown} == {plan}


# --- Services -----------------------------------------------------------------------------------


def test_a_service_gets_its_code_when_it_is_added_only(panel: Client) -> None:
    sent = {"name": "Outgoing SMS", "code": "outgoing_sms", "unit": "", "is_active": "on"}
    assert "small letters" in save(panel, f"{SERVICES}add/", sent | {"code": "Out SMS"})
    save(panel, f"{SERVICES}add/", sent)
    service = Service.objects.get()
    text = panel.get(page_of(service)).text
    assert 'name="code"' not in text
    assert "Transactions refer to the service by its code" in text
    change(panel, page_of(service), code="other", name="SMS", is_active=None)
    service.refresh_from_db()
    assert (service.code, service.name, service.is_active) == ("outgoing_sms", "SMS", False)
    assert history()[-1] == (
        "Name changed from “Outgoing SMS” to “SMS”; Active changed from yes to no."
    )


def test_a_service_with_a_price_cannot_be_deleted(panel: Client) -> None:
    service = ServiceFactory(name="SMS")
    plan_with({service: "1"})
    assert "cannot be deleted" in panel.get(page_of(service)).text
    text = panel.post(page_of(service, "delete"), {"post": "yes"}, follow=True).text
    assert "“SMS” cannot be deleted: a plan has a price for it. Retire it instead" in text
    assert Service.objects.exists()


def test_a_service_that_was_charged_cannot_be_deleted(panel: Client) -> None:
    service = ServiceFactory(name="SMS", code="outgoing_sms")
    charge_cost(
        user_with(real=10),
        service="outgoing_sms",
        cost=1,
        description="Outgoing SMS",
        actor=None,
        channel=Channel.API,
    )
    text = panel.post(page_of(service, "delete"), {"post": "yes"}, follow=True).text
    assert "“SMS” cannot be deleted: users have been charged for it. Retire it instead" in text
    assert Service.objects.exists()


def test_a_service_is_kept_if_its_charges_cannot_be_looked_up_in_time(
    panel: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_slow(code: str) -> bool:
        raise reports.TooSlow

    monkeypatch.setattr(reports, "was_charged", too_slow)
    service = ServiceFactory(name="SMS")
    text = panel.post(page_of(service, "delete"), {"post": "yes"}, follow=True).text
    assert "could not be checked in time whether it was ever charged. Retire it" in text
    assert Service.objects.exists()


def test_an_unused_service_is_deleted(panel: Client) -> None:
    service = ServiceFactory(code="outgoing_sms")
    # A gift with the same subtype is not a charge of the service.
    ledger.give_bonus(
        UserFactory(),
        amount=1,
        subtype="outgoing_sms",
        description="Gift of messages",
        actor=None,
        channel=Channel.PANEL,
    )
    assert f'href="{page_of(service, "delete")}"' in panel.get(page_of(service)).text
    panel.post(page_of(service, "delete"), {"post": "yes"})
    assert not Service.objects.exists()


def test_the_list_says_in_how_many_plans_a_service_is(panel: Client) -> None:
    service = ServiceFactory()
    plan_with({service: "1"})
    plan_with({service: "2"})
    [row] = panel.get(SERVICES).context["cl"].result_list
    assert row.plan_count == 2


def test_transactions_can_be_filtered_by_an_own_service(panel: Client) -> None:
    ServiceFactory(name="Address lookup", code="geo_lookup")
    text = panel.get("/admin/billing/transaction/").text
    assert '<option value="geo_lookup">Address lookup</option>' in text


# --- Defaults for new users ---------------------------------------------------------------------


def test_nothing_is_given_to_new_users_unless_set(panel: Client) -> None:
    PlanFactory()
    assert panel.get("/admin/billing/userdefaults/").headers["Location"] == DEFAULTS
    data = form_data(panel, DEFAULTS)
    assert data["bonus"] == "0.00"
    assert "plan" not in data
    assert not UserDefaults.objects.exists()


def test_defaults_are_saved_and_their_history_kept(panel: Client) -> None:
    plan = PlanFactory(name="Trial")
    assert "were saved" in change(panel, DEFAULTS, bonus="5.5", plan=plan.pk)
    defaults = UserDefaults.objects.get()
    assert (defaults.pk, defaults.bonus, defaults.plan) == (1, Decimal("5.5"), plan)
    change(panel, DEFAULTS, bonus="", plan="")
    defaults.refresh_from_db()
    assert (defaults.bonus, defaults.plan) == (0, None)
    assert history() == [
        "Bonus on registration changed from 0.00 to 5.50; Plan changed from nothing to “Trial”.",
        "Bonus on registration changed from 5.50 to 0.00; Plan changed from “Trial” to nothing.",
    ]
    assert "changed from 5.50 to 0.00" in panel.get(DEFAULTS.replace("change", "history")).text


def test_a_negative_gift_is_refused(panel: Client) -> None:
    assert "A gift cannot be negative." in change(panel, DEFAULTS, bonus="-1")
    assert not UserDefaults.objects.exists()


def test_a_retired_plan_is_no_default(panel: Client) -> None:
    plan = PlanFactory(name="Trial")
    change(panel, DEFAULTS, plan=plan.pk)
    assert "the default plan of new users" in change(panel, page_of(plan), is_active=None)
    assert form_data(panel, DEFAULTS)["plan"] == str(plan.pk)  # the retired plan is still shown
    assert "“Trial” is retired, so new users do not get it." in change(panel, DEFAULTS, bonus="1")
    other = PlanFactory(is_active=False)
    assert "Select a valid choice" in change(panel, DEFAULTS, plan=other.pk)


# --- Who may ------------------------------------------------------------------------------------


def test_a_viewer_reads_prices_and_changes_none() -> None:
    sms = ServiceFactory(name="SMS", unit="piece")
    ServiceFactory(name="Traffic")
    plan = plan_with({sms: "0.3"}, name="Business", price="12.55")
    subscribed(UserFactory(), plan)
    viewer = client_of(operator_with(group="Viewer"))
    text = viewer.get(page_of(plan)).text
    assert "12.55" in text
    assert "12.5500" not in text
    assert "cannot be deleted" not in text  # viewers may delete nothing
    assert '<span class="money">0.30</span>' in text
    assert "not offered" in text
    assert 'name="price"' not in text
    assert f'name="{price_of(sms)}"' not in text
    assert viewer.get(page_of(sms)).status_code == 200
    for path in (page_of(plan), page_of(sms), f"{PLANS}add/", f"{SERVICES}add/",
                 page_of(plan, "delete"), page_of(sms, "delete")):  # fmt: skip
        sent = {"name": "X", "cycle": "monthly", "price": "1", "code": "x", "post": "yes"}
        assert viewer.post(path, sent).status_code == 403, path
    assert viewer.get(DEFAULTS).status_code == 403
    plan.refresh_from_db()
    assert plan.name == "Business"


@pytest.mark.parametrize("path", [PLANS, SERVICES, SUBSCRIPTIONS, DEFAULTS])
def test_pages_are_closed_without_the_right(path: str) -> None:
    assert client_of(operator_with("users.view_user")).get(path).status_code == 403


def test_viewing_the_defaults_does_not_take_the_right_to_change_them() -> None:
    viewer = client_of(operator_with("billing.view_userdefaults"))
    answer = viewer.get(DEFAULTS)
    assert answer.status_code == 200
    assert 'name="bonus"' not in answer.text
    assert viewer.post(DEFAULTS, {"bonus": "5"}).status_code == 403


# --- Subscriptions of all users -----------------------------------------------------------------


def listed(panel: Client, query: str = "") -> list[Subscription]:
    answer = panel.get(f"{SUBSCRIPTIONS}{query}")
    assert answer.status_code == 200
    return [row.subscription for row in answer.context["rows"]]


def test_subscriptions_are_found_by_plan_status_cycle_user_and_device(panel: Client) -> None:
    monthly, annual = PlanFactory(), PlanFactory(cycle="every_year", price="5")
    ada = user_with(real=10, email="ada@fleet.example")
    bob = UserFactory(email="bob@fleet.example")
    paid = subscribed(ada, monthly, device="8617")
    account = subscribed(bob, annual)
    waiting = subscribed(bob, monthly, device="9001")
    gone = subscribed(bob, monthly, device="9002")
    Subscription.objects.filter(pk=gone.pk).update(status="cancelled", due_on=None)
    assert listed(panel) == [gone, waiting, account, paid]
    assert listed(panel, f"?plan={annual.pk}") == [account]
    assert listed(panel, "?status=active") == [paid]
    assert listed(panel, "?status=suspended") == [waiting, account]
    assert listed(panel, "?status=cancelled") == [gone]
    assert listed(panel, "?status=live") == [waiting, account, paid]
    assert listed(panel, "?cycle=every_year") == [account]
    assert listed(panel, "?q=ADA@fleet") == [paid]
    assert listed(panel, "?q=9001") == [waiting]
    assert listed(panel, f"?q={ada.pk}")[-1:] == [paid]
    assert listed(panel, "?q=bob+9002") == [gone]
    assert listed(panel, "?q=nobody") == []
    assert len(listed(panel, f"?q={2**63}")) == 0


@pytest.mark.parametrize(
    "query",
    [
        *("?plan=x", "?plan=99999999999999999999", "?status=odd", "?before=x", "?after=0"),
        *("?q=%00", pytest.param(f"?q={'9' * 5000}", id="5000 digits")),
    ],
)
def test_odd_addresses_are_no_errors(panel: Client, query: str) -> None:
    subscribed(UserFactory(), PlanFactory())
    listed(panel, query)


def test_a_row_says_whose_and_what_comes_next(panel: Client) -> None:
    plan = PlanFactory(name="Business", price="12.55")
    user = user_with(real=100, email="ada@fleet.example")
    subscribed(user, plan, device="8617")
    text = panel.get(SUBSCRIPTIONS).text
    assert f'href="/admin/users/user/{user.pk}/subscriptions/"' in text
    assert "2026-04-30" in text  # charged through
    assert "2026-05-01" in text  # next charge
    assert "12.55" in text


def test_a_row_does_not_say_that_money_resumes_what_a_deactivated_user_has(panel: Client) -> None:
    user = UserFactory()
    subscribed(user, PlanFactory(price="5"))
    assert "when there is money" in panel.get(SUBSCRIPTIONS).text
    User.objects.filter(pk=user.pk).update(is_active=False)
    text = panel.get(SUBSCRIPTIONS).text
    assert "when there is money" not in text
    assert "none: user deactivated" in text


def test_pages_of_subscriptions_follow_each_other(
    panel: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports.pages, "PAGE_SIZE", 2)
    plan, user = PlanFactory(), UserFactory()
    made = [subscribed(user, plan, device=f"{number}") for number in range(5)][::-1]
    first = panel.get(SUBSCRIPTIONS)
    assert listed(panel) == made[:2]
    assert listed(panel, f"?before={first.context['page'].last_key}") == made[2:4]
    assert listed(panel, f"?before={made[3].pk}") == made[4:]
    assert listed(panel, f"?after={made[4].pk}") == made[2:4]
    assert listed(panel, "?after=0") == made[3:]
    pages = {query: panel.get(f"{SUBSCRIPTIONS}{query}").context["page"]
             for query in ("", f"?before={made[1].pk}", "?after=0")}  # fmt: skip
    assert [(page.has_newer, page.has_older) for page in pages.values()] == [
        (False, True),
        (True, True),
        (True, False),
    ]


def test_the_list_takes_the_same_queries_for_any_number_of_rows(
    panel: Client, django_assert_max_num_queries: Any
) -> None:
    plan = PlanFactory()
    for _ in range(3):
        subscribed(user_with(real=100), plan)
    with django_assert_max_num_queries(12) as few:
        listed(panel)
    for _ in range(10):
        subscribed(user_with(real=100), plan)
    with django_assert_max_num_queries(len(few.captured_queries)) as more:
        assert len(listed(panel)) == 13
    assert not [each for each in more.captured_queries if "COUNT(" in each["sql"].upper()]


def test_a_search_that_takes_too_long_is_given_up(
    panel: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_slow(*args: Any) -> None:
        raise reports.TooSlow

    monkeypatch.setattr(reports, "page_by_id", too_slow)
    assert "This search took too long" in panel.get(f"{SUBSCRIPTIONS}?q=x").text


def test_one_subscription_leads_to_its_user(panel: Client) -> None:
    subscription = subscribed(UserFactory(), PlanFactory())
    address = f"{SUBSCRIPTIONS}{subscription.pk}/change/"
    assert panel.get(address).headers["Location"] == (
        f"/admin/users/user/{subscription.user_id}/subscriptions/"
    )
    for path in (f"{SUBSCRIPTIONS}add/", f"{SUBSCRIPTIONS}{subscription.pk}/delete/"):
        assert panel.get(path).status_code in (403, 404)


def test_service_charges_are_those_of_services() -> None:
    charge_cost(
        user_with(real=10),
        service="traffic",
        cost=1,
        description="Traffic of a day",
        actor=None,
        channel=Channel.API,
    )
    assert TransactionType.SERVICE == "tariff_charge"
    assert reports.was_charged("traffic")
    assert not reports.was_charged("outgoing_sms")
