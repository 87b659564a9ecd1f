"""What customers and operators do on any day of the demo data: services, payments, corrections."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final

from billing.ledger.history import PastTransaction, as_jsonb, units_of
from billing.management.demo.accounts import UNIT, Account
from billing.management.demo.journal import Journal
from billing.models import Channel, TransactionType
from billing.plans.due import SUSPENDED
from billing.plans.pricing import service_cost
from billing.plans.services import PRICING, Price, describe_service, explain_cost

MOMENT: Final = timedelta(milliseconds=700)  # the time between a payment and what a job does next

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


class Dealings(Journal):
    """Everything that a customer or an operator does, apart from subscriptions."""

    def serve(self, account: Account, at: datetime) -> Iterator[PastTransaction]:
        rng = self.rng
        [service] = rng.choices(SERVICES, cum_weights=SERVICE_WEIGHTS)
        quantity = rng.choice(QUANTITIES[service]) * rng.randint(1, account.scale)
        device = rng.choice(account.devices)
        subscription = account.live.get(device) or account.live.get("")
        if subscription is None or subscription.status == SUSPENDED:
            yield from self.refill(account, at)  # refused; that may help
            return
        price = self.prices.get((subscription.plan_id, service))
        if price is None:  # the plan does not offer it
            price = self.prices[subscription.plan_id, SERVICES[0]]
            service = SERVICES[0]
        cost, units, metadata = _cost(price, quantity)
        if cost > account.real + account.bonus:
            yield from self.refill(account, at)
            return
        from_bonus = min(cost, account.bonus)
        yield self.post(
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

    def refill(self, account: Account, at: datetime) -> Iterator[PastTransaction]:
        """A payment and, soon after it, the charges of the subscriptions that it resumes."""
        account.out_of_money = False
        suspended = sum(each.status == SUSPENDED for each in account.live.values())
        if self.spare() <= suspended:
            yield self.give(account, at)
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
            yield from self.charge(account, steps, at + MOMENT)

    def _payment(self, account: Account, at: datetime) -> PastTransaction:
        document = 480_000 + self.posted
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
                "description": f"Bank statement of {_day(at.date())}, line {1 + self.posted % 90}",
                "subtype": "import",
                "channel": Channel.IMPORT,
                "actor_id": self.staff.clerks[0],
            }
        amount = self.rng.choice(REFILLS) * account.scale * UNIT
        return self.post(account, at, TransactionType.PAYMENT, amount=amount, **how)

    def give(self, account: Account, at: datetime) -> PastTransaction:
        subtype, description = self.rng.choice(GIFTS)
        return self.post(
            account,
            at,
            TransactionType.BONUS_REFILL,
            subtype,
            description,
            bonus_amount=self.rng.choice((2, 5, 10)) * UNIT,
            actor_id=self.rng.choice(self.staff.clerks),
            channel=Channel.PANEL,
        )

    def correct(self, account: Account, at: datetime) -> PastTransaction:
        amount = self.rng.randrange(100, 150_000, 100)
        owes = account.real >= amount and self.rng.random() < 0.5
        return self.post(
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
    def can_reverse(account: Account, original: PastTransaction) -> bool:
        return (
            original.type is not TransactionType.SUBSCRIPTION
            and account.real >= original.amount
            and account.bonus >= original.bonus_amount
        )

    def reverse(self, account: Account, original: PastTransaction, at: datetime) -> PastTransaction:
        return self.post(
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


@lru_cache(maxsize=100_000)
def _cost(price: Price, quantity: int) -> tuple[int, Decimal, str]:
    """Returns the cost in ledger units, the quantity as a Decimal, and the metadata."""
    exact = Decimal(quantity)
    cost = service_cost(price.price, exact)
    return units_of(cost), exact, as_jsonb({PRICING: explain_cost(price, exact)})


def _day(day: date) -> str:
    return f"{day.day} {day:%B} {day.year}"
