"""Batches and reasons in the REST API."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from billing import ledger
from billing.models import Batch, Transaction
from tests.api.rest.programs import Program, assert_problem
from tests.factories import reason, user_with
from users.models import User


@pytest.fixture
def user(db: None) -> User:
    return user_with(real=10)


def entry(user: User, amount: str, **fields: Any) -> dict[str, Any]:
    return {"user_id": user.pk, "description": "An apology", "amount": amount} | fields


def in_file(content: str, name: str = "march.csv") -> dict[str, Any]:
    return {"file": {"name": name, "content": content}}


def test_a_batch_is_posted_read_and_found_by_its_transactions(program: Program, user: User) -> None:
    answer = program.post("/batches", {"title": "Apologies", "entries": [entry(user, "5")]}).json()
    batch = answer["batch"]
    assert (batch["title"], batch["kind"], batch["state"], batch["posted"], batch["real"]) == (
        "Apologies",
        "request",
        "posted",
        1,
        "5.0000",
    )
    assert answer["results"][0]["transaction"]["batch"] == batch["id"]
    assert program.get(f"/batches/{batch['id']}").json() == batch
    assert program.get("/batches").json() == {"batches": [batch], "next_cursor": None}
    rows = program.get(f"/transactions?batch={batch['id']}").json()["transactions"]
    assert [row["amount"] for row in rows] == ["5.0000"]
    assert program.get("/transactions?batch=4711").json()["transactions"] == []
    assert_problem(program.get("/batches/4711"), 404, "not_found")
    assert_problem(program.get("/transactions?batch=0"), 422, "invalid_request")


def test_the_older_call_posts_a_batch_too(program: Program, user: User) -> None:
    answer = program.post("/balance-changes", {"entries": [entry(user, "5")]}).json()
    assert Batch.objects.get().pk == answer["batch"]


def test_lists_of_batches_have_pages(program: Program, user: User) -> None:
    for amount in "123":
        program.post("/batches", {"entries": [entry(user, amount)]})
    seen, cursor = [], ""
    for _ in range(3):
        page = program.get(f"/batches?limit=1{cursor}").json()
        seen += [batch["real"] for batch in page["batches"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == ["3.0000", "2.0000", "1.0000"]
    assert page["next_cursor"] is None


def test_a_dry_run_posts_nothing(program: Program, user: User) -> None:
    answer = program.post("/batches", {"entries": [entry(user, "5")], "dry_run": True}).json()
    assert answer["batch"]["posted"] == 1
    assert answer["results"][0]["transaction"]["new_balance"] == "15.0000"
    assert not Batch.objects.exists()
    assert ledger.balance(user).real == 10


def test_a_file_is_read_and_posted_once(program: Program, user: User) -> None:
    reason("goodwill", template="An apology")
    content = (
        "\ufeffuser_id,amount,bonus_amount,description,reason,payment_date,idempotency_key\r\n"
        f"{user.pk},5.25,,Paid by cheque,,2026-11-02,cheque-1\r\n"
        f"{user.pk},,2,,goodwill,,\r\n"
        f"{user.pk},-900,,More than there is,,,\r\n"
    )
    sent = in_file(content) | {"skip_refused": True}
    answer = program.post("/batches", sent).json()
    assert [each["outcome"] for each in answer["results"]] == ["posted", "posted", "refused"]
    assert answer["results"][2]["problem"]["entry"] == 3
    batch = answer["batch"]
    assert (batch["kind"], batch["file_name"], batch["title"]) == ("file", "march.csv", "march.csv")
    assert (batch["entries"], batch["posted"], batch["refused"]) == (3, 2, 1)
    cheque, gift = Transaction.objects.filter(batch=batch["id"]).order_by("number")
    assert (str(cheque.payment_date), cheque.idempotency_key) == ("2026-11-02", "cheque-1")
    assert (gift.description, gift.reason_id) == ("An apology", "goodwill")
    again = program.post("/batches", sent | in_file(content, "copy.csv")).json()
    assert [each["outcome"] for each in again["results"]] == ["replayed", "replayed", "refused"]
    assert again["batch"] == batch
    assert ledger.balance(user)[:2] == (Decimal("15.25"), 2)


def test_a_line_keeps_its_key_when_an_earlier_one_can_be_posted_later(
    program: Program, user: User
) -> None:
    content = (
        "user_id,amount,description,reason\n"
        f"{user.pk},5,A payment,goodwill\n"
        f"{user.pk},7,A payment,\n"
    )
    sent = in_file(content) | {"skip_refused": True}
    first = program.post("/batches", sent).json()
    assert [each["outcome"] for each in first["results"]] == ["refused", "posted"]
    reason("goodwill")
    second = program.post("/batches", sent).json()
    assert [each["outcome"] for each in second["results"]] == ["posted", "replayed"]
    assert second["batch"]["id"] == first["batch"]["id"]
    assert (second["batch"]["posted"], second["batch"]["refused"]) == (2, 0)
    assert ledger.balance(user).real == 22


def test_a_file_sent_again_another_day_keeps_the_expiry_of_its_gifts(
    program: Program, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason("goodwill", bonus_days=10)
    sent = in_file(f"user_id,bonus_amount,reason\n{user.pk},5,goodwill\n")
    first = program.post("/batches", sent).json()
    later = timezone.now() + timedelta(days=2)
    with monkeypatch.context() as patch:
        patch.setattr("billing.expiry.timezone.localdate", lambda **_: later.date())
        second = program.post("/batches", sent).json()
    assert [each["outcome"] for each in second["results"]] == ["replayed"]
    assert second["batch"] == first["batch"]


@pytest.mark.parametrize(
    ("content", "saying"),
    [
        ("user_id,amount,colour\n1,5,red\n", "a column that is not known: colour"),
        ("user_id,amount,metadata\n1,5,{}\n", "a column that is not known: metadata"),
        ("user_id,amount\n1,5,6\n", "Line 2 of the file has too many cells"),
        ('user_id,amount\n1,"5', "is no CSV"),
        ("user_id,amount\n", "entries: "),
        ("", "entries: "),
        ("user_id,amount\nseven,5\n", "entries.0.user_id"),
        ("amount\n5\n", "entries.0.user_id"),
        ("user_id,amount,payment_date\n1,5,02.11.2026\n", "entries.0.payment_date"),
        ("user_id,amount\n" + "1,5\n" * 1_001, "at most 1000 entries"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_place(
    program: Program, user: User, content: str, saying: str
) -> None:
    problem = assert_problem(program.post("/batches", in_file(content)), 422, "invalid_request")
    assert saying in problem["detail"]
    assert not Batch.objects.exists()


def test_entries_and_a_file_do_not_go_together(program: Program, user: User) -> None:
    sent = in_file("user_id,amount\n1,5\n") | {"entries": [entry(user, "5")]}
    problem = assert_problem(program.post("/batches", sent), 422, "invalid_request")
    assert "either entries or a file" in problem["detail"]
    assert_problem(program.post("/batches", {}), 422, "invalid_request")


def test_a_batch_is_reversed_or_what_can_be(program: Program, user: User) -> None:
    other = user_with()
    entries = [entry(user, "5"), entry(other, "7")]
    batch = program.post("/batches", {"entries": entries}).json()["batch"]["id"]
    program.post(
        f"/users/{other.pk}/balance-changes", {"description": "Spent since", "amount": "-6"}
    )
    address, said = f"/batches/{batch}/reversal", {"description": "The wrong month"}
    problem = assert_problem(program.post(address, said), 402, "insufficient_funds")
    assert problem["available"] == "1.0000"
    tried = program.post(address, said | {"skip_refused": True, "dry_run": True}).json()
    assert ledger.balance(user).real == 15
    answer = program.post(address, said | {"skip_refused": True}).json()
    assert [each["outcome"] for each in answer["results"]] == [
        each["outcome"] for each in tried["results"]
    ]
    assert sorted(each["outcome"] for each in answer["results"]) == ["posted", "refused"]
    assert (answer["batch"]["reverses"], answer["batch"]["posted"]) == (batch, 1)
    assert (ledger.balance(user).real, ledger.balance(other).real) == (10, 1)


def test_changes_by_reason(program: Program, user: User) -> None:
    reason("goodwill", bonus_days=10, template="Goodwill {case}", balances="bonus")
    [told] = program.get("/reasons").json()["reasons"]
    assert (told["code"], told["fields"], told["bonus_days"], told["balances"]) == (
        "goodwill",
        ["case"],
        10,
        "bonus",
    )
    address = f"/users/{user.pk}/balance-changes"
    problem = assert_problem(
        program.post(address, {"bonus_amount": "5", "reason": "goodwill"}), 422, "reason_refused"
    )
    assert (problem["why"], problem["reason"]) == ("fields", "goodwill")
    posted = program.post(
        address, {"bonus_amount": "5", "reason": "goodwill", "description": "Goodwill 4711"}
    ).json()
    assert posted["reason"] == "goodwill"
    assert posted["bonus_expires_at"] is not None
    found = program.get("/transactions?reason=goodwill").json()["transactions"]
    assert [row["id"] for row in found] == [posted["id"]]
    assert_problem(program.post(address, {"amount": "5"}), 422, "invalid_description")
