"""What happened at the company of the demo data: made up, but as it could have been.

Pure: accounts, a catalogue, a time and a random generator in, operations out, in order of time.
Same input, same story. What subscriptions and services cost, and when, is not made up: the rules
that decide it are the real ones (`contracts`, `billing.plans.pricing`, `billing.ledger`). The story
keeps each account's balances, so that nothing happens that the ledger would have refused: who
cannot pay tops up first, or goes without.

Amounts are whole numbers of the ledger's smallest unit, 1/10,000: they add up exactly, and fast.

How many operations there are is decided beforehand. Charges of subscriptions cannot be left out, so
the story always knows how many of these are still to come, and lets other things happen only as
long as there is room for them (`_Story.spare`).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import accumulate
from random import Random
from typing import Any, Final, NamedTuple

from billing.ledger import Entry
from billing.ledger.history import PastTransaction, as_jsonb, units_of
from billing.management.demo.catalogue import (
    ACTIVE_DAY,
    ANNUAL,
    BY_DAY,
    CONTROL_ROOM,
    GIFT_ON_REGISTRATION,
    MONTHLY,
    PAY_PER_USE,
    RETIRED,
    Catalogue,
)
from billing.management.demo.contracts import Contracts, Night
from billing.models import (
    Channel,
    ChargingFailure,
    ChargingRun,
    Plan,
    Subscription,
    TransactionType,
)
from billing.plans.due import ACTIVE, SUSPENDED, Decision
from billing.plans.posting import charge_entry
from billing.plans.pricing import Cycle, charge_on, remainder, service_cost
from billing.plans.services import PRICING, Price, describe_service, explain_cost

UNIT: Final = 10_000  # of these make one of the currency
DAYS_MAX: Final = 365
DAYS_MIN: Final = 45
RUN_AT: Final = timedelta(minutes=5)  # the charging run
OPENS_AT: Final = timedelta(minutes=30)  # the run is through by then
CLOSES_AT: Final = timedelta(hours=23, minutes=59)
MOMENT: Final = timedelta(milliseconds=700)  # after it a job has done what it has to
# Nights, counted from the last, in which somebody could not be charged; the next one made it good.
FAILURES: Final = {
    6: "canceling statement due to lock timeout",
    39: "deadlock detected",
}


class Staff(NamedTuple):
    """Who acts: the ids of operators who work in the panel, and of programs with the API."""

    clerks: Sequence[int]
    gateway: int  # takes payments, and registers customers
    platform: int  # tracks the devices, and charges what they use


QUANTITIES: Final = {
    "outgoing_sms": (1, 2, 5, 10, 20, 40),
    "incoming_sms": (1, 3, 5, 10, 25),
    "service_sms": (1, 2, 4),
    "phone_call": (1, 2, 3, 7, 12),
    "traffic": (5, 12, 40, 75, 160, 350),
    "geo_lookup": (20, 50, 100, 400),
}
SERVICES: Final = tuple(QUANTITIES)
SERVICE_WEIGHTS: Final = tuple(accumulate((30, 14, 10, 8, 32, 6)))
REFILLS: Final = (10, 20, 25, 50, 50, 100)

CREDITS: Final = (
    "Credit: traffic was counted twice",
    "Credit: service was not available",
    "Goodwill credit",
)
DEBITS: Final = ("Debit: payment credited twice", "Debit: SIM card replaced", "Debit: unpaid fee")
REVERSAL_REASONS: Final = (
    "Reversed: charged by mistake",
    "Reversed: wrong customer",
    "Reversed: booked twice",
)
GIFTS: Final = (
    ("campaign", "Gift: seasonal campaign"),
    ("loyalty", "Gift: one year with us"),
    ("referral", "Gift: recommended us to a friend"),
)


class Wish(NamedTuple):
    """What a customer is going to subscribe to. No device: the account's own plan."""

    plan: Plan
    device: str = ""


