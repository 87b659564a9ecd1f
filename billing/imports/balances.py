"""Turns a user's operations in another system into transactions of the ledger. Pure.

The ledger is stricter than most systems: each transaction starts where the one before it ended,
from zero on, nothing is ever negative, and each type may do certain things only. So

- a first transaction takes over the balances with which the history begins;
- where two operations do not follow each other, or the last one does not end with the balances
  that the user has, the difference is a problem or, if that is wanted, a transaction of its own;
- an operation that its type does not allow here becomes a payment; its metadata keep the type.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from unicodedata import normalize

from billing.descriptions import DESCRIPTION_MAX_LENGTH, DESCRIPTION_MIN_LENGTH
from billing.imports.records import PastOperation, PastUser, Problem
from billing.ledger.history import PastTransaction, as_jsonb, units_of
from billing.models import TransactionType
from billing.money import DECIMALS, MAX_MONEY, format_money
from users.texts import has_invisible, readable

TAKEN_OVER: Final = "Balance taken over from the previous system"
DIFFERENCE: Final = "Difference in the history of the previous system"
KEY: Final = "import:{}"  # the idempotency key of an operation with an ID
BY_PLACE: Final = "import-{}"  # and of one without: its number here
EARLIEST_PAYMENT: Final = date(2000, 1, 1)
OWN_KEY: Final = "imported"  # what an import adds to a transaction's metadata
KEY_MAX: Final = 100
SUBTYPE_MAX: Final = 32
DEVICE_MAX: Final = 100
# Clocks of two machines may differ by so much.
AHEAD_MAX: Final = timedelta(minutes=5)

# What each type is called in a description that says nothing itself.
NAMES: Final = {
    TransactionType.PAYMENT: "Payment",
    TransactionType.BONUS_REFILL: "Gift",
    TransactionType.BONUS_EXPIRY: "Bonus expired",
    TransactionType.SUBSCRIPTION: "Subscription",
    TransactionType.SERVICE: "Service",
    TransactionType.REVERSAL: "Reversal",
}
# Subtypes of operations that name none.
SUBTYPES: Final = {
    TransactionType.PAYMENT: "import",
    TransactionType.BONUS_REFILL: "gift",
    TransactionType.BONUS_EXPIRY: "gift",
    TransactionType.SUBSCRIPTION: "monthly",
    TransactionType.SERVICE: "service",
}


@dataclass
class Account:
    """What a user's history comes to. Where there are problems, the rest is not complete."""

    transactions: list[PastTransaction] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    # What had to be changed so that the ledger can hold it.
    differences: int = 0
    as_payments: int = 0
    real: int = 0
    bonus: int = 0


def account_of(
    user: PastUser,
    operations: Sequence[PastOperation],
    *,
    user_id: int,
    now: datetime,
    fill_gaps: bool,
    actor_id: int | None = None,
) -> Account:
    """Returns the ledger's transactions of a user whose ID here is `user_id`.

    `operations` are in order of time. With `fill_gaps`, differences become transactions.
    """
    return _Builder(user, user_id, now, actor_id, fill_gaps=fill_gaps).build(operations)


