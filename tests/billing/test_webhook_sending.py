"""Sends webhooks to a real receiver, which accepts, refuses, hangs and recovers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from django.db import transaction
from procrastinate.contrib.django.models import ProcrastinateJob

from billing import counters, ledger, webhooks
from billing.models import (
    Channel,
    EventType,
    Transaction,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
)
from billing.webhooks import cleanup, deliveries, network, results, sending
from tests.billing import receiver as behaviour
from tests.billing.histories import execute
from tests.billing.receiver import (
    OK,
    Handler,
    Message,
    Receiver,
    answers,
    impatience,
    is_signed,
)
from tests.conftest import Connections
from tests.factories import user_with
from users.models import User

NOON = datetime(2026, 4, 10, 12, 0, tzinfo=UTC)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **time: int) -> None:
        self.now += timedelta(**time)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def this_machine_is_allowed(settings: Any) -> None:
    settings.WEBHOOK_PRIVATE_NETWORKS = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def endpoint(db: None, receiver: Receiver) -> WebhookEndpoint:
    return endpoint_at(receiver)


def endpoint_at(receiver: Receiver, **fields: Any) -> WebhookEndpoint:
    return WebhookEndpoint.objects.create(
        **{
            "name": "CRM",
            "url": receiver.url,
            "secret": webhooks.new_secret(),
            "events": list(EventType.values),
        }
        | fields
    )


def post(user: User, amount: Any = 1) -> Transaction:
    row = ledger.change_balance(
        user, amount=amount, description="Paid at the desk", actor=None, channel=Channel.API
    )
    # Date the event by the clock of these tests, not by the database's.
    WebhookEvent.objects.filter(user=user, number=row.number).update(created_at=NOON)
    return row


def send(endpoint: WebhookEndpoint, clock: Clock, **options: Any) -> bool:
    return webhooks.send_due(
        endpoint.pk, **{"should_stop": lambda: False, "clock": clock} | options
    )


def states(endpoint: WebhookEndpoint) -> list[str]:
    deliveries = WebhookDelivery.objects.filter(endpoint=endpoint).order_by("id")
    return list(deliveries.values_list("status", flat=True))


def is_for(user: User, then: Any, otherwise: Any = OK) -> Callable[[Handler, Message], None]:
    def behave(handler: Handler, message: Message) -> None:
        (then if message.user == user.pk else otherwise)(handler, message)

    return behave


# --- Messages -----------------------------------------------------------------------------------


def test_what_happened_is_sent_signed_and_as_the_api_shows_it(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock
) -> None:
    user = user_with()
    row = post(user, "12.5")
    assert not send(endpoint, clock)

    [message] = receiver.messages
    event = WebhookEvent.objects.get()
    assert message.path == "/hooks?of=billing"
    assert message.headers["content-type"] == "application/json"
    assert message.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert message.id == f"evt_{event.pk}" == message.content["id"]
    assert message.headers["webhook-timestamp"] == str(int(NOON.timestamp()))
    assert is_signed(message, endpoint.secret)
    assert not is_signed(message, webhooks.new_secret())
    assert message.content["type"] == "transaction.posted"
    assert message.content["created_at"] == "2026-04-10T12:00:00.000000Z"
    assert message.content["user_id"] == user.pk
    told = message.content["data"]["transaction"]
    assert (told["id"], told["amount"], told["new_balance"]) == (row.pk, "12.5000", "12.5000")

    delivery = WebhookDelivery.objects.get()
    assert (delivery.status, delivery.attempt_count, delivery.finished_at) == ("delivered", 1, NOON)
    attempt = WebhookAttempt.objects.get()
    assert (attempt.at, attempt.status_code, attempt.problem) == (NOON, 204, "")


def test_every_attempt_sends_the_same_under_the_same_id(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock
) -> None:
    post(user_with())
    receiver.behave = answers(400)
    send(endpoint, clock)
    receiver.behave = OK
    clock.pass_(seconds=15)
    send(endpoint, clock)
    first, second = receiver.messages
    assert (first.id, first.body) == (second.id, second.body)
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    assert is_signed(second, endpoint.secret)
    assert WebhookDelivery.objects.get().attempt_count == 2


def test_one_connection_serves_many_events(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock
) -> None:
    user = user_with()
    for _ in range(10):
        post(user)
    send(endpoint, clock)
    assert len(receiver.messages) == 10
    assert receiver.connection_count == 1


def test_a_receiver_may_close_a_connection_that_it_has_kept(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock
) -> None:
    """The receiver resets the connection without notice while the next event is being sent."""
    seen: list[Handler] = []  # keeps the handlers alive, so that none gets the address of another

    def once_per_connection(handler: Handler, message: Message) -> None:
        if handler in seen:
            behaviour.resets(handler, message)
        else:
            seen.append(handler)
            OK(handler, message)

    user = user_with()
    post(user)
    post(user)
    receiver.behave = once_per_connection
    send(endpoint, clock)
    assert states(endpoint) == ["delivered", "delivered"]
    assert [attempt.problem for attempt in WebhookAttempt.objects.all()] == ["", ""]


def test_a_test_message_is_sent_at_once_and_noted_nowhere(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock
) -> None:
    answer = webhooks.send_test(endpoint, clock=clock)
    [message] = receiver.messages
    assert (answer.is_delivered, answer.status_code) == (True, 204)
    assert (message.content["type"], message.content["user_id"]) == ("webhook.test", None)
    assert message.id == message.content["id"]
    assert is_signed(message, endpoint.secret)
    assert not WebhookEvent.objects.exists()
    receiver.behave = answers(401, "Who are you?\0\x1b[31m")
    answer = webhooks.send_test(endpoint, clock=clock)
    assert not answer.is_delivered
    assert (answer.problem, answer.beginning) == ("It answered 401.", "Who are you? [31m")


# --- Order --------------------------------------------------------------------------------------


def test_of_one_user_events_come_in_order_and_users_side_by_side(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "USERS_AT_ONCE", 3)
    monkeypatch.setattr(deliveries, "EVENTS_PER_USER_AT_ONCE", 2)
    monkeypatch.setattr("random.randrange", lambda stop: 0)  # begin with the first users
    both_are_here = threading.Barrier(2)

    def wait_for_another_user(handler: Handler, message: Message) -> None:
        if message.number == 1 and message.user in first_two:
            both_are_here.wait(behaviour.PATIENCE_SECONDS)
        OK(handler, message)

    users = [user_with() for _ in range(7)]
    first_two = {users[0].pk, users[1].pk}
    for _ in range(5):
        for user in users:
            post(user)
    receiver.behave = wait_for_another_user
    assert not send(endpoint, clock)
    for user in users:
        numbers = [message.number for message in receiver.messages if message.user == user.pk]
        assert numbers == [1, 2, 3, 4, 5]
    assert 2 <= receiver.at_once_max <= sending.THREADS


def test_where_many_wait_a_job_begins_with_any_of_them(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [user_with() for _ in range(4)]
    for user in users:
        post(user)
    monkeypatch.setattr(sending, "USERS_AT_ONCE", 1)
    monkeypatch.setattr("random.randrange", lambda stop: users[1].pk)
    assert not send(endpoint, clock)
    served = [message.user for message in receiver.messages]
    assert ({*served[:2]}, {*served[2:]}) == ({u.pk for u in users[2:]}, {u.pk for u in users[:2]})


def test_behind_a_failure_the_same_user_waits_and_others_go_on(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock
) -> None:
    failing, other = user_with(), user_with()
    for _ in range(3):
        post(failing)
        post(other)
    receiver.behave = is_for(failing, answers(500, "Out of order"))
    assert not send(endpoint, clock)
    assert [m.number for m in receiver.messages if m.user == failing.pk] == [1]
    assert [m.number for m in receiver.messages if m.user == other.pk] == [1, 2, 3]
    waiting = WebhookDelivery.objects.filter(user_id=failing.pk).order_by("id")
    assert [(d.status, d.attempt_count, d.next_attempt_at) for d in waiting] == [
        ("pending", 1, NOON + timedelta(seconds=15)),
        ("pending", 0, None),
        ("pending", 0, None),
    ]
    attempt = WebhookAttempt.objects.get(delivery__user_id=failing.pk)
    assert attempt.status_code == 500
    assert (attempt.problem, attempt.answer) == ("It answered 500.", "Out of order")

    post(failing)
    post(other)
    clock.pass_(seconds=14)
    send(endpoint, clock)
    assert [m.number for m in receiver.messages if m.user == failing.pk] == [1]
    receiver.behave = OK
    clock.pass_(seconds=1)
    send(endpoint, clock)
    assert [m.number for m in receiver.messages if m.user == failing.pk] == [1, 1, 2, 3, 4]


def test_more_than_fits_into_one_job_is_left_to_the_next(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "WORK_SECONDS", -1)
    post(user_with())
    assert send(endpoint, clock)
    assert not receiver.messages


# --- Failures -----------------------------------------------------------------------------------


NO_ANSWER = f"No answer within {behaviour.PATIENCE_SECONDS} seconds."


@pytest.mark.parametrize(
    ("behave", "status_code", "problem"),
    [
        (answers(404), 404, "It answered 404."),
        (answers(410), 410, "It answered 410."),
        (
            answers(302, Location="http://127.0.0.1:1/"),
            302,
            "It answered 302; redirects are not followed.",
        ),
        (behaviour.hangs, None, NO_ANSWER),
        (behaviour.drips, None, NO_ANSWER),
        (behaviour.resets, None, "The connection was lost: "),
        (behaviour.talks_nonsense, None, "The connection was lost: "),
    ],
    ids=["refuses", "is gone", "redirects", "hangs", "drips", "resets", "talks nonsense"],
)
def test_a_failure_is_noted_and_comes_again(  # noqa: PLR0917 - fixtures are named, not placed
    endpoint: WebhookEndpoint,
    receiver: Receiver,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    behave: Any,
    status_code: int | None,
    problem: str,
) -> None:
    post(user_with())
    receiver.behave = behave
    with impatience(receiver, monkeypatch) if problem == NO_ANSWER else nullcontext():
        send(endpoint, clock)
    attempt = WebhookAttempt.objects.get()
    assert attempt.status_code == status_code
    assert attempt.problem.startswith(problem)
    assert len(receiver.messages) == 1
    assert states(endpoint) == ["pending"]
    endpoint.refresh_from_db()
    assert endpoint.is_active
    receiver.behave = OK
    clock.pass_(seconds=15)
    send(endpoint, clock)
    assert states(endpoint) == ["delivered"]


def test_whoever_takes_it_has_it_however_long_the_answer_takes(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "ANSWER_SECONDS", 0.3)
    post(user_with())
    receiver.behave = behaviour.answers_and_drips
    send(endpoint, clock)
    assert states(endpoint) == ["delivered"]
    answer = WebhookAttempt.objects.get().answer
    assert set(answer) <= {"x"}
    assert len(answer) <= 500


def test_nobody_there_is_a_failure_too(db: None, clock: Clock) -> None:
    with Receiver() as gone:
        pass
    endpoint = endpoint_at(gone)
    post(user_with())
    send(endpoint, clock)
    assert WebhookAttempt.objects.get().problem.startswith("No connection: ")


def test_attempts_come_ever_more_rarely_and_end_after_three_days(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock
) -> None:
    user, other = user_with(), user_with()
    post(user)
    receiver.behave = is_for(user, answers(422))
    waits = []
    while "pending" in states(endpoint):
        before = clock.now
        delivery = WebhookDelivery.objects.earliest("id")
        clock.now = delivery.next_attempt_at or clock.now
        waits.append(clock.now - before)
        post(other)  # delivered each time
        send(endpoint, clock)
    steps = [15, 60, 300, 900, 1800, 3600, 7200, 14400]
    assert [wait.total_seconds() for wait in waits[1:10]] == [*steps, 28800]
    assert timedelta(days=3) <= clock.now - NOON < timedelta(days=3, hours=8)
    delivery = WebhookDelivery.objects.earliest("id")
    assert (delivery.status, delivery.finished_at) == ("failed", clock.now)
    assert delivery.attempt_count == len(waits) == delivery.attempts.count()


def test_the_next_of_a_user_goes_on_when_one_is_given_up(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock
) -> None:
    user = user_with()
    post(user)
    post(user)

    def refuse_the_first(handler: Handler, message: Message) -> None:
        answers(400 if message.number == 1 else 204)(handler, message)

    receiver.behave = refuse_the_first
    clock.pass_(days=3)
    send(endpoint, clock)
    assert states(endpoint) == ["failed", "delivered"]


def test_what_was_given_up_or_delivered_can_be_sent_again(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock
) -> None:
    user = user_with()
    post(user)
    post(user)
    receiver.behave = answers(400)
    clock.pass_(days=3)
    send(endpoint, clock)
    assert states(endpoint) == ["failed", "failed"]
    first = WebhookDelivery.objects.earliest("id")
    execute("DELETE FROM procrastinate_jobs")
    webhooks.send_again(first)
    assert (first.status, first.finished_at, first.attempt_count) == ("pending", None, 1)
    [job] = ProcrastinateJob.objects.all()
    assert (job.queue_name, job.args) == ("webhooks", {"endpoint_id": endpoint.pk})
    receiver.behave = OK
    send(endpoint, clock)
    assert states(endpoint) == ["delivered", "failed"]
    webhooks.send_again(first)
    send(endpoint, clock)
    assert states(endpoint) == ["delivered", "failed"]
    assert receiver.ids.count(f"evt_{first.event_id}") == 3
    first.refresh_from_db()
    assert first.attempt_count == 3 == first.attempts.count()


# --- Endpoints that are out of reach ------------------------------------------------------------


def test_an_endpoint_out_of_reach_costs_one_attempt_now_and_then(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock
) -> None:
    for _ in range(20):
        post(user_with())
    receiver.behave = answers(503)
    send(endpoint, clock)
    tried = len(receiver.messages)
    assert tried <= 2 * sending.THREADS
    pauses = []
    for place in range(1, 9):
        send(endpoint, clock)
        assert len(receiver.messages) == tried + place - 1, "while it is paused, nothing is sent"
        endpoint.refresh_from_db()
        assert endpoint.failures == place
        assert endpoint.paused_until is not None
        pauses.append((endpoint.paused_until - clock.now).total_seconds())
        clock.now = endpoint.paused_until
        assert webhooks.endpoints_to_wake(clock.now) == [endpoint.pk]
        assert webhooks.endpoints_to_wake(clock.now - timedelta(seconds=1)) == []
        send(endpoint, clock)
    assert pauses == [15, 30, 60, 120, 240, 300, 300, 300]
    assert endpoint.failing_since == NOON

    receiver.behave = OK
    clock.pass_(minutes=5)
    send(endpoint, clock)
    assert set(states(endpoint)) == {"delivered"}, "all at once"
    endpoint.refresh_from_db()
    assert (endpoint.failures, endpoint.paused_until, endpoint.failing_since) == (0, None, None)


def test_a_refusal_of_one_users_events_pauses_nobody(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock
) -> None:
    post(user_with())
    receiver.behave = answers(400)
    send(endpoint, clock)
    endpoint.refresh_from_db()
    assert (endpoint.failures, endpoint.paused_until) == (0, None)
    receiver.behave = OK
    post(user_with())
    send(endpoint, clock)
    assert states(endpoint) == ["pending", "delivered"]


@pytest.mark.parametrize("status_code", [400, 404, 500])
def test_when_an_endpoint_is_back_what_could_not_be_sent_is_tried_and_what_it_refused_waits(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock, status_code: int
) -> None:
    refused, unlucky, other = user_with(), user_with(), user_with()
    for each in (refused, unlucky, other):
        post(each)
    receiver.behave = is_for(refused, answers(status_code), is_for(unlucky, answers(503)))
    send(endpoint, clock)
    wait = {"next_attempt_at": NOON + timedelta(hours=8), "refusal_count": 8}
    WebhookDelivery.objects.filter(status="pending").update(**wait)
    clock.pass_(seconds=1)
    post(other)
    receiver.behave = answers(503)
    send(endpoint, clock)
    receiver.behave = OK
    clock.pass_(seconds=15)
    send(endpoint, clock)
    assert states(endpoint) == ["pending", "delivered", "delivered", "delivered"]
    waits = WebhookDelivery.objects.get(user_id=refused.pk)
    assert (waits.next_attempt_at, waits.refusal_count) == tuple(wait.values())


@pytest.mark.parametrize("status_code", [302, 400, 401, 403, 404, 405, 407, 408, 410, 422, 500])
def test_refusing_everybody_is_being_out_of_order(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock, status_code: int
) -> None:
    post(user_with())
    post(user_with())
    receiver.behave = answers(status_code)
    send(endpoint, clock)
    endpoint.refresh_from_db()
    assert endpoint.paused_until == NOON + timedelta(seconds=15)


@pytest.mark.parametrize("status_code", [302, 400, 401, 404, 422, 500, 503])
def test_an_endpoint_with_little_traffic_is_out_of_order_when_it_refuses_a_second_user(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock, status_code: int
) -> None:
    receiver.behave = answers(status_code)
    for _ in range(6):
        post(user_with())
        for _ in range(10):
            send(endpoint, clock)
            clock.pass_(minutes=1)
    endpoint.refresh_from_db()
    assert endpoint.failing_since is not None
    assert endpoint.failing_since <= NOON + timedelta(minutes=10)
    assert [*webhooks.failing(clock.now)] == [endpoint]
    receiver.behave = OK
    clock.pass_(minutes=5)
    send(endpoint, clock)
    assert set(states(endpoint)) == {"delivered"}, "all at once"


def test_one_user_whose_events_are_refused_among_others_pauses_nobody(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock
) -> None:
    """The second user is refused when the first refusal is already blamed on the event."""
    refused = [user_with(), user_with()]
    receiver.behave = is_for(refused[0], answers(400), is_for(refused[1], answers(400)))
    for each in refused:
        post(each)
        send(endpoint, clock)
        clock.pass_(seconds=15)
        post(user_with())
        send(endpoint, clock)
    for _ in range(8):
        send(endpoint, clock)
        endpoint.refresh_from_db()
        assert (endpoint.failures, endpoint.paused_until) == (0, None)
        assert not webhooks.failing(clock.now)
        clock.pass_(hours=8)
    waits = WebhookDelivery.objects.filter(status="pending").values_list("refusal_count", flat=True)
    assert min(waits) >= 8


@pytest.mark.parametrize("status_code", [400, 404, 422, 500])
def test_what_fails_again_when_an_endpoint_is_back_is_refused_for_itself(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock, status_code: int
) -> None:
    refused = [user_with(), user_with()]
    for each in refused:
        post(each)

    def refuse(handler: Handler, message: Message) -> None:
        is_refused = message.user in [each.pk for each in refused]
        answers(status_code if is_refused else 204)(handler, message)

    receiver.behave = refuse
    send(endpoint, clock)
    endpoint.refresh_from_db()
    assert endpoint.failures == 1, "nobody can tell yet"
    for _ in range(3):
        post(user_with())
        clock.pass_(minutes=5)
        send(endpoint, clock)
        endpoint.refresh_from_db()
        assert (endpoint.failures, endpoint.paused_until) == (0, None)
    assert states(endpoint) == ["pending"] * 2 + ["delivered"] * 3
    waits = WebhookDelivery.objects.filter(status="pending").values_list("refusal_count", flat=True)
    assert [*waits] == [4, 4]


@pytest.mark.parametrize("status_code", [400, 503])
def test_a_trial_takes_who_was_tried_least(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock, status_code: int
) -> None:
    """Otherwise one event that is always refused would block all others."""
    refused = user_with()
    post(refused)
    receiver.behave = answers(503)
    send(endpoint, clock)
    post(user_with())
    receiver.behave = is_for(refused, answers(status_code))
    clock.pass_(seconds=15)
    send(endpoint, clock)
    assert states(endpoint) == ["pending", "delivered"]


def test_an_endpoint_that_was_out_of_reach_for_days_leaves_no_heap_behind(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock
) -> None:
    user = user_with()
    for _ in range(3):
        post(user)
    receiver.behave = answers(503)
    send(endpoint, clock)
    clock.pass_(days=3)
    row = post(user)
    WebhookEvent.objects.filter(number=row.number).update(created_at=clock.now)
    send(endpoint, clock)
    assert states(endpoint) == ["failed", "failed", "failed", "pending"]


@pytest.mark.parametrize("status_code", [401, 503])
def test_what_waited_for_an_endpoint_that_was_switched_off_for_days_is_not_given_up_at_once(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock, status_code: int
) -> None:
    for _ in range(2 * sending.THREADS):
        post(user_with())
    receiver.behave = answers(status_code)
    send(endpoint, clock)
    endpoint.refresh_from_db()
    assert endpoint.failing_since == NOON
    clock.pass_(days=4)  # it is not active
    webhooks.forget_failures(endpoint)
    for _ in range(5):
        send(endpoint, clock)
        assert set(states(endpoint)) == {"pending"}
        clock.pass_(minutes=5)
    clock.pass_(days=3)
    send(endpoint, clock)
    assert set(states(endpoint)) == {"failed"}, "three days from then on"


def test_an_event_at_which_the_receiver_breaks_down_is_given_up_too(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up even if no other event is ever delivered in the same round."""
    monkeypatch.setattr(results, "TRIED_FOR_LONG", 3)
    fatal, other = user_with(), user_with()
    post(fatal)
    receiver.behave = is_for(fatal, answers(502))
    clock.pass_(days=3)
    for _ in range(2):
        send(endpoint, clock)
        clock.pass_(minutes=5)
        post(other)
        send(endpoint, clock)
        clock.pass_(minutes=5)
    assert states(endpoint) == ["failed", "delivered", "delivered"]


