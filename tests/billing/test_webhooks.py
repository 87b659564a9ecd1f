"""Webhook events are noted if and only if they happened, for the endpoints that ask for them."""

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from procrastinate.contrib.django.models import ProcrastinateJob

from billing import ledger, representations, tasks, webhooks
from billing.errors import InsufficientFunds
from billing.models import (
    Channel,
    EventType,
    LowBalanceThreshold,
    Subscription,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
)
from billing.plans import charging, subscriptions
from billing.webhooks import messages
from tests.billing.histories import BY_PANEL, execute
from tests.billing.test_tasks import COMMAND, NIGHT
from tests.conftest import Connections
from tests.factories import PlanFactory, subscribed, user_with
from users.models import User

TRANSACTION = EventType.TRANSACTION_POSTED
LOW = EventType.BALANCE_LOW
SUSPENDED = EventType.SUBSCRIPTION_SUSPENDED
RESUMED = EventType.SUBSCRIPTION_RESUMED


def endpoint_for(*events: str, **fields: Any) -> WebhookEndpoint:
    return WebhookEndpoint.objects.create(
        **{
            "name": "CRM",
            "url": "https://crm.example.com/hooks",
            "secret": webhooks.new_secret(),
            "events": list(events or EventType.values),
        }
        | fields
    )


def change(user: User, amount: Any, **options: Any) -> Any:
    return ledger.change_balance(
        user, amount=amount, description="By the desk", **BY_PANEL, **options
    )


def noted(user: User | None = None) -> list[tuple[str, int | None]]:
    events = WebhookEvent.objects.order_by("id")
    if user is not None:
        events = events.filter(user=user)
    return list(events.values_list("type", "number"))


def jobs() -> list[tuple[str, Any]]:
    found = ProcrastinateJob.objects.filter(task_name="billing.tasks.send_webhooks")
    return [(job.status, job.args) for job in found.order_by("id")]


def told_to() -> list[tuple[str, int, str]]:
    deliveries = WebhookDelivery.objects.order_by("id")
    return list(deliveries.values_list("event__type", "endpoint", "status"))


# --- Transactions -------------------------------------------------------------------------------


def test_every_transaction_is_told_once_to_each_endpoint_that_asks_for_it(db: None) -> None:
    first, second = endpoint_for(TRANSACTION), endpoint_for(LOW, TRANSACTION)
    endpoint_for(SUSPENDED, RESUMED)
    endpoint_for(TRANSACTION, is_active=False)
    user = user_with(10)
    change(user, 5)
    ledger.reverse(user, number=2, description="Taken back", **BY_PANEL)
    assert noted() == [(TRANSACTION, 1), (TRANSACTION, 2), (TRANSACTION, 3)]
    deliveries = WebhookDelivery.objects.order_by("id")
    assert list(deliveries.values_list("event__number", "endpoint", "status", "user_id")) == [
        (number, endpoint.pk, "pending", user.pk)
        for number in (1, 2, 3)
        for endpoint in (first, second)
    ]
    assert jobs() == [("todo", {"endpoint_id": each.pk}) for each in (first, second)]


def test_nothing_is_noted_for_nobody(db: None) -> None:
    endpoint_for(TRANSACTION, is_active=False)
    user = subscribed(user_with(5), PlanFactory()).user
    change(user, 50)
    change(user, -50)
    assert noted() == []
    assert jobs() == []


def test_who_asks_for_transactions_alone_is_told_of_no_low_balance(db: None) -> None:
    asks, asks_for_low = endpoint_for(TRANSACTION), endpoint_for(LOW, is_active=False)
    LowBalanceThreshold.objects.create(user=None, amount=10)
    user = user_with(20)
    change(user, -15)
    assert noted() == [(TRANSACTION, 1), (TRANSACTION, 2)]
    assert {*WebhookDelivery.objects.values_list("endpoint", flat=True)} == {asks.pk}
    assert asks_for_low.pk not in [args["endpoint_id"] for _, args in jobs()]