@dataclass
class _Builder:
    user: PastUser
    user_id: int
    now: datetime
    actor_id: int | None
    fill_gaps: bool
    account: Account = field(default_factory=Account)
    # By its ID there: the number and the transaction here.
    known: dict[str, tuple[int, PastTransaction]] = field(default_factory=dict)
    reversed_numbers: set[int] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)

    def build(self, operations: Sequence[PastOperation]) -> Account:
        self._begin(operations)
        for operation in operations:
            if self._fits(operation) and self._follows(operation):
                self._add(operation)
            if self.account.problems:
                return self.account
        self._end(operations)
        return self.account

    # --- Where it begins and ends -----------------------------------------------------------

    def _begin(self, operations: Sequence[PastOperation]) -> None:
        """Takes over the balances with which the history begins."""
        first = operations[0] if operations else None
        real = self._first_balance(operations, "amount", "old_balance", self.user.real)
        bonus = self._first_balance(operations, "bonus_amount", "old_bonus", self.user.bonus)
        if real < 0 or bonus < 0:
            self._refuse(
                f"The history begins with {_shown(min(real, bonus))}; "
                "a balance cannot be negative.",
                first,
            )
        elif real or bonus:
            at = first.at if first else self.user.created_at or self.now
            self._write(at, TAKEN_OVER, real, bonus)

    @staticmethod
    def _first_balance(
        operations: Sequence[PastOperation], amount: str, old: str, last: Decimal | None
    ) -> int:
        """Returns what the first operation found or, if none says so, what explains the last."""
        before = 0
        for operation in operations:
            if (known := getattr(operation, old)) is not None:
                return units_of(known) - before
            before += units_of(getattr(operation, amount))
        return 0 if last is None else units_of(last) - before

    def _end(self, operations: Sequence[PastOperation]) -> None:
        """The last transaction ends with the balances that the user has."""
        last = operations[-1] if operations else None
        self._meet(self.user.real, self.user.bonus, last.at if last else self.now, None)

    def _follows(self, operation: PastOperation) -> bool:
        """Looks whether an operation begins where the one before it ended."""
        return self._meet(operation.old_balance, operation.old_bonus, operation.at, operation)

    def _meet(
        self,
        real: Decimal | None,
        bonus: Decimal | None,
        at: datetime,
        operation: PastOperation | None,
    ) -> bool:
        account = self.account
        missing = 0 if real is None else units_of(real) - account.real
        missing_bonus = 0 if bonus is None else units_of(bonus) - account.bonus
        if not missing and not missing_bonus:
            return True
        if min(account.real + missing, account.bonus + missing_bonus) < 0:
            self._refuse("The balance is negative there; a balance here cannot be.", operation)
            return False
        if not self.fill_gaps:
            which = "real balance" if missing else "bonus balance"
            here, there = (
                (account.real, account.real + missing)
                if missing
                else (account.bonus, account.bonus + missing_bonus)
            )
            when = "before this operation" if operation else "after the last operation"
            self._refuse(
                f"The {which} is {_shown(there)} {when}, but the operations so far make "
                f"{_shown(here)}.",
                operation,
            )
            return False
        account.differences += 1
        self._write(at, DIFFERENCE, missing, missing_bonus)
        return True

    # --- One operation ----------------------------------------------------------------------

    def _fits(self, operation: PastOperation) -> bool:
        """Looks at an operation by itself, whatever came before it."""
        if operation.at > self.now + AHEAD_MAX:
            self._refuse(f"{operation.at:%Y-%m-%d %H:%M:%S %Z} is in the future.", operation)
        elif len(operation.device) > DEVICE_MAX:
            self._refuse(f"The device has more than {DEVICE_MAX} characters.", operation)
        elif has_invisible(operation.device):
            self._refuse("The device contains invisible characters.", operation)
        elif operation.id and len(KEY.format(operation.id)) > KEY_MAX:
            self._refuse("Its ID is too long.", operation)
        elif operation.id and KEY.format(operation.id) in self.keys:
            self._refuse(f"The user has two operations with the ID {operation.id}.", operation)
        elif not _adds_up(operation.old_balance, operation.amount, operation.new_balance) or (
            not _adds_up(operation.old_bonus, operation.bonus_amount, operation.new_bonus)
        ):
            self._refuse("The old balance and the amount do not make the new balance.", operation)
        elif operation.payment_date and not (
            EARLIEST_PAYMENT <= operation.payment_date <= (self.now + AHEAD_MAX).date()
        ):
            self._refuse(
                f"The payment date {operation.payment_date} is in the future or before 2000.",
                operation,
            )
        else:
            return True
        return False

    def _add(self, operation: PastOperation) -> None:
        real = units_of(operation.amount)
        bonus = units_of(operation.bonus_amount)
        if not real and not bonus:
            return  # it changed nothing; the ledger holds changes
        if min(self.account.real + real, self.account.bonus + bonus) < 0:
            self._refuse(
                f"After it the balance would be {_shown(self.account.real + real)} and the bonus "
                f"{_shown(self.account.bonus + bonus)}; a balance cannot be negative.",
                operation,
            )
            return
        if max(self.account.real + real, self.account.bonus + bonus) > units_of(MAX_MONEY):
            self._refuse("After it a balance would be too large.", operation)
            return
        kind, subtype, reverses = self._kind_of(operation, real, bonus)
        kept = {name: getattr(operation, name) for name in ("id", "reverses")}
        if kind != TransactionType.PAYMENT and operation.payment_date:
            kept["payment_date"] = f"{operation.payment_date}"
        if kind != operation.type:
            kept |= {"type": operation.type, "subtype": operation.subtype}
            self.account.as_payments += bool(operation.type)
        elif subtype != operation.subtype:
            kept["subtype"] = operation.subtype
        description = _description(operation.description, NAMES[kind])
        if description != operation.description:
            kept["description"] = operation.description
        key = KEY.format(operation.id) if operation.id else None
        self._write(
            operation.at,
            description,
            real,
            bonus,
            kind=kind,
            subtype=subtype,
            device=normalize("NFC", readable(operation.device)).strip(),
            key=key,
            reverses=reverses,
            payment_date=operation.payment_date if kind == TransactionType.PAYMENT else None,
            kept={name: value for name, value in kept.items() if value},
        )
        if operation.id:
            number = len(self.account.transactions)
            self.known[operation.id] = number, self.account.transactions[-1]

    def _kind_of(
        self, operation: PastOperation, real: int, bonus: int
    ) -> tuple[TransactionType, str, int | None]:
        """Returns type, subtype and what is reversed: as the other system says, if it can be."""
        payment = TransactionType.PAYMENT, SUBTYPES[TransactionType.PAYMENT], None
        try:
            kind = TransactionType(operation.type)
        except ValueError:
            return payment
        if kind == TransactionType.REVERSAL:
            return self._reversal(operation, real, bonus) or payment
        subtype = _code(operation.subtype) or SUBTYPES[kind]
        if kind == TransactionType.SUBSCRIPTION and real > 0:
            subtype = "remainder"
        no_bonus_left = self.account.bonus + bonus == 0
        is_possible = {
            TransactionType.PAYMENT: True,
            TransactionType.BONUS_REFILL: real == 0 and bonus > 0,
            TransactionType.BONUS_EXPIRY: real == 0 and bonus < 0,
            TransactionType.SUBSCRIPTION: bonus == 0 and (real > 0) == (subtype == "remainder"),
            TransactionType.SERVICE: real <= 0 and bonus <= 0 and (real == 0 or no_bonus_left),
        }[kind]
        return (kind, subtype, None) if is_possible else payment

    def _reversal(
        self, operation: PastOperation, real: int, bonus: int
    ) -> tuple[TransactionType, str, int] | None:
        number, original = self.known.get(operation.reverses, (0, None))
        if (
            original is None
            or original.type in (TransactionType.REVERSAL, TransactionType.BONUS_EXPIRY)
            or number in self.reversed_numbers
            or (original.amount, original.bonus_amount) != (-real, -bonus)
        ):
            return None
        self.reversed_numbers.add(number)
        return TransactionType.REVERSAL, original.type, number

    # --- The transactions -------------------------------------------------------------------

    def _write(
        self,
        at: datetime,
        description: str,
        real: int,
        bonus: int,
        *,
        kind: TransactionType = TransactionType.PAYMENT,
        subtype: str = "import",
        device: str = "",
        key: str | None = None,
        reverses: int | None = None,
        payment_date: date | None = None,
        kept: dict[str, Any] | None = None,
    ) -> None:
        account = self.account
        account.real += real
        account.bonus += bonus
        key = key or BY_PLACE.format(len(account.transactions) + 1)
        self.keys.add(key)
        account.transactions.append(
            PastTransaction(
                self.user_id,
                min(at, self.now).astimezone(UTC),
                kind,
                subtype,
                description,
                device,
                real,
                bonus,
                actor_id=self.actor_id,
                idempotency_key=key,
                reverses=reverses,
                metadata=as_jsonb({OWN_KEY: kept}) if kept else "{}",
                payment_date=payment_date,
            )
        )

    def _refuse(self, sentence: str, operation: PastOperation | None) -> None:
        place = operation.place if operation else self.user.place
        self.account.problems.append(Problem(sentence, place, self.user.id))


