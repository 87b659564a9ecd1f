"""Starting, changing and cancelling subscriptions, and recording active days."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from billing import events, ledger
from billing.errors import UnknownPlan, UnknownSubscription
from billing.models import ActiveDay, Channel, Event, Plan, Subscription, Transaction
from billing.operations._common import one_transaction, record_subscription
from billing.operations.customers import customer_id, find_customer
from billing.plans import subscriptions
from users.models import User


@dataclass(frozen=True)
class SubscriptionChange:
    """The result: the subscription, the posted transactions in order, and the event."""

    subscription: Subscription
    posted: Sequence[Transaction]
    event: Event

    @property
    def sentence(self) -> str:
        return events.sentence(self.event)


def start(
    user_id: int,
    plan_id: int,
    *,
    device: str = "",
    wait_for_money: bool = False,
    day: date,
    actor: User | None,
    channel: Channel,
    dry_run: bool = False,
) -> SubscriptionChange:
    """Subscribes a customer, or one device, to a plan from `day` on, and charges it.

    Raises UnknownUser, UnknownPlan, and what `billing.plans.subscriptions.start` raises.
    """
    with one_transaction(dry_run=dry_run):
        user = find_customer(user_id)
        changed = subscriptions.start(
            user,
            find_plan(plan_id),
            day=day,
            device=device,
            wait_for_money=wait_for_money,
            actor=actor,
            channel=channel,
        )
        return _recorded("subscription_started", changed, actor=actor, channel=channel)


def change_plan(
    user_id: int,
    subscription_id: int,
    plan_id: int,
    *,
    pay_back: bool,
    charge_now: bool,
    day: date,
    actor: User | None,
    channel: Channel,
    if_unchanged: Callable[[Subscription], None] | None = None,
    dry_run: bool = False,
) -> SubscriptionChange:
    """Puts a subscription on another plan from `day` on.

    Raises UnknownUser, UnknownSubscription, UnknownPlan, and what
    `billing.plans.subscriptions.change_plan` raises.
    """
    with one_transaction(dry_run=dry_run):
        before = _lock(user_id, subscription_id, if_unchanged)
        changed = subscriptions.change_plan(
            before,
            find_plan(plan_id),
            day=day,
            pay_back=pay_back,
            charge_now=charge_now,
            actor=actor,
            channel=channel,
        )
        return _recorded("plan_changed", changed, before.plan, actor=actor, channel=channel)


def cancel(
    user_id: int,
    subscription_id: int,
    *,
    pay_back: bool = False,
    day: date,
    actor: User | None,
    channel: Channel,
    if_unchanged: Callable[[Subscription], None] | None = None,
    dry_run: bool = False,
) -> SubscriptionChange:
    """Ends a subscription on `day`.

    Raises UnknownUser, UnknownSubscription, and what `billing.plans.subscriptions.cancel` raises.
    """
    with one_transaction(dry_run=dry_run):
        before = _lock(user_id, subscription_id, if_unchanged)
        changed = subscriptions.cancel(
            before, day=day, pay_back=pay_back, actor=actor, channel=channel
        )
        return _recorded("subscription_cancelled", changed, actor=actor, channel=channel)


def record_active_day(user_id: int, *, device: str, day: date, today: date) -> ActiveDay:
    """Records that a device was active on a day: see `billing.plans.subscriptions`.

    The day is its own record, so there is no event. Raises UnknownUser and InvalidDay.
    """
    return subscriptions.record_active_day(
        find_customer(user_id), device=device, day=day, today=today
    )


def find_plan(plan_id: int) -> Plan:
    """Returns a plan. Raises UnknownPlan."""
    plan = Plan.objects.filter(pk=plan_id).first()
    if plan is None:
        raise UnknownPlan(plan_id=plan_id)
    return plan


def find_subscription(user_id: int, subscription_id: int) -> Subscription:
    """Returns a subscription of this user, with its plan. Raises UnknownSubscription."""
    rows = Subscription.objects.select_related("plan").filter(user=user_id)
    row = rows.filter(pk=subscription_id).first()
    if row is None:
        raise UnknownSubscription(subscription_id=subscription_id)
    return row


def _lock(
    user_id: int, subscription_id: int, if_unchanged: Callable[[Subscription], None] | None
) -> Subscription:
    customer_id(user_id)
    ledger.lock_balances([user_id])
    row = find_subscription(user_id, subscription_id)
    if if_unchanged is not None:
        if_unchanged(row)
    return row


def _recorded(
    action: str,
    changed: subscriptions.Changed,
    old_plan: Plan | None = None,
    *,
    actor: User | None,
    channel: Channel,
) -> SubscriptionChange:
    event = record_subscription(action, changed, old_plan, actor=actor, channel=channel)
    return SubscriptionChange(*changed, event)