def test_who_asks_for_low_balances_alone_is_told_of_these_alone_and_soon(db: None) -> None:
    asks = endpoint_for(LOW)
    LowBalanceThreshold.objects.create(user=None, amount=10)
    change(user_with(20), -15)
    assert noted() == [(LOW, 2)]
    assert told_to() == [(LOW, asks.pk, "pending")]
    assert jobs() == [("todo", {"endpoint_id": asks.pk})]


def test_a_batch_is_told_whole_and_of_each_user_in_order(db: None) -> None:
    endpoint_for(TRANSACTION)
    users = [user_with() for _ in range(3)]
    entries = [
        ledger.balance_change_entry(user, amount=1, description="From the bank")
        for _ in range(4)
        for user in reversed(users)
    ]
    ledger.post_batch(entries, actor=None, channel=Channel.IMPORT)
    for user in users:
        assert noted(user) == [(TRANSACTION, number) for number in (1, 2, 3, 4)]
    ids = WebhookDelivery.objects.order_by("id").values_list("event_id", flat=True)
    assert list(ids) == sorted(ids)


def test_a_repeated_key_is_not_told_again(db: None) -> None:
    endpoint_for(TRANSACTION)
    user = user_with()
    for _ in range(2):
        change(user, 5, idempotency_key="payment-1")
    assert noted() == [(TRANSACTION, 1)]


def test_what_is_refused_or_undone_is_not_told(db: None) -> None:
    endpoint_for()
    user = user_with()
    change(user, 5)
    with pytest.raises(InsufficientFunds):
        change(user, -6)
    with ledger.dry_run():
        change(user, 1)
    with transaction.atomic():
        change(user, 1)
        transaction.set_rollback(True)
    with transaction.atomic():
        savepoint = transaction.savepoint()
        change(user, 1)
        transaction.savepoint_rollback(savepoint)
        change(user, 2)
    assert noted() == [(TRANSACTION, 1), (TRANSACTION, 2)]
    assert len(jobs()) == 1


def test_the_job_of_what_is_undone_is_undone_and_that_of_the_rest_is_not(db: None) -> None:
    """Rolling back to a savepoint removes its job. The next transaction queues another one."""
    endpoint_for()
    user = user_with()
    with transaction.atomic():
        savepoint = transaction.savepoint()
        change(user, 1)
        transaction.savepoint_rollback(savepoint)
        assert jobs() == []
        change(user, 1)
        assert len(jobs()) == 1


def test_the_body_never_changes(db: None) -> None:
    endpoint_for()
    user = user_with(5)
    plan = PlanFactory(name="Business")
    subscription = subscribed(user, plan)
    bodies = [webhooks.body_of(event) for event in WebhookEvent.objects.order_by("id")]
    plan.name = "Renamed"
    plan.save()
    change(user, 100)
    subscriptions.change_plan(
        subscription,
        PlanFactory(price=1),
        day=date(2026, 4, 2),
        pay_back=False,
        charge_now=True,
        **BY_PANEL,
    )
    events = WebhookEvent.objects.order_by("id")[: len(bodies)]
    assert [webhooks.body_of(event) for event in events] == bodies
    assert len(bodies) == 2


# --- Thresholds ---------------------------------------------------------------------------------


def low(user: User) -> list[tuple[int, str, str]]:
    events = WebhookEvent.objects.filter(user=user, type=LOW).order_by("id")
    return [(e.number or 0, e.data["threshold"], e.data["balance"]) for e in events]


def test_a_balance_below_its_threshold_is_told_when_it_falls_below_and_only_then(
    db: None,
) -> None:
    endpoint_for(LOW)
    LowBalanceThreshold.objects.create(user=None, amount=10)
    user = user_with(20)
    for amount in ("-10", "-0.0001", "-5", "-1", "1", "10", "-0.5", "-10", "100", "-100"):
        change(user, amount)
    assert low(user) == [
        (3, "10.0000", "9.9999"),
        (9, "10.0000", "4.4999"),
        (11, "10.0000", "4.4999"),
    ]
    assert noted(user) == [(LOW, 3), (LOW, 9), (LOW, 11)]


