"""Where the story of the demo data writes its operations.

A journal keeps the balances of the accounts, the time of the last operation and the number of
operations still to come.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

from billing.ledger import Entry
from billing.ledger.history import PastTransaction, as_jsonb, units_of
from billing.management.demo.accounts import Account, Staff
from billing.management.demo.catalogue import Catalogue
from billing.management.demo.contracts import Contracts
from billing.models import Channel, TransactionType
from billing.plans.due import Decision
from billing.plans.posting import charge_entry


class Journal:
    """Writes operations in order of time, and never more than `transactions` of them."""

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
        self.posted = 0
        self.clock = datetime.min.replace(tzinfo=UTC)  # of the last operation

    def spare(self) -> int:
        """Returns how many operations may happen besides the charges that must happen."""
        return self.transactions - self.closing - self.posted - self.contracts.owed

    def charge(
        self, account: Account, steps: Iterable[Decision], at: datetime, **by: Any
    ) -> Iterator[PastTransaction]:
        for step in steps:
            charge = step.charge
            if charge is None:
                continue
            self.contracts.active_day_charged(step)
            if charge.amount:
                entry = charge_entry(step.subscription, charge)
                yield self.post_entry(account, entry, at, **by)
                if step.subscription.charged_from == charge.first:
                    step.subscription.charge_number = account.number
                at += timedelta(microseconds=50 + 450 * self.rng.random())

    def post_entry(
        self, account: Account, entry: Entry, at: datetime, **by: Any
    ) -> PastTransaction:
        return self.post(
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

    def post(
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
        self.posted += 1
        return operation
