"""Vouchers: what they give, to whom, how often, and until when."""

import re
import threading
import time
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError, transaction
from django.utils import timezone

from billing import errors, ledger, operations
from billing.models import (
    Channel,
    Event,
    Grant,
    Subject,
    Subscription,
    Transaction,
    Voucher,
    VoucherRedemption,
)
from billing.models.vouchers import CODE_LETTERS
from billing.operations.vouchers import Redeemed
from tests.billing.test_ledger_races import somebody_waits_for_me
from tests.conftest import THREADS_MAX_SECONDS, Connections
from tests.factories import (
    OperatorFactory,
    PlanFactory,
    UserFactory,
    a_voucher,
    subscribed,
    user_with,
)
from tests.recorded import sentences_of
from users.models import User

D = Decimal
BY: dict[str, Any] = {"actor": None, "channel": Channel.API}
CONNECTIONS = 20


@pytest.fixture(autouse=True)
def database(request: pytest.FixtureRequest) -> None:
    """Rolls each test back, except those that use many connections."""
    if "connections" not in request.fixturenames:
        request.getfixturevalue("db")


def redeem(user: User, voucher: Voucher | str, **options: Any) -> Redeemed:
    code = voucher if isinstance(voucher, str) else voucher.code
    return operations.vouchers.redeem(user.pk, code, **{"now": timezone.now()} | BY | options)


def refusal(user: User, voucher: Voucher | str, **options: Any) -> errors.BillingError:
    with pytest.raises(errors.BillingError) as refused:
        redeem(user, voucher, **options)
    return refused.value


# --- Codes --------------------------------------------------------------------------------------


def test_codes_are_random_and_have_no_letters_that_look_alike() -> None:
    made = operations.vouchers.make(300, title="Spring", amount=D(1), **BY)
    codes = {each.code for each in made}
    assert len(codes) == 300
    assert len({each.series for each in made}) == 1
    assert len(CODE_LETTERS) ** 12 > 2**59
    assert not set(CODE_LETTERS) & set("01OIL")
    # Each letter stands at each place sooner or later.
    assert set("".join(codes)) == set(CODE_LETTERS)
    assert all(re.fullmatch(r"(\w{4}-){2}\w{4}", each.shown_code) for each in made)


def test_a_code_is_taken_however_it_is_written() -> None:
    voucher = a_voucher(uses_max=None)
    for written in (
        voucher.code,
        voucher.shown_code,
        voucher.code.lower(),
        f"  {voucher.shown_code.replace('-', ' - ')}\n",
        voucher.shown_code.replace("-", "–"),
    ):
        assert redeem(UserFactory(), written).voucher == voucher


@pytest.mark.parametrize("code", ["", "0", "ABCD" * 3, "ABCD" * 30, "ABCD-EFGH-JKM\0", "ÄÖÜ" * 4])
def test_what_is_no_code_is_unknown(code: str) -> None:
    a_voucher()
    assert refusal(UserFactory(), code).code == "unknown_voucher"


def test_the_database_takes_no_code_that_is_easy_to_guess(db: None) -> None:
    for code in ("", "SPRING", "SPRING2O26AB", "spring2226ab"):
        with pytest.raises(IntegrityError), transaction.atomic():
            Voucher.objects.create(code=code, title="Spring", amount=1)


def test_a_code_that_exists_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    there = a_voucher()
    codes = iter([there.code, "A" * 12, "A" * 12, "B" * 12])
    monkeypatch.setattr(operations.vouchers, "new_code", lambda: next(codes))
    made = operations.vouchers.make(2, title="Spring", amount=D(1), **BY)
    assert {each.code for each in made} == {"A" * 12, "B" * 12}


@pytest.mark.parametrize("count", [0, 1_001])
def test_a_thousand_are_made_at_once_at_most(count: int) -> None:
    with pytest.raises(ValueError, match="1,000"):
        operations.vouchers.make(count, title="Spring", amount=D(1), **BY)


def test_making_is_recorded_without_the_code() -> None:
    operator = OperatorFactory()
    [voucher] = operations.vouchers.make(
        1, title="Spring", bonus=D(5), bonus_days=30, actor=operator, channel=Channel.PANEL
    )
    assert voucher.created_by == operator
    assert sentences_of(Subject.VOUCHER, voucher.pk) == [
        "Added. Title: “Spring”; Amount: 0.00; Bonus: 5.00; Days of the bonus: “30”; "
        "Uses at most: “1”; Active: yes."
    ]
    voucher.valid_until = date(2031, 5, 1)
    operations.configuration.save(voucher, actor=operator, channel=Channel.PANEL)
    assert sentences_of(Subject.VOUCHER, voucher.pk)[1] == (
        "Valid until changed from nothing to “2031-05-01”."
    )
    assert not Event.objects.filter(data__icontains=voucher.code).exists()