@dataclass(slots=True, eq=False)
class Account:
    """A user as the story knows it."""

    user_id: int
    joined: datetime
    left: datetime | None = None
    idle_from: datetime | None = None  # does nothing any more, but stays
    devices: Sequence[str] = ()
    scale: int = 1  # how many times larger than a private customer
    pays_by: str = "card"
    wishes: list[Wish] = field(default_factory=list)
    live: dict[str, Subscription] = field(default_factory=dict)  # by device
    out_of_money: bool = False
    real: int = 0
    bonus: int = 0
    number: int = 0
    last: PastTransaction | None = None  # if it can be reversed

    @property
    def enough(self) -> int:
        """Who has more does not top up. So nobody ever has what the plan Control room costs."""
        return 30 * self.scale * UNIT


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
    """So many operations, from some months before `until` up to it, in order of time.

    A tenth of them are the first account's. The last ones, at least `closing` of them, happen at
    `until` itself. At least one account must have joined before it all begins. `contracts` is
    filled meanwhile, and complete at the end.
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


class _Story:
    def __init__(
        self,
        accounts: Sequence[Account],
        *,
        contracts: Contracts,
        catalogue: Catalogue,
        transactions: int,
        closing: int,
        until: datetime,
        staff: Staff,
        rng: Random,
    ) -> None:
        self.accounts = accounts
        self.contracts = contracts
        self.plans = catalogue.plans
        self.prices = catalogue.prices
        self.transactions = transactions
        self.closing = closing
        self.until = until
        self.staff = staff
        self.rng = rng
        self.told = 0  # operations so far
        self.uses = 0  # of these, those that were not the charging run's
        self.clock = datetime.min.replace(tzinfo=UTC)  # of the last operation
        last = until.replace(hour=0, minute=0, second=0, microsecond=0)
        days = min(DAYS_MAX, max(DAYS_MIN, transactions // 8))
        self.days = [last - timedelta(days=days - 1 - place) for place in range(days)]
        contracts.last_day = last.date()
        self.comings: dict[date, list[Account]] = defaultdict(list)
        self.goings: dict[date, list[Account]] = defaultdict(list)
        self.scenes: dict[date, list[Callable[[datetime], Iterator[PastTransaction]]]] = (
            defaultdict(list)
        )
        for account in accounts:
            self.comings[account.joined.astimezone(UTC).date()].append(account)
            if account.left:
                self.goings[account.left.astimezone(UTC).date()].append(account)
        self.monthly: list[Account] = []  # their own plan is, or was, one of MONTHLY
        self.by_active_day: list[tuple[Account, Subscription]] = []
        self._equip()
        self._wish()
        self._stage()

    def spare(self) -> int:
        """So many operations may happen besides those that must."""
        return self.transactions - self.closing - self.told - self.contracts.owed

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
        """Gives out plans, no more than keeps fees at about a third of all operations."""
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
        """What the first customer does besides, as far as there is room for it."""
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
                return self._fulfil(first, at)

            return happening

        longest = len(self.days) - 3
        if self.transactions >= 600:
            scene(min(longest, self.transactions // 100), wish(ACTIVE_DAY, devices[3]))
            scene(max(6, min(longest, self.transactions // 1_000)), wish(BY_DAY, devices[4]))
            scene(8, wish(BY_DAY, "control-room"))
            scene(5, lambda at: self._order(first, "control-room", at))
        scene(longest // 3, lambda at: self._give_up(first, devices[2], at))

    # --- Day by day -------------------------------------------------------------------------

    def tell(self) -> Iterator[PastTransaction]:
        self.contracts.begin(self.days[0].date())
        yield from self._take_over()
        # A growing company, quieter at weekends.
        weights = [
            (1 + place / len(self.days)) * (0.5 if day.weekday() >= 5 else 1)
            for place, day in enumerate(self.days)
        ]
        due: float = self.told
        each = max(0, self.transactions - self.closing - self.told) / sum(weights)
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
            yield from self._daytime(day, present, max(int(due) - self.told, int(today / 5)))
        self.closing = 0
        while self.told < self.transactions:
            yield from self._use(self._somebody(present), self.until)

    def _take_over(self) -> Iterator[PastTransaction]:
        """On the first day, balances and plans come from the system that was there before."""
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
            yield self._post(
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
            while account.wishes and self._can_pay(account, account.wishes[0].plan):
                wish = account.wishes.pop(0)
                yield from self._begin(account, wish, self.clock + MOMENT / 100, **by_import)
            if "" not in account.live:
                own = Wish(self.plans[PAY_PER_USE])
                yield from self._begin(account, own, self.clock, **by_import)
            # Not theirs to choose any more.
            account.wishes = [wish for wish in account.wishes if wish.plan.is_active]

    def _night(self, day: datetime, problem: str | None) -> Iterator[PastTransaction]:
        """The charging run."""
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
                    account.idle_from = day  # and is not heard of again
            yield from self._charge(account, steps, at)
        at = max(at, self.clock) + timedelta(milliseconds=self.rng.randrange(60, 240))
        night.close(min(at, self.until))

    def _unlucky(self, due: Sequence[tuple[Account, list[Subscription]]]) -> Account | None:
        """Somebody whom tomorrow's run can charge for two days."""
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
            return lambda at: self._welcome(account, at)

        def farewell(account: Account) -> Callable[[datetime], Iterator[PastTransaction]]:
            return lambda at: self._end_contract(account, at)

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
        if len(present) == 1 or first.number * 10 < self.told:
            return first
        # Who joined earlier is more active.
        return present[1 + int((len(present) - 1) * self.rng.random() ** 2)]

    # --- What happens -----------------------------------------------------------------------

    def _use(self, account: Account, at: datetime) -> Iterator[PastTransaction]:
        """One more thing that somebody did: mostly using a service, seldom something else."""
        self.uses += 1
        turn = self.uses
        if account.wishes and turn % 3 == 0:
            yield from self._fulfil(account, at)
        elif turn % 101 == 43 and self.monthly:
            yield from self._change_plan(self.rng.choice(self.monthly), at)
        elif turn % 97 == 13:
            yield self._give(account, at)
        elif turn % 83 == 29 and account.last and self._can_reverse(account, account.last):
            yield self._reverse(account, account.last, at)
        elif turn % 61 == 17:
            yield self._correct(account, at)
        elif (turn % 29 == 5 or account.out_of_money) and account.real < account.enough:
            yield from self._refill(account, at)
        else:
            yield from self._serve(account, at)

    def _serve(self, account: Account, at: datetime) -> Iterator[PastTransaction]:
        rng = self.rng
        [service] = rng.choices(SERVICES, cum_weights=SERVICE_WEIGHTS)
        quantity = rng.choice(QUANTITIES[service]) * rng.randint(1, account.scale)
        device = rng.choice(account.devices)
        subscription = account.live.get(device) or account.live.get("")
        if subscription is None or subscription.status == SUSPENDED:
            yield from self._refill(account, at)  # refused; that may help
            return
        price = self.prices.get((subscription.plan_id, service))
        if price is None:  # not offered under this plan
            price = self.prices[subscription.plan_id, SERVICES[0]]
            service = SERVICES[0]
        cost, units, metadata = _cost(price, quantity)
        if cost > account.real + account.bonus:
            yield from self._refill(account, at)
            return
        from_bonus = min(cost, account.bonus)
        yield self._post(
            account,
            at,
            TransactionType.SERVICE,
            service,
            describe_service(price, units, device),
            device=device,
            amount=from_bonus - cost,
            bonus_amount=-from_bonus,
            actor_id=self.staff.platform,
            channel=Channel.API,
            metadata=metadata,
        )

    def _refill(self, account: Account, at: datetime) -> Iterator[PastTransaction]:
        """A payment and, soon after it, what it resumes."""
        account.out_of_money = False
        suspended = sum(each.status == SUSPENDED for each in account.live.values())
        if self.spare() <= suspended:
            yield self._give(account, at)
            return
        yield self._payment(account, at)
        if suspended:
            today = at.date()
            due = [
                each
                for each in account.live.values()
                if each.status == SUSPENDED or (each.due_on is not None and each.due_on <= today)
            ]
            steps = self.contracts.decide(account, due, today, retry=True)
            yield from self._charge(account, steps, at + MOMENT)

    def _payment(self, account: Account, at: datetime) -> PastTransaction:
        document = 480_000 + self.told
        how: dict[str, Any]
        if account.pays_by == "card":
            how = {
                "description": f"Card payment {document}",
                "subtype": "partner",
                "channel": Channel.API,
                "actor_id": self.staff.gateway,
                "idempotency_key": f"card-{document}",
                "metadata": f'{{"payment": "{document}"}}',
            }
        elif account.pays_by == "transfer":
            how = {
                "description": f"Bank transfer, invoice {at.year}-{document}",
                "subtype": "partner",
                "channel": Channel.PANEL,
                "actor_id": self.rng.choice(self.staff.clerks),
            }
        else:
            how = {
                "description": f"Bank statement of {_day(at.date())}, line {1 + self.told % 90}",
                "subtype": "import",
                "channel": Channel.IMPORT,
                "actor_id": self.staff.clerks[0],
            }
        amount = self.rng.choice(REFILLS) * account.scale * UNIT
        return self._post(account, at, TransactionType.PAYMENT, amount=amount, **how)

    def _give(self, account: Account, at: datetime) -> PastTransaction:
        subtype, description = self.rng.choice(GIFTS)
        return self._post(
            account,
            at,
            TransactionType.BONUS_REFILL,
            subtype,
            description,
            bonus_amount=self.rng.choice((2, 5, 10)) * UNIT,
            actor_id=self.rng.choice(self.staff.clerks),
            channel=Channel.PANEL,
        )

    def _correct(self, account: Account, at: datetime) -> PastTransaction:
        amount = self.rng.randrange(100, 150_000, 100)
        owes = account.real >= amount and self.rng.random() < 0.5
        return self._post(
            account,
            at,
            TransactionType.PAYMENT,
            "partner",
            self.rng.choice(DEBITS if owes else CREDITS),
            amount=-amount if owes else amount,
            actor_id=self.rng.choice(self.staff.clerks),
            channel=Channel.PANEL,
        )

    @staticmethod
    def _can_reverse(account: Account, original: PastTransaction) -> bool:
        return (
            original.type is not TransactionType.SUBSCRIPTION
            and account.real >= original.amount
            and account.bonus >= original.bonus_amount
        )

    def _reverse(
        self, account: Account, original: PastTransaction, at: datetime
    ) -> PastTransaction:
        return self._post(
            account,
            at,
            TransactionType.REVERSAL,
            original.type.value,
            self.rng.choice(REVERSAL_REASONS),
            device=original.device,
            amount=-original.amount,
            bonus_amount=-original.bonus_amount,
            actor_id=self.rng.choice(self.staff.clerks),
            channel=Channel.PANEL,
            reverses=account.number,
        )

    # --- Subscriptions ----------------------------------------------------------------------

    def _fulfil(self, account: Account, at: datetime) -> Iterator[PastTransaction]:
        """The account subscribes to what it wants to, after a payment if need be."""
        plan, _ = wish = account.wishes[0]
        price = units_of(charge_on(at.date(), plan.terms).amount)
        if not self._has_room(account, plan):
            account.wishes.clear()
            if self.spare() >= 1:
                yield self._give(account, at)
            return
        if price > account.real:
            yield from self._refill(account, at)
        if price <= account.real:
            del account.wishes[0]
            clerk = self.rng.choice(self.staff.clerks)
            yield from self._begin(
                account, wish, at + MOMENT * 2, actor_id=clerk, channel=Channel.PANEL
            )

    def _can_pay(self, account: Account, plan: Plan) -> bool:
        price = units_of(charge_on(self.days[0].date(), plan.terms).amount)
        return price <= account.real and self._has_room(account, plan)

    def _has_room(self, account: Account, plan: Plan) -> bool:
        """A payment, what that resumes, what is charged at once, and what is after that."""
        needed = 3 + len(account.live) + self.contracts.charges_to_come(plan.cycle)
        return self.spare() >= needed

    def _begin(
        self, account: Account, wish: Wish, at: datetime, **by: Any
    ) -> Iterator[PastTransaction]:
        """Starts a subscription; the account's own, if there is one, gets another plan."""
        plan, device = wish
        today = at.date()
        present = account.live.get(device)
        if present is None:
            steps = self.contracts.start(account, plan, device, today)
        else:
            paid_back, steps = self.contracts.change_plan(account, present, plan, today)
            for entry in paid_back:
                yield self._post_entry(account, entry, at, **by)
        yield from self._charge(account, steps, at, **by)
        if not device and plan.name in MONTHLY:
            self.monthly.append(account)
        if plan.cycle == Cycle.ACTIVE_DAY:
            self.by_active_day.append((account, account.live[device]))

    def _change_plan(self, account: Account, at: datetime) -> Iterator[PastTransaction]:
        """To another monthly plan, from today on; the rest of the old one is paid back."""
        own = account.live.get("")
        today = at.date()
        others = [self.plans[name] for name in MONTHLY if own and name != own.plan.name]
        new = self.rng.choice(others or [self.plans[MONTHLY[0]]])
        price = units_of(charge_on(today, new.terms).amount)
        paid = own and own.paid_period
        back = units_of(remainder(paid, today)) if paid and paid.last >= today else 0
        if own is None or own.status != ACTIVE or account.real + back < price or self.spare() < 2:
            yield from self._serve(self.accounts[0], at)
            return
        clerk = self.rng.choice(self.staff.clerks)
        yield from self._begin(account, Wish(new), at, actor_id=clerk, channel=Channel.PANEL)

    def _order(self, account: Account, device: str, at: datetime) -> Iterator[PastTransaction]:
        """A dearer plan for a device, from the next charge on: nothing is posted yet."""
        present = account.live.get(device)
        if present is not None and self.spare() > self.contracts.charges_to_come(Cycle.ANNUAL):
            plan = self.plans[CONTROL_ROOM]
            self.contracts.change_plan(account, present, plan, at.date(), at_once=False)
        yield from ()

    def _give_up(self, account: Account, device: str, at: datetime) -> Iterator[PastTransaction]:
        """The device goes out of service; the rest of what was paid for it is paid back."""
        present = account.live.get(device)
        if present is None:
            return
        pay_back = self.spare() >= 1
        clerk = self.rng.choice(self.staff.clerks)
        by = {"actor_id": clerk, "channel": Channel.PANEL}
        steps, paid_back = self.contracts.cancel(account, present, at.date(), pay_back=pay_back)
        yield from self._charge(account, steps, at, **by)
        for entry in paid_back:
            yield self._post_entry(account, entry, at, **by)

    def _charge(
        self, account: Account, steps: Iterable[Decision], at: datetime, **by: Any
    ) -> Iterator[PastTransaction]:
        for step in steps:
            charge = step.charge
            if charge is None:
                continue
            self.contracts.active_day_charged(step)
            if charge.amount:
                entry = charge_entry(step.subscription, charge)
                yield self._post_entry(account, entry, at, **by)
                if step.subscription.charged_from == charge.first:
                    step.subscription.charge_number = account.number
                at += timedelta(microseconds=50 + 450 * self.rng.random())

    def _post_entry(
        self, account: Account, entry: Entry, at: datetime, **by: Any
    ) -> PastTransaction:
        return self._post(
            account,
            at,
            entry.type,
            entry.subtype,
            entry.description,
            device=entry.device,
            amount=units_of(Decimal(entry.amount)),
            idempotency_key=entry.idempotency_key,
            metadata=as_jsonb(entry.metadata),
            **by,
        )

    # --- Coming and going -------------------------------------------------------------------

    def _welcome(self, account: Account, at: datetime) -> Iterator[PastTransaction]:
        """As the defaults for new users say."""
        by_gateway = {"actor_id": self.staff.gateway, "channel": Channel.API}
        if self.spare() >= 1:
            yield self._post(
                account,
                at,
                TransactionType.BONUS_REFILL,
                "register",
                "Gift on registration",
                bonus_amount=units_of(GIFT_ON_REGISTRATION),
                idempotency_key="registration",
                **by_gateway,
            )
        yield from self._begin(account, Wish(self.plans[PAY_PER_USE]), at, **by_gateway)

    def _end_contract(self, account: Account, at: datetime) -> Iterator[PastTransaction]:
        for device in list(account.live):
            yield from self._give_up(account, device, at)
        if (account.real or account.bonus) and self.spare() >= 1:
            yield self._post(
                account,
                at,
                TransactionType.PAYMENT,
                "partner",
                "Contract ended: balance paid out, bonus expired",
                amount=-account.real,
                bonus_amount=-account.bonus,
                actor_id=self.rng.choice(self.staff.clerks),
                channel=Channel.PANEL,
            )

    # --- How it is told ---------------------------------------------------------------------

    def _post(
        self,
        account: Account,
        at: datetime,
        type: TransactionType,  # noqa: A002 - the column's name
        subtype: str,
        description: str,
        **fields: Any,
    ) -> PastTransaction:
        self.clock = at = min(max(at, self.clock), self.until)
        by = {"channel": Channel.CHARGING} | fields
        operation = PastTransaction(account.user_id, at, type, subtype, description, **by)
        account.real += operation.amount
        account.bonus += operation.bonus_amount
        account.number += 1
        account.last = None if type is TransactionType.REVERSAL else operation
        self.told += 1
        return operation


@lru_cache(maxsize=100_000)
def _cost(price: Price, quantity: int) -> tuple[int, Decimal, str]:
    """The cost in units, the quantity as the ledger has it, and the metadata."""
    exact = Decimal(quantity)
    cost = service_cost(price.price, exact)
    return units_of(cost), exact, as_jsonb({PRICING: explain_cost(price, exact)})


def _day(day: date) -> str:
    return f"{day.day} {day:%B} {day.year}"
