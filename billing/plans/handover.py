"""Hands the subscriptions of a duplicate over to the user who is kept.

Each ends on the day of the merge, and what was paid for that day and later is paid back. The user
who is kept then continues it: the same plan, the same next charge, and exactly what was paid back
is charged for the same days. So nothing is paid twice, and what is paid back later is paid back to
the user who has the subscription.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

from billing import ledger
from billing.models import ActiveDay, Channel, Subscription, Transaction
from billing.money import ZERO
from billing.plans import subscriptions
from billing.plans.due import ACTIVE
from billing.plans.forecast import PaidAhead, paid_ahead
from billing.plans.posting import continued_entry
from users.models import User


@dataclass
class HandedOver:
    """A subscription as it was before it ended, and what became of it.

    `posted` are the transactions at both users. `continued` is None if the other user has a
    subscription of the same device already, or if the duplicate was deactivated before.
    """

    before: Subscription
    rests: Sequence[PaidAhead]
    posted: list[Transaction]
    goes_on: bool
    continued: Subscription | None = None
    active_days: Sequence[ActiveDay] = field(default_factory=list)


def end_all(
    user: User, kept: User, *, day: date, actor: User | None, channel: Channel
) -> list[HandedOver]:
    """Ends all subscriptions of `user`, and pays back what was paid for `day` and later.

    First charges both users what the runs up to `day` charge. Both balances are locked.
    """
    for each in sorted((user, kept), key=lambda each: each.pk):
        subscriptions.charge_due_of(each.pk, day)
    live = Subscription.objects.live().select_related("plan")
    taken = set(live.filter(user=kept).values_list("device", flat=True))
    ended = []
    for subscription in live.filter(user=user).order_by("pk"):
        rests = paid_ahead(subscription, day)
        changed = subscriptions.cancel(
            subscription, day=day, pay_back=True, actor=actor, channel=channel
        )
        ended.append(
            HandedOver(
                before=subscription,
                rests=rests,
                posted=list(changed.posted),
                goes_on=user.is_active and subscription.device not in taken,
                active_days=list(
                    ActiveDay.objects.filter(
                        subscription=subscription, day__gte=day, is_charged=True
                    )
                ),
            )
        )
    return ended


def go_on(
    handed_over: Sequence[HandedOver],
    kept: User,
    *,
    day: date,
    actor: User | None,
    channel: Channel,
) -> None:
    """Continues subscriptions that ended elsewhere, with the money that was paid back there.

    A suspended one stays suspended until the next attempt to charge it.
    """
    for each in handed_over:
        if each.goes_on:
            each.continued = _continued(each, kept, day)
            each.posted += _charge_again(each, each.continued, day, actor=actor, channel=channel)


def _continued(handed_over: HandedOver, kept: User, day: date) -> Subscription:
    before = handed_over.before
    plan_since, due_on = before.plan_since, before.due_on
    if before.is_by_active_day:
        # Earlier days were charged to the duplicate, or never will be.
        plan_since = max(plan_since, day)
        due_on = None if before.status == ACTIVE else due_on
    continued = Subscription.objects.create(
        user=kept,
        plan=before.plan,
        device=before.device,
        status=before.status,
        started_on=before.started_on,
        plan_since=plan_since,
        status_since=before.status_since,
        suspension_reason=before.suspension_reason,
        suspended_at=before.suspended_at,
        due_on=due_on,
    )
    # Their day is charged already: it is not charged again if it is reported again.
    ActiveDay.objects.bulk_create(
        [
            ActiveDay(
                user=kept,
                device=each.device,
                day=each.day,
                subscription=continued,
                is_charged=True,
            )
            for each in handed_over.active_days
        ],
        ignore_conflicts=True,
    )
    return continued


def _charge_again(
    handed_over: HandedOver,
    continued: Subscription,
    day: date,
    *,
    actor: User | None,
    channel: Channel,
) -> list[Transaction]:
    """Charges what was paid back, for the same days, and notes the days that are paid."""
    before, rests = handed_over.before, [each for each in handed_over.rests if each.rest.amount]
    if before.status != ACTIVE or before.is_by_active_day:
        return []
    entries = [continued_entry(continued, each.plan, each.rest) for each in rests]
    results = ledger.post_batch(entries, actor=actor, channel=channel) if entries else []
    posted = [result.transaction for result in results if result.transaction is not None]
    paid = before.paid_period
    if paid is not None and paid.last >= day:
        continued.charged_from, continued.charged_through = max(paid.first, day), paid.last
        for each, row in zip(rests, posted, strict=True):
            if each.number == before.charge_number:
                continued.charge_number, continued.paid = row.number, each.rest.amount
        continued.save(update_fields=["charged_from", "charged_through", "charge_number", "paid"])
    return posted


def amounts(handed_over: HandedOver) -> tuple[str, str]:
    """Returns what was paid back and what was charged, at both users together."""
    rows = [row.amount for row in handed_over.posted]
    paid_back = sum((amount for amount in rows if amount > 0), ZERO)
    return str(paid_back), str(-sum((amount for amount in rows if amount < 0), ZERO))
