"""Operations, called as channels call them: their refusals, results, records and dry runs."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.db.models.deletion import ProtectedError

from billing import authority, errors, ledger, operations
from billing.models import (
    Batch,
    Channel,
    Event,
    EventChannel,
    EventType,
    Plan,
    Reason,
    Service,
    ServicePrice,
    Subject,
    Subscription,
    Transaction,
    UserDefaults,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
)
from billing.operations.batches import Sheet
from tests.conftest import Connections
from tests.factories import (
    OperatorFactory,
    PlanFactory,
    ServiceFactory,
    UserFactory,
    subscribed,
    user_with,
)
from tests.recorded import all_sentences, events_of, sentences_of
from users.models import User

pytestmark = pytest.mark.usefixtures("database")

D = Decimal
TENTH = date(2026, 4, 10)
NOBODY = 4_711_000
BY: dict[str, Any] = {"actor": None, "channel": Channel.API}


@pytest.fixture
def database(request: pytest.FixtureRequest) -> None:
    """Rolls each test back, except those that use many connections."""
    if "connections" not in request.fixturenames:
        request.getfixturevalue("db")


def rows_of(user: User) -> list[tuple[str, Decimal]]:
    rows = Transaction.objects.filter(user=user).order_by("number")
    return [(row.subtype, row.amount) for row in rows]


# --- Unknown users ------------------------------------------------------------------------------


def test_a_customer_is_found_with_the_balance_by_one_query(
    django_assert_num_queries: Any,
) -> None:
    user = user_with(real=7)
    with django_assert_num_queries(1):
        found = operations.customers.find_customer(user.pk, with_balance=True)
        assert (found.balance.real, found.balance.last_number) == (7, 1)


@pytest.mark.parametrize(
    "operation",
    [
        operations.customers.find_customer,
        lambda it: operations.customers.edit(it, lambda user: {}, day=TENTH, **BY),
        lambda it: operations.money.change_balance(it, amount=1, description="By hand", **BY),
        lambda it: operations.money.charge_service(it, service="sms", quantity=1, **BY),
        lambda it: operations.money.reverse(it, number=1, description="Taken back", **BY),
        lambda it: operations.subscriptions.start(it, 1, day=TENTH, **BY),
        lambda it: operations.subscriptions.cancel(it, 1, day=TENTH, **BY),
        lambda it: operations.subscriptions.record_active_day(
            it, device="", day=TENTH, today=TENTH
        ),
        lambda it: operations.thresholds.set_own(it, 5, **BY),
        lambda it: operations.thresholds.unset_own(it, **BY),
    ],
)
def test_nothing_is_done_to_an_operator_s_own_account_or_to_nobody(operation: Any) -> None:
    for user_id in (NOBODY, OperatorFactory().pk):
        with pytest.raises(errors.UnknownUser):
            operation(user_id)
    assert not Event.objects.exists()


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"amount": "1.23456"},
        {"amount": 0},
        {"amount": -5},
        {"description": ""},
        {"reason": "nothing"},
        {"payment_date": date(2999, 1, 1)},
        {"expected_number": 7},
        {"bonus_expires_at": TENTH},
    ],
    ids=str,
)
def test_that_nobody_is_there_is_said_before_what_else_is_wrong(
    wrong: dict[str, Any], dry_run: bool
) -> None:
    operator = OperatorFactory()
    for user_id in (operator.pk, NOBODY, 0, -1, 2**63 - 1, 2**63, 10**40):
        with pytest.raises(errors.UnknownUser) as refusal:
            operations.money.change_balance(
                user_id,
                **{"amount": 5, "description": "By hand"} | wrong,
                dry_run=dry_run,
                **BY,
            )
        assert refusal.value.data == {"user_id": user_id}
    assert not Transaction.objects.exists()
    assert ledger.balance(operator).number == 0


def test_the_ledger_posts_for_customers_only_if_it_is_told_to() -> None:
    customer, operator = UserFactory(), OperatorFactory()
    told: dict[str, Any] = {"amount": 5, "description": "By hand", "customers_only": True}
    assert ledger.change_balance(customer, **told, **BY).user_id == customer.pk
    with pytest.raises(errors.UnknownUser):
        ledger.change_balance(operator, **told, **BY)
    assert ledger.balance(operator).number == 0


def test_of_ids_those_of_customers_are_known() -> None:
    user, operator = UserFactory(), OperatorFactory()
    assert operations.customers.existing_customer_ids({user.pk, operator.pk, NOBODY}) == {user.pk}


# --- Customers ----------------------------------------------------------------------------------


def new(**fields: Any) -> User:
    return User(email=f"{User.objects.count()}@example.org", time_zone="UTC", **fields)


def test_a_new_customer_gets_what_the_defaults_give_and_it_is_recorded() -> None:
    plan = PlanFactory(name="Start", price=30)
    UserDefaults.objects.create(pk=UserDefaults.ONLY_ID, bonus=D(5), plan=plan)
    added = operations.customers.create(new(is_staff=True), day=TENTH, **BY)
    assert not added.user.is_staff
    assert not added.user.has_usable_password()
    assert added.sentence == (
        "Added. A bonus of 5.00 was given. "
        "Subscribed the user to plan Start; nothing charged, suspended until there is money."
    )
    [event] = events_of(Subject.USER, added.user.pk)
    assert event.data["transactions"] == [1]


def test_a_plan_that_is_named_takes_the_place_of_the_default_one() -> None:
    UserDefaults.objects.create(pk=UserDefaults.ONLY_ID, plan=PlanFactory(name="Default"))
    plan = PlanFactory(name="Named", price=0)
    added = operations.customers.create(new(), plan=plan, day=TENTH, **BY)
    assert added.sentence == "Added. Subscribed the user to plan Named; nothing charged."
    waiting = operations.customers.create(new(is_active=False), plan=plan, day=TENTH, **BY)
    assert not User.objects.get(pk=waiting.user.pk).is_active
    assert Subscription.objects.get(user=waiting.user).status == "active"


def test_one_mailbox_is_one_customer() -> None:
    UserFactory(email="ada@example.org")
    for twin in ("ada@example.org", "ADA@EXAMPLE.ORG"):
        with pytest.raises(errors.EmailTaken):
            operations.customers.create(User(email=twin, time_zone="UTC"), day=TENTH, **BY)
    other = UserFactory()
    with pytest.raises(errors.EmailTaken):
        operations.customers.edit(
            other.pk, lambda user: {"email": "Ada@example.org"}, day=TENTH, **BY
        )
    assert not Event.objects.exists()


def test_of_many_who_want_one_mailbox_at_once_one_gets_it(connections: Connections) -> None:
    def create(place: int) -> None:
        user = User(email="ada@example.org", time_zone="UTC")
        operations.customers.create(user, is_validated=bool(place % 2), day=TENTH, **BY)

    refused = [each.error for each in connections(8, create) if each.error is not None]
    assert len(refused) == 7
    assert all(isinstance(error, errors.EmailTaken) for error in refused), refused
    assert User.objects.count() == 1


def test_a_mailbox_that_is_taken_while_the_fields_are_looked_at_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken, asked = UserFactory(), count()
    monkeypatch.setattr(User, "shares_mailbox", lambda user: next(asked) > 0)
    with pytest.raises(errors.EmailTaken):
        operations.customers.create(User(email=taken.email, time_zone="UTC"), day=TENTH, **BY)


def test_what_else_the_database_refuses_is_a_mistake_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(user: User, **options: Any) -> None:
        raise IntegrityError

    monkeypatch.setattr(User, "save", refuse)
    with pytest.raises(IntegrityError):
        operations.customers.create(new(), is_validated=True, day=TENTH, **BY)


def test_what_is_not_valid_is_refused_unless_the_caller_has_rules_of_its_own() -> None:
    user = UserFactory()
    with pytest.raises(ValidationError):
        operations.customers.edit(user.pk, lambda user: {"time_zone": "Mars"}, day=TENTH, **BY)
    user.refresh_from_db()
    assert user.time_zone != "Mars"
    operations.customers.edit(
        user.pk, lambda user: {"city": "x" * 50}, is_validated=True, day=TENTH, **BY
    )


def test_a_change_names_the_fields_and_keeps_no_personal_value() -> None:
    user = UserFactory(city="Berlin", legal_type="individual")
    entered = {"city": "Paris", "phone": user.phone, "legal_type": "sole_trader"}
    operations.customers.edit(user.pk, lambda user: entered, day=TENTH, **BY)
    [event] = events_of(Subject.USER, user.pk)
    assert event.data == {
        "fields": ["city", "legal type"],
        "values": {"legal_type": ["individual", "sole_trader"]},
    }
    assert sentences_of(Subject.USER, user.pk) == ["Changed: city, legal type."]
    operations.customers.edit(user.pk, lambda user: entered, day=TENTH, **BY)
    assert Event.objects.count() == 1  # nothing changed


def test_what_somebody_has_seen_otherwise_is_not_changed() -> None:
    user = UserFactory(city="Berlin")

    def refuse(locked: User) -> None:
        raise errors.BalanceMoved(number=1, expected_number=0)

    with pytest.raises(errors.BalanceMoved):
        operations.customers.edit(
            user.pk, lambda user: {"city": "Paris"}, if_unchanged=refuse, day=TENTH, **BY
        )
    user.refresh_from_db()
    assert user.city == "Berlin"


def test_the_account_is_put_on_a_plan_while_the_customer_is_active() -> None:
    first, second = PlanFactory(name="First", price=0), PlanFactory(name="Second", price=0)
    user = UserFactory()
    for plan, is_active in ((first, True), (second, False), (second, True)):
        operations.customers.edit(
            user.pk,
            lambda user, is_active=is_active: {"is_active": is_active},  # type: ignore[misc]
            plan=lambda user, plan=plan: plan,  # type: ignore[misc]
            day=TENTH,
            **BY,
        )
    own = operations.customers.own_subscription(user)
    assert own is not None
    assert own.plan == second
    assert sentences_of(Subject.USER, user.pk) == [
        "Subscribed the user to plan First; nothing charged.",
        "Changed the plan from First to Second; nothing charged.",
        "Changed: active.",
        "Changed: active.",
    ]


def test_many_are_activated_and_deactivated_each_with_a_record() -> None:
    users = [UserFactory(), UserFactory(is_active=False), OperatorFactory()]
    ids = [user.pk for user in users]
    count = operations.customers.set_active(Subject.USER, ids, is_active=False, **BY)
    assert count == 1
    assert sentences_of(Subject.USER, ids[0]) == ["Deactivated."]
    assert User.objects.get(pk=ids[2]).is_active
    operations.customers.set_active(Subject.OPERATOR, ids, is_active=False, **BY)
    assert sentences_of(Subject.OPERATOR, ids[2]) == ["Deactivated."]
    assert operations.customers.set_active(Subject.USER, ids, is_active=True, **BY) == 2


def test_a_dry_run_does_nothing() -> None:
    user = user_with(real=500)
    plan = PlanFactory(price=30)
    service = ServiceFactory(code="sms")
    ServicePrice.objects.create(plan=plan, service=service, price=1)
    subscription = subscribed(user, plan, day=TENTH)
    before = rows_of(user)
    again = {"day": TENTH, "dry_run": True, **BY}
    posted = operations.money.change_balance(
        user.pk, amount=7, description="By hand", dry_run=True, **BY
    )
    assert posted.new_balance == posted.old_balance + 7
    operations.money.charge_service(user.pk, service="sms", quantity=2, dry_run=True, **BY)
    operations.money.reverse(user.pk, number=2, description="Taken back", dry_run=True, **BY)
    assert operations.subscriptions.start(user.pk, plan.pk, device="1", **again).posted
    operations.subscriptions.cancel(user.pk, subscription.pk, **again)
    operations.thresholds.set_own(user.pk, 5, dry_run=True, **BY)
    operations.thresholds.set_default(5, dry_run=True, **BY)
    operations.customers.create(new(), **again)
    assert rows_of(user) == before
    assert Subscription.objects.count() == 1
    assert not Event.objects.exists()
    assert User.objects.count() == 1


# --- Money --------------------------------------------------------------------------------------


def test_a_reversal_goes_by_what_was_seen_to_be_paid_back() -> None:
    user = user_with(real=100)
    subscription = subscribed(user, PlanFactory(price=30), day=date(2026, 4, 1))
    operations.subscriptions.cancel(user.pk, subscription.pk, pay_back=True, day=TENTH, **BY)
    about = {"number": 2, "description": "Charged by mistake", **BY}
    with pytest.raises(errors.AlreadyPaidBack):
        operations.money.reverse(user.pk, **about)
    with pytest.raises(errors.AlreadyPaidBack):
        operations.money.reverse(user.pk, seen_paid_back=[], **about)
    reversal = operations.money.reverse(user.pk, seen_paid_back=[3], **about)
    assert reversal.amount == 30
    with pytest.raises(errors.UnknownTransaction):
        operations.money.reverse(
            user.pk, number=99, description="Which one", seen_paid_back=[], **BY
        )


def test_a_batch_is_posted() -> None:
    users = [UserFactory(), UserFactory()]
    entries = [ledger.balance_change_entry(u, amount=3, description="By hand") for u in users]
    sheet = Sheet(kind=Batch.Kind.REQUEST, title="Two changes")
    posted = operations.batches.post(entries, sheet, **BY)
    assert [each.outcome for each in posted.results] == ["posted"] * 2
    operations.batches.post(entries, sheet, dry_run=True, **BY)
    assert [ledger.balance(user).real for user in users] == [3, 3]


# --- Subscriptions ------------------------------------------------------------------------------


def test_subscriptions_are_started_changed_and_cancelled_each_with_its_figures() -> None:
    user = user_with(real=100)
    business, other = PlanFactory(name="Business", price=30), PlanFactory(name="Other", price=60)
    first = date(2026, 4, 1)
    started = operations.subscriptions.start(user.pk, business.pk, device="8617", day=first, **BY)
    pk = started.subscription.pk
    assert started.sentence == "Subscribed device 8617 to plan Business; 30.00 charged."
    changed = operations.subscriptions.change_plan(
        user.pk, pk, other.pk, pay_back=True, charge_now=True, day=TENTH, **BY
    )
    assert changed.sentence == (
        "Changed the plan of device 8617 from Business to Other; 21.00 paid back, 60.00 charged."
    )
    cancelled = operations.subscriptions.cancel(user.pk, pk, day=TENTH, **BY)
    assert cancelled.sentence == (
        "Cancelled the subscription of device 8617, plan Other; nothing charged."
    )
    assert [event.data["transactions"] for event in events_of(Subject.USER, user.pk)] == [
        [2],
        [3, 4],
        [],
    ]
    business.name = "Renamed"
    business.save()
    assert "from Business to" in sentences_of(Subject.USER, user.pk)[1]


def test_what_is_not_there_is_said() -> None:
    user, plan = user_with(real=100), PlanFactory(price=30)
    subscription = subscribed(user_with(real=100), plan, day=TENTH)
    with pytest.raises(errors.UnknownPlan):
        operations.subscriptions.start(user.pk, NOBODY, day=TENTH, **BY)
    with pytest.raises(errors.UnknownSubscription):  # another user's
        operations.subscriptions.cancel(user.pk, subscription.pk, day=TENTH, **BY)
    seen: list[Subscription] = []
    with pytest.raises(errors.UnknownPlan):
        operations.subscriptions.change_plan(
            subscription.user_id,
            subscription.pk,
            NOBODY,
            pay_back=False,
            charge_now=False,
            if_unchanged=seen.append,
            day=TENTH,
            **BY,
        )
    assert [each.pk for each in seen] == [subscription.pk]


def test_an_active_day_is_its_own_record() -> None:
    user = user_with(real=5)
    day = operations.subscriptions.record_active_day(user.pk, device="8617", day=TENTH, today=TENTH)
    assert (day.user_id, day.device) == (user.pk, "8617")
    assert not Event.objects.exists()


# --- Thresholds ---------------------------------------------------------------------------------


def test_thresholds_are_recorded_where_they_change() -> None:
    user = user_with(real=5)
    for amount in (10, 10, None):
        operations.thresholds.set_own(user.pk, amount, if_unchanged=lambda: None, **BY)
    operations.thresholds.unset_own(user.pk, **BY)
    for amount in (7, 7):
        operations.thresholds.set_default(amount, **BY)
    assert all_sentences() == [
        "Low balance: programs are told below 10.00 (before: never, by default).",
        "Low balance: programs are told never (before: below 10.00).",
        "Low balance: programs are told never, by default (before: never).",
        "By default, programs are told below 7.00 (before: never).",
    ]


# --- Configuration ------------------------------------------------------------------------------


def test_plans_and_their_prices_are_recorded_with_what_was_before() -> None:
    sms, calls = ServiceFactory(name="SMS"), ServiceFactory(name="Calls")
    plan = Plan(name="Business", cycle="monthly", price=D("12.55"))
    operations.configuration.save(plan, prices={sms.pk: D("0.3"), calls.pk: None}, **BY)
    plan.price = D(13)
    prices = {sms.pk: None, calls.pk: D(1)}
    operations.configuration.save(plan, prices=prices, **BY)
    operations.configuration.save(plan, prices=prices, **BY)
    operations.configuration.save(plan, prices={calls.pk: D("1.5")}, **BY)
    plan_id = plan.pk
    ServicePrice.objects.filter(plan=plan).delete()
    operations.configuration.delete(plan, **BY)
    assert sentences_of(Subject.PLAN, plan_id) == [
        "Added. Name: “Business”; Billing cycle: Monthly; Price: 12.55; "
        "Proportional charge: no; Active: yes; Price of SMS: 0.30.",
        "Price changed from 12.55 to 13.00; Price of Calls changed from nothing to 1.00; "
        "Price of SMS changed from 0.30 to nothing.",
        "Price of Calls changed from 1.00 to 1.50.",
        "Deleted.",
    ]


def test_what_is_in_use_is_not_deleted_and_nothing_is_recorded() -> None:
    plan = PlanFactory()
    subscribed(user_with(real=100), plan, day=TENTH)
    with pytest.raises(ProtectedError):
        operations.configuration.delete(plan, **BY)
    assert not Event.objects.exists()


def test_services_descriptions_and_defaults_are_recorded() -> None:
    plan = PlanFactory(name="Trial")
    operations.configuration.save(Service(code="sms", name="SMS", unit=""), **BY)
    operations.configuration.save(
        Reason(code="cash", label="Paid in cash", template="Paid in cash"), **BY
    )
    defaults = UserDefaults(pk=UserDefaults.ONLY_ID, bonus=D("5.5"), plan=plan)
    operations.configuration.save(defaults, **BY)
    defaults.plan = None
    operations.configuration.save(defaults, **BY)
    assert all_sentences() == [
        "Added. Name: “SMS”; Code: “sms”; Active: yes.",
        "Added. Code: “cash”; Label: “Paid in cash”; Description: “Paid in cash”; "
        "Direction: Either; Balances: Both; Comment required: no; Active: yes; "
        "Position: “0”.",
        "Bonus on registration changed from 0.00 to 5.50; Plan changed from nothing to “Trial”.",
        "Plan changed from “Trial” to nothing.",
    ]


# --- Keys, webhooks, staff ----------------------------------------------------------------------


def test_keys_are_made_and_revoked_in_the_history_of_key_and_owner() -> None:
    owner = OperatorFactory(email="olga@example.com", first_name="Olga", last_name="Owner")
    now = datetime.now(UTC)
    key, secret = operations.keys.add(
        name="Gateway",
        owner=owner,
        is_read_only=True,
        expires_at=now + timedelta(days=1),
        requests_per_minute=0,
        actor=owner,
        channel=EventChannel.PANEL,
    )
    assert authority.find_key(secret, now) == key
    by = {"actor": owner, "channel": EventChannel.PANEL, "now": now}
    assert operations.keys.revoke(key.pk, **by)
    assert not operations.keys.revoke(key.pk, **by)
    assert not operations.keys.revoke(NOBODY, **by)
    assert authority.find_key(secret, now) is None
    made, revoked = sentences_of(Subject.API_KEY, key.pk)
    assert made.startswith(f"Added. Name: “Gateway”; Begins with: {key.prefix}; Owner: Olga Owner")
    assert made.endswith("; Requests per minute: no limit.")
    assert revoked == "Revoked."
    assert sentences_of(Subject.OPERATOR, owner.pk) == [
        f"API key “Gateway” ({key.prefix}…) was added.",
        f"API key “Gateway” ({key.prefix}…) was revoked.",
    ]
    kept = str([*Event.objects.values_list("data", flat=True)])
    assert "Gateway" in kept
    assert "olga" not in kept.lower()  # events are kept for good, so they name people by ID only


def test_endpoints_are_recorded_without_their_secrets() -> None:
    endpoint = WebhookEndpoint(
        name="CRM", url="https://example.org/hook", events=[EventType.TRANSACTION_POSTED]
    )
    operations.webhook_endpoints.save(endpoint, **BY)
    first = endpoint.secret
    assert operations.webhook_endpoints.show_secret(endpoint.pk, **BY) == first
    renewed = operations.webhook_endpoints.renew_secret(endpoint.pk, **BY)
    assert renewed.secret != first
    endpoint = WebhookEndpoint.objects.get(pk=endpoint.pk)
    endpoint.is_active = False
    operations.webhook_endpoints.save(endpoint, **BY)
    assert operations.webhook_endpoints.save(endpoint, **BY) is None
    assert sentences_of(Subject.WEBHOOK_ENDPOINT, endpoint.pk) == [
        "Added. Name: “CRM”; Address: “https://example.org/hook”; Events: Transaction posted; "
        "Active: yes.",
        "The secret was shown.",
        "A new secret was made.",
        "Active changed from yes to no.",
    ]
    written = str([*Event.objects.values_list("data", flat=True)])
    assert first not in written
    assert renewed.secret not in written


def test_sending_again_is_recorded() -> None:
    endpoint = WebhookEndpoint.objects.create(
        name="CRM", url="https://example.org/hook", events=[EventType.TRANSACTION_POSTED]
    )
    user = user_with(real=5)
    delivery = WebhookDelivery.objects.get(endpoint=endpoint)
    failed = {"status": "failed", "finished_at": datetime.now(UTC)}
    WebhookDelivery.objects.filter(pk=delivery.pk).update(**failed)
    delivery.refresh_from_db()
    operations.webhook_endpoints.send_again(delivery, **BY)
    assert operations.webhook_endpoints.send_given_up_again(endpoint, **BY) == 0
    WebhookDelivery.objects.filter(pk=delivery.pk).update(**failed)
    assert operations.webhook_endpoints.send_given_up_again(endpoint, **BY) == 1
    assert WebhookEvent.objects.count() == 1
    assert sentences_of(Subject.WEBHOOK_ENDPOINT, endpoint.pk) == [
        f"Delivery {delivery.pk} (Transaction posted, user {user.pk}) is sent again.",
        "1 given up delivery is sent again.",
    ]


def test_operators_and_groups_are_recorded() -> None:
    operator, group = OperatorFactory(), Group.objects.create(name="Night shift")
    operations.staff.record_added(operator, **BY)
    operations.staff.record_changed(operator, ["first name"], **BY)
    operations.staff.record_password_set(operator, **BY)
    operations.staff.record_deleted(group, **BY)
    assert sentences_of(Subject.OPERATOR, operator.pk) == [
        "Added.",
        "Changed: first name.",
        "A new password was set.",
    ]
    assert sentences_of(Subject.GROUP, group.pk) == ["Deleted."]
