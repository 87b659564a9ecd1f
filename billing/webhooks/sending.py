"""Sends what waits for an endpoint, and keeps what came of it.

One job at a time sends to an endpoint, some users at once, one event of a user after the other.
The threads that send touch no database: the job's own thread reads what is due, and writes what
came of it as it comes in. What was sent by a worker that is killed before that is sent again.

That there is one, the job's own lock sees to. (A lock that the database keeps for as long as a job
goes on would stop an endpoint for hours if the worker's machine vanished.)

- Where an endpoint takes some events and refuses others, those that it refused wait for another
  attempt, ever longer (BACKOFF), and the later ones of the same user with them.
- Where nothing gets through, the endpoint itself is paused, ever longer, up to PAUSE_MAX, after
  which a single event tries it, of those that were tried least. With the first that gets through
  everything goes on at once, but for what had been refused before.
- Nothing gets through if there is no answer, or one that says so (OUT_OF_REACH), or if events of
  two users were refused, whatever the answer, and none was delivered since the first of them. An
  event is one of these until something is delivered: refused once more, it is so for itself.
- What is older than GIVE_UP_AFTER and is refused once more is given up; where nothing gets through,
  when that has gone on for so long.
- An endpoint with another address or secret, or switched off or on, starts anew, as if it had never
  failed.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter
from queue import Empty, SimpleQueue
from typing import Final

from django.db import connection, transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Subquery
from django.utils import timezone

from billing import counters
from billing.models import (
    Transaction,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
)
from billing.webhooks import messages
from billing.webhooks.network import OUT_OF_REACH, EndpointConnection, Reply

Clock = Callable[[], datetime]

PENDING, DELIVERED, FAILED = WebhookDelivery.Status

BACKOFF: Final = (
    timedelta(seconds=15),
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=15),
    timedelta(minutes=30),
    timedelta(hours=1),
    timedelta(hours=2),
    timedelta(hours=4),
    timedelta(hours=8),  # and so on
)
GIVE_UP_AFTER: Final = timedelta(days=3)
PAUSE_MIN: Final = timedelta(seconds=15)
PAUSE_MAX: Final = timedelta(minutes=5)
# As many attempts as there are pauses in that time.
TRIED_FOR_LONG: Final = GIVE_UP_AFTER // PAUSE_MAX
KEPT_FOR: Final = timedelta(days=30)

# A job begins no attempt after this; it leaves the worker to other jobs, and queues itself again.
WORK_SECONDS: Final = 15.0
THREADS: Final = 8
USERS_AT_ONCE: Final = 64
EVENTS_PER_USER_AT_ONCE: Final = 20
POLL_SECONDS: Final = 0.1
# Told to end, a job waits so long for answers that are on their way.
LAST_ANSWERS_SECONDS: Final = 0.5
ROWS_AT_ONCE: Final = 1_000
AGAIN_AT_ONCE: Final = 10_000


@dataclass(frozen=True)
class AttemptResult:
    """One attempt to deliver, and what came of it."""

    delivery: WebhookDelivery
    answer: Reply


# --- What the job does --------------------------------------------------------------------------


def send_due(endpoint_id: int, *, should_stop: Callable[[], bool], clock: Clock) -> bool:
    """Sends what is due to an endpoint, for some seconds. True: there is more to be done now."""
    end = time.monotonic() + WORK_SECONDS
    after = _somewhere(endpoint_id, clock())
    while True:
        endpoint = _ready(endpoint_id, clock())
        if endpoint is None:
            return False
        if should_stop() or time.monotonic() > end:
            return True
        is_trial = endpoint.failures > 0
        due = _due(endpoint, clock(), after)
        if not due and not after:
            return False
        # The next users, round and round: nobody's many events keep others waiting.
        users = {delivery.user_id for delivery in due}
        after = max(users) if len(users) == USERS_AT_ONCE and not is_trial else 0
        if is_trial:
            due = [min(_heads(due), key=attrgetter("attempt_count", "pk"))]
        if free := _not_held(due):
            _send(endpoint, free, should_stop=should_stop, end=end, clock=clock)
        elif due and not after:
            return False  # what is held is looked for again in some seconds


def _somewhere(endpoint_id: int, now: datetime) -> int:
    """A user to begin after, where more wait than are sent to at once. Always with the first, a job
    that never gets to the last ones would leave them waiting while the first have something new.
    """
    endpoint = _ready(endpoint_id, now)
    if endpoint is None or len(_due(endpoint, now, each=1)) < USERS_AT_ONCE:
        return 0
    waiting = WebhookDelivery.objects.filter(endpoint=endpoint_id, status=PENDING)
    last = waiting.order_by("-user_id").values_list("user_id", flat=True).first()
    return random.randrange(last or 1)  # noqa: S311 - no secret


def wake(endpoint_id: int) -> None:
    """Queues the job that sends to an endpoint, unless it waits already."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT billing_wake_webhooks(%s)", [endpoint_id])