@pytest.mark.parametrize(
    ("default", "own", "told"),
    [
        (None, None, False),
        ("10", None, True),
        ("10", "", False),
        ("10", "5", False),
        ("5", "10", True),
        (None, "10", True),
        ("", "10", True),
        ("", None, False),
        ("0", None, False),
    ],
)
def test_a_users_own_threshold_stands_for_the_default(
    db: None, default: str | None, own: str | None, told: bool
) -> None:
    endpoint_for(LOW)
    user, other = user_with(20), user_with(20)
    for whose, amount in ((None, default), (user, own)):
        if amount is not None:
            LowBalanceThreshold.objects.create(user=whose, amount=Decimal(amount or 0))
            if not amount:
                LowBalanceThreshold.objects.filter(user=whose).update(amount=None)
    LowBalanceThreshold.objects.create(user=other, amount=Decimal(15))
    change(user, -14)
    assert bool(low(user)) == told
    change(other, -6)
    assert [threshold for _, threshold, _ in low(other)] == ["15.0000"]


def test_the_transaction_is_told_before_what_it_led_to(db: None) -> None:
    endpoint_for()
    LowBalanceThreshold.objects.create(amount=10)
    user = user_with(10)
    entries = [
        ledger.balance_change_entry(user, amount=amount, description="From the bank")
        for amount in (-1, 1, -2)
    ]
    ledger.post_batch(entries, actor=None, channel=Channel.IMPORT)
    assert noted(user)[1:] == [
        (TRANSACTION, 2),
        (LOW, 2),
        (TRANSACTION, 3),
        (TRANSACTION, 4),
        (LOW, 4),
    ]
    event = WebhookEvent.objects.filter(type=LOW).latest("id")
    told = json.loads(webhooks.body_of(event))["data"]
    assert (told["threshold"], told["balance"]) == ("10.0000", "8.0000")
    assert told["transaction"]["number"] == 4


def test_bonus_money_is_not_looked_at(db: None) -> None:
    endpoint_for(LOW)
    LowBalanceThreshold.objects.create(amount=10)
    user = user_with(10, bonus=20)
    ledger.change_balance(user, bonus_amount=-15, description="By the desk", **BY_PANEL)
    assert low(user) == []


# --- Subscriptions ------------------------------------------------------------------------------


def told_of_subscriptions() -> list[tuple[str, Any]]:
    events = WebhookEvent.objects.filter(type__startswith="subscription.").order_by("id")
    return [(e.type, json.loads(webhooks.body_of(e))["data"]) for e in events]


def test_a_subscription_suspended_by_the_run_and_resumed_by_a_refill_is_told(
    db: None,
) -> None:
    endpoint_for()
    user = user_with(10)
    subscription = subscribed(user, PlanFactory(name="Business"), device="Truck 7")
    assert told_of_subscriptions() == []
    for batch in charging.open_run(NIGHT + timedelta(days=30), COMMAND).batches.all():
        for _ in charging.charge_batch(batch):
            pass
    subscription.refresh_from_db()
    assert told_of_subscriptions() == [
        (SUSPENDED, {"subscription": representations.subscription(subscription)})
    ]
    assert subscription.status == "suspended"

    change(user, 100)
    charging.resume(user.pk, NIGHT + timedelta(days=31))
    subscription.refresh_from_db()
    assert subscription.status == "active"
    assert told_of_subscriptions()[1:] == [
        (RESUMED, {"subscription": representations.subscription(subscription)})
    ]
    assert [event_type for event_type, _ in noted(user)] == [
        TRANSACTION,  # the first refill
        TRANSACTION,  # the first month
        SUSPENDED,
        TRANSACTION,  # the second refill
        TRANSACTION,  # the charge that it paid
        RESUMED,
    ]


