"""Low-balance thresholds: some users have their own, the others get the default."""

from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction

from billing import ledger, thresholds
from billing.errors import InvalidAmount
from billing.models import LowBalanceThreshold
from tests.billing.histories import execute
from tests.conftest import Connections
from tests.factories import UserFactory
from users.models import User


@pytest.fixture
def users(db: None) -> list[User]:
    """Two users with a threshold of their own, set before there is a default, and one without."""
    users = [UserFactory() for _ in range(3)]
    thresholds.set_own(users[0].pk, 5)
    thresholds.set_own(users[1].pk, None)
    return users


def amounts(users: list[User]) -> list[Decimal | None]:
    return [thresholds.of(user.pk).amount for user in users]


def test_setting_the_default_leaves_every_users_own_as_it_is(users: list[User]) -> None:
    thresholds.set_default(10)
    assert amounts(users) == [5, None, 10]
    thresholds.set_default(20)
    assert amounts(users) == [5, None, 20]
    thresholds.set_default(None)
    assert amounts(users) == [5, None, None]


def test_a_user_without_a_threshold_never_gets_another_users(users: list[User]) -> None:
    assert thresholds.of(users[2].pk) == (None, False)
    thresholds.set_own(users[2].pk, 7)
    assert [thresholds.of(user.pk) for user in users] == [(5, True), (None, True), (7, True)]
    assert thresholds.default_threshold() == (None, False)


def test_the_default_is_nobodys_own(users: list[User]) -> None:
    assert thresholds.set_default(10) == ((None, False), (10, False))
    assert thresholds.set_default(20) == ((10, False), (20, False))
    assert thresholds.default_threshold() == (20, False)
    assert LowBalanceThreshold.objects.filter(user=None).count() == 1


def test_a_threshold_is_said_in_words(users: list[User]) -> None:
    said = [
        thresholds.default_threshold().in_words,
        thresholds.set_default(10).after.in_words,
        str(thresholds.default_threshold()),
        thresholds.set_own(users[2].pk, 7).after.in_words,
        thresholds.set_own(users[2].pk, None).after.in_words,
    ]
    assert said == [
        "never, by default",
        "below 10.00, by default",
        "below 10.00",
        "below 7.00",
        "never",
    ]


def test_setting_and_unsetting_ones_own_touches_nobody_elses(users: list[User]) -> None:
    thresholds.set_default(10)
    assert thresholds.set_own(users[2].pk, 7) == ((10, False), (7, True))
    assert amounts(users) == [5, None, 7]
    assert thresholds.unset_own(users[0].pk) == ((5, True), (10, False))
    assert amounts(users) == [10, None, 7]
    assert thresholds.default_threshold() == (10, False)


def test_what_sets_the_same_again_says_nothing(users: list[User]) -> None:
    thresholds.set_default(10)
    for change in (
        thresholds.set_own(users[0].pk, "5.00"),
        thresholds.unset_own(users[2].pk),
        thresholds.set_default("10.0000"),
    ):
        assert change.before == change.after


@pytest.mark.parametrize("amount", ["0", "0.0001", "0.5"])
def test_a_threshold_may_be_anything_from_zero(users: list[User], amount: str) -> None:
    thresholds.set_default(amount)
    thresholds.set_own(users[0].pk, amount)
    assert amounts(users) == [Decimal(amount), None, Decimal(amount)]


@pytest.mark.parametrize(
    ("amount", "reason"), [("-0.0001", "wrong_sign"), ("-1", "wrong_sign"), ("x", "not_a_number")]
)
def test_the_refusal_names_the_field_and_the_reason(
    users: list[User], amount: str, reason: str
) -> None:
    for refused in (thresholds.set_default, lambda amount: thresholds.set_own(users[0].pk, amount)):
        with pytest.raises(InvalidAmount) as refusal:
            refused(amount)
        assert (refusal.value.data["field"], refusal.value.data["reason"]) == ("amount", reason)
    assert amounts(users) == [5, None, None]


# --- Concurrent changes -------------------------------------------------------------------------


def refusal_while_held(connections: Connections, hold: Any, deed: Any) -> BaseException | None:
    """Returns the error of `deed`, if any, while another connection holds the locks of `hold`."""

    def work(_: int) -> None:
        execute("SET lock_timeout = '200ms'")
        deed()

    with transaction.atomic():
        hold()
        [outcome] = connections(1, work)
    return outcome.error


def test_who_sets_a_users_own_threshold_waits_for_who_moves_the_users_money(
    connections: Connections,
) -> None:
    user, other = UserFactory(), UserFactory()
    thresholds.set_own(user.pk, 5)
    for deed in (lambda: thresholds.set_own(user.pk, 7), lambda: thresholds.unset_own(user.pk)):
        assert refusal_while_held(connections, lambda: ledger.lock_balances([user.pk]), deed)
        assert thresholds.of(user.pk) == (5, True)
        assert not refusal_while_held(connections, lambda: ledger.lock_balances([other.pk]), deed)
        thresholds.set_own(user.pk, 5)


def test_who_sets_the_default_waits_for_who_sets_it_and_for_nobody_else(
    connections: Connections,
) -> None:
    user = UserFactory()
    thresholds.set_own(user.pk, 5)
    thresholds.set_default(10)

    def held(whose: int | None) -> None:
        list(LowBalanceThreshold.objects.select_for_update().filter(user=whose))

    def set_default() -> None:
        thresholds.set_default(20)

    assert refusal_while_held(connections, lambda: held(None), set_default)
    assert thresholds.default_threshold() == (10, False)
    assert not refusal_while_held(connections, lambda: held(user.pk), set_default)
    assert thresholds.default_threshold() == (20, False)


def test_many_who_set_the_default_at_once_each_say_truly_what_was_before(
    connections: Connections,
) -> None:
    UserFactory()
    thresholds.set_default(100)
    outcomes = connections(6, lambda place: thresholds.set_default(place + 1))
    changes = [outcome.result for outcome in outcomes]
    assert all(change is not None for change in changes), [o.error for o in outcomes]
    # The changes form a chain. The first one starts at 100, and the amount of the last one stays.
    befores = sorted(change.before.amount for change in changes)
    afters = sorted([*(change.after.amount for change in changes), Decimal(100)])
    afters.remove(thresholds.default_threshold().amount)
    assert befores == afters
