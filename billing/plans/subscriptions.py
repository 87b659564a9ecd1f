"""Starting, changing, cancelling and paying for subscriptions.

Common to all functions that write:

- They lock the user's balance, so that nobody else changes the user's money or subscriptions
  meanwhile; and are one database transaction, or a part of the caller's.
- Days are UTC days, and arguments: nothing here reads a clock.
- `actor` and `channel` are as in `billing.ledger`. Refusals are BillingErrors; nothing has changed
  then.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from typing import Final, NamedTuple

from django.db import transaction

from billing import ledger
from billing.counters import counts_refusals
from billing.errors import (
    IdempotencyConflict,
    InsufficientFunds,
    InvalidDay,
    PlanRetired,
    SamePlan,
    SubscriptionCancelled,
    SubscriptionExists,
    UserDeactivated,
)
from billing.models import ActiveDay, Channel, Plan, Subscription, Transaction, UserDefaults
from billing.money import ZERO
from billing.plans import due
from billing.plans.due import ACTIVE, DAY, NO_MONEY, USER_DEACTIVATED, Reported
from billing.plans.forecast import paid_ahead
from billing.plans.history import Past
from billing.plans.posting import (
    charge_due,
    post,
    remainder_entry,
    store,
    unpaid_active_days,
)
from billing.plans.schedule import end_of
from users.models import User

# Devices report late, but not for ever.
ACTIVE_DAYS_BACK: Final = 31


class Changed(NamedTuple):
    """A subscription after an operation, and what was posted for it, in order."""

    subscription: Subscription
    posted: Sequence[Transaction]


# --- What can happen to a subscription ----------------------------------------------------------


@counts_refusals
@transaction.atomic
def start(
    user: User,
    plan: Plan,
    *,
    day: date,
    actor: User | None,
    channel: Channel,
    device: str = "",
    wait_for_money: bool = False,
) -> Changed:
    """Subscribes `user`, or one device of the user's, to `plan` from `day` on, and charges it.

    Raises InsufficientFunds if the first charge cannot be paid, and UserDeactivated; with
    `wait_for_money` the subscription is suspended instead, until it can be paid and the user is
    active. Raises PlanRetired and SubscriptionExists.
    """
    _charge_due_of(user.pk, day)
    plan = _offered(plan)
    device = ledger.checked_device(device)
    is_active = User.objects.filter(pk=user.pk, is_active=True).exists()
    if not is_active and not wait_for_money:
        raise UserDeactivated(user_id=user.pk)
    existing = Subscription.objects.live().filter(user=user, device=device).first()
    if existing is not None:
        raise SubscriptionExists(device=device, plan=existing.plan.name, subscription=existing.pk)
    subscription = Subscription.objects.create(
        user=user, plan=plan, device=device, started_on=day, plan_since=day, status_since=day
    )
    if wait_for_money:
        posted = _charge_or_suspend(
            subscription, day, is_active=is_active, actor=actor, channel=channel
        )
    else:
        posted = _charge(subscription, day, actor=actor, channel=channel)
    store([subscription])
    return Changed(subscription, posted)


@counts_refusals
@transaction.atomic
def change_plan(
    subscription: Subscription,
    plan: Plan,
    *,
    day: date,
    pay_back: bool,
    charge_now: bool,
    actor: User | None,
    channel: Channel,
) -> Changed:
    """Puts a subscription on another plan from `day` on.

    What the runs up to `day` charge is charged first, under the old plan, whether or not they have
    come. With `pay_back`, what was paid for `day` and later is returned. With `charge_now` the new
    plan is charged from `day` on, and a suspended subscription resumes. Otherwise it is charged
    from the day after what has been paid ahead or, with `pay_back`, from its next regular day after
    `day`. (By active day, every day is regular, and charged when it is over.) Where nothing was
    paid ahead and nothing is to be paid back, it is charged from `day` on all the same, and waits,
    suspended, if that cannot be paid.

    Raises InsufficientFunds if all this together cannot be paid; nothing has changed then. Raises
    SamePlan, PlanRetired, SubscriptionCancelled and, to charge now, UserDeactivated.
    """
    subscription, posted = _charged_up_to(subscription, day, actor=actor, channel=channel)
    plan = _offered(plan)
    if plan.pk == subscription.plan_id:
        raise SamePlan(plan=plan.name)
    if pay_back:
        posted += _pay_back(subscription, day, actor=actor, channel=channel)
    if charge_now and not subscription.user.is_active:
        raise UserDeactivated(user_id=subscription.user_id)
    subscription.plan = plan  # whose active days are looked for
    is_charged = due.put_on_plan(
        subscription,
        plan,
        day,
        charge_now=charge_now,
        pay_back=pay_back,
        active_days=_uncharged(subscription, day),
    )
    if charge_now:
        posted += _charge(subscription, day, actor=actor, channel=channel)
    elif is_charged:
        is_active = subscription.user.is_active
        posted += _charge_or_suspend(
            subscription, day, is_active=is_active, actor=actor, channel=channel
        )
    subscription.save(update_fields=["plan", "term", "plan_since"])
    store([subscription])
    return Changed(subscription, posted)


@counts_refusals
@transaction.atomic
def cancel(
    subscription: Subscription,
    *,
    day: date,
    actor: User | None,
    channel: Channel,
    pay_back: bool = False,
) -> Changed:
    """Ends a subscription on `day`. What the runs up to then charge is charged first, as far as the
    money goes, whether or not they have come.

    With `pay_back`, what was paid for `day` and later is returned. Raises SubscriptionCancelled
    if it has ended already.
    """
    subscription, posted = _charged_up_to(subscription, day, actor=actor, channel=channel)
    if pay_back:
        posted += _pay_back(subscription, day, actor=actor, channel=channel)
    if subscription.is_by_active_day and subscription.status == ACTIVE:
        # For this subscription `day` is over now, and is charged like one that is.
        posted += _charge_active_days(subscription, day + DAY, actor=actor, channel=channel)
    due.end(subscription, day)
    store([subscription])
    return Changed(subscription, posted)


@counts_refusals
@transaction.atomic
def record_active_day(user: User, *, device: str, day: date, today: date) -> ActiveDay:
    """Notes that a device was active on `day`; doing so again changes nothing.

    It counts for the device's own subscription or, if it has none, for the account's, and is
    charged after the day if that is charged by active day. Raises InvalidDay for days to come and
    for days too long ago.
    """
    if not today - ACTIVE_DAYS_BACK * DAY <= day <= today:
        raise InvalidDay(day=f"{day}", first=f"{today - ACTIVE_DAYS_BACK * DAY}", last=f"{today}")
    ledger.lock_balances([user.pk])
    device = ledger.checked_device(device)
    subscription = (
        Subscription.objects.live()
        .filter(user=user, device__in={device, ""})
        .select_related("plan")
        .order_by("-device")
        .first()
    )
    active_day, _ = ActiveDay.objects.get_or_create(
        user=user, device=device, day=day, defaults={"subscription": subscription}
    )
    if active_day.subscription_id is None and subscription is not None:
        active_day.subscription = subscription
        active_day.save(update_fields=["subscription"])
    if subscription is None or active_day.subscription_id != subscription.pk:
        return active_day
    if ActiveDay.objects.filter(subscription=subscription, day=day, is_charged=True).exists():
        # Of an account, any device makes the day an active one; it is charged once.
        active_day.is_charged = True
        active_day.save(update_fields=["is_charged"])
    elif due.await_charge_of(subscription, day):
        store([subscription])
    return active_day


@counts_refusals
@transaction.atomic
def welcome(user: User, *, day: date, actor: User | None, channel: Channel) -> None:
    """Gives a user who has just registered what the defaults for new users say, once."""
    defaults = UserDefaults.objects.select_related("plan").first()
    if defaults is None:
        return
    if defaults.bonus:
        with suppress(IdempotencyConflict):  # given already, when it was another amount
            ledger.give_bonus(
                user,
                amount=defaults.bonus,
                description="Gift on registration",
                subtype="register",
                idempotency_key="registration",
                actor=actor,
                channel=channel,
            )
    if defaults.plan is not None:
        with suppress(SubscriptionExists, PlanRetired):
            start(user, defaults.plan, day=day, actor=actor, channel=channel, wait_for_money=True)


# --- How it is done -----------------------------------------------------------------------------


def _offered(plan: Plan) -> Plan:
    """The plan as it is now, held, so that it cannot be retired or changed meanwhile."""
    rows = Plan.objects.raw("SELECT * FROM billing_plan WHERE id = %s FOR SHARE", [plan.pk])
    held = next(iter(rows), None)
    if held is None or not held.is_active:  # one that nobody has may be deleted meanwhile
        raise PlanRetired(plan=plan.name)
    return held


def _charge_due_of(user_id: int, day: date) -> tuple[dict[int, Subscription], list[Transaction]]:
    """Charges what the runs up to `day` charge, of one user, and locks the user's balance.

    The system charges it, whoever comes first: operators' actions and runs leave the same rows.
    Suspended subscriptions are left to runs. Returns the subscriptions that were looked at by their
    IDs, and what was posted.
    """
    real = {pk: balance.real for pk, balance in ledger.lock_balances([user_id]).items()}
    rows = Subscription.objects.select_related("plan").filter(user=user_id, due_on__lte=day)
    those_due = list(rows.order_by("id"))
    _, posted = charge_due(
        those_due, through=day, real=real, resumes=False, actor=None, channel=Channel.CHARGING
    )
    return {subscription.pk: subscription for subscription in those_due}, posted


def _charged_up_to(
    subscription: Subscription, day: date, *, actor: User | None, channel: Channel
) -> tuple[Subscription, list[Transaction]]:
    """The subscription as the runs up to `day` leave it, its user's balance held."""
    _, rows = _charge_due_of(subscription.user_id, day)
    posted = [row for row in rows if row.metadata.get("subscription") == subscription.pk]
    subscription = Subscription.objects.select_related("plan", "user").get(pk=subscription.pk)
    if not subscription.is_live:
        raise SubscriptionCancelled(day=f"{subscription.status_since}")
    if subscription.is_by_active_day and subscription.status == ACTIVE:
        # Days that were reported late enough to be left to the next run.
        posted += _charge_active_days(subscription, day, actor=actor, channel=channel)
    return subscription, posted