def test_a_subscription_that_starts_without_money_is_told_to_be_suspended(db: None) -> None:
    endpoint_for(SUSPENDED)
    subscription = subscribed(user_with(), PlanFactory())
    [(event_type, data)] = told_of_subscriptions()
    assert (event_type, data["subscription"]["id"]) == (SUSPENDED, subscription.pk)


def test_a_cancelled_subscription_is_neither(db: None) -> None:
    endpoint_for(SUSPENDED, RESUMED)
    subscription = subscribed(user_with(10), PlanFactory())
    subscriptions.cancel(subscription, day=date(2026, 4, 2), pay_back=False, **BY_PANEL)
    assert Subscription.objects.get().status == "cancelled"
    assert told_of_subscriptions() == []


def test_a_subscription_is_told_to_active_endpoints_that_ask_for_it_and_to_no_other(
    db: None,
) -> None:
    asks, asks_for_all = endpoint_for(SUSPENDED), endpoint_for()
    endpoint_for(SUSPENDED, is_active=False)
    endpoint_for(is_active=False)
    endpoint_for(RESUMED, TRANSACTION, LOW)
    subscribed(user_with(), PlanFactory())
    assert told_to() == [(SUSPENDED, asks.pk, "pending"), (SUSPENDED, asks_for_all.pk, "pending")]
    assert jobs() == [("todo", {"endpoint_id": each.pk}) for each in (asks, asks_for_all)]


def test_a_subscription_that_nobody_asks_for_is_not_noted(db: None) -> None:
    endpoint_for(SUSPENDED, is_active=False)
    endpoint_for(TRANSACTION)
    subscribed(user_with(), PlanFactory())
    assert noted() == []
    assert jobs() == []


# --- Many at once -------------------------------------------------------------------------------


def raise_errors(outcomes: Any) -> None:
    for outcome in outcomes:
        if outcome.error:
            raise outcome.error


def test_many_who_post_at_once_lose_no_event_and_keep_the_order(connections: Connections) -> None:
    endpoints = [endpoint_for(), endpoint_for()]
    users = [user_with() for _ in range(3)]

    def work(place: int) -> None:
        for turn in range(10):
            if turn % 3:
                change(users[(place + turn) % 3], 1)
            else:
                batch = [
                    ledger.balance_change_entry(user, amount=1, description="From the bank")
                    for user in (users if place % 2 else reversed(users))
                ]
                ledger.post_batch(batch, actor=None, channel=Channel.API)

    raise_errors(connections(8, work))
    for user in users:
        last = ledger.balance(user).number
        assert noted(user) == [(TRANSACTION, number) for number in range(1, last + 1)]
    assert WebhookDelivery.objects.count() == 2 * WebhookEvent.objects.count()
    assert {job["endpoint_id"] for _, job in jobs()} == {each.pk for each in endpoints}
    assert len(jobs()) == 2


def hold_while(
    connections: Connections, hold: Callable[[], Any], meanwhile: Callable[[], Any]
) -> None:
    """Runs `hold`, and before it commits, runs `meanwhile` on another connection."""
    held, done = Event(), Event()

    def work(place: int) -> None:
        if place == 0:
            with transaction.atomic():
                hold()
                held.set()
                assert done.wait(60), "the other waited"
        else:
            assert held.wait(60)
            meanwhile()
            done.set()

    raise_errors(connections(2, work))


@pytest.mark.parametrize(
    "hold",
    [
        "LOCK TABLE procrastinate_jobs IN ACCESS EXCLUSIVE MODE",
        "UPDATE procrastinate_jobs SET status = 'doing'",
        "DELETE FROM procrastinate_jobs",
        "SELECT FROM billing_webhookendpoint FOR UPDATE",
        "UPDATE billing_webhookendpoint SET url = 'https://other.example.com/'",
    ],
)
def test_nobody_who_posts_waits_for_who_holds_jobs_or_endpoints(
    connections: Connections, hold: str
) -> None:
    endpoint_for()
    user = user_with(1)
    hold_while(connections, lambda: execute(hold), lambda: change(user, 1))
    assert noted(user) == [(TRANSACTION, 1), (TRANSACTION, 2)]