# --- What is valid ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "A voucher gives money, a bonus or a plan."),
        ({"amount": D(-1), "bonus": D(2)}, "A voucher cannot take money."),
        ({"amount": D(1), "bonus_days": 3}, "Without a bonus there is nothing that expires."),
        (
            {"bonus": D(1), "bonus_days": 3, "bonus_until": date(2031, 1, 1)},
            "Give either the days of the bonus or its last day.",
        ),
        (
            {"amount": D(1), "uses": 2, "uses_max": 1},
            "More users than that have redeemed it already.",
        ),
    ],
)
def test_a_voucher_that_makes_no_sense_is_refused_also_by_the_database(
    fields: dict[str, Any], said: str
) -> None:
    voucher = Voucher(code="A" * 12, title="Spring", **fields)
    with pytest.raises(ValidationError) as refused:
        voucher.full_clean()
    assert said in refused.value.messages
    with pytest.raises(IntegrityError), transaction.atomic():
        voucher.save()


# --- What it gives ------------------------------------------------------------------------------


def test_money_and_bonus_are_one_payment() -> None:
    user = user_with(real=1)
    voucher = a_voucher(amount=D(10), bonus=D(5))
    done = redeem(user, voucher)
    posted = Transaction.objects.get(user=user, number=2)
    assert done.transaction == posted
    assert done.posted == [posted]
    assert (posted.type, posted.subtype) == ("payment", "voucher")
    assert (posted.amount, posted.bonus_amount) == (10, 5)
    assert posted.description == "Voucher: Spring"
    assert posted.metadata == {"voucher": voucher.pk}
    assert posted.bonus_expires_at is None
    assert done.sentence == "Redeemed the voucher “Spring”: 10.00 and a bonus of 5.00."
    assert sentences_of(Subject.USER, user.pk) == [done.sentence]
    redemption = VoucherRedemption.objects.get()
    assert (redemption.user, redemption.voucher, redemption.number) == (user, voucher, 2)
    voucher.refresh_from_db()
    assert voucher.uses == 1
    call_command("verify_ledger", verbosity=0)


def test_a_bonus_alone_is_a_gift() -> None:
    user = UserFactory()
    posted = redeem(user, a_voucher(bonus=D(5))).transaction
    assert posted is not None
    assert (posted.type, posted.subtype) == ("bonus_charge", "voucher")
    assert (posted.amount, posted.bonus_amount) == (0, 5)
    call_command("verify_ledger", verbosity=0)


def test_a_bonus_expires_some_days_after_the_redemption(settings: Any) -> None:
    settings.TIME_ZONE = "Asia/Tokyo"
    voucher = a_voucher(bonus=D(5), bonus_days=30, uses_max=None)
    # 23:30 and 00:30 in Tokyo, where it is UTC+9 all year.
    for now, end in (
        (datetime(2041, 3, 1, 14, 30, tzinfo=UTC), datetime(2041, 3, 31, 15, tzinfo=UTC)),
        (datetime(2041, 3, 1, 15, 30, tzinfo=UTC), datetime(2041, 4, 1, 15, tzinfo=UTC)),
    ):
        user = UserFactory()
        posted = redeem(user, voucher, now=now).transaction
        assert posted is not None
        assert posted.bonus_expires_at == end
        assert Grant.objects.get(user=user).expires_at == end


def test_a_bonus_expires_on_a_fixed_day(settings: Any) -> None:
    settings.TIME_ZONE = "Europe/Berlin"
    settings.BONUS_DAYS = 3
    voucher = a_voucher(amount=D(1), bonus=D(5), bonus_until=date(2041, 6, 30))
    posted = redeem(UserFactory(), voucher).transaction
    assert posted is not None
    assert posted.bonus_expires_at == datetime(2041, 6, 30, 22, tzinfo=UTC)


def test_without_an_expiry_of_its_own_a_bonus_has_the_installation_s(settings: Any) -> None:
    settings.BONUS_DAYS = 3
    voucher = a_voucher(bonus=D(5), uses_max=None)
    posted = redeem(UserFactory(), voucher, now=datetime(2041, 3, 1, 12, tzinfo=UTC)).transaction
    assert posted is not None
    assert posted.bonus_expires_at == datetime(2041, 3, 5, tzinfo=UTC)
    money_only = redeem(UserFactory(), a_voucher()).transaction
    assert money_only is not None
    assert money_only.bonus_expires_at is None


