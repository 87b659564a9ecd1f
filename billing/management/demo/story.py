"""The history of the made-up company of the demo data.

Pure: accounts, a catalogue, a time and a random generator in, operations in order of time out. The
same input gives the same story. What subscriptions and services cost, and when, follows the real
rules (`contracts`, `billing.plans.pricing`, `billing.ledger`). The story keeps each account's
balances, so that it contains nothing that the ledger would have refused: a customer who cannot pay
tops up first or goes without.

Amounts are whole numbers of the ledger's smallest unit, 1/10,000: they add up exactly, and fast.

The number of operations is given. Charges of subscriptions cannot be left out, so the story always
knows how many of them are still to come, and lets other things happen only while there is room for
them (`Journal.spare`).

`Journal` writes operations, `Dealings` knows services and payments, `Subscribing` subscriptions;
the story in this module decides what happens on which day.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any, Final

from billing.ledger.history import PastTransaction
from billing.management.demo.accounts import Account, Staff, Wish
from billing.management.demo.catalogue import (
    ACTIVE_DAY,
    ANNUAL,
    BY_DAY,
    MONTHLY,
    PAY_PER_USE,
    RETIRED,
    Catalogue,
)
from billing.management.demo.contracts import Contracts, Night
from billing.management.demo.dealings import MOMENT
from billing.management.demo.subscribing import Subscribing
from billing.models import Channel, ChargingFailure, ChargingRun, Subscription, TransactionType
from billing.plans.due import ACTIVE
from billing.plans.pricing import Cycle

DAYS_MAX: Final = 365
DAYS_MIN: Final = 45
RUN_AT: Final = timedelta(minutes=5)  # the charging run
OPENS_AT: Final = timedelta(minutes=30)  # the run is through by then
CLOSES_AT: Final = timedelta(hours=23, minutes=59)
# Nights, counted from the last, in which one user could not be charged; the next one charged them.
FAILURES: Final = {
    6: "canceling statement due to lock timeout",
    39: "deadlock detected",
}


def tell(
    accounts: Sequence[Account],
    *,
    contracts: Contracts,
    catalogue: Catalogue,
    transactions: int,
    until: datetime,
    staff: Staff,
    rng: Random,
    closing: int = 0,
) -> Iterator[PastTransaction]:
    """Yields `transactions` operations, from some months before `until` up to it, in order of time.

    A tenth of them are the first account's. The last ones, at least `closing` of them, happen at
    `until` itself. At least one account must have joined before the first day. `contracts` is
    filled on the way and complete at the end.
    """
    return _Story(
        accounts,
        contracts=contracts,
        catalogue=catalogue,
        transactions=transactions,
        closing=closing,
        until=until.astimezone(UTC),
        staff=staff,
        rng=rng,
    ).tell()


class _Story(Subscribing):
    def __init__(self, accounts: Sequence[Account], *, until: datetime, **settings: Any) -> None:
        super().__init__(accounts, until=until, **settings)
        self.uses = 0  # operations that the charging run did not post
        last = until.replace(hour=0, minute=0, second=0, microsecond=0)
        days = min(DAYS_MAX, max(DAYS_MIN, self.transactions // 8))
        self.days = [last - timedelta(days=days - 1 - place) for place in range(days)]
        self.first_day = self.days[0]
        self.contracts.last_day = last.date()
        self.comings: dict[date, list[Account]] = defaultdict(list)
        self.goings: dict[date, list[Account]] = defaultdict(list)
        self.scenes: dict[date, list[Callable[[datetime], Iterator[PastTransaction]]]] = (
            defaultdict(list)
        )
        for account in accounts:
            self.comings[account.joined.astimezone(UTC).date()].append(account)
            if account.left:
                self.goings[account.left.astimezone(UTC).date()].append(account)
        self.monthly = []
        self.by_active_day = []
        self._equip()
        self._wish()
        self._stage()

    # --- Before it begins -------------------------------------------------------------------

    def _equip(self) -> None:
        first = 8601
        for place, account in enumerate(self.accounts):
            account.scale = 12 if place == 0 else self.rng.choice((1, 1, 1, 1, 2, 2, 5, 10))
            count = 24 if place == 0 else self.rng.randint(1, 2 * account.scale)
            account.devices = [str(first + i) for i in range(count)]
            account.pays_by = self.rng.choice(("card", "card", "card", "transfer", "statement"))
            first += count

    def _wish(self) -> None:
        """Gives each account a plan. Fees stay at about a third of all operations."""
        days, months = len(self.days), len(self.days) // 30 + 1
        left = {
            BY_DAY: self.transactions // 8 // days or 1,
            ACTIVE_DAY: self.transactions // 12 // days or 1,
            ANNUAL: self.transactions // 50,
            RETIRED: self.transactions // 40 // months,
            **dict.fromkeys(MONTHLY, self.transactions // 20 // months),
        }
        turn = (PAY_PER_USE, BY_DAY, ACTIVE_DAY, ANNUAL, *MONTHLY, RETIRED)
        for place, account in enumerate(self.accounts):
            name = turn[place % len(turn)]
            if name == RETIRED and account.joined >= self.days[0]:
                continue
            if left.get(name, 0):
                left[name] -= 1
                device = account.devices[0] if name in {BY_DAY, ACTIVE_DAY} else ""
                account.wishes.append(Wish(self.plans[name], device))
        # What is left of the small plans goes to single devices of larger customers.
        for account in self.accounts[1:]:
            if account.scale >= 5:
                for device in account.devices[1 : 2 + account.scale // 2]:
                    name = self.rng.choice(MONTHLY[:2])
                    if left[name]:
                        left[name] -= 1
                        account.wishes.append(Wish(self.plans[name], device))

    def _stage(self) -> None:
        """Adds what only the first customer does, as far as there is room for it."""
        first = self.accounts[0]
        devices = first.devices
        first.wishes = [
            Wish(self.plans["Fleet"]),
            Wish(self.plans["Business"], devices[0]),
            Wish(self.plans[ANNUAL], devices[1]),
            Wish(self.plans["Start"], devices[2]),
        ]

        def scene(
            days_ago: int, happening: Callable[[datetime], Iterator[PastTransaction]]
        ) -> None:
            self.scenes[self.days[-1 - days_ago].date()].append(happening)

        def wish(plan: str, device: str) -> Callable[[datetime], Iterator[PastTransaction]]:
            def happening(at: datetime) -> Iterator[PastTransaction]:
                first.wishes.insert(0, Wish(self.plans[plan], device))
                return self.fulfil(first, at)

            return happening

        longest = len(self.days) - 3
        if self.transactions >= 600:
            scene(min(longest, self.transactions // 100), wish(ACTIVE_DAY, devices[3]))
            scene(max(6, min(longest, self.transactions // 1_000)), wish(BY_DAY, devices[4]))
            scene(8, wish(BY_DAY, "control-room"))
            scene(5, lambda at: self.order(first, "control-room", at))
        scene(longest // 3, lambda at: self.give_up(first, devices[2], at))

    # --- Day by day -------------------------------------------------------------------------

    def tell(self) -> Iterator[PastTransaction]:
        self.contracts.begin(self.days[0].date())
        yield from self._take_over()
        # A growing company, quieter at weekends.
        weights = [
            (1 + place / len(self.days)) * (0.5 if day.weekday() >= 5 else 1)
            for place, day in enumerate(self.days)
        ]
        due: float = self.posted
        each = max(0, self.transactions - self.closing - self.posted) / sum(weights)
        present: list[Account] = []
        failures = {len(self.days) - 1 - ago: problem for ago, problem in FAILURES.items()}
        for place, (day, weight) in enumerate(zip(self.days, weights, strict=True)):
            today = weight * each
            due += today
            tomorrow = day + timedelta(days=1)
            present = [
                account
                for account in self.accounts
                if account.joined < day
                and (account.left is None or account.left >= tomorrow)
                and (account.idle_from is None or account.idle_from >= tomorrow)
            ]
            self.contracts.begin(day.date())
            yield from self._night(day, failures.get(place))
            # After many fees on the first of a month, less of the rest, but never nothing.
            yield from self._daytime(day, present, max(int(due) - self.posted, int(today / 5)))
        self.closing = 0
        while self.posted < self.transactions:
            yield from self._use(self._somebody(present), self.until)

    def _take_over(self) -> Iterator[PastTransaction]:
        """Takes over balances and plans from the previous system on the first day."""
        first_day = self.days[0]
        tomorrow = first_day + timedelta(days=1)
        old = [
            account
            for account in self.accounts
            if account.joined < first_day
            and (account.left is None or account.left >= tomorrow)
            and (account.idle_from is None or account.idle_from >= tomorrow)
        ]
        for place, account in enumerate(old[: self.transactions // 4]):
            if place % 8 == 7:
                continue  # had nothing
            least = 500_000 if place == 0 else 50_000
            yield self.post(
                account,
                first_day + timedelta(milliseconds=place),
                TransactionType.PAYMENT,
                "import",
                "Balance taken over from the previous system",
                amount=self.rng.randrange(least, 900_000, 100) * account.scale,
                bonus_amount=self.rng.choice((0, 0, 0, 50_000, 120_000)),
                actor_id=self.staff.clerks[0],
                channel=Channel.IMPORT,
            )
        by_import = {"actor_id": self.staff.clerks[0], "channel": Channel.IMPORT}
        for account in old:
            while account.wishes and self.can_afford(account, account.wishes[0].plan):
                wish = account.wishes.pop(0)
                yield from self.begin(account, wish, self.clock + MOMENT / 100, **by_import)
            if "" not in account.live:
                own = Wish(self.plans[PAY_PER_USE])
                yield from self.begin(account, own, self.clock, **by_import)
            # They can no longer choose a retired plan.
            account.wishes = [wish for wish in account.wishes if wish.plan.is_active]

    def _night(self, day: datetime, problem: str | None) -> Iterator[PastTransaction]:
        """Yields the charges of the nightly charging run."""
        due = self.contracts.due()
        unlucky = None if problem is None else self._unlucky(due)
        at = min(day + RUN_AT + timedelta(milliseconds=self.rng.randrange(20, 400)), self.until)
        night = Night(
            ChargingRun(
                at=at,
                started_by=ChargingRun.Start.SCHEDULE,
                started_at=at,
                due=sum(len(subscriptions) for _, subscriptions in due),
            ),
            users=[account.user_id for account, _ in due],
        )
        self.contracts.nights.append(night)
        for account, subscriptions in due:
            at += timedelta(microseconds=200 + 1_300 * self.rng.random())
            if account is unlucky and problem:
                night.failures.append(
                    ChargingFailure(run=night.run, user_id=account.user_id, problem=problem, at=at)
                )
                self.contracts.put_off(account, subscriptions)
                continue
            steps = self.contracts.decide(account, subscriptions, day.date())
            night.steps += steps
            if any(step.outcome == "suspended" for step in steps):
                account.out_of_money = True
                if account is not self.accounts[0] and self.rng.random() < 0.06:
                    account.idle_from = day  # and is never seen again
            yield from self.charge(account, steps, at)
        at = max(at, self.clock) + timedelta(milliseconds=self.rng.randrange(60, 240))
        night.close(min(at, self.until))

    def _unlucky(self, due: Sequence[tuple[Account, list[Subscription]]]) -> Account | None:
        """Returns an account that tomorrow's run can charge for two days."""
        for account, subscriptions in due:
            if (
                account is not self.accounts[0]
                and all(each.status == ACTIVE for each in account.live.values())
                and all(each.plan.cycle == Cycle.EVERY_DAY for each in subscriptions)
            ):
                return account
        return None

    def _daytime(
        self, day: datetime, present: Sequence[Account], uses: int
    ) -> Iterator[PastTransaction]:
        opens = day + OPENS_AT
        closes = min(day + CLOSES_AT, self.until - timedelta(minutes=1))
        seconds = (closes - opens).total_seconds()
        if seconds < 3600:
            uses = 0  # the day has hardly begun

        def use(at: datetime) -> Iterator[PastTransaction]:
            if self.spare() < 1:
                return iter(())
            return self._use(self._somebody(present), at)

        def welcome(account: Account) -> Callable[[datetime], Iterator[PastTransaction]]:
            return lambda at: self.welcome(account, at)

        def farewell(account: Account) -> Callable[[datetime], Iterator[PastTransaction]]:
            return lambda at: self.end_contract(account, at)

        events: list[tuple[datetime, Callable[[datetime], Iterator[PastTransaction]]]] = [
            (opens + timedelta(seconds=self.rng.triangular(0, seconds)), use) for _ in range(uses)
        ]
        for account in self.comings[day.date()]:
            events.append((max(opens, account.joined + timedelta(seconds=1)), welcome(account)))
        for account in self.goings[day.date()]:
            if account.left:
                events.append((max(opens, account.left), farewell(account)))
        middle = opens + (closes - opens) * 0.4
        events += [(middle, happening) for happening in self.scenes[day.date()]]
        events.sort(key=lambda event: event[0])
        for at, happens in events:
            yield from happens(at)
        for account, subscription in self.by_active_day:
            often = 0.3 if account is self.accounts[0] else 0.6
            if subscription.status != Subscription.Status.CANCELLED and self.rng.random() < often:
                device = subscription.device
                self.contracts.note_active_day(account, subscription, device, day.date())

    def _somebody(self, present: Sequence[Account]) -> Account:
        first = self.accounts[0]
        if len(present) == 1 or first.number * 10 < self.posted:
            return first
        # Who joined earlier is more active.
        return present[1 + int((len(present) - 1) * self.rng.random() ** 2)]

    # --- What happens -----------------------------------------------------------------------

    def _use(self, account: Account, at: datetime) -> Iterator[PastTransaction]:
        """Lets the account do one thing: mostly use a service, seldom something else."""
        self.uses += 1
        turn = self.uses
        if account.wishes and turn % 3 == 0:
            yield from self.fulfil(account, at)
        elif turn % 101 == 43 and self.monthly:
            yield from self.change_plan(self.rng.choice(self.monthly), at)
        elif turn % 97 == 13:
            yield self.give(account, at)
        elif turn % 83 == 29 and account.last and self.can_reverse(account, account.last):
            yield self.reverse(account, account.last, at)
        elif turn % 61 == 17:
            yield self.correct(account, at)
        elif (turn % 29 == 5 or account.out_of_money) and account.real < account.enough:
            yield from self.refill(account, at)
        else:
            yield from self.serve(account, at)