def test_what_waited_for_days_is_not_given_up_because_the_receiver_cannot_take_all_at_once(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock
) -> None:
    too_much = user_with()
    post(too_much)
    post(user_with())
    receiver.behave = is_for(too_much, answers(429))
    clock.pass_(days=4)
    for _ in results.BACKOFF:
        send(endpoint, clock)
        assert states(endpoint) == ["pending", "delivered"]
        clock.pass_(hours=8)
        WebhookDelivery.objects.filter(status="delivered").update(status="pending")
    send(endpoint, clock)
    assert states(endpoint) == ["failed", "delivered"]


def test_an_attempt_under_way_while_an_endpoint_starts_anew_brings_nothing_back(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_attempts = results._keep_attempts

    def start_anew_and_keep(results: Any) -> None:
        webhooks.forget_failures(WebhookEndpoint.objects.get(pk=endpoint.pk))
        keep_attempts(results)

    post(user_with())
    receiver.behave = answers(503)
    send(endpoint, clock)
    clock.pass_(days=2)
    with monkeypatch.context() as patched:
        patched.setattr(results, "_keep_attempts", start_anew_and_keep)
        send(endpoint, clock)
    endpoint.refresh_from_db()
    assert (endpoint.failures, endpoint.failing_since) == (1, clock.now), "what it did since"


def test_a_late_failure_of_another_address_says_nothing_of_the_new_one(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock
) -> None:
    """Nothing is given up, even if the old address had failed for days."""

    def move_and_fail(handler: Handler, message: Message) -> None:
        moved.set()
        is_moved.wait(behaviour.PATIENCE_SECONDS)
        answers(503)(handler, message)

    def move() -> bool:
        if moved.is_set() and not is_moved.is_set():
            same = WebhookEndpoint.objects.get(pk=endpoint.pk)
            same.url, same.is_active = receiver.url + "&new", False  # so that the job ends
            same.save()
            webhooks.forget_failures(same)
            is_moved.set()
        return False

    for failing_since in (None, NOON):
        moved, is_moved = threading.Event(), threading.Event()
        WebhookDelivery.objects.all().delete()
        WebhookEndpoint.objects.update(
            url=receiver.url, is_active=True,
            failures=50 if failing_since else 0, failing_since=failing_since,
        )  # fmt: skip
        post(user_with())
        post(user_with())
        clock.pass_(days=4)
        receiver.behave = move_and_fail
        send(endpoint, clock, should_stop=move)
        endpoint.refresh_from_db()
        assert (endpoint.failures, endpoint.paused_until, endpoint.failing_since) == (0, None, None)
        assert states(endpoint) == ["pending", "pending"]


def test_a_receiver_that_hangs_costs_a_job_no_more_than_one_attempt_of_each_thread(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "ATTEMPT_SECONDS", 0.3)
    for _ in range(5 * sending.THREADS):
        post(user_with())
    receiver.behave = behaviour.hangs
    assert not send(endpoint, clock)
    assert len(receiver.messages) <= 2 * sending.THREADS
    endpoint.refresh_from_db()
    assert endpoint.failures == 1


# --- Jobs that end ------------------------------------------------------------------------------


def test_a_worker_that_is_told_to_end_waits_for_no_receiver(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "LAST_ANSWERS_SECONDS", 0)
    post(user_with())
    receiver.behave = behaviour.hangs
    assert send(endpoint, clock, should_stop=lambda: bool(receiver.messages))
    assert states(endpoint) == ["pending"]
    receiver.behave = OK
    send(endpoint, clock)
    first, second = receiver.messages
    assert (first.id, first.body) == (second.id, second.body)
    assert states(endpoint) == ["delivered"]


def test_endpoints_that_are_not_active_get_nothing(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock
) -> None:
    post(user_with())
    WebhookEndpoint.objects.update(is_active=False)
    post(user_with())
    assert not send(endpoint, clock)
    assert webhooks.endpoints_to_wake(clock.now) == []
    assert not receiver.messages
    assert states(endpoint) == ["pending"], "what was noted before waits"
    WebhookEndpoint.objects.update(is_active=True)
    assert webhooks.endpoints_to_wake(clock.now) == [endpoint.pk]
    send(endpoint, clock)
    assert states(endpoint) == ["delivered"]


def test_endpoints_are_independent_of_each_other(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock
) -> None:
    with Receiver(behave=answers(500)) as broken:
        other = endpoint_at(broken)
        user = user_with()
        post(user)
        post(user)
        send(other, clock)
        send(endpoint, clock)
        assert states(endpoint) == ["delivered", "delivered"]
        assert states(other) == ["pending", "pending"]
    assert len({message.id for message in receiver.messages}) == 2


def test_an_endpoint_may_be_deleted_while_it_is_sent_to(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keepable = results._lockable_results

    def delete_and_keep(results: Any) -> Any:
        WebhookEndpoint.objects.filter(pk=endpoint.pk).delete()
        webhooks.delete_old(clock.now)
        return keepable(results)

    post(user_with())
    receiver.behave = answers(500)
    monkeypatch.setattr(results, "_lockable_results", delete_and_keep)
    send(endpoint, clock)
    assert receiver.messages
    assert not WebhookDelivery.objects.exists()
    assert not WebhookAttempt.objects.exists()


# --- Removal of old deliveries ------------------------------------------------------------------


def test_what_is_over_for_thirty_days_is_removed_and_what_waits_is_not(
    endpoint: WebhookEndpoint,
    receiver: Receiver,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cleanup, "ROWS_AT_ONCE", 2)
    refused = user_with()
    receiver.behave = is_for(refused, answers(400))
    for _ in range(5):
        post(user_with())
    post(refused)
    send(endpoint, clock)
    clock.pass_(days=29)
    assert webhooks.delete_old(clock.now) == 0
    clock.pass_(days=1)
    row = post(user_with())
    recent = WebhookEvent.objects.filter(user=row.user_id)
    recent.update(created_at=clock.now)
    WebhookDelivery.objects.filter(event__in=recent).update(status="delivered")
    webhooks.delete_old(clock.now)
    assert states(endpoint) == ["pending", "delivered"]
    assert WebhookEvent.objects.count() == 2
    assert WebhookAttempt.objects.count() == 1


def test_what_was_for_an_endpoint_deleted_since_is_removed(
    endpoint: WebhookEndpoint, receiver: Receiver, clock: Clock
) -> None:
    post(user_with())
    send(endpoint, clock)
    post(user_with())
    other = endpoint_at(receiver, name="Other")
    post(user_with())
    endpoint.delete()
    webhooks.delete_old(clock.now)
    assert [d.endpoint_id for d in WebhookDelivery.objects.all()] == [other.pk]
    assert not WebhookAttempt.objects.exists()


# --- Locked deliveries --------------------------------------------------------------------------


def test_a_delivery_that_somebody_holds_delays_its_own_user_only(
    connections: Connections, receiver: Receiver, clock: Clock
) -> None:
    """It is not sent: its result could not be stored, and it would be sent again."""
    endpoint = endpoint_at(receiver)
    users = [user_with(), user_with()]
    for user in users:
        post(user)
        post(user)
    held, sent = threading.Event(), threading.Event()

    def work(place: int) -> None:
        if place == 0:
            with transaction.atomic():
                first = WebhookDelivery.objects.filter(user_id=users[0].pk).order_by("id")[:1]
                list(WebhookDelivery.objects.select_for_update().filter(pk__in=first.values("pk")))
                held.set()
                assert sent.wait(60)
        else:
            assert held.wait(60)
            try:
                execute("SET lock_timeout = '10s'")  # as for a worker
                assert not send(endpoint, clock)
            finally:
                sent.set()

    for outcome in connections(2, work):
        if outcome.error:
            raise outcome.error
    assert [message.user for message in receiver.messages] == [users[1].pk] * 2
    assert not send(endpoint, clock)
    assert [message.user for message in receiver.messages[2:]] == [users[0].pk] * 2
    assert states(endpoint) == ["delivered"] * 4


# --- Counters -----------------------------------------------------------------------------------


def attempts(outcome: str) -> float:
    [counted] = [m for m in counters.collect() if m.name == "billing_webhook_attempts"]
    return sum(sample.value for sample in counted.samples if sample.labels["outcome"] == outcome)


def test_attempts_are_counted_by_what_came_of_them(
    endpoint: WebhookEndpoint,
    receiver: Receiver,
    clock: Clock,
    django_capture_on_commit_callbacks: Any,
) -> None:
    delivered, failed = attempts("delivered"), attempts("failed")
    refused, others = user_with(), [user_with() for _ in range(3)]
    receiver.behave = is_for(refused, answers(400))
    for each in (refused, *others):
        post(each)
    with django_capture_on_commit_callbacks(execute=True):
        send(endpoint, clock)
    assert (attempts("delivered") - delivered, attempts("failed") - failed) == (3, 1)