def _uncharged(subscription: Subscription, day: date) -> list[Reported]:
    return unpaid_active_days([subscription], end_of(day)).get(subscription.pk, [])


def _charge_active_days(
    subscription: Subscription, through: date, *, actor: User | None, channel: Channel
) -> list[Transaction]:
    """Charges the active days before `through`, with what is there now."""
    user = User.objects.get(pk=subscription.user_id)
    active_days = unpaid_active_days([subscription])
    # A day that was reported after the run of today is due now, too, and not first tomorrow.
    due.wait_for_active_day(subscription, active_days.get(subscription.pk, ()))
    decided = due.decisions(
        [subscription],
        through=through,
        past=Past(ledger.balance(user).real, is_active=user.is_active),
        active_days=active_days,
    )
    posted = post(decided, actor=actor, channel=channel)
    store([subscription])
    return posted


def _charge_or_suspend(
    subscription: Subscription,
    day: date,
    *,
    is_active: bool,
    actor: User | None,
    channel: Channel,
) -> list[Transaction]:
    """Charges a subscription at once or, if that cannot be paid, suspends it."""
    if not is_active:
        due.await_money(subscription, day, USER_DEACTIVATED)
        return []
    try:
        return _charge(subscription, day, actor=actor, channel=channel)
    except InsufficientFunds:
        due.await_money(subscription, day, NO_MONEY)
        return []


def _charge(
    subscription: Subscription, day: date, *, actor: User | None, channel: Channel
) -> list[Transaction]:
    decided = due.charge_at_once(subscription, day, _uncharged(subscription, day))
    return post(decided, actor=actor, channel=channel)


def _pay_back(
    subscription: Subscription, day: date, *, actor: User | None, channel: Channel
) -> list[Transaction]:
    """Returns everything that was paid for `day` and later, each charge by a transaction of its
    own, which names it."""
    left = paid_ahead(subscription, day)
    paid = subscription.paid_period
    if paid is not None and paid.last >= day:
        of_row = [each.rest.amount for each in left if each.number == subscription.charge_number]
        due.cut_short(subscription, day, sum(of_row, ZERO))
    entries = [
        remainder_entry(subscription, each.plan, each.rest, each.number)
        for each in left
        if each.rest.amount
    ]
    if not entries:
        return []
    results = ledger.post_batch(entries, actor=actor, channel=channel)
    return [result.transaction for result in results if result.transaction is not None]
