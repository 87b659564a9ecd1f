"""Batches: posted and reversed together, a file once, figures that are those of the rows."""

from typing import Any

import pytest
from django.db import IntegrityError, transaction

from billing import errors, ledger, operations
from billing.ledger import Entry
from billing.models import Batch, Channel, Transaction
from billing.operations.batches import PostedBatch, Sheet
from tests.billing.histories import execute, judge, tamper
from tests.billing.test_verify_ledger import verify
from tests.conftest import Connections
from tests.factories import OperatorFactory, pay_back, user_with
from users.models import User

pytestmark = pytest.mark.usefixtures("database")
BY: dict[str, Any] = {"actor": None, "channel": Channel.API}
SHEET = Sheet(kind=Batch.Kind.REQUEST, title="Apologies")
FILE = Sheet(kind=Batch.Kind.FILE, title="March", file_name="march.csv", file_hash="ab" * 32)


@pytest.fixture
def database(request: pytest.FixtureRequest) -> None:
    """Rolls each test back, except those that use many connections."""
    if "connections" not in request.fixturenames:
        request.getfixturevalue("db")


def entry(user: User, amount: Any = 0, bonus: Any = 0, **options: Any) -> Entry:
    return ledger.balance_change_entry(
        user, amount=amount, bonus_amount=bonus, description="An apology", **options
    )


def post(entries: list[Entry], sheet: Sheet = SHEET, **options: Any) -> PostedBatch:
    return operations.batches.post(entries, sheet, **BY | options)


def posted(entries: list[Entry], sheet: Sheet = SHEET, **options: Any) -> Batch:
    batch = post(entries, sheet, **options).batch
    assert batch is not None
    return batch


def figures(batch: Batch) -> tuple[int, int, int, int, int]:
    batch.refresh_from_db()
    return batch.entries, batch.posted, batch.refused, int(batch.real), int(batch.bonus)


def outcomes(result: PostedBatch) -> list[str]:
    return [each.outcome for each in result.results]


def test_transactions_carry_their_batch_and_its_figures_are_theirs() -> None:
    ada, bob, actor = user_with(real=10), user_with(), OperatorFactory()
    batch = posted([entry(ada, 5, 1), entry(bob, 7), entry(ada, -3)], actor=actor)
    assert figures(batch) == (3, 3, 0, 9, 1)
    assert (batch.kind, batch.title, batch.actor, batch.channel) == (
        "request",
        "Apologies",
        actor,
        "api",
    )
    rows = Transaction.objects.filter(batch=batch).order_by("id")
    assert [(row.user_id, int(row.amount), row.form) for row in rows] == [
        (ada.pk, 5, 2),
        (ada.pk, -3, 2),
        (bob.pk, 7, 2),
    ]
    judge()
    assert verify()[0] == 0


def test_a_refused_entry_leaves_no_batch_unless_it_is_left_out() -> None:
    ada, bob = user_with(real=10), user_with()
    entries = [entry(ada, 5), entry(bob, -7)]
    with pytest.raises(errors.InsufficientFunds) as refused:
        post(entries)
    assert refused.value.data["entry"] == 2
    assert not Batch.objects.exists()
    result = post(entries, skip_refused=True)
    assert outcomes(result) == ["posted", "refused"]
    assert result.batch is not None
    assert figures(result.batch) == (2, 1, 1, 5, 0)
    assert [(place, refusal.code) for place, refusal in result.refused] == [
        (2, "insufficient_funds")
    ]


def test_a_batch_that_posts_nothing_is_no_batch() -> None:
    ada = user_with(real=10)
    assert post([entry(ada, -70)], skip_refused=True).batch is None
    keyed = [entry(ada, 5, idempotency_key="once")]
    first = posted(keyed)
    again = post(keyed)
    assert (outcomes(again), again.batch) == (["replayed"], None)
    assert list(Batch.objects.all()) == [first]
    [row] = Transaction.objects.filter(idempotency_key="once")
    assert row.batch_id == first.pk


def test_a_dry_run_shows_the_batch_and_leaves_nothing() -> None:
    ada = user_with(real=10)
    result = post([entry(ada, 5)], dry_run=True)
    assert result.batch is not None
    assert result.batch.posted == 1
    assert not Batch.objects.exists()
    assert ledger.balance(ada).real == 10


