"""Starting, changing, cancelling and paying for subscriptions.

Common to all functions that write:

- They lock the user's balance, so that nobody else changes the user's money or subscriptions
  meanwhile. Each is one database transaction, or part of the caller's.
- Days are UTC days and arguments: nothing here reads a clock.
- `actor` and `channel` are those of `billing.ledger`. Refusals are BillingErrors; they change
  nothing.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import date, datetime
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

# How many days late a device may report.
ACTIVE_DAYS_BACK: Final = 31


class Changed(NamedTuple):
    """A subscription after an operation, and its posted transactions, in order."""

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
    """Subscribes `user`, or one of the user's devices, to `plan` from `day` on, and charges it.

    Raises InsufficientFunds if the first charge cannot be paid, and UserDeactivated. With
    `wait_for_money`, the subscription is suspended instead until it can be paid and the user is
    active. Raises PlanRetired, SubscriptionExists, DuplicateUser and ForgottenUser.
    """
    charge_due_of(user.pk, day)
    ledger.refuse_closed(user.pk)
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

    First charges, under the old plan, what the runs up to `day` charge, even if they have not come
    yet. With `pay_back`, returns what was paid for `day` and later. With `charge_now`, charges the
    new plan from `day` on, and a suspended subscription resumes. Otherwise the new plan is charged
    from the day after what was paid ahead or, with `pay_back`, from its next regular day after
    `day`. (For an active-day plan every day is regular; the run of the next day charges it.) If
    nothing was paid ahead and nothing is to be paid back, it is charged from `day` on in any case;
    the subscription is suspended if that cannot be paid.

    Raises InsufficientFunds, and changes nothing, if all this together cannot be paid. Raises
    SamePlan, PlanRetired, SubscriptionCancelled and, with `charge_now`, UserDeactivated.
    """
    subscription, posted = _charged_up_to(subscription, day, actor=actor, channel=channel)
    plan = _offered(plan)
    if plan.pk == subscription.plan_id:
        raise SamePlan(plan=plan.name)
    if pay_back:
        posted += _pay_back(subscription, day, actor=actor, channel=channel)
    if charge_now and not subscription.user.is_active:
        raise UserDeactivated(user_id=subscription.user_id)
    subscription.plan = plan  # before its active days are read
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
    """Ends a subscription on `day`.

    First charges what the runs up to `day` charge, even if they have not come yet, as far as there
    is money. With `pay_back`, returns what was paid for `day` and later. Raises
    SubscriptionCancelled if it has already ended.
    """
    subscription, posted = _charged_up_to(subscription, day, actor=actor, channel=channel)
    if pay_back:
        posted += _pay_back(subscription, day, actor=actor, channel=channel)
    if subscription.is_by_active_day and subscription.status == ACTIVE:
        # For this subscription, `day` is over and is charged like a past day.
        posted += _charge_active_days(subscription, day + DAY, actor=actor, channel=channel)
    due.end(subscription, day)
    store([subscription])
    return Changed(subscription, posted)


@counts_refusals
@transaction.atomic
def record_active_day(user: User, *, device: str, day: date, today: date) -> ActiveDay:
    """Records that a device was active on `day`. Repeating it changes nothing.

    The day counts for the device's own subscription or, if it has none, for the account's. If that
    is charged by active day, it is charged after the day. Raises InvalidDay for future days and for
    days more than ACTIVE_DAYS_BACK ago.
    """
    if not today - ACTIVE_DAYS_BACK * DAY <= day <= today:
        raise InvalidDay(day=f"{day}", first=f"{today - ACTIVE_DAYS_BACK * DAY}", last=f"{today}")
    ledger.lock_balances([user.pk])
    ledger.refuse_closed(user.pk)
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
        # Any device makes the day an active one for the account, which is charged once.
        active_day.is_charged = True
        active_day.save(update_fields=["is_charged"])
    elif due.await_charge_of(subscription, day):
        store([subscription])
    return active_day


@counts_refusals
@transaction.atomic
def welcome(
    user: User,
    *,
    day: date,
    bonus_expires_at: datetime | None = None,
    actor: User | None,
    channel: Channel,
) -> None:
    """Gives a new user what the defaults for new users say, once."""
    defaults = UserDefaults.objects.select_related("plan").first()
    if defaults is None:
        return
    if defaults.bonus:
        with suppress(IdempotencyConflict):  # already given, with another amount
            ledger.give_bonus(
                user,
                amount=defaults.bonus,
                description="Gift on registration",
                subtype="register",
                bonus_expires_at=bonus_expires_at,
                idempotency_key="registration",
                actor=actor,
                channel=channel,
            )
    if defaults.plan is not None:
        with suppress(SubscriptionExists, PlanRetired):
            start(user, defaults.plan, day=day, actor=actor, channel=channel, wait_for_money=True)


# --- How it is done -----------------------------------------------------------------------------


def _offered(plan: Plan) -> Plan:
    """Returns the plan as it is now, locked against changes. Raises PlanRetired."""
    rows = Plan.objects.raw("SELECT * FROM billing_plan WHERE id = %s FOR SHARE", [plan.pk])
    held = next(iter(rows), None)
    if held is None or not held.is_active:  # an unused plan may have been deleted
        raise PlanRetired(plan=plan.name)
    return held


def charge_due_of(user_id: int, day: date) -> tuple[dict[int, Subscription], list[Transaction]]:
    """Locks a user's balance, and charges what the runs up to `day` charge.

    The system is the actor, so that operators' actions and runs leave the same rows. Suspended
    subscriptions are left to runs. Returns the subscriptions that were due, by ID, and what was
    posted.
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
    """Locks the balance. Returns the subscription as runs up to `day` leave it, and postings."""
    _, rows = charge_due_of(subscription.user_id, day)
    posted = [row for row in rows if row.metadata.get("subscription") == subscription.pk]
    subscription = Subscription.objects.select_related("plan", "user").get(pk=subscription.pk)
    if not subscription.is_live:
        raise SubscriptionCancelled(day=f"{subscription.status_since}")
    if subscription.is_by_active_day and subscription.status == ACTIVE:
        # Days that were reported so late that they are left to the next run.
        posted += _charge_active_days(subscription, day, actor=actor, channel=channel)
    return subscription, posted


def _uncharged(subscription: Subscription, day: date) -> list[Reported]:
    return unpaid_active_days([subscription], end_of(day)).get(subscription.pk, [])


def _charge_active_days(
    subscription: Subscription, through: date, *, actor: User | None, channel: Channel
) -> list[Transaction]:
    """Charges the active days before `through`, with the present money."""
    user = User.objects.get(pk=subscription.user_id)
    active_days = unpaid_active_days([subscription])
    # A day reported after today's run is due now, not tomorrow.
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
    """Charges a subscription now; suspends it if that cannot be paid."""
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
    """Pays back everything that was paid for `day` and later, with one transaction per charge."""
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
