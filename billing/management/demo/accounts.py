"""The customers and staff of the demo data, as the story sees them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from billing.ledger.history import PastTransaction
from billing.models import Plan, Subscription

UNIT: Final = 10_000  # ledger units in one unit of the currency


class Staff(NamedTuple):
    """Who acts: the ids of operators who work in the panel, and of programs with the API."""

    clerks: Sequence[int]
    gateway: int  # takes payments, and registers customers
    platform: int  # tracks the devices, and charges what they use


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
        """The account tops up only below this. So none can ever pay for the plan Control room."""
        return 30 * self.scale * UNIT