def test_the_same_file_posts_nothing_twice() -> None:
    ada, bob = user_with(real=10), user_with()
    entries = [entry(ada, 5), entry(ada, 5), entry(bob, -7)]
    first = post(entries, FILE, skip_refused=True)
    assert outcomes(first) == ["posted", "posted", "refused"]  # equal lines are two entries
    second = post(entries, FILE, skip_refused=True)
    assert outcomes(second) == ["replayed", "replayed", "refused"]
    assert second.batch == first.batch
    ledger.change_balance(bob, amount=8, description="Now there is money", **BY)
    third = post(entries, FILE)
    assert outcomes(third) == ["replayed", "replayed", "posted"]
    assert third.batch == first.batch
    assert third.batch is not None
    assert figures(third.batch) == (3, 3, 0, 3, 0)
    assert ledger.balance(ada).real == 20
    assert verify()[0] == 0


def test_an_entrys_own_key_counts_more_than_its_place_in_the_file() -> None:
    ada = user_with()
    post([entry(ada, 5, idempotency_key="invoice-1")], FILE)
    other = Sheet(kind=Batch.Kind.FILE, title="Again", file_name="b.csv", file_hash="cd" * 32)
    assert outcomes(post([entry(ada, 5, idempotency_key="invoice-1")], other)) == ["replayed"]
    assert Batch.objects.count() == 1


def test_a_file_that_is_posted_by_many_at_once_is_posted_once(connections: Connections) -> None:
    ada = user_with()
    sent = connections(8, lambda i: outcomes(post([entry(ada, 5), entry(ada, 7)], FILE)))
    assert sorted(each.result for each in sent) == [["posted"] * 2] + [["replayed"] * 2] * 7
    assert ledger.balance(ada).real == 12
    batch = Batch.objects.get()
    assert figures(batch) == (2, 2, 0, 12, 0)


def attempt(statement: str) -> None:
    """Runs a statement, and then the checks that the database runs at commit."""
    with transaction.atomic():
        execute(statement)
        judge()


# --- Reversing ----------------------------------------------------------------------------------


def reverse(batch: Batch, **options: Any) -> PostedBatch:
    said = {"description": "The wrong month"} | BY | options
    return operations.batches.reverse(batch.pk, **said)


def test_a_whole_batch_is_reversed_the_latest_row_first() -> None:
    ada, bob = user_with(real=10), user_with()
    # Reversed in the order of posting, the refill could not be taken back.
    batch = posted([entry(ada, 5, 2), entry(ada, -15), entry(bob, 7)])
    result = reverse(batch)
    assert result.batch is not None
    assert figures(result.batch) == (3, 3, 0, 3, -2)
    assert (result.batch.kind, result.batch.reverses) == ("reversal", batch)
    assert result.batch.title == f"Reversal of batch {batch.pk}: Apologies"
    assert (batch.state, result.batch.state) == ("reversed", "posted")
    assert ledger.balance(ada)[:2] == (10, 0)
    assert ledger.balance(bob)[:2] == (0, 0)
    with pytest.raises(errors.BatchReversed):
        reverse(batch)
    with pytest.raises(errors.BatchReversed):
        reverse(result.batch)  # a reversal is not reversible
    judge()
    assert verify()[0] == 0


def test_what_cannot_be_reversed_is_told_with_its_figures_and_the_rest_can_be() -> None:
    ada, bob = user_with(), user_with()
    batch = posted([entry(ada, 5), entry(bob, 7)])
    ledger.change_balance(ada, amount=-3, description="Spent since", **BY)
    with pytest.raises(errors.InsufficientFunds) as refused:
        reverse(batch)
    assert refused.value.data["available"] == "2.0000"
    assert ledger.balance(bob).real == 7
    tried = reverse(batch, skip_refused=True, dry_run=True)
    [(place, refusal)] = tried.refused
    assert (tried.entries[place - 1].user_id, refusal.code) == (ada.pk, "insufficient_funds")
    assert ledger.balance(bob).real == 7
    result = reverse(batch, skip_refused=True)
    assert sorted(outcomes(result)) == ["posted", "refused"]
    assert (ledger.balance(ada).real, ledger.balance(bob).real) == (2, 0)
    states = {each.pk: each.state for each in Batch.objects.with_state()}
    assert states[batch.pk] == batch.state == "partly_reversed"
    # When there is money again, the rest is reversed.
    ledger.change_balance(ada, amount=3, description="Money again", **BY)
    assert outcomes(reverse(batch)) == ["posted"]
    assert ledger.balance(ada).real == 0
    assert verify()[0] == 0


