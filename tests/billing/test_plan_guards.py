"""The database itself protects plans, services and subscriptions, no matter who writes to it."""

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, transaction
from django.db.models import ProtectedError

from billing.models import Plan, Service, ServicePrice, Subscription, UserDefaults
from tests.billing.histories import execute, judge
from tests.factories import PlanFactory, ServiceFactory, plan_with, subscribed, user_with

pytestmark = [pytest.mark.django_db, pytest.mark.as_owner]  # may write all tables

APRIL_1 = date(2026, 4, 1)


def attempt(work: Callable[[], object]) -> None:
    with transaction.atomic():
        work()
        judge()


@pytest.fixture
def service() -> Service:
    return ServiceFactory(code="outgoing_sms", name="Outgoing SMS")


@pytest.fixture
def plan(service: Service) -> Plan:
    """A plan in use, with a price for the service."""
    plan = plan_with({service: "0.30"}, name="Business", price=10)
    subscribed(user_with(real=100), plan, day=APRIL_1, device="8617")
    judge()
    return plan


# --- What stays as it is ------------------------------------------------------------------------


def save_with_other_cycle(plan: Plan) -> None:
    plan.cycle = "every_year"
    plan.save()


CYCLE_CHANGES: dict[str, Callable[[Plan], object]] = {
    "sql": lambda plan: execute("UPDATE billing_plan SET cycle = 'every_year'"),
    "sql_with_price": lambda plan: execute(
        "UPDATE billing_plan SET price = 1, cycle = 'activeday'"
    ),
    "queryset": lambda plan: Plan.objects.update(cycle="everyday"),
    "save": save_with_other_cycle,
    "upsert": lambda plan: execute(
        "INSERT INTO billing_plan SELECT * FROM billing_plan "
        "ON CONFLICT (id) DO UPDATE SET cycle = 'everyday'"
    ),
}


@pytest.mark.parametrize("way", CYCLE_CHANGES)
def test_a_plan_in_use_keeps_its_cycle(plan: Plan, way: str) -> None:
    with pytest.raises(DatabaseError, match="A plan in use keeps its billing cycle"):
        attempt(lambda: CYCLE_CHANGES[way](plan))
    assert Plan.objects.get().cycle == "monthly"


def test_a_plan_is_in_use_also_by_who_has_cancelled(plan: Plan) -> None:
    Subscription.objects.update(status="cancelled", due_on=None)
    with pytest.raises(DatabaseError, match="keeps its billing cycle"):
        attempt(lambda: execute("UPDATE billing_plan SET cycle = 'every_year'"))


def test_everything_else_about_a_plan_in_use_may_change(plan: Plan) -> None:
    execute("UPDATE billing_plan SET cycle = cycle")
    plan.name, plan.price, plan.is_active, plan.proportional_charge = "New", 5, False, True
    plan.save()
    unused = PlanFactory()
    unused.cycle = "everyday"
    unused.save()
    judge()


@pytest.mark.parametrize(
    "change",
    [
        lambda: execute("UPDATE billing_service SET code = 'other'"),
        lambda: execute("UPDATE billing_service SET code = upper(code)"),
        lambda: Service.objects.update(code="other"),
    ],
)
def test_a_service_keeps_its_code(service: Service, change: Callable[[], object]) -> None:
    with pytest.raises(DatabaseError, match="A service keeps its code"):
        attempt(change)
    service.name = "Messages"
    service.save()  # with the same code
    assert Service.objects.get().code == "outgoing_sms"


# --- What cannot be deleted ---------------------------------------------------------------------


def test_a_plan_in_use_cannot_be_deleted(plan: Plan) -> None:
    with pytest.raises(ProtectedError):
        plan.delete()
    with pytest.raises(IntegrityError):
        attempt(lambda: execute("DELETE FROM billing_serviceprice; DELETE FROM billing_plan"))
    with pytest.raises(DatabaseError):
        attempt(lambda: execute("TRUNCATE billing_plan"))
    UserDefaults.objects.create(id=1, plan=PlanFactory(name="For new users"))
    with pytest.raises(ProtectedError):
        Plan.objects.get(name="For new users").delete()
    PlanFactory(name="Nobody's").delete()


def test_a_service_with_a_price_cannot_be_deleted(plan: Plan, service: Service) -> None:
    with pytest.raises(ProtectedError):
        service.delete()
    with pytest.raises(IntegrityError):
        attempt(lambda: execute("DELETE FROM billing_service"))
    ServiceFactory().delete()


def test_a_user_with_a_subscription_cannot_be_deleted(plan: Plan) -> None:
    subscription = Subscription.objects.get()
    with pytest.raises(ProtectedError):
        subscription.user.delete()
    with pytest.raises(DatabaseError):
        attempt(lambda: execute("DELETE FROM users_user"))


# --- Amounts that are none ----------------------------------------------------------------------

NO_PRICES = ["-0.0001", "NaN", "-Infinity", "1000000000000000"]
PRICES = {
    "a_plan_has_a_price": "UPDATE billing_plan SET price = %s",
    "a_service_has_a_price": "UPDATE billing_serviceprice SET price = %s",
    "a_gift_is_an_amount": "UPDATE billing_userdefaults SET bonus = %s",
    "what_was_paid_is_an_amount": "UPDATE billing_subscription SET paid = %s",
}