def endpoints_to_wake(now: datetime) -> list[int]:
    """Those for which something is due."""
    return [delivery.endpoint_id for delivery in next_due(now, users=1)]


def next_due(now: datetime, *, users: int) -> list[WebhookDelivery]:
    """What is to be sent next, of some users of each endpoint."""
    return [
        delivery
        for endpoint in WebhookEndpoint.objects.filter(_is_ready(now), is_active=True)
        for delivery in _due(endpoint, now, users=users, each=1)
    ]


def _is_ready(now: datetime) -> Q:
    return Q(paused_until=None) | Q(paused_until__lte=now)


def _ready(endpoint_id: int, now: datetime) -> WebhookEndpoint | None:
    return WebhookEndpoint.objects.filter(_is_ready(now), pk=endpoint_id, is_active=True).first()


# From one user to the next by the index: however much waits for a user, it costs one look.
_DUE: Final = """
WITH RECURSIVE head AS (
    (
        SELECT user_id, next_attempt_at FROM billing_webhookdelivery
        WHERE endpoint_id = %(endpoint)s AND status = 'pending' AND user_id > %(after)s
        ORDER BY user_id, id LIMIT 1
    )
    UNION ALL
    SELECT following.* FROM head CROSS JOIN LATERAL (
        SELECT d.user_id, d.next_attempt_at FROM billing_webhookdelivery d
        WHERE d.endpoint_id = %(endpoint)s AND d.status = 'pending' AND d.user_id > head.user_id
        ORDER BY d.user_id, d.id LIMIT 1
    ) following
), due AS (
    SELECT user_id FROM head
    WHERE next_attempt_at IS NULL OR next_attempt_at <= %(now)s
    LIMIT %(users)s
)
SELECT waiting.* FROM due CROSS JOIN LATERAL (
    SELECT d.* FROM billing_webhookdelivery d
    WHERE d.endpoint_id = %(endpoint)s AND d.status = 'pending' AND d.user_id = due.user_id
    ORDER BY d.id LIMIT %(each)s
) waiting
ORDER BY waiting.user_id, waiting.id
"""


def _due(
    endpoint: WebhookEndpoint,
    now: datetime,
    after: int = 0,
    *,
    users: int = USERS_AT_ONCE,
    each: int = EVENTS_PER_USER_AT_ONCE,
) -> list[WebhookDelivery]:
    """What may be sent now, of some users after that one, in the order in which it has to be."""
    given = {
        "endpoint": endpoint.pk,
        "now": now,
        "after": after,
        "users": users,
        "each": each,
    }
    return list(WebhookDelivery.objects.raw(_DUE, given))


def _not_held(deliveries: Sequence[WebhookDelivery]) -> list[WebhookDelivery]:
    """Those of users whose first one nobody else holds: of others, nobody could keep what comes of
    it, and it would be sent again and again.
    """
    heads = [delivery.pk for delivery in _heads(deliveries)]
    with transaction.atomic():
        free = _lockable(heads)
        users = {delivery.user_id for delivery in deliveries if delivery.pk in free}
    return [delivery for delivery in deliveries if delivery.user_id in users]


def _lockable(ids: Sequence[int]) -> set[int]:
    """Locks deliveries that are still there and that nobody else holds."""
    rows = WebhookDelivery.objects.filter(pk__in=ids)
    locked = rows.select_for_update(of=("self",), no_key=True, skip_locked=True)
    return set(locked.values_list("pk", flat=True))


def _by_user(deliveries: Iterable[WebhookDelivery]) -> list[list[WebhookDelivery]]:
    return [list(of_user) for _, of_user in groupby(deliveries, attrgetter("user_id"))]


def _heads(deliveries: Iterable[WebhookDelivery]) -> list[WebhookDelivery]:
    return [of_user[0] for of_user in _by_user(deliveries)]


def _with_events(deliveries: Sequence[WebhookDelivery]) -> dict[int, bytes]:
    """The bodies, by delivery."""
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


# --- Sending ------------------------------------------------------------------------------------


