"""What a history consists of, as another system knows it.

IDs here are those of the other system: texts that only have to be different from each other.
Amounts are `Decimal` with four decimals. None: the other system does not say.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal


@dataclass(frozen=True)
class Problem:
    """Why something cannot be imported, and where it stands.

    `place` is a file and a line, or empty; `user_id` is the user whose import it prevents, None if
    nothing at all can be imported.
    """

    sentence: str
    place: str = ""
    user_id: str | None = None

    def __str__(self) -> str:
        return f"{self.place}: {self.sentence}" if self.place else self.sentence


class Unreadable(Exception):
    """A value cannot be read; the message is a sentence about it."""


@dataclass(frozen=True)
class PastUser:
    """A customer. `profile` holds fields of `users.User` by their names."""

    id: str
    place: str
    email: str
    is_active: bool = True
    created_at: datetime | None = None
    real: Decimal | None = None
    bonus: Decimal | None = None
    profile: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PastPlan:
    """A pricing plan. `cycle` is one of `billing.plans.pricing.Cycle`."""

    id: str
    place: str
    name: str
    cycle: str
    price: Decimal
    is_proportional: bool = False
    is_active: bool = True


@dataclass(frozen=True)
class PastServicePrice:
    """What one unit of a service costs under a plan."""

    plan_id: str
    place: str
    service: str
    price: Decimal
    name: str = ""
    unit: str = ""


@dataclass(frozen=True)
class PastSubscription:
    """A live subscription: of a device, or without one of the user as a whole."""

    user_id: str
    place: str
    plan_id: str
    device: str
    started_on: date
    paid_through: date | None = None
    is_suspended: bool = False


@dataclass(frozen=True)
class PastOperation:
    """One operation on a user's balances, as the other system recorded it."""

    user_id: str
    place: str
    at: datetime
    amount: Decimal
    bonus_amount: Decimal
    description: str = ""
    type: str = ""
    subtype: str = ""
    device: str = ""
    id: str = ""
    reverses: str = ""
    old_balance: Decimal | None = None
    new_balance: Decimal | None = None
    old_bonus: Decimal | None = None
    new_bonus: Decimal | None = None
    payment_date: date | None = None
