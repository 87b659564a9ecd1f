"""Many connections post to the same users at once: all valid postings succeed, and no others."""

import threading
import time
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from billing import errors, ledger
from billing.models import Transaction
from tests.billing.histories import BY_PANEL
from tests.conftest import THREADS_MAX_SECONDS, Connections, Outcome
from tests.factories import UserFactory, charge_cost, charge_price, pay_back, user_with
from users.models import User

CONNECTIONS = 20


def codes(outcomes: list[Outcome]) -> Counter[str]:
    """Counts the outcomes: posted, replayed, or the code of a refusal. Raises any other error."""
    counted: Counter[str] = Counter()
    for outcome in outcomes:
        if isinstance(outcome.error, errors.BillingError):
            counted[outcome.error.code] += 1
        elif outcome.error:
            raise outcome.error
        else:
            counted["replayed" if outcome.result.replayed else "posted"] += 1
    return counted


def assert_in_order(user: User, count: int) -> None:
    """Checks that the numbers have no gaps, that each row starts where the previous one ended, that
    no time is earlier than the previous one, and that verify_ledger finds nothing.
    """
    rows = list(Transaction.objects.filter(user=user).order_by("number"))
    assert [row.number for row in rows] == list(range(1, count + 1))
    for before, row in pairwise(rows):
        assert (row.old_balance, row.old_bonus) == (before.new_balance, before.new_bonus)
        assert row.created_at >= before.created_at
    call_command("verify_ledger", verbosity=0)


def test_nobody_holds_a_balance_outside_of_a_transaction(committed_db: None) -> None:
    """The lock would be released at once, and nobody would notice."""
    user = user_with(real=100)
    with pytest.raises(transaction.TransactionManagementError):
        ledger.lock_balances([user.pk])


def test_no_charge_is_accepted_beyond_the_money_there_is(connections: Connections) -> None:
    user = user_with(real=100)
    outcomes = connections(
        CONNECTIONS,
        lambda i: ledger.change_balance(user, amount=-10, description="Charge of 10", **BY_PANEL),
    )
    assert codes(outcomes) == {"posted": 10, "insufficient_funds": 10}
    assert ledger.balance(user) == (0, 0, 11)
    assert_in_order(user, 11)


def test_services_share_both_balances_without_a_loss(connections: Connections) -> None:
    user = user_with(real=35, bonus=65)
    outcomes = connections(
        CONNECTIONS,
        lambda i: charge_cost(user, service="traffic", cost=10, description="Traffic", **BY_PANEL),
    )
    assert codes(outcomes) == {"posted": 10, "insufficient_funds": 10}
    splits = Counter((o.result.amount, o.result.bonus_amount) for o in outcomes if o.result)
    assert splits == {(0, -10): 6, (-5, -5): 1, (-10, 0): 3}
    assert_in_order(user, 11)


def test_no_refill_is_lost(connections: Connections) -> None:
    user = UserFactory()

    def refill_five_times(place: int) -> list[Transaction]:
        return [
            ledger.change_balance(user, amount=place + 1, description="Refill", **BY_PANEL)
            for _ in range(5)
        ]

    outcomes = connections(CONNECTIONS, refill_five_times)
    assert [outcome.error for outcome in outcomes] == [None] * CONNECTIONS
    assert ledger.balance(user) == (5 * sum(range(1, CONNECTIONS + 1)), 0, 5 * CONNECTIONS)
    assert_in_order(user, 5 * CONNECTIONS)


def test_one_key_posts_once(connections: Connections) -> None:
    user = user_with(real=5)
    outcomes = connections(
        CONNECTIONS,
        lambda i: ledger.change_balance(
            user, amount=-5, description="Order 17", idempotency_key="17", **BY_PANEL
        ),
    )
    assert codes(outcomes) == {"posted": 1, "replayed": CONNECTIONS - 1}
    assert {outcome.result.pk for outcome in outcomes} == {
        Transaction.objects.get(user=user, number=2).pk
    }
    assert_in_order(user, 2)


def test_one_key_with_different_content_posts_once(connections: Connections) -> None:
    user = UserFactory()
    outcomes = connections(
        CONNECTIONS,
        lambda i: ledger.change_balance(
            user, amount=i + 1, description="Order 17", idempotency_key="17", **BY_PANEL
        ),
    )
    assert codes(outcomes) == {"posted": 1, "idempotency_conflict": CONNECTIONS - 1}
    assert_in_order(user, 1)


def test_of_those_who_saw_the_same_state_one_changes_it(connections: Connections) -> None:
    user = user_with(real=5)
    outcomes = connections(
        CONNECTIONS,
        lambda i: ledger.change_balance(
            user, amount=1, description="As I saw it", expected_number=1, **BY_PANEL
        ),
    )
    assert codes(outcomes) == {"posted": 1, "balance_moved": CONNECTIONS - 1}
    assert_in_order(user, 2)


def somebody_waits_for_me() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_stat_activity "
            "WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid)))"
        )
        [waits] = cursor.fetchone()
        return bool(waits)