def _send(
    endpoint: WebhookEndpoint,
    due: Sequence[WebhookDelivery],
    *,
    should_stop: Callable[[], bool],
    end: float,
    clock: Clock,
) -> None:
    """Sends these, and keeps what comes of it."""
    bodies = _with_events(due)
    sending = _Sending(endpoint, bodies, clock, end)
    failed: list[AttemptResult] = []
    sending.start(_by_user(due))
    try:
        for results in sending.results(should_stop):
            delivered = [each for each in results if each.answer.is_delivered]
            failed += [each for each in results if not each.answer.is_delivered]
            if delivered:
                _keep_delivered(endpoint, delivered)
    finally:
        sending.is_stopped = True
    if failed:
        _keep_failed(endpoint, failed, got_through=sending.delivered_count > 0, now=clock())


@dataclass
class _Sending:
    """Threads that send one user's deliveries after the other, each on a connection of its own."""

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
            # Daemons: a worker that is told to end waits for no receiver.
            threading.Thread(target=self._work, daemon=True).start()

    def results(self, should_stop: Callable[[], bool]) -> Iterator[list[AttemptResult]]:
        """What came of the attempts, as it comes in, until all threads have ended."""
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
            # Behind one that was put back to be sent again, another may have to wait still.
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
        """Not after so many failures at once either: a receiver that hangs costs this once."""
        nothing_works = len(self.failed) >= self.threads and not self.delivered_count
        return not (self.is_stopped or nothing_works or time.monotonic() > self.end)


def attempt(
    line: EndpointConnection, secret: str, identity: str, body: bytes, clock: Clock
) -> Reply:
    return line.post(body, lambda at: messages.headers(secret, identity, at, body), clock)


def send_test(endpoint: WebhookEndpoint, *, clock: Clock = timezone.now) -> Reply:
    """Sends a message that tells of nothing, at once and once, whether or not it is active."""
    at = clock()
    identity = f"test_{endpoint.pk}_{int(at.timestamp() * 1000)}"
    with EndpointConnection(endpoint.url) as line:
        return attempt(line, endpoint.secret, identity, messages.test_body(identity, at), clock)


# --- What came of it ----------------------------------------------------------------------------


def _keep_delivered(endpoint: WebhookEndpoint, results: Sequence[AttemptResult]) -> None:
    with transaction.atomic():
        kept = _keepable(results)
        WebhookDelivery.objects.filter(pk__in=[result.delivery.pk for result in kept]).update(
            status=DELIVERED,
            attempt_count=F("attempt_count") + 1,
            next_attempt_at=None,
            finished_at=max(result.answer.at for result in results),
        )
        _keep_attempts(kept)
        if endpoint.failing_since:
            _note_recovery(endpoint)


def _note_recovery(endpoint: WebhookEndpoint) -> None:
    """Whatever waited for the endpoint need not wait any more. What it refused does."""
    was_paused = endpoint.failures > 0
    _set_failing(endpoint, 0, None, None)
    if not was_paused:
        return
    latest = WebhookAttempt.objects.filter(delivery=OuterRef("pk")).order_by("-pk")
    put_off = _waiting(endpoint).filter(next_attempt_at__isnull=False)
    put_off = put_off.annotate(answered=Subquery(latest.values("status_code")[:1]))
    _begin_again(put_off.filter(Q(answered=None) | Q(answered__in=OUT_OF_REACH)))


def _waiting(endpoint: WebhookEndpoint) -> "QuerySet[WebhookDelivery]":
    return WebhookDelivery.objects.filter(endpoint=endpoint, status=PENDING)


def _begin_again(deliveries: "QuerySet[WebhookDelivery]") -> None:
    deliveries.update(next_attempt_at=None, refusal_count=0)


