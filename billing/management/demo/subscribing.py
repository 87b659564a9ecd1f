"""What happens to the subscriptions of the demo data."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from billing.ledger.history import PastTransaction, units_of
from billing.management.demo.accounts import Account, Wish
from billing.management.demo.catalogue import (
    CONTROL_ROOM,
    GIFT_ON_REGISTRATION,
    MONTHLY,
    PAY_PER_USE,
)
from billing.management.demo.dealings import MOMENT, Dealings
from billing.models import Channel, Plan, Subscription, TransactionType
from billing.plans.due import ACTIVE
from billing.plans.pricing import Cycle, charge_on, remainder


class Subscribing(Dealings):
    """Starts, changes and ends subscriptions, and welcomes and says goodbye to customers."""

    first_day: datetime
    monthly: list[Account]  # their own plan is, or was, one of MONTHLY
    by_active_day: list[tuple[Account, Subscription]]

    def fulfil(self, account: Account, at: datetime) -> Iterator[PastTransaction]:
        """The account subscribes to the first plan on its list, after a payment if needed."""
        plan, _ = wish = account.wishes[0]
        price = units_of(charge_on(at.date(), plan.terms).amount)
        if not self.has_room(account, plan):
            account.wishes.clear()
            if self.spare() >= 1:
                yield self.give(account, at)
            return
        if price > account.real:
            yield from self.refill(account, at)
        if price <= account.real:
            del account.wishes[0]
            clerk = self.rng.choice(self.staff.clerks)
            yield from self.begin(
                account, wish, at + MOMENT * 2, actor_id=clerk, channel=Channel.PANEL
            )

    def can_afford(self, account: Account, plan: Plan) -> bool:
        price = units_of(charge_on(self.first_day.date(), plan.terms).amount)
        return price <= account.real and self.has_room(account, plan)

    def has_room(self, account: Account, plan: Plan) -> bool:
        """True if a payment, what it resumes, the first charge and all later ones have room."""
        needed = 3 + len(account.live) + self.contracts.charges_to_come(plan.cycle)
        return self.spare() >= needed

    def begin(
        self, account: Account, wish: Wish, at: datetime, **by: Any
    ) -> Iterator[PastTransaction]:
        """Starts a subscription, or changes the plan if the device or account has one."""
        plan, device = wish
        today = at.date()
        present = account.live.get(device)
        if present is None:
            steps = self.contracts.start(account, plan, device, today)
        else:
            paid_back, steps = self.contracts.change_plan(account, present, plan, today)
            for entry in paid_back:
                yield self.post_entry(account, entry, at, **by)
        yield from self.charge(account, steps, at, **by)
        if not device and plan.name in MONTHLY:
            self.monthly.append(account)
        if plan.cycle == Cycle.ACTIVE_DAY:
            self.by_active_day.append((account, account.live[device]))

    def change_plan(self, account: Account, at: datetime) -> Iterator[PastTransaction]:
        """Changes to another monthly plan from today on and pays back the rest of the old one."""
        own = account.live.get("")
        today = at.date()
        others = [self.plans[name] for name in MONTHLY if own and name != own.plan.name]
        new = self.rng.choice(others or [self.plans[MONTHLY[0]]])
        price = units_of(charge_on(today, new.terms).amount)
        paid = own and own.paid_period
        back = units_of(remainder(paid, today)) if paid and paid.last >= today else 0
        if own is None or own.status != ACTIVE or account.real + back < price or self.spare() < 2:
            yield from self.serve(self.accounts[0], at)
            return
        clerk = self.rng.choice(self.staff.clerks)
        yield from self.begin(account, Wish(new), at, actor_id=clerk, channel=Channel.PANEL)

    def order(self, account: Account, device: str, at: datetime) -> Iterator[PastTransaction]:
        """Changes a device to a dearer plan from the next charge on; posts nothing now."""
        present = account.live.get(device)
        if present is not None and self.spare() > self.contracts.charges_to_come(Cycle.ANNUAL):
            plan = self.plans[CONTROL_ROOM]
            self.contracts.change_plan(account, present, plan, at.date(), at_once=False)
        yield from ()

    def give_up(self, account: Account, device: str, at: datetime) -> Iterator[PastTransaction]:
        """Cancels the device's subscription and pays back the rest of what was paid."""
        present = account.live.get(device)
        if present is None:
            return
        pay_back = self.spare() >= 1
        clerk = self.rng.choice(self.staff.clerks)
        by = {"actor_id": clerk, "channel": Channel.PANEL}
        steps, paid_back = self.contracts.cancel(account, present, at.date(), pay_back=pay_back)
        yield from self.charge(account, steps, at, **by)
        for entry in paid_back:
            yield self.post_entry(account, entry, at, **by)

    def welcome(self, account: Account, at: datetime) -> Iterator[PastTransaction]:
        """Gives a new customer the gift and the plan of the defaults for new users."""
        by_gateway = {"actor_id": self.staff.gateway, "channel": Channel.API}
        if self.spare() >= 1:
            yield self.post(
                account,
                at,
                TransactionType.BONUS_REFILL,
                "register",
                "Gift on registration",
                bonus_amount=units_of(GIFT_ON_REGISTRATION),
                idempotency_key="registration",
                **by_gateway,
            )
        yield from self.begin(account, Wish(self.plans[PAY_PER_USE]), at, **by_gateway)

    def end_contract(self, account: Account, at: datetime) -> Iterator[PastTransaction]:
        for device in list(account.live):
            yield from self.give_up(account, device, at)
        if (account.real or account.bonus) and self.spare() >= 1:
            yield self.post(
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