def test_its_money_pays_for_its_plan() -> None:
    user = UserFactory()
    plan = PlanFactory(name="Start", price=8)
    done = redeem(user, a_voucher(amount=D(10), plan=plan))
    assert [(row.subtype, row.amount) for row in done.posted] == [("voucher", 10), ("monthly", -8)]
    assert done.subscription is not None
    assert Subscription.objects.get(user=user) == done.subscription
    assert done.subscription.status == "active"
    assert done.sentence == (
        "Redeemed the voucher “Spring”: 10.00. Subscribed the user to plan Start; 8.00 charged."
    )
    [event] = Event.objects.filter(subject="user", subject_id=user.pk)
    assert event.data["transactions"] == [1, 2]
    call_command("verify_ledger", verbosity=0)


def test_a_plan_alone_is_charged_from_the_balance() -> None:
    user = user_with(real=8)
    voucher = a_voucher(plan=PlanFactory(name="Start", price=8))
    done = redeem(user, voucher)
    assert done.transaction is None
    assert [row.amount for row in done.posted] == [-8]
    refused = refusal(user, voucher)
    assert refused.data == {"voucher": voucher.pk, "title": "Spring", "number": None}
    assert str(refused) == "The user has already redeemed the voucher “Spring”."


# --- Refusals -----------------------------------------------------------------------------------


def test_a_refused_plan_refuses_all_of_it() -> None:
    plan = PlanFactory(name="Start", price=30)
    voucher = a_voucher(amount=D(10), plan=plan, uses_max=None)
    poor, subscriber = UserFactory(), user_with(real=100)
    subscribed(subscriber, PlanFactory(price=0))
    before = Transaction.objects.count()
    assert refusal(poor, voucher).code == "insufficient_funds"
    assert refusal(subscriber, voucher).code == "subscription_exists"
    plan.is_active = False
    plan.save()
    assert refusal(user_with(real=0), voucher).code == "plan_retired"
    assert Transaction.objects.count() == before
    assert not VoucherRedemption.objects.exists()
    assert not Event.objects.filter(subject="user").exists()
    assert Subscription.objects.count() == 1
    voucher.refresh_from_db()
    assert voucher.uses == 0


def test_a_user_redeems_a_voucher_once() -> None:
    user = user_with(real=1)
    voucher = a_voucher(uses_max=None)
    redeem(user, voucher)
    for change in ({}, {"is_active": False}, {"valid_until": date(2020, 1, 1)}):
        Voucher.objects.filter(pk=voucher.pk).update(**change)
        refused = refusal(user, voucher)
        assert refused.code == "voucher_redeemed"
        assert str(refused) == (
            "The user has already redeemed the voucher “Spring”: transaction number 2."
        )
    assert ledger.balance(user).real == 11


def test_the_ledger_does_not_post_it_twice_either() -> None:
    user = UserFactory()
    voucher = a_voucher(uses_max=None)
    redeem(user, voucher)
    VoucherRedemption.objects.all().delete()
    refused = refusal(user, voucher)
    assert (refused.code, refused.data["number"]) == ("voucher_redeemed", 1)
    assert ledger.balance(user).real == 10
    with pytest.raises(errors.InvalidEntry):
        ledger.callers_key(f"redeemed_voucher:{voucher.pk}")


def test_what_was_reversed_is_not_redeemed_again() -> None:
    user = UserFactory()
    voucher = a_voucher(uses_max=None)
    redeem(user, voucher)
    operations.money.reverse(user.pk, number=1, description="Taken back", **BY)
    assert refusal(user, voucher).code == "voucher_redeemed"


def test_an_inactive_voucher_is_answered_like_one_that_does_not_exist() -> None:
    inactive = refusal(UserFactory(), a_voucher(is_active=False))
    unknown = refusal(UserFactory(), "A" * 12)
    assert (str(inactive), inactive.data) == (str(unknown), unknown.data)
    assert str(unknown) == "There is no voucher with this code, or it is no longer active."


def test_a_voucher_ends_at_the_installation_s_midnight(settings: Any) -> None:
    settings.TIME_ZONE = "America/New_York"
    voucher = a_voucher(valid_until=date(2041, 1, 31), uses_max=None)
    midnight = datetime(2041, 2, 1, 5, tzinfo=UTC)
    redeem(UserFactory(), voucher, now=midnight - timedelta(microseconds=1))
    refused = refusal(UserFactory(), voucher, now=midnight)
    assert refused.code == "voucher_expired"
    assert str(refused) == "The voucher “Spring” could be redeemed until 2041-01-31."


