"""What happened at the company of the demo data: made up, but as it could have been.

Pure: accounts, a time and a random generator in, operations out, in order of time. Same input,
same story. The story keeps each account's balances, so that nothing happens that the ledger would
have refused: who cannot pay tops up first, or goes without.

Amounts are whole numbers of the ledger's smallest unit, 1/10,000: they add up exactly, and fast.
"""

import calendar
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate, islice
from random import Random
from typing import Any, Final, NamedTuple

from billing.models import Channel, TransactionType

UNIT: Final = 10_000  # of these make one of the currency
DAYS_MAX: Final = 365
DAYS_MIN: Final = 45
RUN_AT: Final = timedelta(minutes=5)  # the charging run
OPENS_AT: Final = timedelta(minutes=30)  # the run is through by then
CLOSES_AT: Final = timedelta(hours=23, minutes=59)


class Operation(NamedTuple):
    """One thing that happened to one user's money, as signed amounts in units."""

    user_id: int
    at: datetime
    type: TransactionType
    subtype: str
    description: str
    device: str = ""
    amount: int = 0
    bonus_amount: int = 0
    actor_id: int | None = None
    channel: Channel = Channel.CHARGING
    idempotency_key: str | None = None
    reverses: int | None = None
    metadata: str = "{}"


class Staff(NamedTuple):
    """Who acts: the ids of operators who work in the panel, and of the payment gateway's."""

    clerks: Sequence[int]
    gateway: int


class Plan(NamedTuple):
    name: str
    cycle: str
    price: int


class Service(NamedTuple):
    code: str
    name: str
    unit: str
    price: int
    quantities: Sequence[int]


MONTHLY: Final = (
    Plan("Start", "monthly", 49_000),
    Plan("Business", "monthly", 125_500),
    Plan("Fleet", "monthly", 290_000),
)
BY_DAY: Final = Plan("Daily", "everyday", 300_000)
ACTIVE_DAY: Final = Plan("Rental", "activeday", 5_000)
ANNUAL: Final = Plan("Annual", "every_year", 1_200_000)
PAY_PER_USE: Final = Plan("Pay per use", "", 0)

SERVICES: Final = (
    Service("outgoing_sms", "Outgoing SMS", "", 3_000, (1, 2, 5, 10, 20, 40)),
    Service("incoming_sms", "Incoming SMS", "", 1_000, (1, 3, 5, 10, 25)),
    Service("service_sms", "Service SMS", "", 1_500, (1, 2, 4)),
    Service("phone_call", "Phone call", " min", 1_250, (1, 2, 3, 7, 12)),
    Service("traffic", "Traffic", " MB", 150, (5, 12, 40, 75, 160, 350)),
    Service("geo_lookup", "Geo lookup", "", 25, (20, 50, 100, 400)),
)
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


@dataclass(slots=True, eq=False)
class Account:
    """A user as the story knows it."""

    user_id: int
    joined: datetime
    left: datetime | None = None
    plan: Plan = PAY_PER_USE
    paid_through: date | None = None
    devices: Sequence[str] = ()
    scale: int = 1  # how many times larger than a private customer
    pays_by: str = "card"
    out_of_money: bool = False
    real: int = 0
    bonus: int = 0
    number: int = 0
    last: Operation | None = None  # if it can be reversed


def tell(
    accounts: Sequence[Account],
    *,
    transactions: int,
    until: datetime,
    staff: Staff,
    rng: Random,
    closing: int = 0,
) -> Iterator[Operation]:
    """So many operations, from some months before `until` up to it, in order of time.

    A tenth of them are the first account's. The last ones, about `closing` of them, happen at
    `until` itself. At least one account must have joined before it all begins.
    """
    story = _Story(
        accounts,
        transactions=transactions,
        closing=closing,
        until=until.astimezone(UTC),
        staff=staff,
        rng=rng,
    )
    return islice(story.tell(), transactions)