def test_nobody_who_posts_waits_for_another_who_posts(connections: Connections) -> None:
    """It does not even wait for the lock timeout, after which it would warn and queue no job."""
    endpoint_for()
    first, second = user_with(), user_with()
    execute("DELETE FROM procrastinate_jobs")
    warnings: list[Any] = []

    def post_and_listen() -> None:
        connection.connection.add_notice_handler(warnings.append)
        change(second, 1)

    hold_while(connections, lambda: change(first, 1), post_and_listen)
    assert len(jobs()) == 1
    assert [warning.message_primary for warning in warnings] == []


def test_a_posting_that_is_not_committed_for_hours_stops_no_endpoint(
    connections: Connections,
) -> None:
    endpoint_for()
    first, second = user_with(), user_with()
    queued = []

    def post_and_sweep() -> None:
        change(second, 1)
        for _ in range(2):
            tasks.sweep_webhooks(0)
        queued.extend(jobs())

    hold_while(connections, lambda: change(first, 1), post_and_sweep)
    assert len(queued) == 1
    assert len(noted()) == 2


def test_deleting_an_endpoint_refuses_nobodys_posting(connections: Connections) -> None:
    endpoint = endpoint_for()
    user = user_with()
    hold_while(connections, lambda: change(user, 1), endpoint.delete)
    assert ledger.balance(user).number == 1
    webhooks.delete_old(timezone.now())
    assert WebhookDelivery.objects.count() == 0


@pytest.mark.as_owner
def test_money_moves_also_if_no_job_can_be_queued(db: None) -> None:
    endpoint = endpoint_for()
    user = user_with()
    warnings: list[str] = []

    def listen(warning: Any) -> None:
        warnings.append(warning.message_primary)  # cannot be read later

    connection.connection.add_notice_handler(listen)
    execute("ALTER TABLE procrastinate_jobs RENAME TO elsewhere")
    change(user, 7)
    connection.connection.remove_notice_handler(listen)
    [warning] = warnings
    assert f"No job to send webhooks to endpoint {endpoint.pk}" in warning
    execute("ALTER TABLE elsewhere RENAME TO procrastinate_jobs")
    assert noted() == [(TRANSACTION, 1)]
    assert jobs() == []
    tasks.sweep_webhooks(0)
    assert jobs() == [("todo", {"endpoint_id": endpoint.pk})]


def test_a_paused_endpoint_is_not_woken_by_every_posting(db: None) -> None:
    endpoint_for(paused_until=timezone.now() + timedelta(minutes=1))
    user_with(5)
    assert len(noted()) == 1
    assert jobs() == []


def test_an_endpoint_whose_pause_is_over_is_woken(db: None) -> None:
    endpoint = endpoint_for(paused_until=timezone.now() - timedelta(minutes=1))
    user_with(5)
    assert jobs() == [("todo", {"endpoint_id": endpoint.pk})]


def test_an_inactive_endpoint_is_not_woken_though_others_are_active(db: None) -> None:
    inactive = endpoint_for(is_active=False)
    endpoint_for()
    execute("SELECT billing_wake_webhooks(%s)", [inactive.pk])
    assert jobs() == []


@pytest.mark.as_owner
@pytest.mark.parametrize("status", ["doing", "succeeded", "failed"])
def test_a_job_that_no_longer_waits_is_followed_by_another(db: None, status: str) -> None:
    """A job that has started may have missed the newest transactions."""
    endpoint = endpoint_for()
    user = user_with(5)
    execute("UPDATE procrastinate_jobs SET status = %s", [status])
    change(user, 5)
    assert jobs() == [
        (status, {"endpoint_id": endpoint.pk}),
        ("todo", {"endpoint_id": endpoint.pk}),
    ]


def test_a_job_goes_to_those_who_send_webhooks(db: None) -> None:
    endpoint_for()
    user_with(5)
    [job] = ProcrastinateJob.objects.filter(task_name="billing.tasks.send_webhooks")
    assert job.queue_name == tasks.send_webhooks.queue == "webhooks"
    assert job.priority == 0  # the sweep uses the same priority