def _adds_up(old: Decimal | None, amount: Decimal, new: Decimal | None) -> bool:
    return old is None or new is None or old + amount == new


def _shown(units: int) -> str:
    return format_money(Decimal(units).scaleb(-DECIMALS))


def _code(text: str) -> str:
    """Returns a subtype as a code: "Outgoing SMS" is outgoing_sms; "" if there is none in it."""
    words = re.sub(r"[^a-z0-9]+", "_", text.lower()).lstrip("_0123456789")
    return words[:SUBTYPE_MAX].rstrip("_")


def _description(text: str, name: str) -> str:
    """Returns a description that the ledger takes: readable, and neither too short nor too long."""
    text = " ".join(readable(text).split())
    if len(text) < DESCRIPTION_MIN_LENGTH:
        text = f"{name}: {text}" if text else f"{name} (imported)"
    is_short = len(text) <= DESCRIPTION_MAX_LENGTH
    return text if is_short else f"{text[: DESCRIPTION_MAX_LENGTH - 1]}…"


def paying_for(
    transactions: Sequence[PastTransaction], device: str, since: datetime
) -> Iterator[int]:
    """Yields the numbers of the subscription charges of a device since a moment, latest first.

    Leaves out charges that were given back: by the same amount, or in part.
    """
    given_back: list[int] = []
    for place in range(len(transactions) - 1, -1, -1):
        each = transactions[place]
        if each.at < since:
            return
        if each.device != device:
            continue
        is_of_subscription = each.type == TransactionType.SUBSCRIPTION
        if each.amount > 0:
            if is_of_subscription:
                return  # a remainder: nothing before it is paid ahead any more
            given_back.append(each.amount)
        elif is_of_subscription and -each.amount in given_back:
            given_back.remove(-each.amount)
        elif is_of_subscription:
            yield place + 1
