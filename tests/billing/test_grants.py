"""Gifts with an expiry, refunds in part, and payment dates: what is posted, and what is refused."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.management import call_command
from django.db import DatabaseError, transaction
from django.utils import timezone

from billing import errors, events, expiry, ledger, operations, reports
from billing.ledger import verification
from billing.ledger.history import PastTransaction, load_history
from billing.models import Event, Grant, GrantUse, Transaction, TransactionType
from billing.plans import subscriptions
from billing.tasks import expire_grants
from tests.billing.clock import database_clock_at
from tests.billing.histories import BY_PANEL, execute, judge, tamper
from tests.conftest import Connections
from tests.factories import (
    PlanFactory,
    ServiceFactory,
    UserFactory,
    charge_cost,
    charge_price,
    plan_with,
    subscribed,
    user_with,
)
from users.models import User

D = Decimal


def soon(**span: float) -> datetime:
    return timezone.now() + timedelta(**span)


def gift(user: User, amount: Any, expires_at: datetime | None = None) -> Transaction:
    return ledger.give_bonus(
        user, amount=amount, description="A gift", bonus_expires_at=expires_at, **BY_PANEL
    )


def use(user: User, cost: Any) -> Transaction:
    return charge_cost(user, service="traffic", cost=cost, description="Traffic", **BY_PANEL)


def refund(user: User, number: int, amount: Any = None) -> Transaction:
    return ledger.reverse(user, number=number, amount=amount, description="Refund", **BY_PANEL)


def rows(user: User) -> list[tuple[Any, ...]]:
    found = Transaction.objects.filter(user=user).order_by("number")
    return [(row.type, row.amount, row.bonus_amount) for row in found]


def uses(row: Transaction) -> list[tuple[int, Decimal]]:
    return [(each.grant_number, each.amount) for each in reports.grants_used(row)]


def left(user: User) -> list[Decimal]:
    grants = Grant.objects.filter(user=user).order_by("number")
    return list(grants.values_list("remaining", flat=True))


def verify() -> None:
    judge()
    call_command("verify_ledger", verbosity=0, stdout=StringIO())


# --- Using gifts --------------------------------------------------------------------------------


def test_the_gift_that_expires_first_is_used_first_and_what_never_expires_last(db: None) -> None:
    user = user_with(real=10)
    never, late, early, same = (
        gift(user, 1),
        gift(user, 2, soon(days=9)),
        gift(user, 3, soon(days=2)),
        gift(user, 4, soon(days=9)),
    )
    charge = use(user, 12)
    assert (charge.amount, charge.bonus_amount) == (-2, -10)
    of_same_day = sorted([(late.number, D(2)), (same.number, D(4))])
    assert uses(charge)[0] == (early.number, D(3))
    assert sorted(uses(charge)[1:3]) == of_same_day
    assert uses(charge)[3] == (never.number, D(1))
    assert charge.form == 2
    assert left(user) == [0, 0, 0, 0]
    verify()


def test_two_gifts_with_the_same_expiry_are_used_in_the_order_in_which_they_were_given(
    db: None,
) -> None:
    user, at = UserFactory(), soon(days=3)
    first, second = gift(user, 2, at), gift(user, 2, at)
    assert uses(use(user, 3)) == [(first.number, D(2)), (second.number, D(1))]


def test_a_service_over_five_gifts_and_real_money(db: None) -> None:
    user = user_with(real=100)
    gifts = [gift(user, n, soon(days=n)) for n in range(1, 6)]
    charge = use(user, 20)
    assert (charge.amount, charge.bonus_amount) == (-5, -15)
    assert uses(charge) == [(each.number, D(n)) for n, each in enumerate(gifts, start=1)]
    refund(user, charge.number)
    assert left(user) == [1, 2, 3, 4, 5]
    verify()


def test_a_subscription_never_touches_a_gift(db: None) -> None:
    user = user_with(real=3)
    gift(user, 50, soon(days=1))
    with pytest.raises(errors.InsufficientFunds):
        charge_price(user, cycle="monthly", price=4, description="A month", **BY_PANEL)
    charge_price(user, cycle="monthly", price=3, description="A month", **BY_PANEL)
    assert left(user) == [50]


def test_a_user_without_a_bonus_leaves_rows_of_form_1_and_no_grants(db: None) -> None:
    user = user_with(real=10)
    use(user, 3)
    assert set(Transaction.objects.filter(user=user).values_list("form", flat=True)) == {1}
    assert not Grant.objects.filter(user=user).exists()


# --- Expiry -------------------------------------------------------------------------------------


def test_what_has_expired_is_not_spent_although_nothing_has_swept_it(db: None) -> None:
    user, at = user_with(real=10), soon(hours=1)
    given = gift(user, 6, at)
    with database_clock_at(at):
        charge = use(user, 4)
    assert rows(user)[2:] == [("bonus_expiry", 0, -6), ("tariff_charge", -4, 0)]
    expired = Transaction.objects.get(user=user, number=3)
    assert (expired.channel, expired.actor, expired.subtype) == ("system", None, "register")
    assert expired.description == "Expired: A gift"
    assert uses(expired) == [(given.number, D(6))]
    [used] = reports.grants_used(expired)
    assert str(used) == f"Use 1 of grant {given.number} of user {user.pk}"
    [grant] = Grant.objects.filter(user=user)
    assert str(grant) == f"Grant {given.number} of user {user.pk}"
    assert reports.uses_of(grant, 5) == [used]
    assert reports.grant_of(given) == grant
    assert charge.number == 4
    assert reports.spendable_grants(user.pk, at) == []


def test_until_the_instant_before_it_can_be_spent(db: None) -> None:
    user, at = user_with(real=10), soon(hours=1)
    gift(user, 6, at)
    with database_clock_at(at - timedelta(microseconds=1)):
        assert use(user, 4).bonus_amount == -4


def test_expiry_takes_what_is_left_of_that_gift_and_never_real_money(db: None) -> None:
    user, at = user_with(real=10), soon(hours=1)
    gift(user, 6, at)
    gift(user, 5)
    use(user, 4)
    with database_clock_at(at):
        ledger.expire_grants([user.pk])
    assert rows(user)[-1] == ("bonus_expiry", 0, -2)
    assert ledger.balance(user)[:2] == (10, 5)


def test_the_sweep_posts_each_expiry_once_and_leaves_the_rest(db: None) -> None:
    users, at = [UserFactory() for _ in range(3)], soon(hours=-1)
    for user in users[:2]:
        with database_clock_at(at - timedelta(hours=1)):
            gift(user, 5, at)
    gift(users[2], 5, soon(days=1))
    expire_grants(0)
    expire_grants(0)
    assert [ledger.balance(user).bonus for user in users] == [0, 0, 5]
    assert Transaction.objects.filter(type="bonus_expiry").count() == 2
    verify()


def test_twenty_connections_at_the_moment_of_expiry_post_it_once(connections: Connections) -> None:
    user, at = user_with(real=100), soon(seconds=1)
    gift(user, 5, at)
    execute("SELECT pg_sleep(greatest(0, extract(epoch FROM %s - clock_timestamp())))", [at])
    outcomes = connections(20, lambda i: use(user, 1))
    assert not any(outcome.error for outcome in outcomes)
    assert Transaction.objects.filter(user=user, type="bonus_expiry").count() == 1
    assert ledger.balance(user) == (80, 0, 23)
    call_command("verify_ledger", verbosity=0)


def test_twenty_connections_share_three_gifts_exactly(connections: Connections) -> None:
    user = user_with(real=6)
    for amount in (3, 4, 7):
        gift(user, amount, soon(days=amount))
    outcomes = connections(25, lambda i: use(user, 1))
    assert sum(outcome.error is None for outcome in outcomes) == 20
    assert ledger.balance(user)[:2] == (0, 0)
    assert left(user) == [0, 0, 0]
    assert GrantUse.objects.filter(user=user).count() == 14
    call_command("verify_ledger", verbosity=0)


def test_a_batch_goes_on_when_a_gift_expires_in_its_middle(db: None) -> None:
    user, other, at = user_with(real=10), user_with(real=10), soon(hours=1)
    gift(user, 3, at)
    entries = [
        ledger.service_entry(each, service="traffic", cost=2, description="Traffic")
        for each in (user, other, user)
    ]
    with database_clock_at(at):
        results = ledger.post_batch(entries, **BY_PANEL)
    assert [result.transaction.amount for result in results if result.transaction] == [-2, -2, -2]
    assert rows(user)[2][0] == "bonus_expiry"
    verify()


def test_a_refused_call_leaves_the_expiry_to_the_next_one(db: None) -> None:
    user, at = user_with(real=1), soon(hours=1)
    gift(user, 6, at)
    with database_clock_at(at):
        with pytest.raises(errors.InsufficientFunds):
            use(user, 5)
        assert ledger.balance(user).number == 2
        assert use(user, 1).number == 4


def test_a_refusal_says_nothing_of_another_users_gifts(db: None) -> None:
    rich, poor = UserFactory(), UserFactory()
    for user in (rich, poor):
        gift(user, 10)
    use(poor, 10)
    back = ledger.reversal_entry(poor, number=1, description="Taken back")
    charge = ledger.service_entry(rich, service="sms", cost=1, description="One message")
    results = ledger.post_batch([charge, back], skip_refused=True, **BY_PANEL)
    refusal = results[1].refusal
    assert isinstance(refusal, errors.InsufficientFunds)
    assert refusal.data["available"] == "0.0000"


def test_what_the_caller_saw_is_not_outdated_by_an_expiry(db: None) -> None:
    user, at = user_with(real=10), soon(hours=1)
    gift(user, 6, at)
    with database_clock_at(at):
        posted = ledger.change_balance(
            user, amount=1, description="Seen before", expected_number=2, **BY_PANEL
        )
    assert posted.number == 4


@pytest.mark.parametrize(
    ("amounts", "expires_at", "reason"),
    [
        ({"bonus_amount": 5}, timedelta(seconds=-1), "past"),
        ({"amount": 5}, timedelta(days=1), "no_bonus"),
        ({"amount": 5, "bonus_amount": 0}, timedelta(days=1), "no_bonus"),
    ],
)
def test_an_expiry_in_the_past_or_of_nothing_is_refused(
    db: None, amounts: dict[str, Any], expires_at: timedelta, reason: str
) -> None:
    user = user_with(real=10, bonus=10)
    with pytest.raises(errors.InvalidExpiry) as refusal:
        ledger.change_balance(
            user, description="A change", bonus_expires_at=timezone.now() + expires_at,
            **amounts, **BY_PANEL,
        )  # fmt: skip
    assert refusal.value.data["reason"] == reason
    assert ledger.balance(user).number == 1


@pytest.mark.parametrize(
    "zone", ["UTC", "Asia/Kathmandu", "America/Santiago", "Pacific/Kiritimati"]
)
def test_a_last_day_ends_at_midnight_of_the_installation(zone: str, settings: Any) -> None:
    settings.TIME_ZONE = zone
    for last in (date(2026, 12, 31), date(2027, 4, 3), date(2027, 9, 4)):
        end = expiry.end_of_bonus(last)
        assert end is not None
        here = end.astimezone(ZoneInfo(zone))
        assert (end - timedelta(microseconds=1)).astimezone(ZoneInfo(zone)).date() == last
        assert here.date() == last + timedelta(days=1)


def test_a_gift_is_repeated_by_its_key_also_after_it_has_expired(db: None) -> None:
    user, at = UserFactory(), soon(hours=1)
    said: dict[str, Any] = {"amount": 5, "description": "A gift", "idempotency_key": "g-1"}
    first = ledger.give_bonus(user, bonus_expires_at=at, **said, **BY_PANEL)
    with database_clock_at(at + timedelta(hours=1)):
        again = ledger.give_bonus(user, bonus_expires_at=at, **said, **BY_PANEL)
        assert (again.number, again.replayed) == (first.number, True)
        with pytest.raises(errors.IdempotencyConflict):
            ledger.give_bonus(user, **said, **BY_PANEL)


def test_a_registration_gift_has_the_usual_number_of_days(db: None, settings: Any) -> None:
    settings.BONUS_DAYS = 30
    settings.TIME_ZONE = "Asia/Kathmandu"
    today = timezone.localdate(timezone=ZoneInfo(settings.TIME_ZONE))
    assert expiry.usual_last_day() == today + timedelta(days=30)
    settings.BONUS_DAYS = 0
    assert expiry.usual_last_day() is None


# --- Changing the date --------------------------------------------------------------------------


def test_the_date_of_a_gift_is_extended_and_cut_with_an_event(db: None) -> None:
    user = user_with(real=10)
    given = gift(user, 5, soon(days=1))
    gift(user, 5, soon(days=2))

    def change(to: Any) -> Grant:
        return operations.bonus.change_expiry(user.pk, given.number, to, **BY_PANEL)

    change(None)
    assert uses(use(user, 5))[0][0] != given.number  # it is the last to be used now
    cut = soon(hours=1)
    change(cut)
    change(cut)  # changes nothing, records nothing
    found = list(Event.objects.filter(subject="user", subject_id=user.pk).order_by("number"))
    assert [event.action for event in found] == ["grant_expiry_changed"] * 2
    assert found[0].data["after"] is None
    assert events.sentence(found[0]).startswith(
        f"The 5.00 left of gift No. {given.number} never expire (before: on "
    )
    assert events.sentence(found[1]).endswith("(before: never).")
    verify()
    with database_clock_at(cut):
        use(user, 1)
    assert ledger.balance(user)[:2] == (9, 0)
    verify()


def test_a_gift_of_which_nothing_is_left_has_no_date_to_change(db: None) -> None:
    user = user_with(real=10)
    given = gift(user, 5, soon(days=1))
    with pytest.raises(errors.InvalidExpiry):
        operations.bonus.change_expiry(user.pk, given.number, soon(days=-1), **BY_PANEL)
    use(user, 5)
    for number in (given.number, 1, 99):
        with pytest.raises(errors.UnknownGrant):
            operations.bonus.change_expiry(user.pk, number, None, **BY_PANEL)


@pytest.mark.as_owner
def test_a_date_that_no_event_tells_of_is_found(db: None) -> None:
    user = UserFactory()
    given = gift(user, 5, soon(days=1))
    tamper("UPDATE billing_grant SET expires_at = NULL WHERE user_id = %(user)s", user=user.pk)
    [checked] = verification.check([verification.stretch_of(user.pk)])
    assert str(checked.problem).startswith(f"Grant {given.number} of user {user.pk} breaks G11")


TAMPERINGS = {
    "a use removed": ("DELETE FROM billing_grantuse WHERE user_id = %(user)s AND place = 1", ""),
    "a use of another amount": (
        "UPDATE billing_grantuse SET amount = 1 WHERE user_id = %(user)s AND place = 1",
        "",
    ),
    "a use of another transaction": (
        "UPDATE billing_grantuse SET number = 1 WHERE user_id = %(user)s AND place = 1",
        "",
    ),
    "more left of a grant": (
        "UPDATE billing_grant SET remaining = remaining + 1 WHERE user_id = %(user)s",
        "Grant 2",
    ),
    "a larger grant": (
        "UPDATE billing_grant SET amount = 50, remaining = 48 WHERE user_id = %(user)s",
        "",
    ),
    "a grant removed": ("DELETE FROM billing_grant WHERE user_id = %(user)s", "Transaction 2"),
    "a grant of nobody": (
        "INSERT INTO billing_grant (user_id, number, amount, remaining) VALUES (%(user)s, 9, 1, 1)",
        "Grant 9",
    ),
    "grants that begin later": (
        "UPDATE billing_balance SET grants_since = 3 WHERE user_id = %(user)s",
        "",
    ),
}


@pytest.mark.as_owner
@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_every_tampering_with_gifts_is_found(db: None, tampering: str) -> None:
    user = user_with(real=5)
    gift(user, 5, soon(days=1))
    use(user, 2)
    sql, where = TAMPERINGS[tampering]
    tamper(sql, user=user.pk)
    [checked] = verification.check([verification.stretch_of(user.pk)])
    assert checked.problem is not None
    assert str(checked.problem).startswith(where)
    assert f"of user {user.pk}" in str(checked.problem)


# --- Reversals and refunds ----------------------------------------------------------------------


def test_reversing_a_charge_gives_back_to_its_gifts_and_what_expired_expires_again(
    db: None,
) -> None:
    user, at = user_with(real=5), soon(hours=1)
    early, late = gift(user, 2, at), gift(user, 3, soon(days=9))
    charge = use(user, 6)
    with database_clock_at(at):
        back = refund(user, charge.number)
    assert (back.amount, back.bonus_amount) == (1, 5)
    assert uses(back) == [(late.number, D(-3)), (early.number, D(-2))]
    assert rows(user)[-1] == ("bonus_expiry", 0, -2)
    assert ledger.balance(user)[:2] == (5, 3)
    verify()


def test_a_gift_is_taken_back_from_itself_alone_and_only_if_it_is_unspent(db: None) -> None:
    user = UserFactory()
    spent, other = gift(user, 5, soon(days=1)), gift(user, 5, soon(days=2))
    use(user, 1)
    with pytest.raises(errors.InsufficientFunds) as refusal:
        refund(user, spent.number)
    assert (refusal.value.data["needed"], refusal.value.data["available"]) == ("5.0000", "4.0000")
    assert uses(refund(user, spent.number, 4)) == [(spent.number, D(4))]
    assert uses(refund(user, other.number)) == [(other.number, D(5))]
    assert left(user) == [0, 0]
    verify()


def test_refunds_go_back_real_money_first_and_never_exceed_the_charge(db: None) -> None:
    user = user_with(real=10)
    first, second = gift(user, 2, soon(days=1)), gift(user, 3, soon(days=2))
    charge = use(user, 9)  # 2 and 3 of the gifts, 4 of real money
    moved = [refund(user, charge.number, amount) for amount in (3, 2, D("2.5"))]
    assert [(row.amount, row.bonus_amount) for row in moved] == [(3, 0), (1, 1), (0, D("2.5"))]
    assert uses(moved[1]) == [(second.number, D(-1))]
    assert uses(moved[2]) == [(second.number, D(-2)), (first.number, D("-0.5"))]
    with pytest.raises(errors.RefundTooLarge) as refusal:
        refund(user, charge.number, D("1.51"))
    assert refusal.value.data["left"] == "1.5000"
    assert ledger.left_of(charge) == (0, D("-1.5"))
    assert ledger.left_of(charge).amount == D("1.5")
    assert ledger.left_of(moved[0]) == (0, 0)
    rest = refund(user, charge.number)
    assert (rest.amount, rest.bonus_amount) == (0, D("1.5"))
    with pytest.raises(errors.AlreadyReversed):
        refund(user, charge.number)
    assert left(user) == [2, 3]
    verify()


def test_twenty_refunds_at_once_never_give_back_more_than_was_charged(
    connections: Connections,
) -> None:
    user = user_with(real=10)
    charge = use(user, 10)
    outcomes = connections(20, lambda i: refund(user, charge.number, 1))
    assert sum(outcome.error is None for outcome in outcomes) == 10
    assert ledger.balance(user).real == 10
    call_command("verify_ledger", verbosity=0)


def test_a_quantity_of_a_service_is_refunded_at_the_price_of_the_charge(db: None) -> None:
    user = user_with(real=100)
    plan = plan_with({ServiceFactory(code="outgoing_sms"): "0.3"})
    subscribed(user, plan)
    charge = operations.money.charge_service(
        user.pk, service="outgoing_sms", quantity=40, **BY_PANEL
    )
    said: dict[str, Any] = {"number": charge.number, "description": "Not delivered", **BY_PANEL}
    assert operations.money.refund(user.pk, quantity=1, **said).amount == D("0.3")
    assert operations.money.refund(user.pk, quantity=39, **said).amount == D("11.7")
    with pytest.raises(errors.AlreadyReversed):
        operations.money.refund(user.pk, quantity=1, **said)
    with pytest.raises(errors.InvalidQuantity):
        operations.money.refund(user.pk, quantity=41, **said)
    with pytest.raises(errors.InvalidEntry, match="no quantity"):
        operations.money.refund(user.pk, quantity=1, **said | {"number": 1})
    with pytest.raises(errors.InvalidEntry, match="an amount or a quantity"):
        operations.money.refund(user.pk, **said)
    with pytest.raises(errors.UnknownTransaction):
        operations.money.refund(user.pk, quantity=1, **said | {"number": 99})


def test_a_refund_is_repeated_by_its_key_and_another_amount_is_a_conflict(db: None) -> None:
    user = user_with(real=10)
    charge = use(user, 10)

    def keyed(amount: Any, key: str) -> Transaction:
        return ledger.reverse(
            user, number=charge.number, amount=amount, description="Refund",
            idempotency_key=key, **BY_PANEL,
        )  # fmt: skip

    assert keyed(4, "a").number == keyed(4, "a").number
    with pytest.raises(errors.IdempotencyConflict):
        keyed(5, "a")
    with pytest.raises(errors.IdempotencyConflict):
        keyed(None, "a")
    assert keyed(None, "b").amount == 6
    assert keyed(None, "b").replayed
    with pytest.raises(errors.IdempotencyConflict):
        keyed(5, "b")


def test_an_expiry_and_a_refund_cannot_be_reversed(db: None) -> None:
    user, at = user_with(real=5), soon(hours=1)
    gift(user, 5, at)
    with database_clock_at(at):
        ledger.expire_grants([user.pk])
        for number in (3,):
            with pytest.raises(errors.NotReversible):
                refund(user, number)


def test_a_part_of_a_change_of_both_signs_is_refused(db: None) -> None:
    user = user_with(real=10, bonus=10)
    both = ledger.change_balance(
        user, amount=5, bonus_amount=-5, description="Exchanged", **BY_PANEL
    )
    assert ledger.left_of(both).amount == 0
    with pytest.raises(errors.InvalidAmount):
        refund(user, both.number, 2)
    assert refund(user, both.number).bonus_amount == 5
    verify()


def test_what_was_refunded_of_a_subscription_is_not_paid_back_again(db: None) -> None:
    """30.00 for 30 days, 10.00 refunded: of the rest, half is paid back in the middle."""
    user = user_with(real=100)
    said: dict[str, Any] = {"actor": None, "channel": "panel"}
    its = subscribed(user, PlanFactory(price=30), day=date(2026, 4, 1))
    refund(user, 2, 10)
    subscriptions.cancel(its, day=date(2026, 4, 16), pay_back=True, **said)
    assert rows(user)[-1] == ("main_charge", 10, 0)
    assert ledger.balance(user).real == 90
    with pytest.raises(errors.AlreadyPaidBack) as refusal:
        refund(user, 2, 1)
    assert refusal.value.data["amount"] == "10.0000"
    refund(user, 4, 4)  # of the remainder
    with pytest.raises(errors.AlreadyPaidBack) as refusal:
        refund(user, 2)
    assert refusal.value.data["amount"] == "6.0000"
    refund(user, 4)
    assert refund(user, 2).amount == 20
    assert ledger.balance(user).real == 100
    verify()


# --- Payment dates ------------------------------------------------------------------------------


def test_a_payment_has_the_date_on_which_it_was_made(db: None) -> None:
    user = UserFactory()
    made = timezone.now().date() - timedelta(days=5)
    posted = operations.money.change_balance(
        user.pk, amount=5, description="Transfer of Friday", payment_date=made, **BY_PANEL
    )
    assert (posted.payment_date, posted.form) == (made, 2)
    assert posted.created_at.date() >= made
    verify()


def test_lists_filter_by_the_day_of_the_payment_and_not_of_its_posting(db: None) -> None:
    user, today = UserFactory(), timezone.now().date()
    for days in (9, 5, None):
        day = None if days is None else today - timedelta(days=days)
        ledger.change_balance(user, amount=5, description="A payment", payment_date=day, **BY_PANEL)
    use(user, 1)

    def found(**days: int) -> list[int]:
        limits = {name: today - timedelta(days=ago) for name, ago in days.items()}
        listing = reports.Listing(user_id=user.pk, **limits)  # type: ignore[arg-type]
        assert listing.is_filtered
        return sorted(listing.rows.values_list("number", flat=True))

    assert found(paid_from=9, paid_to=9) == [1]
    assert found(paid_from=8) == [2, 3]
    assert found(paid_to=5) == [1, 2]
    assert found(paid_from=0, paid_to=0) == [3]
    assert found(paid_from=4, paid_to=1) == []


@pytest.mark.parametrize("days", [2, 3_000])
def test_a_payment_date_in_the_future_is_refused(db: None, days: int) -> None:
    user = UserFactory()
    day = timezone.now().date() + timedelta(days=days)
    for change in (operations.money.change_balance, ledger.change_balance):
        with pytest.raises(errors.InvalidPaymentDate):
            change(user.pk, amount=5, description="Transfer to come", payment_date=day, **BY_PANEL)
    assert not Transaction.objects.filter(user=user).exists()


# --- Attacks with SQL ---------------------------------------------------------------------------

ATTACKS = {
    "more left": "UPDATE billing_grant SET remaining = amount WHERE user_id = {user}",
    "less left": "UPDATE billing_grant SET remaining = 0 WHERE user_id = {user}",
    "another amount": "UPDATE billing_grant SET amount = amount + 1 WHERE user_id = {user}",
    "a later expiry": "UPDATE billing_grant SET expires_at = '2099-01-01Z' WHERE user_id = {user}",
    "no expiry": "UPDATE billing_grant SET expires_at = NULL WHERE user_id = {user}",
    "of somebody else": "UPDATE billing_grant SET user_id = {other} WHERE user_id = {user}",
    "removed": "DELETE FROM billing_grant WHERE user_id = {user}",
    "truncated": "TRUNCATE billing_grant",
    "uses removed": "DELETE FROM billing_grantuse WHERE user_id = {user}",
    "uses edited": "UPDATE billing_grantuse SET amount = 1 WHERE user_id = {user}",
    "uses truncated": "TRUNCATE billing_grantuse",
    "a grant of nothing": "INSERT INTO billing_grant (user_id, number, amount, remaining) "
    "VALUES ({user}, 1, 5, 5)",
    "a grant to come": "INSERT INTO billing_grant (user_id, number, amount, remaining) "
    "VALUES ({user}, 99, 5, 5)",
    "a use of an earlier charge": "INSERT INTO billing_grantuse VALUES (2, 2, 3, 2, 1, 2, {user})",
    "a use of a payment": "INSERT INTO billing_grantuse VALUES (2, 2, 1, 1, 1, 2, {user})",
    "a use given back": "INSERT INTO billing_grantuse VALUES (2, 2, 3, 2, -1, 4, {user})",
    "a use of no transaction": "INSERT INTO billing_grantuse VALUES (2, 2, 99, 1, 1, 2, {user})",
    "a use of nothing": "INSERT INTO billing_grantuse VALUES (2, 2, 3, 2, 0, 3, {user})",
    "grants that begin later": "UPDATE billing_balance SET grants_since = 3 WHERE user_id = {user}",
}


@pytest.mark.as_owner
@pytest.mark.parametrize("attack", ATTACKS)
def test_the_database_refuses_what_would_break_the_gifts(db: None, attack: str) -> None:
    """Also from the owner of the tables, unless the owner takes the guards down."""
    user, other = user_with(real=5), UserFactory()
    gift(user, 5, soon(days=1))
    use(user, 2)
    judge()
    with pytest.raises(DatabaseError), transaction.atomic():  # noqa: PT012 - some at commit
        execute(ATTACKS[attack].format(user=user.pk, other=other.pk))
        judge()
    verify()


@pytest.mark.as_owner
def test_a_charge_gets_no_further_use_once_the_balance_has_reached_it(db: None) -> None:
    """Also within the database transaction that posts it, and whenever its guard runs."""
    user = user_with(real=5)
    gift(user, 5, soon(days=1))
    for is_judged in (False, True):
        charge = use(user, 1)
        place = GrantUse.objects.filter(user=user).count() + 1
        if is_judged:
            judge()
        with pytest.raises(DatabaseError, match="are not what it took"), transaction.atomic():
            execute(
                f"INSERT INTO billing_grantuse VALUES (2, {place}, {charge.number}, 2, 1, "
                f"{5 - place}, {user.pk})"
            )
    verify()


@pytest.mark.as_owner
@pytest.mark.parametrize("used", ["1.0000", "2.0000", "3.0000"])
def test_the_uses_of_a_transaction_are_what_it_took(db: None, used: str) -> None:
    """A whole transaction of 2.00, written by hand with its digest, and a use of it."""
    user = user_with(real=5)
    gift(user, 5, soon(days=1))
    parameters = {"user": user.pk, "used": used}
    forged = """
        SELECT (jsonb_populate_record(t, jsonb_build_object(
            'id', nextval('billing_transaction_id_seq'), 'number', 3, 'type', 'payment',
            'subtype', 'partner', 'bonus_amount', -2, 'old_bonus', 5, 'new_bonus', 3,
            'bonus_expires_at', NULL, 'form', 2, 'created_at', clock_timestamp()
        ))).* FROM billing_transaction t WHERE t.user_id = %(user)s AND t.number = 2"""

    def write() -> None:
        execute(f"CREATE TEMPORARY TABLE forged ON COMMIT DROP AS {forged}", parameters)
        execute(
            "UPDATE forged SET digest = billing_digest("
            "jsonb_populate_record(NULL::billing_transaction, to_jsonb(forged)), b.last_digest, "
            "jsonb_build_array(jsonb_build_array('2', %(used)s::text))) "
            "FROM billing_balance b WHERE b.user_id = %(user)s",
            parameters,
        )
        execute("INSERT INTO billing_transaction SELECT * FROM forged")
        execute(
            "INSERT INTO billing_grantuse "
            "VALUES (2, 1, 3, 1, %(used)s, 5 - %(used)s::numeric, %(user)s)",
            parameters,
        )
        execute(
            "UPDATE billing_balance b SET bonus = 3, last_number = 3, last_digest = f.digest, "
            "last_at = f.created_at FROM forged f WHERE b.user_id = f.user_id"
        )
        judge()

    if used == "2.0000":  # right in everything
        write()
        verify()
        return
    with pytest.raises(DatabaseError, match="are not what it took"), transaction.atomic():
        write()


@pytest.mark.as_owner
def test_an_older_history_begins_with_one_gift_without_expiry(db: None) -> None:
    """As after the upgrade: earlier gifts and charges name no grants."""
    user, at = UserFactory(), datetime(2026, 1, 1, tzinfo=UTC)
    payment, service = TransactionType.PAYMENT, TransactionType.SERVICE
    load_history(
        [
            PastTransaction(user.pk, at, payment, "import", "Taken over", bonus_amount=50_000),
            PastTransaction(user.pk, at, service, "traffic", "Traffic", bonus_amount=-20_000),
        ],
        expected=2,
    )
    [grant] = Grant.objects.filter(user=user)
    assert (grant.number, grant.amount, grant.remaining, grant.expires_at) == (2, 3, 3, None)
    newer = gift(user, 4, soon(days=1))
    assert uses(use(user, 6)) == [(newer.number, D(4)), (2, D(2))]
    back = refund(user, 2)  # an earlier charge: what comes back is a gift of its own
    assert uses(back) == []
    assert Grant.objects.get(user=user, number=back.number).amount == 2
    with pytest.raises(errors.InsufficientFunds):
        refund(user, 1)
    gift(user, 2)
    assert refund(user, 1).bonus_amount == -5  # an earlier gift: taken in the usual order
    assert left(user) == [0, 0, 0, 0]
    verify()
