"""Marking a user as a duplicate: all money and all subscriptions move, or nothing does."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from billing import errors, ledger, operations
from billing.ledger import moving, posting
from billing.models import (
    ActiveDay,
    Balance,
    Channel,
    Event,
    Grant,
    Subject,
    Subscription,
    Transaction,
)
from billing.operations.duplicates import Merged
from billing.plans import charging, subscriptions
from billing.plans.pricing import Cycle
from tests.billing.clock import movable_clock
from tests.billing.histories import BY_PANEL, judge
from tests.conftest import Connections
from tests.factories import (
    OperatorFactory,
    PlanFactory,
    ServiceFactory,
    UserFactory,
    charge_cost,
    plan_with,
    subscribed,
    user_with,
)
from tests.recorded import sentences_of
from users.models import User

D = Decimal
APRIL_10 = date(2026, 4, 10)


def merge(user: User, kept: User, **options: Any) -> Merged:
    said: dict[str, Any] = {"day": APRIL_10, **BY_PANEL} | options
    return operations.duplicates.merge(user.pk, kept.pk, **said)


def verify() -> None:
    judge()
    call_command("verify_ledger", verbosity=0, stdout=StringIO())


def money(user: User) -> tuple[Decimal, Decimal]:
    return ledger.balance(user)[:2]


def live(user: User) -> list[Subscription]:
    rows = Subscription.objects.live().filter(user=user).select_related("plan")
    return list(rows.order_by("device"))


def run(day: date) -> None:
    at = datetime(day.year, day.month, day.day, 0, 5, tzinfo=UTC)
    for batch in charging.open_run(at, "command").batches.all():
        for done in charging.charge_batch(batch):
            assert not done.figures.failed


# --- Money --------------------------------------------------------------------------------------


def test_both_balances_move_and_the_two_users_name_each_other(db: None) -> None:
    user, kept = user_with(real=10, bonus=3), user_with(real=1)
    merged = merge(user, kept, description="Called on Monday")
    assert (money(user), money(kept)) == ((0, 0), (11, 3))
    assert merged.before[user.pk][:2] == (10, 3)
    assert merged.after[kept.pk][:2] == (11, 3)
    assert [(each.taken.amount, each.taken.bonus_amount) for each in merged.moved] == [
        (-10, 0),
        (0, -3),
    ]
    for taken, given in merged.moved:
        assert taken.metadata["moved_to"] == {"user_id": kept.pk, "number": given.number}
        assert given.metadata["moved_from"] == {"user_id": user.pk, "number": taken.number}
        assert taken.description == given.description == "Called on Monday"
    user.refresh_from_db()
    assert (user.duplicate_of, user.is_active) == (kept, False)
    assert sentences_of(Subject.USER, user.pk) == [
        f"Marked as a duplicate of user No. {kept.pk}. Moved there: 10.00 and a bonus of 3.00."
    ]
    assert sentences_of(Subject.USER, kept.pk) == [merged.sentence]
    assert merged.sentence == (
        f"User No. {user.pk} was marked as a duplicate of this user. "
        "Moved here: 10.00 and a bonus of 3.00."
    )
    verify()


def test_each_gift_keeps_its_own_expiry(db: None) -> None:
    user, kept = user_with(bonus=1), user_with(bonus=2)
    now = timezone.now()
    for days, amount in ((9, 4), (3, 5), (6, 6)):
        ledger.give_bonus(
            user,
            amount=amount,
            description="A gift",
            bonus_expires_at=now + timedelta(days=days),
            **BY_PANEL,
        )
    charge_cost(user, service="traffic", cost=7, description="Traffic", **BY_PANEL)
    merge(user, kept)
    grants = Grant.objects.filter(user=kept, is_open=True).order_by("number")
    assert [(each.remaining, each.expires_at) for each in grants] == [
        (2, None),
        (4, now + timedelta(days=6)),
        (4, now + timedelta(days=9)),
        (1, None),
    ]
    assert not Grant.objects.filter(user=user, is_open=True).exists()
    assert money(kept) == (0, 11)
    verify()


def test_what_has_expired_is_not_moved(db: None) -> None:
    with movable_clock(timezone.now() - timedelta(days=5)) as put:
        user, kept = user_with(bonus=1), UserFactory()
        at = timezone.now() - timedelta(days=1)
        ledger.give_bonus(user, amount=4, description="A gift", bonus_expires_at=at, **BY_PANEL)
        put(timezone.now())
        merge(user, kept)
    assert money(kept) == (0, 1)
    assert Transaction.objects.filter(user=user, type="bonus_expiry", bonus_amount=-4).exists()


def test_parts_name_each_other_although_a_gift_expires_meanwhile(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, kept = user_with(real=5, bonus=1), UserFactory()
    with movable_clock(timezone.now()) as put:
        at = timezone.now() + timedelta(hours=1)
        ledger.give_bonus(user, amount=4, description="A gift", bonus_expires_at=at, **BY_PANEL)
        calls = []

        def expire(user_ids: Any) -> None:
            posting.expire_grants(user_ids)
            calls.append(user_ids)
            if len(calls) == 1:
                put(at + timedelta(seconds=1))

        monkeypatch.setattr(moving, "expire_grants", expire)
        merged = merge(user, kept)
        assert len(calls) == 2
    for taken, given in merged.moved:
        assert taken.metadata["moved_to"]["number"] == given.number
        assert given.metadata["moved_from"]["number"] == taken.number
    assert money(kept) == (5, 1)


def test_a_refusal_that_stays_is_told(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    user, kept = user_with(real=5), UserFactory()

    def refuse(*args: Any, **options: Any) -> Any:
        raise errors.InsufficientFunds(balance="real", needed="5.0000", available="4.0000")

    monkeypatch.setattr(moving, "_moved_all", refuse)
    with pytest.raises(errors.InsufficientFunds):
        merge(user, kept)


def test_a_user_without_money_is_merged_without_transactions(db: None) -> None:
    user, kept = UserFactory(), UserFactory()
    merged = merge(user, kept, description="x")
    assert (merged.posted, merged.moved) == ([], [])
    assert "Moved here: no money." in merged.sentence


# --- Refusals -----------------------------------------------------------------------------------


def refused(kind: type[errors.BillingError], user: User, kept: User) -> str:
    before = [
        Balance.objects.get(pk=each.pk).last_number for each in (user, kept) if not each.is_staff
    ]
    count = Event.objects.count()
    with pytest.raises(kind) as refusal:
        merge(user, kept)
    after = [
        Balance.objects.get(pk=each.pk).last_number for each in (user, kept) if not each.is_staff
    ]
    assert (after, Event.objects.count()) == (before, count)
    return str(refusal.value)


def test_what_is_refused_changes_nothing(db: None) -> None:
    user, kept, operator = user_with(real=5), user_with(real=1), OperatorFactory()
    inactive, first = UserFactory(is_active=False), user_with(real=2)
    merge(first, kept)
    assert refused(errors.OwnDuplicate, user, user) == (
        f"The user with ID {user.pk} cannot be a duplicate of the same user."
    )
    refused(errors.UnknownUser, operator, user)
    refused(errors.UnknownUser, user, operator)
    said = f"User {first.pk} is a duplicate. The user who is kept has the ID {kept.pk}."
    assert refused(errors.DuplicateUser, first, user) == said
    assert refused(errors.DuplicateUser, user, first) == said
    assert refused(errors.KeptUserDeactivated, user, inactive) == (
        f"The user with ID {inactive.pk} is deactivated, and takes over nothing."
    )
    operations.forgetting.forget(inactive.pk, **BY_PANEL)
    said = f"The user with ID {inactive.pk} was forgotten: the personal data was erased."
    assert refused(errors.ForgottenUser, user, inactive) == said
    assert refused(errors.ForgottenUser, inactive, user) == said
    assert errors.OwnDuplicate.code == "same_user"
    assert errors.KeptUserDeactivated.code == "user_deactivated"


def test_a_description_that_is_too_short_is_refused_and_nothing_has_moved(db: None) -> None:
    user, kept = user_with(real=5), UserFactory()
    subscribed(user, PlanFactory(price=1), day=APRIL_10)
    with pytest.raises(errors.InvalidDescription):
        merge(user, kept, description="No")
    assert money(user) == (4, 0)
    assert len(live(user)) == 1


def test_a_dry_run_leaves_nothing(db: None) -> None:
    user, kept = user_with(real=10, bonus=3), user_with(real=1)
    subscribed(user, PlanFactory(price=3), device="8617", day=APRIL_10)
    count = Event.objects.count()
    merged = merge(user, kept, dry_run=True)
    assert merged.after[kept.pk][:2] == (8, 3)
    assert (money(user), money(kept)) == ((7, 3), (1, 0))
    assert Event.objects.count() == count
    user.refresh_from_db()
    assert (user.is_active, user.duplicate_of, live(kept)) == (True, None, [])
    verify()


# --- Afterwards ---------------------------------------------------------------------------------


def test_a_duplicate_gets_no_money_and_the_refusal_names_who_does(db: None) -> None:
    service = ServiceFactory(code="traffic")
    user, kept = user_with(real=10), user_with(real=1)
    plan = plan_with({service: 1})
    first = ledger.change_balance(
        user, amount=2, description="Transfer 1", idempotency_key="one", **BY_PANEL
    )
    merge(user, kept)
    again = ledger.change_balance(
        user, amount=2, description="Transfer 1", idempotency_key="one", **BY_PANEL
    )
    assert (again.number, again.replayed) == (first.number, True)
    words: dict[str, Any] = {"description": "Too late", **BY_PANEL}
    for attempt in (
        lambda: operations.money.change_balance(user.pk, amount=5, **words),
        lambda: ledger.give_bonus(user, amount=5, **words),
        lambda: operations.money.reverse(user.pk, number=1, **words),
        lambda: operations.money.move(user.pk, number=1, to_user_id=kept.pk, **words),
        lambda: operations.money.charge_service(user.pk, service="traffic", quantity=1, **words),
        lambda: operations.subscriptions.start(
            user.pk, plan.pk, wait_for_money=True, day=APRIL_10, **BY_PANEL
        ),
        lambda: operations.subscriptions.record_active_day(
            user.pk, device="8617", day=APRIL_10, today=APRIL_10
        ),
        lambda: operations.customers.edit(
            user.pk, lambda user: {"is_active": True}, day=APRIL_10, **BY_PANEL
        ),
        lambda: operations.customers.edit(
            user.pk, lambda user: {}, plan=lambda user: plan, day=APRIL_10, **BY_PANEL
        ),
    ):
        with pytest.raises(errors.DuplicateUser) as refusal:
            attempt()
        assert refusal.value.data == {"user_id": user.pk, "duplicate_of": kept.pk}
    results = ledger.post_batch(
        [
            ledger.balance_change_entry(user, amount=1, description="In a batch"),
            ledger.balance_change_entry(kept, amount=1, description="In a batch"),
        ],
        skip_refused=True,
        **BY_PANEL,
    )
    assert [each.outcome for each in results] == ["refused", "posted"]
    assert (money(user), money(kept)) == ((0, 0), (14, 0))
    verify()


def test_a_payment_cannot_be_moved_to_a_duplicate(db: None) -> None:
    user, kept, other = user_with(real=10), user_with(real=1), user_with(real=4)
    merge(user, kept)
    with pytest.raises(errors.DuplicateUser):
        operations.money.move(
            other.pk, number=1, to_user_id=user.pk, description="To nobody", **BY_PANEL
        )
    assert money(other) == (4, 0)


def test_a_duplicate_stays_deactivated(db: None) -> None:
    user, kept = UserFactory(), UserFactory()
    merge(user, kept)
    changed = operations.customers.set_active(Subject.USER, [user.pk], is_active=True, **BY_PANEL)
    assert changed == 0
    for columns in ("is_active = true", f"duplicate_of_id = {user.pk}"):
        with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"UPDATE users_user SET {columns} WHERE id = %s", [user.pk])
    operations.customers.edit(
        user.pk, lambda user: {"phone": "+49 176 1"}, day=APRIL_10, **BY_PANEL
    )
    user.refresh_from_db()
    assert (user.phone, user.is_active) == ("+49 176 1", False)


def test_duplicates_of_a_duplicate_lead_to_the_user_who_is_kept(db: None) -> None:
    first, second, third = (user_with(real=n) for n in (1, 2, 3))
    merge(first, second)
    merge(second, third)
    first.refresh_from_db()
    assert first.duplicate_of == third
    assert money(third) == (6, 0)
    verify()


# --- Subscriptions ------------------------------------------------------------------------------


@pytest.mark.parametrize("cycle", [Cycle.MONTHLY, Cycle.EVERY_DAY, Cycle.ANNUAL])
@pytest.mark.parametrize("is_retired", [False, True])
def test_a_paid_subscription_goes_on_and_nothing_is_paid_twice(
    db: None, cycle: str, is_retired: bool
) -> None:
    plan = PlanFactory(cycle=cycle, price=30, proportional_charge=False)
    user, kept = user_with(real=100), user_with(real=5)
    subscribed(user, plan, device="8617", day=date(2026, 4, 1))
    operations.subscriptions.start(user.pk, plan.pk, day=date(2026, 4, 1), **BY_PANEL)
    run(APRIL_10)
    left = ledger.balance(user).real
    before = {each.device: each for each in live(user)}
    type(plan).objects.update(is_active=not is_retired)
    merge(user, kept)
    assert money(kept) == (5 + left, 0)
    assert live(user) == []
    for each in live(kept):
        old = before[each.device]
        assert (each.due_on, each.charged_through) == (old.due_on, old.charged_through)
        assert (each.status, each.plan, each.started_on) == ("active", plan, old.started_on)
        assert each.charged_from == APRIL_10
        charge = Transaction.objects.get(user=kept, number=each.charge_number)
        assert charge.amount == -each.paid
        assert charge.metadata["subscription"] == each.pk
    assert {each.device for each in live(kept)} == {"", "8617"}
    due_on = live(kept)[0].due_on
    assert due_on is not None
    at_kept = ledger.balance(kept).real
    run(due_on)
    assert ledger.balance(kept).real < at_kept or cycle == Cycle.ANNUAL
    verify()


def test_what_the_duplicate_paid_is_paid_back_to_the_user_who_is_kept(db: None) -> None:
    plan = PlanFactory(price=30, proportional_charge=True)
    user, kept = user_with(real=100), UserFactory()
    subscribed(user, plan, day=date(2026, 4, 1))
    merge(user, kept)
    assert money(kept) == (70, 0)
    [subscription] = live(kept)
    subscriptions.cancel(subscription, day=date(2026, 4, 21), pay_back=True, **BY_PANEL)
    assert money(kept) == (80, 0)
    verify()


def test_a_plan_that_was_changed_keeps_what_was_paid_of_the_old_one(db: None) -> None:
    old, new = PlanFactory(price=30), PlanFactory(price=60)
    user, kept = user_with(real=200), UserFactory()
    subscription = subscribed(user, old, day=date(2026, 4, 1))
    subscriptions.change_plan(
        subscription, new, day=date(2026, 4, 5), pay_back=False, charge_now=False, **BY_PANEL
    )
    merge(user, kept)
    [continued] = live(kept)
    assert (continued.plan, continued.plan_since, continued.due_on) == (
        new,
        date(2026, 5, 1),
        date(2026, 5, 1),
    )
    charge = Transaction.objects.get(user=kept, number=continued.charge_number)
    assert charge.description.startswith(f"Plan {old.name}, ")
    assert money(kept) == (170, 0)
    run(date(2026, 5, 1))
    assert money(kept) == (110, 0)
    verify()


def test_two_plans_that_were_paid_for_the_same_days_are_both_paid_again(db: None) -> None:
    old, new = PlanFactory(price=30), PlanFactory(price=60, proportional_charge=True)
    user, kept = user_with(real=200), UserFactory()
    subscription = subscribed(user, old, day=date(2026, 4, 1))
    subscriptions.change_plan(
        subscription, new, day=date(2026, 4, 1), pay_back=False, charge_now=True, **BY_PANEL
    )
    merge(user, kept)
    assert money(kept) == (110, 0)
    [continued] = live(kept)
    assert continued.paid == 42
    subscriptions.cancel(continued, day=APRIL_10, pay_back=True, **BY_PANEL)
    assert money(kept) == (110 + 42 + 21, 0)
    verify()


def test_what_falls_due_on_the_day_is_charged_to_the_duplicate_first(db: None) -> None:
    plan = PlanFactory(cycle=Cycle.EVERY_DAY, price=300)
    user, kept = user_with(real=1000), UserFactory()
    subscribed(user, plan, day=date(2026, 4, 1))
    merge(user, kept)
    charged = Transaction.objects.filter(user=user, subtype="everyday")
    assert [t.metadata["from"] for t in charged.order_by("number")][-1] == f"{APRIL_10}"
    assert charged.count() == 10
    [continued] = live(kept)
    assert continued.due_on == date(2026, 4, 11)
    assert Transaction.objects.filter(user=kept, subtype="everyday").count() == 1
    verify()


def test_where_the_kept_user_has_one_the_rest_is_paid_back(db: None) -> None:
    plan = PlanFactory(price=30, proportional_charge=True)
    user, kept = user_with(real=100), user_with(real=100)
    for each in (user, kept):
        subscribed(each, plan, day=date(2026, 4, 1))
    subscribed(user, plan, device="8617", day=date(2026, 4, 1))
    merged = merge(user, kept)
    assert [each.device for each in live(kept)] == ["", "8617"]
    assert money(kept) == (70 + 40 + 21, 0)
    assert f"Plan {plan.name} ended; 21.00 paid back." in merged.sentence
    assert f"Plan {plan.name} of device 8617 goes on" in merged.sentence
    verify()


def test_a_suspended_subscription_waits_at_the_kept_user_and_resumes_with_the_next_run(
    db: None,
) -> None:
    plan = PlanFactory(price=30)
    user, kept = user_with(real=20), user_with(real=20)
    subscribed(user, plan, day=date(2026, 4, 1))
    merge(user, kept)
    [continued] = live(kept)
    assert (continued.status, continued.suspension_reason) == ("suspended", "no_money")
    run(date(2026, 4, 11))
    continued.refresh_from_db()
    assert (continued.status, money(kept)) == ("active", (10, 0))
    verify()


def test_subscriptions_of_a_deactivated_duplicate_end(db: None) -> None:
    plan = PlanFactory(price=30, proportional_charge=True)
    user, kept = user_with(real=100), UserFactory()
    subscribed(user, plan, day=date(2026, 4, 1))
    operations.customers.set_active(Subject.USER, [user.pk], is_active=False, **BY_PANEL)
    user.refresh_from_db()
    merge(user, kept)
    assert (live(kept), live(user)) == ([], [])
    assert money(kept) == (91, 0)
    verify()


def test_an_active_day_is_charged_once_whoever_reports_it(db: None) -> None:
    plan = PlanFactory(cycle=Cycle.ACTIVE_DAY, price=2)
    user, kept = user_with(real=100), UserFactory()
    subscribed(user, plan, device="8617", day=date(2026, 4, 1))
    subscriptions.record_active_day(user, device="8617", day=APRIL_10, today=APRIL_10)
    merge(user, kept)
    assert money(kept) == (98, 0)
    again = subscriptions.record_active_day(kept, device="8617", day=APRIL_10, today=APRIL_10)
    assert again.is_charged
    earlier = date(2026, 4, 8)
    subscriptions.record_active_day(kept, device="8617", day=earlier, today=APRIL_10)
    run(date(2026, 4, 11))
    assert money(kept) == (98, 0)
    day = date(2026, 4, 11)
    subscriptions.record_active_day(kept, device="8617", day=day, today=day)
    run(date(2026, 4, 12))
    assert money(kept) == (96, 0)
    assert ActiveDay.objects.filter(user=user).count() == 1
    verify()


def test_many_subscriptions_are_counted(db: None) -> None:
    plan = PlanFactory(price=2)
    user, kept = user_with(real=100), user_with(real=100)
    for device in range(7):
        subscribed(user, plan, device=f"{device}", day=APRIL_10)
    subscribed(kept, plan, device="3", day=APRIL_10)
    merged = merge(user, kept)
    assert len(live(kept)) == 7
    assert merged.sentence.endswith(
        "6 subscriptions of 7 go on with the user who is kept; of the others, 2.00 was paid back."
    )
    verify()


def test_a_free_plan_goes_on_without_charges(db: None) -> None:
    user, kept = UserFactory(), UserFactory()
    subscribed(user, PlanFactory(price=0), day=date(2026, 4, 1))
    merged = merge(user, kept)
    [continued] = live(kept)
    assert (continued.charged_through, continued.paid) == (date(2026, 4, 30), 0)
    assert merged.posted == []


def test_a_charge_that_was_reversed_is_not_paid_again(db: None) -> None:
    user, kept = user_with(real=100), UserFactory()
    subscribed(user, PlanFactory(price=30), day=date(2026, 4, 1))
    ledger.reverse(user, number=2, description="Goodwill for April", **BY_PANEL)
    merge(user, kept)
    [continued] = live(kept)
    assert (money(kept), continued.due_on, continued.paid) == ((100, 0), date(2026, 5, 1), 0)
    verify()


# --- At once ------------------------------------------------------------------------------------


def test_two_who_are_merged_into_each_other_at_once_are_merged_once(
    connections: Connections,
) -> None:
    one, other = user_with(real=5), user_with(real=7)
    outcomes = connections(8, lambda n: merge(*((one, other) if n % 2 else (other, one))))
    assert sum(outcome.error is None for outcome in outcomes) == 1
    assert {type(o.error) for o in outcomes if o.error} == {errors.DuplicateUser}
    assert sorted(money(each)[0] for each in (one, other)) == [0, 12]
    call_command("verify_ledger", verbosity=0)


def test_money_that_comes_during_a_merge_is_moved_or_refused(connections: Connections) -> None:
    user, kept = user_with(real=5), user_with(real=7)

    def work(n: int) -> Any:
        if n == 7:
            return merge(user, kept)
        return ledger.change_balance(
            user, amount=1, description="A payment", actor=None, channel=Channel.API
        )

    outcomes = connections(16, work)
    errors_found = [outcome.error for outcome in outcomes if outcome.error]
    assert all(isinstance(each, errors.DuplicateUser) for each in errors_found)
    assert money(user) == (0, 0)
    assert money(kept) == (5 + 7 + 15 - len(errors_found), 0)
    call_command("verify_ledger", verbosity=0)