@pytest.mark.parametrize("constraint", PRICES)
@pytest.mark.parametrize("price", NO_PRICES)
def test_what_is_no_price_is_no_price(plan: Plan, constraint: str, price: str) -> None:
    UserDefaults.objects.create(id=1)
    execute(PRICES[constraint], ["999999999999999.9999"])
    execute(PRICES[constraint], ["0"])
    # The type of the columns refuses infinities, and numbers with too many digits.
    said = constraint if price in {"-0.0001", "NaN"} else "overflow"
    with pytest.raises(DatabaseError, match=said):
        attempt(lambda: execute(PRICES[constraint], [price]))


@pytest.mark.parametrize("code", ["", "Outgoing", "1st", "a b", "a-b", "ä", "a\n", "_a"])
def test_what_is_no_code_is_no_code(code: str) -> None:
    with pytest.raises(IntegrityError, match="a_service_code_is_a_code"):
        attempt(lambda: Service.objects.create(code=code, name="Some service"))
    Service.objects.create(code="a_1", name="Some service")


def test_a_plan_has_one_price_for_a_service(plan: Plan, service: Service) -> None:
    with pytest.raises(IntegrityError, match="a_plan_has_one_price_per_service"):
        attempt(lambda: ServicePrice.objects.create(plan=plan, service=service, price=1))


def test_a_plan_has_a_cycle_that_is_known(db: None) -> None:
    with pytest.raises(IntegrityError, match="a_plan_has_a_cycle"):
        attempt(lambda: PlanFactory(cycle="quarterly"))


def test_there_is_one_row_of_defaults(db: None) -> None:
    UserDefaults.objects.create(id=1)
    for pk in (0, 2, -1):
        with pytest.raises(IntegrityError, match="there_is_one_row_of_defaults"):
            attempt(lambda pk=pk: UserDefaults.objects.create(id=pk))
    with pytest.raises(IntegrityError):
        attempt(lambda: UserDefaults.objects.create(id=1))


# --- Subscriptions ------------------------------------------------------------------------------

BAD_SUBSCRIPTIONS = {
    "a_subscription_has_a_status": "status = 'paused'",
    "a_cancelled_subscription_is_never_due": "status = 'cancelled'",
    "a_suspended_subscription_is_tried_again": (
        "status = 'suspended', suspension_reason = 'no_money', due_on = NULL"
    ),
    "a_suspended_subscription_has_a_reason": "status = 'suspended'",
    "a_suspended_subscription_has_a_reason ": "status = 'suspended', suspension_reason = 'spite'",
    "charged_days_have_a_beginning_and_an_end": "charged_through = charged_from - 1",
    "charged_days_have_a_beginning_and_an_end ": "charged_through = NULL",
    " charged_days_have_a_beginning_and_an_end": "charged_from = NULL",
    "term": "term = -1",
    "plan": "plan_id = 0",
    "user": "user_id = 0",
}


@pytest.mark.parametrize("rule", BAD_SUBSCRIPTIONS)
def test_a_subscription_that_cannot_be_is_not(plan: Plan, rule: str) -> None:
    with pytest.raises(IntegrityError, match=rule.strip()):
        attempt(lambda: execute(f"UPDATE billing_subscription SET {BAD_SUBSCRIPTIONS[rule]}"))


def another(**fields: Any) -> Subscription:
    first = Subscription.objects.get()
    days = {"started_on": APRIL_1, "plan_since": APRIL_1, "status_since": APRIL_1}
    given = {"user": first.user, "plan": first.plan, "device": "8617", **days} | fields
    return Subscription.objects.create(**given)


def test_a_device_has_one_live_subscription(plan: Plan) -> None:
    for status, reason in (("active", ""), ("suspended", "no_money")):
        given = {"status": status, "suspension_reason": reason, "due_on": APRIL_1}
        with pytest.raises(IntegrityError, match="a_device_has_one_live_subscription"):
            attempt(lambda given=given: another(**given))
    attempt(lambda: another(status="cancelled"))


def test_a_cancelled_one_does_not_come_back_beside_another(plan: Plan) -> None:
    execute("UPDATE billing_subscription SET status = 'cancelled', due_on = NULL")
    cancelled = Subscription.objects.get()
    another()
    with pytest.raises(IntegrityError, match="a_device_has_one_live_subscription"):
        attempt(
            lambda: execute(
                "UPDATE billing_subscription SET status = 'active' WHERE id = %s", [cancelled.pk]
            )
        )


def test_a_device_is_active_once_a_day(plan: Plan) -> None:
    insert = (
        "INSERT INTO billing_activeday (user_id, device, day, is_charged) "
        "SELECT user_id, '8617', '2026-04-02', false FROM billing_subscription"
    )
    execute(insert)
    with pytest.raises(IntegrityError, match="a_device_is_active_once_a_day"):
        attempt(lambda: execute(insert))
