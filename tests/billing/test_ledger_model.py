"""Any sequence of operations leaves the transactions and balances that a small model predicts.

The model below is written from the rules in prose, in plain Decimal, and shares no code with the
ledger. Hypothesis makes up histories, really commits them, and shortens any that differs.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django.core.management import call_command
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from billing import ledger
from billing.errors import BillingError
from billing.ledger import verification
from billing.models import Transaction
from tests.billing.histories import BY_PANEL
from tests.factories import UserFactory

if TYPE_CHECKING:
    from users.models import User

LIMIT = Decimal("999999999999999.9999")
USERS = 2

# --- The model ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """An operation to post. `content` is compared when a user's `key` is used again."""

    user: int
    kind: str
    real: Decimal = Decimal(0)
    bonus: Decimal = Decimal(0)
    reverses: int | None = None
    words: str = "Some words"
    key: str | None = None
    expected: int | None = None

    @property
    def content(self) -> tuple[Any, ...]:
        return (self.kind, self.real, self.bonus, self.reverses, self.words)


@dataclass
class Row:
    kind: str
    real: Decimal
    bonus: Decimal
    content: tuple[Any, ...]
    real_after: Decimal
    bonus_after: Decimal
    reversed: bool = False


@dataclass
class Account:
    real: Decimal = Decimal(0)
    bonus: Decimal = Decimal(0)
    rows: list[Row] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)

    def do(self, operation: Operation) -> tuple[str, Any]:  # noqa: PLR0911, PLR0912 - as the rules
        """Returns ("posted", number), ("replayed", number) or ("refused", code)."""
        key = operation.key
        if key in self.keys:
            number = self.keys[key]
            if self.rows[number - 1].content == operation.content:
                return "replayed", number
            return "refused", "idempotency_conflict"
        if operation.expected is not None and operation.expected != len(self.rows):
            return "refused", "balance_moved"

        real, bonus = operation.real, operation.bonus
        if operation.kind == "reversal":
            number = operation.reverses or 0
            if not 1 <= number <= len(self.rows):
                return "refused", "unknown_transaction"
            original = self.rows[number - 1]
            if original.kind == "reversal":
                return "refused", "not_reversible"
            if original.reversed:
                return "refused", "already_reversed"
            real, bonus = -original.real, -original.bonus
        elif operation.kind == "service":
            bonus = -min(self.bonus, -real)
            real -= bonus

        if real == bonus == 0:
            return "refused", "nothing_to_change"
        if self.real + real < 0 or self.bonus + bonus < 0:
            return "refused", "insufficient_funds"
        if self.real + real > LIMIT or self.bonus + bonus > LIMIT:
            return "refused", "balance_out_of_range"

        self.real += real
        self.bonus += bonus
        if operation.kind == "reversal":
            original.reversed = True
        self.rows.append(Row(operation.kind, real, bonus, operation.content, self.real, self.bonus))
        if key is not None:
            self.keys[key] = len(self.rows)
        return "posted", len(self.rows)


# --- Operations to try --------------------------------------------------------------------------

# Fixed amounts, so that balances are used up exactly and contents repeat, and random amounts.
positive = st.one_of(
    st.sampled_from([Decimal(n) for n in ("0.0001", "0.9999", "1", "2.5", "3", "10", "100")]),
    st.decimals(min_value="0.0001", max_value=1000, places=4),
    st.sampled_from([LIMIT, LIMIT - 1]),
)
signed = st.one_of(st.just(Decimal(0)), positive, positive.map(lambda amount: -amount))