def test_a_voucher_ends_with_its_bonus(settings: Any) -> None:
    settings.TIME_ZONE = "UTC"
    voucher = a_voucher(
        bonus=D(5), bonus_until=date(2041, 1, 31), valid_until=date(2041, 12, 31), uses_max=None
    )
    redeem(UserFactory(), voucher, now=datetime(2041, 1, 31, 23, 59, tzinfo=UTC))
    refused = refusal(UserFactory(), voucher, now=datetime(2041, 2, 1, tzinfo=UTC))
    assert (refused.code, refused.data["day"]) == ("voucher_expired", "2041-01-31")


def test_a_voucher_is_redeemed_by_so_many_users() -> None:
    voucher = a_voucher(uses_max=2)
    redeem(UserFactory(), voucher)
    redeem(UserFactory(), voucher)
    refused = refusal(UserFactory(), voucher)
    assert refused.code == "voucher_used_up"
    assert str(refused) == "The voucher “Spring” has been redeemed as often as it can be."


def test_deactivated_users_and_operators_redeem_nothing() -> None:
    voucher = a_voucher(uses_max=None)
    assert refusal(UserFactory(is_active=False), voucher).code == "user_deactivated"
    assert refusal(OperatorFactory(), voucher).code == "unknown_user"


def test_a_duplicate_is_told_where_the_money_goes() -> None:
    kept, duplicate = UserFactory(), UserFactory()
    operations.duplicates.merge(duplicate.pk, kept.pk, day=date(2031, 1, 1), **BY)
    refused = refusal(duplicate, a_voucher())
    assert (refused.code, refused.data["duplicate_of"]) == ("duplicate_user", kept.pk)


def test_a_dry_run_leaves_nothing() -> None:
    user = UserFactory()
    voucher = a_voucher(amount=D(10), bonus=D(5), plan=PlanFactory(price=8))
    tried = redeem(user, voucher, dry_run=True)
    assert [row.amount for row in tried.posted] == [10, -8]
    for model in (Transaction, Subscription, VoucherRedemption, Grant):
        assert not model.objects.exists(), model  # type: ignore[attr-defined]
    assert not Event.objects.filter(subject="user").exists()
    assert [row.amount for row in redeem(user, voucher).posted] == [10, -8]


# --- At once ------------------------------------------------------------------------------------


def codes_of(outcomes: list[Any]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for outcome in outcomes:
        if outcome.error is not None and not isinstance(outcome.error, errors.BillingError):
            raise outcome.error
        counted[outcome.error.code if outcome.error else "redeemed"] += 1
    return counted


def test_of_many_users_at_once_one_gets_the_last_use(connections: Connections) -> None:
    voucher = a_voucher(uses_max=2)
    redeem(UserFactory(), voucher)
    users = UserFactory.create_batch(CONNECTIONS)
    outcomes = connections(CONNECTIONS, lambda place: redeem(users[place], voucher))
    assert codes_of(outcomes) == {"redeemed": 1, "voucher_used_up": CONNECTIONS - 1}
    assert Transaction.objects.filter(subtype="voucher").count() == 2
    call_command("verify_ledger", verbosity=0)


def test_one_user_redeems_once_however_many_requests_come_at_once(
    connections: Connections,
) -> None:
    voucher = a_voucher(uses_max=None)
    user = UserFactory()
    outcomes = connections(CONNECTIONS, lambda place: redeem(user, voucher))
    assert codes_of(outcomes) == {"redeemed": 1, "voucher_redeemed": CONNECTIONS - 1}
    assert Voucher.objects.get().uses == 1
    assert ledger.balance(user).real == 10
    call_command("verify_ledger", verbosity=0)


def test_a_user_whose_balance_is_held_holds_up_no_other_user(connections: Connections) -> None:
    voucher = a_voucher(uses_max=None)
    held, other = UserFactory(), UserFactory()
    is_held, is_waited_for, is_done = (threading.Event() for _ in range(3))

    def work(place: int) -> bool:
        if place == 0:
            with transaction.atomic():
                ledger.lock_balances([held.pk])
                is_held.set()
                while not somebody_waits_for_me():
                    time.sleep(0.01)
                is_waited_for.set()
                return is_done.wait(THREADS_MAX_SECONDS / 2)
        if place == 1:
            assert is_held.wait(THREADS_MAX_SECONDS)
            redeem(held, voucher)
        else:
            assert is_waited_for.wait(THREADS_MAX_SECONDS)
            redeem(other, voucher)
            is_done.set()
        return True

    assert [outcome.result for outcome in connections(3, work)] == [True] * 3