def _keep_failed(
    endpoint: WebhookEndpoint, results: Sequence[AttemptResult], *, got_through: bool, now: datetime
) -> None:
    is_down = not got_through and _is_out_of_order(endpoint, results)
    is_known = True
    with transaction.atomic():
        changed = []
        kept = _keepable(results)
        for result in kept:
            delivery = result.delivery
            delivery.attempt_count += 1
            is_old = delivery.event.created_at <= now - GIVE_UP_AFTER
            # It may have grown old while nothing could be sent. Where the endpoint is to blame, how
            # long that has been is what counts (see below).
            is_refused = not (is_down or result.answer.is_out_of_reach)
            if is_old and (is_refused or _was_tried_for_long(delivery)):
                delivery.status, delivery.finished_at = FAILED, now
                delivery.next_attempt_at = None
            elif not is_down:
                wait = BACKOFF[min(delivery.refusal_count, len(BACKOFF) - 1)]
                delivery.refusal_count += 1
                delivery.next_attempt_at = now + wait
            elif not result.answer.is_out_of_reach:
                # If that happens again once the endpoint is back, it is for itself.
                delivery.refusal_count = max(delivery.refusal_count, 1)
            changed.append(delivery)
        WebhookDelivery.objects.bulk_update(
            changed,
            ["status", "attempt_count", "refusal_count", "next_attempt_at", "finished_at"],
        )
        _keep_attempts(kept)
        if is_down:
            if not endpoint.failures:
                _in_doubt(endpoint).update(next_attempt_at=None, refusal_count=1)
            is_known = _pause(endpoint, now)
        elif not got_through and endpoint.failing_since is None:
            first = min(result.answer.at for result in results)
            _set_failing(endpoint, 0, None, first)
    if not (is_down and is_known):
        return
    if endpoint.failing_since and endpoint.failing_since <= now - GIVE_UP_AFTER:
        _give_up_what_is_old(endpoint, now)


def _is_out_of_order(endpoint: WebhookEndpoint, results: Sequence[AttemptResult]) -> bool:
    """Whether the endpoint is to blame for these, where nothing else got through."""
    if endpoint.failures or any(result.answer.is_out_of_reach for result in results):
        return True
    refused_first = {r.delivery.user_id for r in results if not r.delivery.refusal_count}
    return len(refused_first.union(_in_doubt(endpoint).values_list("user_id", flat=True))) > 1


def _in_doubt(endpoint: WebhookEndpoint) -> "QuerySet[WebhookDelivery]":
    """What was refused, and never before the time since which nothing has been delivered: nobody
    can tell whether that is for itself.
    """
    if endpoint.failing_since is None:
        return WebhookDelivery.objects.none()
    earlier = WebhookAttempt.objects.filter(delivery=OuterRef("pk"), at__lt=endpoint.failing_since)
    return _waiting(endpoint).filter(~Exists(earlier), refusal_count__gt=0)


def _was_tried_for_long(delivery: WebhookDelivery) -> bool:
    """Of an event at which the receiver itself breaks down, while it takes others now and then."""
    return delivery.attempt_count >= TRIED_FOR_LONG or delivery.refusal_count >= len(BACKOFF)


def _keepable(results: Sequence[AttemptResult]) -> Sequence[AttemptResult]:
    """Those of deliveries that are still there, and that nobody else holds just now."""
    locked = _lockable([result.delivery.pk for result in results])
    return [result for result in results if result.delivery.pk in locked]


def _keep_attempts(results: Sequence[AttemptResult]) -> None:
    WebhookAttempt.objects.bulk_create(
        WebhookAttempt(
            delivery_id=result.delivery.pk,
            at=result.answer.at,
            milliseconds=result.answer.milliseconds,
            status_code=result.answer.status_code,
            problem=result.answer.problem,
            answer=result.answer.beginning,
        )
        for result in results
    )
    delivered = sum(result.answer.is_delivered for result in results)
    counters.webhook_attempts(delivered=delivered, failed=len(results) - delivered)


def _pause(endpoint: WebhookEndpoint, now: datetime) -> bool:
    pause = min(PAUSE_MIN * 2 ** min(endpoint.failures, 10), PAUSE_MAX)
    # Where one user's events alone were refused, the endpoint was not failing yet.
    since = endpoint.failing_since if endpoint.failures else now
    return _set_failing(endpoint, endpoint.failures + 1, now + pause, since)


def _set_failing(
    endpoint: WebhookEndpoint, failures: int, until: datetime | None, since: datetime | None
) -> bool:
    """Answers whether it still is the endpoint that was sent to, and has not started anew since."""
    known = WebhookEndpoint.objects.filter(
        pk=endpoint.pk, url=endpoint.url, failing_since=endpoint.failing_since
    )
    if not known.update(failures=failures, paused_until=until, failing_since=since):
        return False
    endpoint.failures, endpoint.paused_until, endpoint.failing_since = failures, until, since
    return True


def _give_up_what_is_old(endpoint: WebhookEndpoint, now: datetime) -> None:
    """Of an endpoint that was out of reach all the time. Without attempts of their own."""
    while True:
        old = WebhookDelivery.objects.filter(
            endpoint=endpoint, status=PENDING, event__created_at__lte=now - GIVE_UP_AFTER
        )
        some = old.values_list("pk", flat=True)[:ROWS_AT_ONCE]
        if not WebhookDelivery.objects.filter(pk__in=list(some)).update(
            status=FAILED, finished_at=now, next_attempt_at=None
        ):
            return


