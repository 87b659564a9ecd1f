"""Gifts, expiries and refunds in part: any history leaves what a small model predicts.

The model is written from the rules in docs/ledger.md and shares no code with the ledger. Hypothesis
makes up histories with a clock that it moves, and shortens any that differs.
"""

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
from billing.models import Grant, GrantUse, Transaction
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
        real = original.real + sum((row.real for row in earlier), ZERO)
        bonus = original.bonus + sum((row.bonus for row in earlier), ZERO)
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


class Gifts(RuleBasedStateMachine):
    move_clock: Any

    def __init__(self) -> None:
        super().__init__()
        self.account = Account()
        self.now = 0
        self.user: User | None = None
        self.undo = transaction.atomic()
        self.undo.__enter__()

    @initialize()
    def a_user(self) -> None:
        self.move_clock(START)
        self.user = UserFactory()

    def attempt(self, in_model: Any, in_ledger: Any) -> None:
        trial = deepcopy(self.account)
        try:
            in_model(trial)
        except Refused as refusal:
            expected: str | None = str(refusal)
        else:
            expected, self.account = None, trial
        try:
            in_ledger()
        except BillingError as refusal:
            happened: str | None = refusal.code
        else:
            happened = None
        assert happened == expected

    def at(self, minutes: int | None) -> datetime | None:
        return None if minutes is None else START + timedelta(minutes=minutes)

    @rule(minutes=st.integers(1, 30))
    def time_passes(self, minutes: int) -> None:
        self.now += minutes
        self.move_clock(START + timedelta(minutes=self.now))

    @rule(amount=amounts, expires=expiries)
    def gift(self, amount: Decimal, expires: int | None) -> None:
        expires = None if expires is None else self.now + expires
        self.attempt(
            lambda account: account.post("gift", ZERO, amount, self.now, expires),
            lambda: ledger.give_bonus(
                self.user, amount=amount, description="A gift to try",
                bonus_expires_at=self.at(expires), **BY_PANEL,
            ),
        )  # fmt: skip

    @rule(
        real=st.one_of(st.just(ZERO), amounts, amounts.map(lambda each: -each)),
        bonus=st.one_of(st.just(ZERO), amounts, amounts.map(lambda each: -each)),
        expires=expiries,
    )
    def change(self, real: Decimal, bonus: Decimal, expires: int | None) -> None:
        expires = None if expires is None else self.now + expires
        self.attempt(
            lambda account: account.post("change", real, bonus, self.now, expires),
            lambda: ledger.change_balance(
                self.user, amount=real, bonus_amount=bonus, description="A change to try",
                bonus_expires_at=self.at(expires), **BY_PANEL,
            ),
        )  # fmt: skip

    @rule(cost=amounts)
    def service(self, cost: Decimal) -> None:
        entry = ledger.service_entry(
            self.user, service="traffic", cost=cost, description="A service to try"
        )
        self.attempt(
            lambda account: account.post("service", -cost, ZERO, self.now),
            lambda: ledger.post(entry, **BY_PANEL),
        )

    @rule(number=st.integers(1, 12), amount=st.one_of(st.none(), amounts))
    def refund(self, number: int, amount: Decimal | None) -> None:
        self.attempt(
            lambda account: account.reverse(number, amount, self.now),
            lambda: ledger.reverse(
                self.user, number=number, amount=amount, description="A refund to try", **BY_PANEL
            ),
        )

    @rule()
    def sweep(self) -> None:
        self.attempt(
            lambda account: account.expire(self.now), lambda: ledger.expire_grants([self.user.pk])
        )

    @rule(costs=st.lists(amounts, min_size=2, max_size=4), expires=expiries)
    def a_batch_with_a_gift(self, costs: list[Decimal], expires: int | None) -> None:
        expires = None if expires is None else self.now + expires
        entries = [
            ledger.service_entry(
                self.user, service="traffic", cost=cost, description="A service to try"
            )
            for cost in costs
        ]
        gift = ledger.bonus_entry(
            self.user, amount=costs[0], description="A gift to try",
            bonus_expires_at=self.at(expires),
        )  # fmt: skip
        entries.insert(1, gift)

        def in_model(account: Account) -> None:
            account.post("service", -costs[0], ZERO, self.now)
            account.post("gift", ZERO, costs[0], self.now, expires)
            for cost in costs[1:]:
                account.post("service", -cost, ZERO, self.now)

        self.attempt(in_model, lambda: ledger.post_batch(entries, **BY_PANEL))

    @invariant()
    def the_ledger_is_the_model(self) -> None:
        if self.user is None:
            return
        balance = ledger.balance(self.user)
        assert (balance.real, balance.bonus, balance.number) == (
            self.account.real,
            self.account.bonus,
            len(self.account.rows),
        )

    def teardown(self) -> None:
        try:
            if self.user is not None:
                self.compare()
        finally:
            transaction.set_rollback(True)
            self.undo.__exit__(None, None, None)

    def compare(self) -> None:
        judge()
        rows = Transaction.objects.filter(user=self.user).order_by("number")
        assert [(row.amount, row.bonus_amount, row.reverses) for row in rows] == [
            (row.real, row.bonus, row.reverses) for row in self.account.rows
        ]
        uses = GrantUse.objects.filter(user=self.user).order_by("number", "line")
        assert [(use.number, use.grant_number, use.amount) for use in uses] == [
            (number, grant, amount)
            for number, row in enumerate(self.account.rows, start=1)
            for grant, amount in row.uses
        ]
        grants = Grant.objects.filter(user=self.user).order_by("number")
        assert [(each.number, each.amount, each.remaining) for each in grants] == [
            (each.number, each.amount, each.left)
            for each in sorted(self.account.grants.values(), key=lambda each: each.number)
        ]
        [checked] = verification.check([verification.stretch_of(self.user.pk)])
        assert checked.problem is None, checked.problem


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