class _Story:
    def __init__(
        self,
        accounts: Sequence[Account],
        *,
        transactions: int,
        closing: int,
        until: datetime,
        staff: Staff,
        rng: Random,
    ) -> None:
        self.accounts = accounts
        self.transactions = transactions
        self.closing = closing
        self.until = until
        self.staff = staff
        self.rng = rng
        self.told = 0  # operations so far
        self.uses = 0  # of these, those that were not the charging run's
        # The day of `until` itself only if there is some of it already.
        last = (until - timedelta(hours=2)).replace(hour=0, minute=0, second=0, microsecond=0)
        days = min(DAYS_MAX, max(DAYS_MIN, transactions // 8))
        self.days = [last - timedelta(days=days - 1 - place) for place in range(days)]
        self.comings: dict[date, list[Account]] = defaultdict(list)
        self.goings: dict[date, list[Account]] = defaultdict(list)
        for account in accounts:
            self.comings[account.joined.astimezone(UTC).date()].append(account)
            if account.left:
                self.goings[account.left.astimezone(UTC).date()].append(account)
        self._equip()
        self._subscribe()

    # --- Before it begins -------------------------------------------------------------------

    def _equip(self) -> None:
        first = 8601
        for place, account in enumerate(self.accounts):
            account.scale = 40 if place == 0 else self.rng.choice((1, 1, 1, 1, 2, 2, 5, 20))
            count = self.rng.randint(1, 2 * account.scale)
            account.devices = [str(first + i) for i in range(count)]
            account.pays_by = self.rng.choice(("card", "card", "card", "transfer", "statement"))
            first += count

    def _subscribe(self) -> None:
        """Gives out plans, no more than keeps fees at about a third of all operations."""
        days, months = len(self.days), len(self.days) // 30 + 1
        left = {
            BY_DAY: self.transactions // 8 // days or 1,
            ACTIVE_DAY: self.transactions // 12 // days or 1,
            ANNUAL: self.transactions // 50,
            **dict.fromkeys(MONTHLY, self.transactions // 20 // months),
        }
        turn = (PAY_PER_USE, BY_DAY, ACTIVE_DAY, ANNUAL, *MONTHLY, PAY_PER_USE)
        for place, account in enumerate(self.accounts):
            plan = turn[place % len(turn)]
            if left.get(plan, 0):
                left[plan] -= 1
                account.plan = plan
        self.monthly = [account for account in self.accounts if account.plan in MONTHLY]

    # --- Day by day -------------------------------------------------------------------------

    def tell(self) -> Iterator[Operation]:
        yield from self._take_over()
        # A growing company, quieter at weekends.
        weights = [
            (1 + place / len(self.days)) * (0.5 if day.weekday() >= 5 else 1)
            for place, day in enumerate(self.days)
        ]
        due: float = self.told
        each = max(0, self.transactions - self.closing - self.told) / sum(weights)
        present: list[Account] = []
        for day, weight in zip(self.days, weights, strict=True):
            today = weight * each
            due += today
            tomorrow = day + timedelta(days=1)
            present = [
                account
                for account in self.accounts
                if account.joined < day and (account.left is None or account.left >= tomorrow)
            ]
            yield from self._run(day, present)
            # After many fees on the first of a month, less of the rest, but never nothing.
            yield from self._daytime(day, present, max(int(due) - self.told, int(today / 5)))
        while True:
            yield from self._use(self._somebody(present), self.until)

    def _take_over(self) -> Iterator[Operation]:
        """On the first day, balances come from the system that was there before."""
        first_day = self.days[0]
        old = [account for account in self.accounts if account.joined < first_day]
        for place, account in enumerate(old[: self.transactions // 4]):
            if place % 8 == 7:
                continue  # had nothing
            yield self._post(
                account,
                first_day + timedelta(milliseconds=place),
                TransactionType.PAYMENT,
                "import",
                "Balance taken over from the previous system",
                amount=self.rng.randrange(50_000, 900_000, 100) * account.scale,
                bonus_amount=self.rng.choice((0, 0, 0, 50_000, 120_000)),
                actor_id=self.staff.clerks[0],
                channel=Channel.IMPORT,
            )

    def _run(self, day: datetime, present: Sequence[Account]) -> Iterator[Operation]:
        """The nightly charging run: whatever fee is due and can be paid."""
        at = day + RUN_AT
        today = day.date()
        for account in present:
            plan = account.plan
            if not plan.cycle or (account.paid_through and account.paid_through >= today):
                continue
            if plan is ACTIVE_DAY and self.rng.random() < 0.4:
                continue  # the device stood still
            price, period, paid_through = fee(plan, today)
            if price > account.real:
                account.out_of_money = True
                continue
            account.paid_through = paid_through
            at += timedelta(microseconds=self.rng.randrange(200, 1_500))
            yield self._post(
                account,
                at,
                TransactionType.SUBSCRIPTION,
                plan.cycle,
                f"Plan {plan.name}, {period}",
                device=account.devices[0] if plan in (BY_DAY, ACTIVE_DAY) else "",
                amount=-price,
            )

    def _daytime(self, day: datetime, present: Sequence[Account], uses: int) -> Iterator[Operation]:
        opens = day + OPENS_AT
        closes = min(day + CLOSES_AT, self.until - timedelta(minutes=1))
        seconds = (closes - opens).total_seconds()
        events: list[tuple[datetime, Account | None]] = [
            (opens + timedelta(seconds=self.rng.triangular(0, seconds)), None) for _ in range(uses)
        ]
        for account in self.comings[day.date()]:
            events.append((max(opens, account.joined + timedelta(seconds=1)), account))
        for account in self.goings[day.date()]:
            if account.left and account.joined < day:
                events.append((max(opens, account.left), account))
        events.sort(key=lambda event: event[0])
        for at, someone in events:
            if at > closes:
                break
            if someone is None:
                yield from self._use(self._somebody(present), at)
            elif someone.joined >= day:
                yield self._welcome(someone, at)
            else:
                yield from self._pay_out(someone, at)

    def _somebody(self, present: Sequence[Account]) -> Account:
        first = self.accounts[0]
        if len(present) == 1 or first.number * 10 < self.told:
            return first
        # Who joined earlier is more active.
        return present[1 + int((len(present) - 1) * self.rng.random() ** 2)]

    # --- What happens -----------------------------------------------------------------------

    def _use(self, account: Account, at: datetime) -> Iterator[Operation]:
        """One more thing that somebody did: mostly using a service, seldom something else."""
        self.uses += 1
        turn = self.uses
        if turn % 101 == 43 and self.monthly:
            yield from self._change_plan(self.rng.choice(self.monthly), at)
        elif turn % 97 == 13:
            yield self._give(account, at)
        elif turn % 83 == 29 and account.last and self._can_reverse(account, account.last):
            yield self._reverse(account, account.last, at)
        elif turn % 61 == 17:
            yield self._correct(account, at)
        elif turn % 29 == 5 or account.out_of_money:
            yield self._refill(account, at)
        else:
            yield self._serve(account, at)

    def _serve(self, account: Account, at: datetime) -> Operation:
        rng = self.rng
        [service] = rng.choices(SERVICES, cum_weights=SERVICE_WEIGHTS)
        quantity = rng.choice(service.quantities) * rng.randint(1, account.scale)
        cost = quantity * service.price
        if cost > account.real + account.bonus:
            return self._refill(account, at)
        from_bonus = min(cost, account.bonus)
        device = rng.choice(account.devices)
        return self._post(
            account,
            at,
            TransactionType.SERVICE,
            service.code,
            f"{service.name} × {quantity}{service.unit}, plan {account.plan.name}, device {device}",
            device=device,
            amount=from_bonus - cost,
            bonus_amount=-from_bonus,
        )

    def _refill(self, account: Account, at: datetime) -> Operation:
        account.out_of_money = False
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

    def _give(self, account: Account, at: datetime) -> Operation:
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

    def _correct(self, account: Account, at: datetime) -> Operation:
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
    def _can_reverse(account: Account, original: Operation) -> bool:
        return account.real >= original.amount and account.bonus >= original.bonus_amount

    def _reverse(self, account: Account, original: Operation, at: datetime) -> Operation:
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

    def _change_plan(self, account: Account, at: datetime) -> Iterator[Operation]:
        """To another monthly plan, from today on; the rest of the old one is paid back."""
        today = at.date()
        new = self.rng.choice([plan for plan in MONTHLY if plan is not account.plan])
        back, period, _ = fee(account.plan, today)
        price, _, paid_through = fee(new, today)
        has_left = account.left is not None and account.left <= at
        if has_left or account.paid_through != paid_through or account.real + back < price:
            yield self._serve(self.accounts[0], at)
            return
        clerk = self.rng.choice(self.staff.clerks)
        for subtype, plan, amount in (
            ("remainder", account.plan, back),
            (new.cycle, new, -price),
        ):
            yield self._post(
                account,
                at,
                TransactionType.SUBSCRIPTION,
                subtype,
                f"{'Remainder of plan' if amount > 0 else 'Plan'} {plan.name}, {period}",
                amount=amount,
                actor_id=clerk,
                channel=Channel.PANEL,
            )
        account.plan = new

    def _welcome(self, account: Account, at: datetime) -> Operation:
        return self._post(
            account,
            at,
            TransactionType.BONUS_REFILL,
            "register",
            "Gift on registration",
            bonus_amount=5 * UNIT,
            actor_id=self.staff.gateway,
            channel=Channel.API,
        )

    def _pay_out(self, account: Account, at: datetime) -> Iterator[Operation]:
        if account.real or account.bonus:
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

    def _post(
        self,
        account: Account,
        at: datetime,
        type: TransactionType,  # noqa: A002 - the column's name
        subtype: str,
        description: str,
        **fields: Any,
    ) -> Operation:
        operation = Operation(account.user_id, at, type, subtype, description, **fields)
        account.real += operation.amount
        account.bonus += operation.bonus_amount
        account.number += 1
        account.last = None if type is TransactionType.REVERSAL else operation
        self.told += 1
        return operation


def fee(plan: Plan, today: date) -> tuple[int, str, date]:
    """What a plan costs from `today` on, for which period, and until when that is paid."""
    year_end = date(today.year, 12, 31)
    month_days = calendar.monthrange(today.year, today.month)[1]
    if plan.cycle == "monthly":
        end = today.replace(day=month_days)
        period = f"{today:%B %Y}" if today.day == 1 else f"{today.day}–{_day(end)}"
        return _share(plan.price, month_days - today.day + 1, month_days), period, end
    if plan.cycle == "every_year":
        days = year_end.timetuple().tm_yday
        left = days - today.timetuple().tm_yday + 1
        period = f"{today.year}" if left == days else f"{_day(today)} – {_day(year_end)}"
        return _share(plan.price, left, days), period, year_end
    if plan.cycle == "everyday":
        until_today = _share(plan.price, today.day, month_days)
        price = until_today - _share(plan.price, today.day - 1, month_days)
        return price, _day(today), today
    return plan.price, f"active on {_day(today - timedelta(days=1))}", today


def _share(price: int, days: int, of_days: int) -> int:
    """Rounded half up."""
    return (2 * price * days + of_days) // (2 * of_days)


def _day(day: date) -> str:
    return f"{day.day} {day:%B %Y}"