def test_there_is_one_default_threshold_and_none_is_negative(db: None) -> None:
    LowBalanceThreshold.objects.create(amount=10)
    for wrong in ({"amount": 5}, {"amount": -1, "user": user_with()}):
        with pytest.raises(IntegrityError), transaction.atomic():
            LowBalanceThreshold.objects.create(**wrong)


def test_raw_sql_is_told_too(db: None) -> None:
    endpoint_for()
    user = user_with()
    entry = {
        "user_id": user.pk,
        "type": "payment",
        "subtype": "import",
        "description": "Imported",
        "amount": "5",
    }
    with connection.cursor() as cursor:
        cursor.execute("SELECT billing_post(%s, NULL, 'import')", [json.dumps([entry])])
    assert noted(user) == [(TRANSACTION, 1)]


# --- Workers ------------------------------------------------------------------------------------


def test_the_sweep_runs_every_fifteen_seconds() -> None:
    schedule = tasks.app.periodic_registry.periodic_tasks["billing.tasks.sweep_webhooks", ""]
    start = NIGHT.timestamp()
    times = []
    for _ in range(5):
        start = schedule.croniter.get_next(ret_type=float, start_time=start)
        times.append(start - NIGHT.timestamp())
    assert times == [15, 30, 45, 60, 75]


# --- docs/webhooks.md ---------------------------------------------------------------------------

DOCUMENT = Path(__file__).parents[2] / "docs" / "webhooks.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def test_every_event_is_documented() -> None:
    listed = re.findall(r"^\| `([a-z.]+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert listed == EventType.values


def shape(value: Any) -> Any:
    """Returns the field names of a body, with the type or form of each value."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, str):
        return re.sub(r"\d+", "1", value) if re.match(r"-?\d", value) else "text"
    return type(value)


def test_the_bodies_in_the_document_are_like_those_that_are_sent(db: None) -> None:
    endpoint_for(LOW, SUSPENDED)
    LowBalanceThreshold.objects.create(amount=10)
    user = user_with(20)
    subscribed(user, PlanFactory(name="Business"), device="Truck 7")
    ledger.change_balance(
        user,
        amount=-5,
        description="Correction of a payment",
        actor=None,
        channel=Channel.API,
    )
    for batch in charging.open_run(NIGHT + timedelta(days=30), COMMAND).batches.all():
        for _ in charging.charge_batch(batch):
            pass
    told = [json.loads(webhooks.body_of(event)) for event in WebhookEvent.objects.order_by("id")]
    documented = [json.loads(block) for block in blocks("json")]
    assert [each["type"] for each in told] == [LOW, SUSPENDED]
    for sent, written in zip(told, documented, strict=True):
        for body in (sent, written):
            body["data"].get("transaction", {}).pop("digest", None)
        assert shape(sent) == shape(written)


def test_the_python_in_the_document_tells_what_is_from_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [source] = blocks("python")
    names: dict[str, Any] = {}
    exec(source, names)  # noqa: S102 - our own document
    is_from_billing = names["is_from_billing"]
    secret, body = webhooks.new_secret(), b'{"id":"evt_1"}'
    now = int(time.time())
    headers = messages.headers(secret, "evt_1", datetime.fromtimestamp(now, UTC), body)
    assert is_from_billing(headers, body, secret)
    assert is_from_billing(
        headers | {"webhook-signature": f"v1,other {headers['webhook-signature']}"}, body, secret
    )
    assert not is_from_billing(headers, body + b" ", secret)
    assert not is_from_billing(headers, body, webhooks.new_secret())
    assert not is_from_billing(headers | {"webhook-id": "evt_2"}, body, secret)
    monkeypatch.setattr(time, "time", lambda: now + 301)
    assert not is_from_billing(headers, body, secret)


def test_a_signature_is_that_of_the_specification() -> None:
    """Uses the example with which implementations of Standard Webhooks are tested."""
    signature = webhooks.sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
