"""Gifts, expiries, refunds, moves and batches: any history leaves what a small model predicts.

The model is written from the rules in docs/ledger.md and shares no code with the ledger. Hypothesis
makes up histories with a clock that it moves, and shortens any that differs.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from billing import ledger
from billing.errors import BillingError
from billing.ledger import verification
from billing.models import Batch, Grant, GrantUse, Transaction
from billing.operations import batches
from tests.billing.clock import movable_clock
from tests.billing.histories import BY_PANEL, judge
from tests.factories import UserFactory

if TYPE_CHECKING:
    from users.models import User

START = datetime(2026, 11, 22, 12, tzinfo=UTC)
ZERO = Decimal(0)


@dataclass
class ModelGrant:
    number: int
    amount: Decimal
    left: Decimal
    expires: int | None  # minutes after START


@dataclass
class Row:
    kind: str
    real: Decimal
    bonus: Decimal
    uses: list[tuple[int, Decimal]] = field(default_factory=list)  # of grants, in this order
    reverses: int | None = None


class Refused(Exception):
    pass


@dataclass
class Account:
    real: Decimal = ZERO
    rows: list[Row] = field(default_factory=list)
    grants: dict[int, ModelGrant] = field(default_factory=dict)

    @property
    def bonus(self) -> Decimal:
        return sum((grant.left for grant in self.grants.values()), ZERO)

    def spendable(self) -> list[ModelGrant]:
        open_grants = [grant for grant in self.grants.values() if grant.left]
        never = 10**9
        return sorted(
            open_grants, key=lambda each: (never if each.expires is None else each.expires,
                                           each.number)
        )  # fmt: skip

    def expire(self, now: int) -> None:
        for grant in self.spendable():
            if grant.expires is not None and grant.expires <= now:
                self.rows.append(Row("expiry", ZERO, -grant.left, [(grant.number, grant.left)]))
                grant.left = ZERO

    def take(self, amount: Decimal) -> list[tuple[int, Decimal]]:
        uses = []
        for grant in self.spendable():
            part = min(amount, grant.left)
            if part:
                grant.left -= part
                amount -= part
                uses.append((grant.number, part))
        return uses

    def post(
        self, kind: str, real: Decimal, bonus: Decimal, now: int, expires: int | None = None
    ) -> None:
        if expires is not None and expires <= now:
            raise Refused("invalid_expiry")
        self.expire(now)
        if kind == "service":
            if self.real + self.bonus + real < 0:
                raise Refused("insufficient_funds")
            bonus = -min(self.bonus, -real)
            real -= bonus
        if real == bonus == 0:
            raise Refused("nothing_to_change")
        if self.real + real < 0 or self.bonus + bonus < 0:
            raise Refused("insufficient_funds")
        if expires is not None and bonus <= 0:
            raise Refused("invalid_expiry")
        uses = self.take(-bonus) if bonus < 0 else []
        self.real += real
        self.rows.append(Row(kind, real, bonus, uses))
        if bonus > 0:
            number = len(self.rows)
            self.grants[number] = ModelGrant(number, bonus, bonus, expires)

    def left_of(self, number: int) -> tuple[Decimal, Decimal]:
        original = self.rows[number - 1]
        earlier = [row for row in self.rows if row.reverses == number]
        return (
            original.real + sum((row.real for row in earlier), ZERO),
            original.bonus + sum((row.bonus for row in earlier), ZERO),
        )

    def reverse(  # noqa: PLR0912 - as the rules
        self, number: int, amount: Decimal | None, now: int
    ) -> None:
        self.expire(now)
        if not 1 <= number <= len(self.rows):
            raise Refused("unknown_transaction")
        original = self.rows[number - 1]
        if original.kind in ("reversal", "expiry"):
            raise Refused("not_reversible")
        earlier = [row for row in self.rows if row.reverses == number]
        real, bonus = self.left_of(number)
        if real == bonus == 0:
            raise Refused("already_reversed")
        if amount is not None:
            if real * bonus < 0:
                raise Refused("invalid_amount")
            if amount > abs(real + bonus):
                raise Refused("refund_too_large")
            sign = 1 if real + bonus > 0 else -1
            real, bonus = (
                sign * min(amount, abs(real)),
                sign * (amount - min(amount, abs(real))),
            )
        uses: list[tuple[int, Decimal]] = []
        if bonus > 0:  # a gift: taken back from that grant alone
            grant = self.grants[number]
            if grant.left < bonus:
                raise Refused("insufficient_funds")
            uses = [(number, bonus)]
        if self.real - real < 0:
            raise Refused("insufficient_funds")
        if bonus > 0:
            self.grants[number].left -= bonus
        if bonus < 0:
            given_back: dict[int, Decimal] = {}
            for row in earlier:
                for grant_number, part in row.uses:
                    given_back[grant_number] = given_back.get(grant_number, ZERO) - part
            left = -bonus
            for grant_number, part in reversed(original.uses):
                back = min(left, part - given_back.get(grant_number, ZERO))
                if back:
                    self.grants[grant_number].left += back
                    uses.append((grant_number, -back))
                    left -= back
        self.real -= real
        self.rows.append(Row("reversal", -real, -bonus, uses, number))
        if bonus < 0:
            self.expire(now)


amounts = st.one_of(
    st.sampled_from([Decimal(each) for each in ("0.0001", "1", "2", "2.5", "3", "5", "10")]),
    st.decimals(min_value="0.0001", max_value=20, places=4),
)
expiries = st.one_of(st.none(), st.integers(-2, 40))
whose = st.integers(0, 1)  # one of two users
numbers = st.integers(1, 12)
SHEET = batches.Sheet(kind=Batch.Kind.REQUEST, title="To try")


def reverse_all(
    accounts: list[Account], rows: list[tuple[int, int]], now: int, *, skip: bool
) -> None:
    """Reverses these rows, each given by its account and number, as one batch."""
    found = [(who, number) for who, number in rows if any(accounts[who].left_of(number))]
    if not found:
        raise Refused("batch_reversed")
    for who, number in sorted(found, key=lambda row: (row[0], -row[1])):
        post_or_skip(
            accounts, who, lambda account, it=number: account.reverse(it, None, now), now, skip
        )


def post_or_skip(
    accounts: list[Account], who: int, post: Callable[[Account], None], now: int, skip: bool
) -> bool:
    """Posts in the account. Returns False if it was refused and left out."""
    accounts[who].expire(now)  # stays, also if what comes after it is left out
    trial = deepcopy(accounts[who])
    try:
        post(trial)
    except Refused:
        if not skip:
            raise
        return False
    accounts[who] = trial
    return True


def move(accounts: list[Account], who: int, number: int, now: int) -> None:
    giver, taker = accounts[who], accounts[1 - who]
    for account in accounts:
        account.expire(now)
    if not 1 <= number <= len(giver.rows):
        raise Refused("unknown_transaction")
    if giver.rows[number - 1].kind not in ("gift", "change"):
        raise Refused("not_movable")
    real, bonus = giver.left_of(number)
    if real == bonus == 0:
        raise Refused("already_reversed")
    expires = giver.grants[number].expires if bonus > 0 else None
    giver.reverse(number, None, now)
    taker.post("change", real, bonus, now, expires)


class Gifts(RuleBasedStateMachine):
    move_clock: Any

    def __init__(self) -> None:
        super().__init__()
        self.accounts = [Account(), Account()]
        self.now = 0
        self.users: list[User] = []
        self.batches: list[tuple[Batch, list[tuple[int, int]]]] = []
        self.undo = transaction.atomic()
        self.undo.__enter__()

    @initialize()
    def two_users(self) -> None:
        self.move_clock(START)
        self.users = [UserFactory(), UserFactory()]

    def attempt(
        self, in_model: Callable[[list[Account]], object], in_ledger: Callable[[], Any]
    ) -> Any:
        """Does the same in both. Returns the ledger's result; None if both refused it."""
        trial = deepcopy(self.accounts)
        result = None
        try:
            in_model(trial)
        except Refused as refusal:
            expected: str | None = str(refusal)
        else:
            expected, self.accounts = None, trial
        try:
            result = in_ledger()
        except BillingError as refusal:
            happened: str | None = refusal.code
        else:
            happened = None
        assert happened == expected
        return result

    def at(self, minutes: int | None) -> datetime | None:
        return None if minutes is None else START + timedelta(minutes=minutes)

    def service_of(self, who: int, cost: Decimal, **options: Any) -> ledger.Entry:
        return ledger.service_entry(
            self.users[who], service="traffic", cost=cost, description="A service", **options
        )

    @rule(minutes=st.integers(1, 30))
    def time_passes(self, minutes: int) -> None:
        self.now += minutes
        self.move_clock(START + timedelta(minutes=self.now))

    @rule(who=whose, amount=amounts, expires=expiries)
    def gift(self, who: int, amount: Decimal, expires: int | None) -> None:
        expires = None if expires is None else self.now + expires
        self.attempt(
            lambda accounts: accounts[who].post("gift", ZERO, amount, self.now, expires),
            lambda: ledger.give_bonus(
                self.users[who], amount=amount, description="A gift to try",
                bonus_expires_at=self.at(expires), **BY_PANEL,
            ),
        )  # fmt: skip

    @rule(
        who=whose,
        real=st.one_of(st.just(ZERO), amounts, amounts.map(lambda each: -each)),
        bonus=st.one_of(st.just(ZERO), amounts, amounts.map(lambda each: -each)),
        expires=expiries,
    )
    def change(self, who: int, real: Decimal, bonus: Decimal, expires: int | None) -> None:
        expires = None if expires is None else self.now + expires
        self.attempt(
            lambda accounts: accounts[who].post("change", real, bonus, self.now, expires),
            lambda: ledger.change_balance(
                self.users[who], amount=real, bonus_amount=bonus, description="A change to try",
                bonus_expires_at=self.at(expires), **BY_PANEL,
            ),
        )  # fmt: skip

    @rule(who=whose, cost=amounts)
    def service(self, who: int, cost: Decimal) -> None:
        self.attempt(
            lambda accounts: accounts[who].post("service", -cost, ZERO, self.now),
            lambda: ledger.post(self.service_of(who, cost), **BY_PANEL),
        )

    @rule(who=whose, number=numbers, amount=st.one_of(st.none(), amounts))
    def refund(self, who: int, number: int, amount: Decimal | None) -> None:
        self.attempt(
            lambda accounts: accounts[who].reverse(number, amount, self.now),
            lambda: ledger.reverse(
                self.users[who], number=number, amount=amount, description="A refund to try",
                **BY_PANEL,
            ),
        )  # fmt: skip

    @rule(who=whose, number=numbers)
    def a_move(self, who: int, number: int) -> None:
        self.attempt(
            lambda accounts: move(accounts, who, number, self.now),
            lambda: ledger.move(
                self.users[who].pk, number=number, to_user_id=self.users[1 - who].pk,
                description="A move to try", **BY_PANEL,
            ),
        )  # fmt: skip

    @rule(who=whose)
    def sweep(self, who: int) -> None:
        self.attempt(
            lambda accounts: accounts[who].expire(self.now),
            lambda: ledger.expire_grants([self.users[who].pk]),
        )

    @rule(
        costs=st.lists(st.tuples(whose, amounts), min_size=1, max_size=4),
        gift=st.tuples(whose, amounts, expiries),
        skip=st.booleans(),
    )
    def a_batch(
        self,
        costs: list[tuple[int, Decimal]],
        gift: tuple[int, Decimal, int | None],
        skip: bool,
    ) -> None:
        """Services of both users, with a gift after the first."""
        taker, amount, expires = gift
        expires = None if expires is None else self.now + max(expires, 1)
        entries = [self.service_of(who, cost) for who, cost in costs]
        entries.insert(
            1,
            ledger.bonus_entry(
                self.users[taker], amount=amount, description="A gift to try",
                bonus_expires_at=self.at(expires),
            ),
        )  # fmt: skip
        steps: list[tuple[int, Callable[[Account], None]]] = [
            (who, lambda account, cost=cost: account.post("service", -cost, ZERO, self.now))  # type: ignore[misc]
            for who, cost in costs
        ]
        steps.insert(
            1, (taker, lambda account: account.post("gift", ZERO, amount, self.now, expires))
        )
        rows: list[tuple[int, int]] = []

        def in_model(accounts: list[Account]) -> None:
            for who, post in sorted(steps, key=lambda step: step[0]):
                if post_or_skip(accounts, who, post, self.now, skip):
                    rows.append((who, len(accounts[who].rows)))

        posted = self.attempt(
            in_model, lambda: batches.post(entries, SHEET, skip_refused=skip, **BY_PANEL)
        )
        if posted is not None and posted.batch is not None:
            self.batches.append((posted.batch, rows))

    @rule(place=st.integers(0, 3), skip=st.booleans())
    def a_reversed_batch(self, place: int, skip: bool) -> None:
        if place < len(self.batches):
            batch, rows = self.batches[place]
            self.attempt(
                lambda accounts: reverse_all(accounts, rows, self.now, skip=skip),
                lambda: batches.reverse(
                    batch.pk, description="A batch taken back", skip_refused=skip, **BY_PANEL
                ),
            )

    @invariant()
    def the_ledger_is_the_model(self) -> None:
        for user, account in zip(self.users, self.accounts, strict=False):
            balance = ledger.balance(user)
            assert (balance.real, balance.bonus, balance.number) == (
                account.real,
                account.bonus,
                len(account.rows),
            )

    def teardown(self) -> None:
        try:
            if self.users:
                judge()
            for user, account in zip(self.users, self.accounts, strict=False):
                self.compare(user, account)
            self.compare_batches()
        finally:
            transaction.set_rollback(True)
            self.undo.__exit__(None, None, None)

    def compare(self, user: "User", account: Account) -> None:
        rows = Transaction.objects.filter(user=user).order_by("number")
        assert [(row.amount, row.bonus_amount, row.reverses) for row in rows] == [
            (row.real, row.bonus, row.reverses) for row in account.rows
        ]
        uses = GrantUse.objects.filter(user=user).order_by("number", "line")
        assert [(use.number, use.grant_number, use.amount) for use in uses] == [
            (number, grant, amount)
            for number, row in enumerate(account.rows, start=1)
            for grant, amount in row.uses
        ]
        grants = Grant.objects.filter(user=user).order_by("number")
        assert [(each.number, each.amount, each.remaining) for each in grants] == [
            (each.number, each.amount, each.left)
            for each in sorted(account.grants.values(), key=lambda each: each.number)
        ]
        for checked in verification.check([verification.stretch_of(user.pk)]):
            assert checked.problem is None, checked.problem

    def compare_batches(self) -> None:
        for batch, rows in self.batches:
            batch.refresh_from_db()
            of_model = [self.accounts[who].rows[number - 1] for who, number in rows]
            assert (batch.posted, batch.real, batch.bonus) == (
                len(rows),
                sum(row.real for row in of_model),
                sum(row.bonus for row in of_model),
            )
            numbers = batch.transactions.values_list("user_id", "number")
            assert set(numbers) == {(self.users[who].pk, number) for who, number in rows}


@pytest.mark.django_db
@pytest.mark.as_owner
def test_any_history_of_gifts_leaves_what_the_model_says() -> None:
    with movable_clock(START) as move:
        machine = type("Machine", (Gifts,), {"move_clock": staticmethod(move)})
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            machine,
            settings=settings(
                max_examples=150,
                stateful_step_count=25,
                deadline=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
