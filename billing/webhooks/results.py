"""Stores the results of attempts, and decides about retries, pauses and giving up.

- If an endpoint accepts some events and refuses others, a refused event is retried after longer
  and longer waits (BACKOFF). Later events of the same user wait behind it.
- If nothing gets through, the endpoint is paused, each time longer, up to PAUSE_MAX. After a pause
  one event is tried, the one with the fewest attempts. When an event gets through, all others are
  sent at once, except those that the endpoint had refused.
- "Nothing gets through" means: there is no answer, or one that means "not now" (OUT_OF_REACH), or
  the endpoint refused events of two different users and accepted none since the first refusal.
  While nothing gets through, refusals are blamed on the endpoint. An event that is refused again
  after something was delivered is blamed itself.
- An event older than GIVE_UP_AFTER is given up at its next refusal. If nothing gets through, it is
  given up once that has lasted for GIVE_UP_AFTER, or after many attempts (TRIED_FOR_LONG).
- An endpoint that gets another address or secret, or is switched off or on, starts over as if it
  had never failed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Subquery

from billing import counters
from billing.models import WebhookAttempt, WebhookDelivery, WebhookEndpoint
from billing.webhooks.deliveries import (
    DELIVERED,
    FAILED,
    PENDING,
    begin_again,
    lock_deliveries,
    waiting_for,
)
from billing.webhooks.network import OUT_OF_REACH, Reply

BACKOFF: Final = (
    timedelta(seconds=15),
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=15),
    timedelta(minutes=30),
    timedelta(hours=1),
    timedelta(hours=2),
    timedelta(hours=4),
    timedelta(hours=8),  # and every later one
)
GIVE_UP_AFTER: Final = timedelta(days=3)
PAUSE_MIN: Final = timedelta(seconds=15)
PAUSE_MAX: Final = timedelta(minutes=5)
# The number of attempts that a paused endpoint gets within GIVE_UP_AFTER.
TRIED_FOR_LONG: Final = GIVE_UP_AFTER // PAUSE_MAX
ROWS_AT_ONCE: Final = 1_000


@dataclass(frozen=True)
class AttemptResult:
    """One attempt to deliver, and its result."""

    delivery: WebhookDelivery
    answer: Reply


def keep_delivered(endpoint: WebhookEndpoint, results: Sequence[AttemptResult]) -> None:
    with transaction.atomic():
        kept = _lockable_results(results)
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
    """Ends the pause of an endpoint. What it did not answer is due now; what it refused waits."""
    was_paused = endpoint.failures > 0
    _set_failing(endpoint, 0, None, None)
    if not was_paused:
        return
    latest = WebhookAttempt.objects.filter(delivery=OuterRef("pk")).order_by("-pk")
    put_off = waiting_for(endpoint).filter(next_attempt_at__isnull=False)
    put_off = put_off.annotate(answered=Subquery(latest.values("status_code")[:1]))
    begin_again(put_off.filter(Q(answered=None) | Q(answered__in=OUT_OF_REACH)))


def keep_failed(
    endpoint: WebhookEndpoint, results: Sequence[AttemptResult], *, got_through: bool, now: datetime
) -> None:
    is_down = not got_through and _is_out_of_order(endpoint, results)
    is_known = True
    with transaction.atomic():
        changed = []
        kept = _lockable_results(results)
        for result in kept:
            delivery = result.delivery
            delivery.attempt_count += 1
            is_old = delivery.event.created_at <= now - GIVE_UP_AFTER
            # It may have become old while nothing could be sent. If the endpoint is to blame, the
            # length of its failure counts instead (see below).
            is_refused = not (is_down or result.answer.is_out_of_reach)
            if is_old and (is_refused or _was_tried_for_long(delivery)):
                delivery.status, delivery.finished_at = FAILED, now
                delivery.next_attempt_at = None
            elif not is_down:
                wait = BACKOFF[min(delivery.refusal_count, len(BACKOFF) - 1)]
                delivery.refusal_count += 1
                delivery.next_attempt_at = now + wait
            elif not result.answer.is_out_of_reach:
                # A refusal after the endpoint has recovered is blamed on the event.
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
    """Returns whether the endpoint is to blame for these failures; nothing else got through."""
    if endpoint.failures or any(result.answer.is_out_of_reach for result in results):
        return True
    refused_first = {r.delivery.user_id for r in results if not r.delivery.refusal_count}
    return len(refused_first.union(_in_doubt(endpoint).values_list("user_id", flat=True))) > 1


def _in_doubt(endpoint: WebhookEndpoint) -> "QuerySet[WebhookDelivery]":
    """Returns deliveries that were refused only since the endpoint began to fail.

    Such a refusal can be the endpoint's fault or the event's.
    """
    if endpoint.failing_since is None:
        return WebhookDelivery.objects.none()
    earlier = WebhookAttempt.objects.filter(delivery=OuterRef("pk"), at__lt=endpoint.failing_since)
    return waiting_for(endpoint).filter(~Exists(earlier), refusal_count__gt=0)


def _was_tried_for_long(delivery: WebhookDelivery) -> bool:
    """True if the event was attempted or refused so often that it may break the receiver itself."""
    return delivery.attempt_count >= TRIED_FOR_LONG or delivery.refusal_count >= len(BACKOFF)


def _lockable_results(results: Sequence[AttemptResult]) -> Sequence[AttemptResult]:
    """Locks deliveries, and returns the results of those that could be locked."""
    locked = lock_deliveries([result.delivery.pk for result in results])
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
    # While only one user's events were refused, the endpoint did not count as failing.
    since = endpoint.failing_since if endpoint.failures else now
    return _set_failing(endpoint, endpoint.failures + 1, now + pause, since)


def _set_failing(
    endpoint: WebhookEndpoint, failures: int, until: datetime | None, since: datetime | None
) -> bool:
    """Stores how the endpoint is failing.

    Returns False, and stores nothing, if it got another address or started over meanwhile.
    """
    known = WebhookEndpoint.objects.filter(
        pk=endpoint.pk, url=endpoint.url, failing_since=endpoint.failing_since
    )
    if not known.update(failures=failures, paused_until=until, failing_since=since):
        return False
    endpoint.failures, endpoint.paused_until, endpoint.failing_since = failures, until, since
    return True


def _give_up_what_is_old(endpoint: WebhookEndpoint, now: datetime) -> None:
    """Gives up the old deliveries of an endpoint that was out of reach, without another attempt."""
    while True:
        old = WebhookDelivery.objects.filter(
            endpoint=endpoint, status=PENDING, event__created_at__lte=now - GIVE_UP_AFTER
        )
        some = old.values_list("pk", flat=True)[:ROWS_AT_ONCE]
        if not WebhookDelivery.objects.filter(pk__in=list(some)).update(
            status=FAILED, finished_at=now, next_attempt_at=None
        ):
            return
