"""The subscriptions of the story and the periods that are paid.

They are kept in memory, and changed only by the pure functions of `billing.plans.due`, which the
panel and the charging run go through as well. So each is, at any moment of the story, as it would
be if all this had really happened. Nothing is posted here: what has to be is answered, for the
story to post.

A night looks only at accounts with something due on it, by a calendar.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from itertools import batched, count
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from billing.ledger import Entry
from billing.models import (
    ActiveDay,
    ChargingBatch,
    ChargingFailure,
    ChargingRun,
    Plan,
    Subscription,
)
from billing.money import DECIMALS
from billing.operations import history
from billing.plans.charging import USERS_PER_BATCH, figures_of
from billing.plans.due import (
    DAY,
    SUSPENDED,
    Decision,
    await_charge_of,
    charge_at_once,
    cut_short,
    decisions,
    end,
    put_on_plan,
    reported_in_time,
)
from billing.plans.history import Past
from billing.plans.posting import remainder_entry
from billing.plans.pricing import Charge, Cycle, remainder

if TYPE_CHECKING:
    from billing.management.demo.accounts import Account

BATCH: Final = 2_000


@dataclass
class Night:
    """One charging run of the past."""

    run: ChargingRun
    users: list[int] = field(default_factory=list)  # with something due, by ID
    failures: list[ChargingFailure] = field(default_factory=list)
    steps: list[Decision] = field(default_factory=list)

    def close(self, at: datetime) -> None:
        figures = figures_of(self.steps)
        self.steps = []
        self.run.finished_at = at
        self.run.charged = figures.charged
        self.run.suspended = figures.suspended
        self.run.resumed = figures.resumed
        self.run.skipped = figures.skipped
        self.run.failed = len(self.failures)
        self.run.total = figures.total


class Contracts:
    """The subscriptions of all accounts. The first one gets the ID `first_id`."""

    def __init__(self, first_id: int = 1) -> None:
        self.subscriptions: list[Subscription] = []
        self.active_days: list[ActiveDay] = []
        self.nights: list[Night] = []
        self.last_day = date.max
        self._today = date.min
        self._to_come: dict[str, int] = {}
        self._owed: int | None = None  # not counted since something changed
        self._ids = count(first_id)
        self._calendar: defaultdict[date, dict[Account, None]] = defaultdict(dict)
        self._not_charged: defaultdict[int, dict[date, ActiveDay]] = defaultdict(dict)
        self._priced: Counter[str] = Counter()  # live subscriptions that cost something, by cycle
        self._suspended: set[int] = set()
        self._late = 0

    # --- What happens to one subscription ---------------------------------------------------

    def start(self, account: "Account", plan: Plan, device: str, day: date) -> list[Decision]:
        """Starts a subscription that the account can pay; returns its first charges."""
        subscription = Subscription(
            pk=next(self._ids),
            user_id=account.user_id,
            plan=plan,
            device=device,
            started_on=day,
            plan_since=day,
            status_since=day,
        )
        self.subscriptions.append(subscription)
        account.live[device] = subscription
        self._count(subscription, 1)
        steps = charge_at_once(subscription, day)
        self._note(account, [subscription])
        return steps

    def change_plan(
        self,
        account: "Account",
        subscription: Subscription,
        plan: Plan,
        day: date,
        *,
        at_once: bool = True,
    ) -> tuple[list[Entry], list[Decision]]:
        """Returns what is paid back and what is then charged; both empty unless `at_once`."""
        paid_back = _pay_back(subscription, day) if at_once else []
        self._count(subscription, -1)
        put_on_plan(subscription, plan, day, charge_now=at_once)
        self._count(subscription, 1)
        steps = charge_at_once(subscription, day) if at_once else []
        self._note(account, [subscription])
        return paid_back, steps

    def cancel(
        self, account: "Account", subscription: Subscription, day: date, *, pay_back: bool
    ) -> tuple[list[Decision], list[Entry]]:
        """Returns what is still charged and what is paid back."""
        steps: list[Decision] = []
        if subscription.is_by_active_day and subscription.status != SUSPENDED:
            # Today is over for it, and is charged like a day that is.
            steps = self.decide(account, [subscription], day + DAY)
        paid_back = _pay_back(subscription, day) if pay_back else []
        self._count(subscription, -1)
        end(subscription, day)
        self._suspended.discard(subscription.pk)
        del account.live[subscription.device]
        self._owed = None
        return steps, paid_back

    def note_active_day(
        self, account: "Account", subscription: Subscription, device: str, day: date
    ) -> None:
        active_day = ActiveDay(
            user_id=account.user_id, device=device, day=day, subscription_id=subscription.pk
        )
        self.active_days.append(active_day)
        self._not_charged[subscription.pk][day] = active_day
        if await_charge_of(subscription, day):
            self._note(account, [subscription])

    def active_day_charged(self, step: Decision) -> None:
        """Notes an active-day charge; called with each charge as it is posted."""
        if step.charge is not None and step.subscription.is_by_active_day:
            day = self._not_charged[step.subscription.pk].pop(step.charge.first)
            day.is_charged = True

    # --- What falls due ---------------------------------------------------------------------

    def begin(self, day: date) -> None:
        self._today = day
        self._late = 0  # charged tonight
        self._owed = None
        days = (self.last_day - day).days
        years = self.last_day.year - day.year
        self._to_come = {
            Cycle.MONTHLY: years * 12 + self.last_day.month - day.month,
            Cycle.ANNUAL: years,
            Cycle.EVERY_DAY: days,
            Cycle.ACTIVE_DAY: days,
        }

    def due(self) -> list[tuple["Account", list[Subscription]]]:
        """Returns today's accounts in the order of their IDs, each with its due subscriptions."""
        accounts = sorted(self._calendar.pop(self._today, ()), key=attrgetter("user_id"))
        return [(account, due) for account in accounts if (due := _due(account, self._today))]

    def decide(
        self, account: "Account", due: Sequence[Subscription], through: date, *, retry: bool = False
    ) -> list[Decision]:
        steps = decisions(
            due,
            through=through,
            past=Past(Decimal(account.real).scaleb(-DECIMALS)),
            active_days={
                each.pk: reported_in_time(self._not_charged[each.pk])
                for each in due
                if each.pk in self._not_charged
            },
            retry=retry,
        )
        self._note(account, due)
        return steps

    def put_off(self, account: "Account", due: Sequence[Subscription]) -> None:
        """Moves charges that failed tonight to the next night."""
        self._calendar[self._today + DAY][account] = None
        self._late += len(due)
        self._owed = None

    def charges_to_come(self, cycle: str) -> int:
        """Returns the most regular charges that a subscription can have from tomorrow on."""
        return self._to_come[cycle]

    @property
    def owed(self) -> int:
        """Returns the most charges that can still come if no subscription starts any more."""
        if self._owed is None:
            self._owed = self._late + sum(
                number * self._to_come[cycle] for cycle, number in self._priced.items()
            )
            if self._today < self.last_day:
                self._owed += len(self._suspended)  # each may resume within its period
        return self._owed

    def _count(self, subscription: Subscription, change: int) -> None:
        if subscription.plan.price:
            self._priced[subscription.plan.cycle] += change

    def _note(self, account: "Account", changed: Sequence[Subscription]) -> None:
        """Updates the calendar and the number of charges to come."""
        for subscription in changed:
            if subscription.due_on is not None:
                self._calendar[subscription.due_on][account] = None
            if subscription.status == SUSPENDED:
                self._suspended.add(subscription.pk)
            else:
                self._suspended.discard(subscription.pk)
        self._owed = None

    # --- Afterwards -------------------------------------------------------------------------

    def save(self) -> None:
        """Saves the subscriptions, active days and charging runs."""
        history.add_subscriptions(self.subscriptions, self.active_days)
        ChargingRun.objects.bulk_create([night.run for night in self.nights], batch_size=BATCH)
        ChargingBatch.objects.bulk_create(
            ChargingBatch(
                run=night.run,
                first_user_id=users[0],
                last_user_id=users[-1],
                finished_at=night.run.finished_at,
            )
            for night in self.nights
            for users in batched(night.users, USERS_PER_BATCH)
        )
        ChargingFailure.objects.bulk_create(
            failure for night in self.nights for failure in night.failures
        )


def _due(account: "Account", day: date) -> list[Subscription]:
    return [
        subscription
        for subscription in account.live.values()
        if subscription.due_on is not None and subscription.due_on <= day
    ]


def _pay_back(subscription: Subscription, day: date) -> list[Entry]:
    """Returns what was paid for today and later. (The story reverses no subscription charges.)"""
    paid = subscription.paid_period
    if paid is None or paid.last < day:
        return []
    rest = Charge(max(day, paid.first), paid.last, remainder(paid, day))
    cut_short(subscription, day, rest.amount)
    return [remainder_entry(subscription, subscription.plan, rest)] if rest.amount else []