def test_what_was_refunded_before_is_not_given_twice() -> None:
    ada = user_with()
    batch = posted([entry(ada, 5), entry(ada, 7)])
    ledger.reverse(ada, number=1, description="By hand", **BY)
    ledger.reverse(ada, number=2, amount=4, description="A part", **BY)
    result = reverse(batch)
    assert result.batch is not None
    assert figures(result.batch) == (1, 1, 0, -3, 0)
    assert ledger.balance(ada).real == 0


def test_a_charge_that_was_paid_back_is_not_given_back_twice() -> None:
    ada, bob = user_with(real=50), user_with(real=50)
    entries = [
        ledger.subscription_entry(user, description="A month", cycle="monthly", price=30)
        for user in (ada, bob)
    ]
    batch = posted(entries)
    pay_back(ada, amount=20, description="The rest", metadata={"charge": 2}, **BY)
    with pytest.raises(errors.AlreadyPaidBack) as refused:
        reverse(batch)
    assert (refused.value.data["amount"], refused.value.data["paid_back_by"]) == ("20.0000", 3)
    assert ledger.balance(bob).real == 20
    result = reverse(batch, skip_refused=True)
    assert result.batch is not None
    assert figures(result.batch) == (2, 1, 1, 30, 0)
    [(place, refusal)] = result.refused
    assert (result.entries[place - 1].user_id, refusal.code) == (ada.pk, "already_paid_back")
    assert (ledger.balance(ada).real, ledger.balance(bob).real) == (40, 50)
    assert verify()[0] == 0


def test_what_was_paid_back_in_the_batch_itself_goes_with_it() -> None:
    ada = user_with(real=50)
    charge = ledger.subscription_entry(ada, description="A month", cycle="monthly", price=30)
    rest = ledger.remainder_entry(ada, description="The rest", amount=20, metadata={"charge": 2})
    assert outcomes(reverse(posted([charge, rest]))) == ["posted", "posted"]
    assert ledger.balance(ada).real == 50


def test_an_unknown_batch_cannot_be_reversed() -> None:
    with pytest.raises(errors.UnknownBatch):
        operations.batches.reverse(99, description="Which one", **BY)


def test_a_batch_that_is_reversed_by_many_at_once_is_reversed_once(
    connections: Connections,
) -> None:
    ada, bob = user_with(), user_with()
    batch = posted([entry(ada, 5), entry(bob, 7)])
    tried = connections(8, lambda i: reverse(batch))
    refused = [each.error for each in tried if each.error]
    assert [type(each) for each in refused] == [errors.BatchReversed] * 7
    assert (ledger.balance(ada).real, ledger.balance(bob).real) == (0, 0)


# --- Attacks ------------------------------------------------------------------------------------


def test_a_batch_with_transactions_cannot_be_deleted() -> None:
    batch = posted([entry(user_with(), 5)])
    with pytest.raises(IntegrityError, match="foreign key"):
        attempt(f"DELETE FROM billing_batch WHERE id = {batch.pk}")


@pytest.mark.parametrize("edit", ["posted = posted + 1", "real = real - 1", "bonus = bonus + 1"])
def test_false_figures_of_a_batch_are_found(edit: str) -> None:
    batch = posted([entry(user_with(), 5)])
    tamper(f"UPDATE billing_batch SET {edit} WHERE id = {batch.pk}")
    code, _, err = verify()
    assert code == 1
    assert f"Batch {batch.pk} breaks G8" in err


def test_a_row_that_is_put_into_another_batch_is_found() -> None:
    ada = user_with()
    first, second = posted([entry(ada, 5)]), posted([entry(ada, 7)])
    tamper(f"UPDATE billing_transaction SET batch_id = {second.pk} WHERE batch_id = {first.pk}")
    code, _, err = verify()
    assert code == 1
    assert f"Transaction 1 of user {ada.pk} breaks G9" in err
