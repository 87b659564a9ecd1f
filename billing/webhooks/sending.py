"""Sends the deliveries of an endpoint, and stores the results.

One job at a time sends to an endpoint: to several users at once, and to each user one event after
the other. The sending threads do not touch the database. The job's own thread reads what is due
and stores results as they come in. If a worker is killed before it stores a result, the event is
sent again.

procrastinate's lock on the job makes sure that there is only one. A database lock held while a job
runs would block an endpoint for hours if the worker's machine disappeared.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from queue import Empty, SimpleQueue
from typing import Final

from django.utils import timezone

from billing.models import Transaction, WebhookDelivery, WebhookEndpoint, WebhookEvent
from billing.webhooks import messages
from billing.webhooks.deliveries import (
    PENDING,
    USERS_AT_ONCE,
    by_user,
    due_deliveries,
    first_of_each_user,
    not_held,
    ready_endpoint,
)
from billing.webhooks.network import EndpointConnection, Reply
from billing.webhooks.results import AttemptResult, keep_delivered, keep_failed

Clock = Callable[[], datetime]

# A job starts no attempt after this time: it queues itself again and frees the worker.
WORK_SECONDS: Final = 15.0
THREADS: Final = 8
POLL_SECONDS: Final = 0.1
# How long a job that has to end waits for answers to what it has sent.
LAST_ANSWERS_SECONDS: Final = 0.5


def send_due(endpoint_id: int, *, should_stop: Callable[[], bool], clock: Clock) -> bool:
    """Sends what is due to an endpoint, for WORK_SECONDS. Returns True if more is due now."""
    end = time.monotonic() + WORK_SECONDS
    after = _somewhere(endpoint_id, clock())
    while True:
        endpoint = ready_endpoint(endpoint_id, clock())
        if endpoint is None:
            return False
        if should_stop() or time.monotonic() > end:
            return True
        is_trial = endpoint.failures > 0
        due = due_deliveries(endpoint, clock(), after)
        if not due and not after:
            return False
        # Users take turns, so that one user's many events do not delay those of others.
        users = {delivery.user_id for delivery in due}
        after = max(users) if len(users) == USERS_AT_ONCE and not is_trial else 0
        if is_trial:
            due = [min(first_of_each_user(due), key=attrgetter("attempt_count", "pk"))]
        if free := not_held(due):
            _send(endpoint, free, should_stop=should_stop, end=end, clock=clock)
        elif due and not after:
            return False  # the sweep looks again in some seconds


def _somewhere(endpoint_id: int, now: datetime) -> int:
    """Returns a random user ID to start after, if more users wait than fit in one round; else 0.

    If every job started with the first user, the last ones could wait as long as the first ones
    have new events.
    """
    endpoint = ready_endpoint(endpoint_id, now)
    if endpoint is None or len(due_deliveries(endpoint, now, each=1)) < USERS_AT_ONCE:
        return 0
    waiting = WebhookDelivery.objects.filter(endpoint=endpoint_id, status=PENDING)
    last = waiting.order_by("-user_id").values_list("user_id", flat=True).first()
    return random.randrange(last or 1)  # noqa: S311 - no secret


def _with_events(deliveries: Sequence[WebhookDelivery]) -> dict[int, bytes]:
    """Sets `event` on each delivery. Returns the bodies to send, by delivery ID."""
    events = WebhookEvent.objects.in_bulk([delivery.event_id for delivery in deliveries])
    named = [(e.user_id, e.number) for e in events.values() if e.number is not None]
    transactions = {
        (row.user_id, row.number): row
        for row in Transaction.objects.raw(
            "SELECT t.* FROM unnest(%s::bigint[], %s::bigint[]) named (user_id, number) "
            "JOIN billing_transaction t USING (user_id, number)",
            [[user_id for user_id, _ in named], [number for _, number in named]],
        )
    }
    bodies = {}
    for delivery in deliveries:
        delivery.event = event = events[delivery.event_id]
        row = transactions.get((event.user_id, event.number or 0))
        bodies[delivery.pk] = messages.body_of(event, row)
    return bodies


def _send(
    endpoint: WebhookEndpoint,
    due: Sequence[WebhookDelivery],
    *,
    should_stop: Callable[[], bool],
    end: float,
    clock: Clock,
) -> None:
    """Sends these deliveries, and stores the results."""
    bodies = _with_events(due)
    sending = _Sending(endpoint, bodies, clock, end)
    failed: list[AttemptResult] = []
    sending.start(by_user(due))
    try:
        for results in sending.results(should_stop):
            delivered = [each for each in results if each.answer.is_delivered]
            failed += [each for each in results if not each.answer.is_delivered]
            if delivered:
                keep_delivered(endpoint, delivered)
    finally:
        sending.is_stopped = True
    if failed:
        keep_failed(endpoint, failed, got_through=sending.delivered_count > 0, now=clock())


@dataclass
class _Sending:
    """Threads that send, each on its own connection; one user's deliveries by one thread, in order.

    Threads take users from `users`, and put results into `done`: None when a thread has ended.
    """

    endpoint: WebhookEndpoint
    bodies: dict[int, bytes]
    clock: Clock
    end: float
    is_stopped: bool = False
    delivered_count: int = 0
    failed: list[WebhookDelivery] = field(default_factory=list)
    done: "SimpleQueue[AttemptResult | None]" = field(default_factory=SimpleQueue)
    users: "SimpleQueue[list[WebhookDelivery]]" = field(default_factory=SimpleQueue)
    threads: int = 0

    def start(self, users: Sequence[list[WebhookDelivery]]) -> None:
        for of_user in users:
            self.users.put(of_user)
        self.threads = min(THREADS, len(users))
        for _ in range(self.threads):
            # Daemon threads: a worker that has to end does not wait for receivers.
            threading.Thread(target=self._work, daemon=True).start()

    def results(self, should_stop: Callable[[], bool]) -> Iterator[list[AttemptResult]]:
        """Yields results as they come in, until all threads have ended."""
        running = self.threads
        give_up_at = None
        while running:
            if give_up_at is None and should_stop():
                self.is_stopped = True
                give_up_at = time.monotonic() + LAST_ANSWERS_SECONDS
            if give_up_at is not None and time.monotonic() > give_up_at:
                return
            try:
                came_in = [self.done.get(timeout=POLL_SECONDS)]
                while not self.done.empty():
                    came_in.append(self.done.get())
            except Empty:
                continue
            running -= came_in.count(None)
            results = [result for result in came_in if result is not None]
            self.delivered_count += sum(result.answer.is_delivered for result in results)
            if results:
                yield results

    def _work(self) -> None:
        try:
            with EndpointConnection(self.endpoint.url) as line:
                while self._goes_on():
                    self._send_in_order(line, self.users.get_nowait())
        except Empty:
            pass
        finally:
            self.done.put(None)

    def _send_in_order(
        self, line: EndpointConnection, deliveries: Sequence[WebhookDelivery]
    ) -> None:
        for delivery in deliveries:
            # An operator may have put an old delivery in front of one that still has to wait.
            has_to_wait = delivery.next_attempt_at and delivery.next_attempt_at > self.clock()
            if has_to_wait or not self._goes_on():
                return
            answer = attempt(
                line,
                self.endpoint.secret,
                messages.message_id(delivery.event_id),
                self.bodies[delivery.pk],
                self.clock,
            )
            self.done.put(AttemptResult(delivery, answer))
            if not answer.is_delivered:
                self.failed.append(delivery)
                return

    def _goes_on(self) -> bool:
        """Returns False after the end of the job, or if each thread failed and nothing got through.

        So a receiver that hangs costs one timeout per thread, not one per event.
        """
        nothing_works = len(self.failed) >= self.threads and not self.delivered_count
        return not (self.is_stopped or nothing_works or time.monotonic() > self.end)


def attempt(
    line: EndpointConnection, secret: str, identity: str, body: bytes, clock: Clock
) -> Reply:
    return line.post(body, lambda at: messages.headers(secret, identity, at, body), clock)


def send_test(endpoint: WebhookEndpoint, *, clock: Clock = timezone.now) -> Reply:
    """Sends a test message once, even if the endpoint is not active. Returns the answer."""
    at = clock()
    identity = f"test_{endpoint.pk}_{int(at.timestamp() * 1000)}"
    with EndpointConnection(endpoint.url) as line:
        return attempt(line, endpoint.secret, identity, messages.test_body(identity, at), clock)
