"""The database's clock is set back. Up to a day, posting continues; beyond that, it is refused."""

import json
import re
from datetime import UTC, date, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from billing import errors, ledger
from billing.models import Balance, ChargingFailure, Transaction
from billing.plans import subscriptions
from tests.api.panel.client import Program
from tests.api.rest.programs import program_of_administrator
from tests.billing.clock import movable_clock
from tests.billing.histories import BY_PANEL, judge, posted_ahead, tamper
from tests.factories import AdministratorFactory, PlanFactory, user_with

pytestmark = pytest.mark.django_db


def verify() -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    try:
        call_command("verify_ledger", stdout=out, stderr=err)
    except SystemExit:
        assert err.getvalue()
    return out.getvalue(), err.getvalue()


def test_a_clock_that_went_back_by_less_than_a_day_posts_at_the_time_it_had_reached() -> None:
    user = posted_ahead(timedelta(hours=23))
    reached = Balance.objects.get(user=user).last_at
    for number in (2, 3):
        posted = ledger.change_balance(user, amount=5, description="By hand", **BY_PANEL)
        judge()
        assert posted.number == number
        assert posted.created_at == reached
    assert ledger.balance(user).real == 110
    assert verify()[1] == ""


def test_a_clock_that_is_right_again_goes_on() -> None:
    user = posted_ahead(timedelta(hours=-1))
    posted = ledger.change_balance(user, amount=5, description="By hand", **BY_PANEL)
    assert abs(posted.created_at - datetime.now(UTC)) < timedelta(minutes=30)


def test_a_clock_that_went_back_by_more_than_a_day_is_refused_by_what_it_is() -> None:
    user = posted_ahead(timedelta(hours=25))
    reached = Balance.objects.get(user=user).last_at
    assert reached is not None
    with pytest.raises(errors.ClockBehind) as refused:
        ledger.change_balance(user, amount=5, description="By hand", **BY_PANEL)
    judge()
    told = datetime.strptime(refused.value.data["last_at"], "%Y-%m-%dT%H:%M:%S%z")
    assert reached - told < timedelta(seconds=1)
    assert refused.value.data["clock"] < refused.value.data["last_at"]
    assert re.fullmatch(
        r"The database's clock is wrong: it says \S+Z, but the user's last transaction was posted "
        r"at \S+Z\. Nothing was posted\. Correct the clock and try again\.",
        str(refused.value),
    )
    assert ledger.balance(user).number == 1


def test_a_day_back_is_a_day_to_the_microsecond() -> None:
    user = user_with()
    reached = datetime.now(UTC) - timedelta(days=5)
    with movable_clock(reached) as put:
        ledger.change_balance(user, amount=5, description="By hand", **BY_PANEL)
        put(reached - timedelta(days=1))
        posted = ledger.change_balance(user, amount=5, description="By hand", **BY_PANEL)
        assert posted.created_at == reached
        with pytest.raises(errors.InsufficientFunds):  # not ClockBehind
            ledger.change_balance(user, amount=-50, description="By hand", **BY_PANEL)
        put(reached - timedelta(days=1, microseconds=1))
        with pytest.raises(errors.ClockBehind):
            ledger.change_balance(user, amount=5, description="By hand", **BY_PANEL)


def test_others_of_a_batch_are_posted_all_the_same() -> None:
    ahead, other = posted_ahead(timedelta(days=3)), user_with(real=100)
    results = ledger.post_batch(
        [
            ledger.balance_change_entry(user, amount=5, description="By hand")
            for user in (ahead, other)
        ],
        **BY_PANEL,
        skip_refused=True,
    )
    assert [result.outcome for result in results] == ["refused", "posted"]
    assert isinstance(results[0].refusal, errors.ClockBehind)


def test_what_was_posted_before_is_found_by_its_key() -> None:
    user = user_with(real=100)
    first = ledger.change_balance(
        user, amount=5, description="By hand", idempotency_key="a", **BY_PANEL
    )
    posted_ahead(timedelta(days=3), user)
    again = ledger.change_balance(
        user, amount=5, description="By hand", idempotency_key="a", **BY_PANEL
    )
    assert again.replayed
    assert again.number == first.number


def test_the_rest_api_says_it_and_that_it_may_work_later() -> None:
    user = posted_ahead(timedelta(days=3))
    answer = program_of_administrator().post(
        f"/users/{user.pk}/balance-changes", {"description": "Bank transfer", "amount": "5"}
    )
    assert answer.status_code == 503
    problem = json.loads(answer.content)
    assert problem["code"] == "clock_behind"
    assert problem["last_at"] > problem["clock"]


def test_the_panel_api_says_it() -> None:
    user = posted_ahead(timedelta(days=3))
    program = Program(AdministratorFactory())
    answer = program(
        "user/transaction/change_balance", user_id=user.pk, amount=5, type="main", text="Refill"
    )
    assert (answer.status, answer["success"]) == (500, False)
    assert "clock is wrong" in answer.wrong["clock_behind"]


def test_the_page_says_it_above_the_form_and_keeps_what_was_typed() -> None:
    user = posted_ahead(timedelta(days=3))
    client = Client()
    client.force_login(AdministratorFactory())
    page = client.post(
        f"/admin/users/user/{user.pk}/change-balance/",
        {
            "description": "Bank transfer 4711",
            "amount": "5",
            "bonus_amount": "",
            "key": "0123456789abcdef0123456789abcdef",
            "expected_number": "1",
            "confirm": "1",
        },
    )
    text = page.content.decode()
    assert "clock is wrong" in text
    assert "Bank transfer 4711" in text
    assert Transaction.objects.filter(user=user).count() == 1


def test_the_proof_accuses_the_clock_and_no_row() -> None:
    user_with(real=100)
    user = posted_ahead(timedelta(days=3))
    out, err = verify()
    assert re.match(
        r"The database's clock is wrong: it says [-0-9: ]+ UTC, and transaction 1 of "
        rf"user {user.pk} was posted at [-0-9: ]+ UTC\. All rows are as they should be\.",
        err,
    )
    assert "breaks" not in err
    assert "later rows were not checked" not in err
    assert out == ""


def test_a_bad_row_is_found_although_the_clock_is_wrong_too() -> None:
    posted_ahead(timedelta(days=3))
    bad = user_with(real=100)
    tamper("UPDATE billing_transaction SET amount = 5 WHERE user_id = %(user)s", user=bad.pk)
    assert f"Transaction 1 of user {bad.pk} breaks G2" in verify()[1]


def test_a_run_notes_the_clock_as_the_reason_and_charges_the_others() -> None:
    others = [user_with(real=100), user_with(real=100)]
    ahead = user_with(real=100)
    plan = PlanFactory(cycle="monthly", price=10)
    for user in (*others, ahead):
        subscriptions.start(user, plan, day=date(2026, 3, 1), **BY_PANEL)
    posted_ahead(timedelta(days=3), ahead)
    run = {"stdout": StringIO(), "stderr": StringIO()}
    with pytest.raises(CommandError, match="1 user could not be charged"):
        call_command("charge_due", "--at", "2026-04-01T00:05:00", **run)
    failure = ChargingFailure.objects.get()
    assert failure.user == ahead
    assert "clock is wrong" in failure.problem
    assert [ledger.balance(user).real for user in (*others, ahead)] == [80, 80, 90]