def test_a_charge_that_is_paid_back_meanwhile_is_not_reversed(connections: Connections) -> None:
    user = user_with(real=100)
    words = {"description": "Fee of April", **BY_PANEL}
    charge_price(user, cycle="monthly", price=30, **words)
    is_held = threading.Event()

    def work(place: int) -> Transaction:
        if place == 0:
            assert is_held.wait(THREADS_MAX_SECONDS)
            return ledger.reverse(user, number=2, **words)
        with transaction.atomic():
            ledger.lock_balances([user.pk])
            is_held.set()
            while not somebody_waits_for_me():
                time.sleep(0.01)
            return pay_back(user, amount=7, metadata={"charge": 2}, **words)

    assert codes(connections(2, work)) == {"posted": 1, "already_paid_back": 1}
    assert ledger.balance(user) == (77, 0, 3)


def test_whoever_holds_several_waits_for_each_of_them(connections: Connections) -> None:
    users = [UserFactory().pk for _ in range(3)]
    is_held = threading.Event()

    def work(place: int) -> list[int]:
        with transaction.atomic():
            if place == 0:
                held = ledger.lock_balances(users[1:2])
                is_held.set()
                while not somebody_waits_for_me():
                    time.sleep(0.01)
            else:
                assert is_held.wait(THREADS_MAX_SECONDS)
                held = ledger.lock_balances(users)
            return list(held)

    assert [outcome.result for outcome in connections(2, work)] == [users[1:2], users]


def test_a_transaction_is_reversed_once(connections: Connections) -> None:
    user = user_with(real=5)
    ledger.change_balance(user, amount=100, description="Plenty of money", **BY_PANEL)
    outcomes = connections(
        CONNECTIONS,
        lambda i: ledger.reverse(user, number=1, description="Wrong user", **BY_PANEL),
    )
    assert codes(outcomes) == {"posted": 1, "already_reversed": CONNECTIONS - 1}
    assert_in_order(user, 3)


def test_batches_over_the_same_users_in_opposite_orders_do_not_deadlock(
    connections: Connections,
) -> None:
    users = [UserFactory() for _ in range(10)]

    def post(place: int) -> Any:
        entries = [
            ledger.balance_change_entry(user, amount=1, description="In a batch")
            for user in (users if place % 2 else reversed(users))
        ]
        for _ in range(5):
            ledger.post_batch(entries, **BY_PANEL)

    outcomes = connections(CONNECTIONS, post)
    assert [outcome.error for outcome in outcomes] == [None] * CONNECTIONS
    for user in users:
        assert ledger.balance(user) == (5 * CONNECTIONS, 0, 5 * CONNECTIONS)
    assert_in_order(users[0], 5 * CONNECTIONS)


def test_a_batch_that_fails_leaves_nothing_for_others_to_see(connections: Connections) -> None:
    user, empty = user_with(real=10), UserFactory()

    def post(place: int) -> Any:
        if place % 2:
            return ledger.change_balance(user, amount=-1, description="Charge of 1", **BY_PANEL)
        bad = [
            ledger.balance_change_entry(user, amount=1000, description="Too good"),
            ledger.balance_change_entry(empty, amount=-1, description="To be true"),
        ]
        return ledger.post_batch(bad, **BY_PANEL)

    outcomes = connections(CONNECTIONS, post)
    assert codes(outcomes[1::2]) == {"posted": 10}
    assert codes(outcomes[::2]) == {"insufficient_funds": 10}
    assert ledger.balance(user) == (0, 0, 11)
    assert_in_order(user, 11)


def test_a_balance_is_free_again_when_the_surrounding_transaction_ends(
    connections: Connections,
) -> None:
    """Half of the connections roll their charge back, which leaves no trace."""
    user = user_with(real=100)

    def charge(place: int) -> Transaction:
        with transaction.atomic():
            posted = ledger.change_balance(user, amount=-1, description="Charge of 1", **BY_PANEL)
            transaction.set_rollback(place % 2 == 0)
        return posted

    assert codes(connections(CONNECTIONS, charge)) == {"posted": CONNECTIONS}
    assert ledger.balance(user) == (90, 0, 11)
    assert_in_order(user, 11)


@pytest.mark.parametrize("user_count", [1, 3])
def test_the_ledger_is_whole_after_a_storm(connections: Connections, user_count: int) -> None:
    """Mixes refills, charges of services and plans, grants with shared keys, and reversals."""
    users = [user_with(real=50, bonus=20) for _ in range(user_count)]

    def storm(place: int) -> Counter[str]:
        seen: Counter[str] = Counter()
        for turn in range(10):
            user = users[(place + turn) % user_count]
            words = {"description": f"Turn {turn} of {place}", **BY_PANEL}
            try:
                match (place + turn) % 5:
                    case 0:
                        ledger.change_balance(user, amount="3.5", **words)
                    case 1:
                        charge_cost(user, service="traffic", cost=7, **words)
                    case 2:
                        charge_price(user, cycle="monthly", price=11, **words)
                    case 3:
                        ledger.give_bonus(
                            user,
                            amount=2,
                            idempotency_key=f"gift {turn}",
                            **words | {"description": "One gift for all"},
                        )
                    case 4:
                        ledger.reverse(user, number=turn + 1, **words)
                seen["posted"] += 1
            except errors.BillingError as refusal:
                seen[refusal.code] += 1
        return seen

    outcomes = connections(CONNECTIONS, storm)
    assert [outcome.error for outcome in outcomes] == [None] * CONNECTIONS
    total = sum((outcome.result for outcome in outcomes), Counter[str]())
    assert total["posted"] > CONNECTIONS
    for user in users:
        assert_in_order(user, ledger.balance(user).number)