# --- What operators do --------------------------------------------------------------------------


def start_anew(endpoint: WebhookEndpoint) -> None:
    """After it got another address or secret, or was switched off or on: how it did before says
    nothing.
    """
    with transaction.atomic():
        same = WebhookEndpoint.objects.filter(pk=endpoint.pk)
        same.update(failures=0, paused_until=None, failing_since=None)
        _begin_again(_waiting(endpoint).filter(refusal_count__gt=0))


def send_again(delivery: WebhookDelivery) -> None:
    """Puts back what was delivered or given up; of its user, it is sent before what still waits.

    One that still waits is tried at once.
    """
    with transaction.atomic():
        WebhookDelivery.objects.filter(pk=delivery.pk).update(
            status=PENDING, next_attempt_at=None, finished_at=None
        )
        wake(delivery.endpoint_id)
    delivery.refresh_from_db()


def send_given_up_again(endpoint: WebhookEndpoint) -> int:
    """Puts back what was given up for an endpoint, the oldest first; answers how much: at most
    AGAIN_AT_ONCE, so that nobody waits long.
    """
    with transaction.atomic():
        given_up = WebhookDelivery.objects.filter(endpoint=endpoint, status=FAILED)
        oldest = list(given_up.order_by("pk").values_list("pk", flat=True)[:AGAIN_AT_ONCE])
        count = WebhookDelivery.objects.filter(pk__in=oldest, status=FAILED).update(
            status=PENDING, next_attempt_at=None, finished_at=None
        )
        wake(endpoint.pk)
    return count


# --- What is long over --------------------------------------------------------------------------


def delete_old(now: datetime, *, should_stop: Callable[[], bool] = lambda: False) -> int:
    """Removes events of long ago that wait for nobody, and what was for endpoints deleted since.

    Some at a time, each time committed. Answers how many there were.
    """
    deleted = 0
    while not should_stop() and (some := _delete_some(now)):
        deleted += some
    return deleted


def _delete_some(now: datetime) -> int:
    with transaction.atomic():
        return _delete_orphans() or _delete_old_events(now)


_ENDPOINTS_DELETED: Final = """
WITH RECURSIVE named AS (
    (SELECT endpoint_id FROM billing_webhookdelivery ORDER BY endpoint_id LIMIT 1)
    UNION ALL
    SELECT (
        SELECT d.endpoint_id FROM billing_webhookdelivery d
        WHERE d.endpoint_id > named.endpoint_id ORDER BY d.endpoint_id LIMIT 1
    ) FROM named WHERE named.endpoint_id IS NOT NULL
)
SELECT endpoint_id FROM named WHERE endpoint_id IS NOT NULL
    AND NOT EXISTS (SELECT FROM billing_webhookendpoint e WHERE e.id = named.endpoint_id)
"""


def _delete_orphans() -> int:
    with connection.cursor() as cursor:
        cursor.execute(_ENDPOINTS_DELETED)
        deleted = [endpoint_id for (endpoint_id,) in cursor.fetchall()]
    nobodys = WebhookDelivery.objects.filter(endpoint_id__in=deleted)
    return _delete_deliveries(nobodys.order_by("endpoint_id", "pk")[:ROWS_AT_ONCE])


def _delete_old_events(now: datetime) -> int:
    still_waits = WebhookDelivery.objects.filter(event=OuterRef("pk"), status=PENDING)
    old = WebhookEvent.objects.filter(~Exists(still_waits), created_at__lte=now - KEPT_FOR)
    events = list(old.order_by("created_at").values_list("pk", flat=True)[:ROWS_AT_ONCE])
    # Once more, because somebody may put one back to be sent again at this very moment.
    _delete_deliveries(WebhookDelivery.objects.filter(event__in=events).exclude(status=PENDING))
    told = WebhookDelivery.objects.filter(event=OuterRef("pk"))
    count, _ = WebhookEvent.objects.filter(~Exists(told), pk__in=events).delete()
    return count


def _delete_deliveries(deliveries: "QuerySet[WebhookDelivery]") -> int:
    """These with their attempts, but for those that somebody else changes just now."""
    locked = deliveries.select_for_update(skip_locked=True, of=("self",))
    some = list(locked.values_list("pk", flat=True))
    WebhookDelivery.objects.filter(pk__in=some).delete()
    return len(some)