common: dict[str, Any] = {
    "user": st.integers(0, USERS - 1),
    "words": st.sampled_from(["Some words", "Other words"]),
    "key": st.sampled_from([None, None, None, "a", "b"]),
    "expected": st.sampled_from([None, None, None, None, 0, 1, 2, 3]),
}
operations = st.one_of(
    st.builds(Operation, kind=st.just("change"), real=signed, bonus=signed, **common),
    st.builds(Operation, kind=st.just("change"), real=positive, bonus=positive, **common),
    st.builds(Operation, kind=st.just("gift"), bonus=positive, **common),
    st.builds(Operation, kind=st.just("service"), real=positive.map(lambda x: -x), **common),
    st.builds(Operation, kind=st.just("subscription"), real=positive.map(lambda x: -x), **common),
    st.builds(Operation, kind=st.just("remainder"), real=positive, **common),
    st.builds(Operation, kind=st.just("reversal"), reverses=st.integers(0, 8), **common),
)


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.users: list[User] = []
        self.accounts = [Account() for _ in range(USERS)]
        self.keyed: list[Operation] = []

    @initialize()
    def some_users(self) -> None:
        self.users = [UserFactory() for _ in range(USERS)]

    # --- Rules

    @rule(operation=operations)
    def alone(self, operation: Operation) -> None:
        self.remember(operation)
        expected = self.accounts[operation.user].do(operation)
        assert self.post(operation) == expected

    @precondition(lambda self: self.keyed)
    @rule(data=st.data())
    def the_same_again(self, data: st.DataObject) -> None:
        self.alone(data.draw(st.sampled_from(self.keyed), label="again"))

    @rule(batch=st.lists(operations, max_size=6))
    def together_or_not_at_all(self, batch: list[Operation]) -> None:
        for operation in batch:
            self.remember(operation)
        trial = deepcopy(self.accounts)
        # The ledger takes users in the order of their IDs and stops at the first refusal.
        for place in sorted(range(len(batch)), key=lambda place: (batch[place].user, place)):
            outcome, answer = trial[batch[place].user].do(batch[place])
            if outcome == "refused":
                expected: Any = ("refused", answer, place + 1)
                break
        else:
            trial = deepcopy(self.accounts)
            expected = [trial[operation.user].do(operation) for operation in batch]
            self.accounts = trial
        try:
            results = ledger.post_batch(map(self.entry, batch), **BY_PANEL)
        except BillingError as refusal:
            happened: Any = ("refused", refusal.code, refusal.data["entry"])
        else:
            happened = list(map(summary, results))
        assert happened == expected

    @rule(batch=st.lists(operations, max_size=6))
    def together_as_far_as_it_goes(self, batch: list[Operation]) -> None:
        for operation in batch:
            self.remember(operation)
        expected = [self.accounts[operation.user].do(operation) for operation in batch]
        results = ledger.post_batch(map(self.entry, batch), skip_refused=True, **BY_PANEL)
        assert list(map(summary, results)) == expected

    @rule(user=common["user"], data=st.data())
    def looking_back(self, user: int, data: st.DataObject) -> None:
        rows = self.accounts[user].rows
        if not rows:
            return
        number = data.draw(st.integers(1, len(rows)), label="number")
        posted = Transaction.objects.get(user=self.users[user], number=number)
        then = ledger.balance_at(self.users[user], posted.created_at)
        assert then.number >= number  # several may have the same moment
        assert (then.real, then.bonus) == (
            rows[then.number - 1].real_after,
            rows[then.number - 1].bonus_after,
        )

    # --- Invariants

    @invariant()
    def balances_are_those_of_the_model(self) -> None:
        for user, account in zip(self.users, self.accounts, strict=bool(self.users)):
            assert ledger.balance(user) == (account.real, account.bonus, len(account.rows))

    def teardown(self) -> None:
        for user, account in zip(self.users, self.accounts, strict=bool(self.users)):
            stored = Transaction.objects.filter(user=user).order_by("number")
            assert [
                (row.amount, row.bonus_amount, row.new_balance, row.new_bonus) for row in stored
            ] == [(row.real, row.bonus, row.real_after, row.bonus_after) for row in account.rows]
            checked = list(verification.check([verification.stretch_of(user.pk)]))
            assert not any(each.problem for each in checked)
            assert sum(each.transactions for each in checked) == len(account.rows)

    # --- Calls to the ledger

    def remember(self, operation: Operation) -> None:
        if operation.key:
            self.keyed.append(operation)

    def entry(self, operation: Operation) -> ledger.Entry:
        user = self.users[operation.user]
        options: dict[str, Any] = {
            "description": operation.words,
            "idempotency_key": operation.key,
            "expected_number": operation.expected,
        }
        match operation.kind:
            case "change":
                return ledger.balance_change_entry(
                    user, amount=operation.real, bonus_amount=operation.bonus, **options
                )
            case "gift":
                return ledger.bonus_entry(user, amount=operation.bonus, **options)
            case "service":
                return ledger.service_entry(
                    user, service="traffic", cost=-operation.real, **options
                )
            case "subscription":
                return ledger.subscription_entry(
                    user, cycle="monthly", price=-operation.real, **options
                )
            case "remainder":
                return ledger.remainder_entry(user, amount=operation.real, **options)
            case _:
                assert operation.reverses is not None
                return ledger.reversal_entry(user, number=operation.reverses, **options)

    def post(self, operation: Operation) -> tuple[str, Any]:
        try:
            [result] = ledger.post_batch([self.entry(operation)], **BY_PANEL)
        except BillingError as refusal:
            return "refused", refusal.code
        return summary(result)


def summary(result: ledger.Posted) -> tuple[str, Any]:
    if result.refusal:
        return "refused", result.refusal.code
    assert result.transaction is not None
    return result.outcome, result.transaction.number


def test_any_history_leaves_what_the_model_says(committed_db: None) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Histories, settings=settings(max_examples=30, stateful_step_count=25)
    )
    call_command("verify_ledger")
