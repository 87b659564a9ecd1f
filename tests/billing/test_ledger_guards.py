"""The database itself protects the ledger (G1 to G5, G8, G9) from models, querysets and raw SQL.

`next_row` makes a row that the database accepts. Each attack changes one thing about it.
"""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import (
    DatabaseError,
    IntegrityError,
    connection,
    transaction,
)
from django.db.models import F

from billing import ledger
from billing.models import Balance, Batch, Channel, Transaction, TransactionType
from tests.billing.histories import BY_PANEL, execute, judge, user_with_history
from tests.factories import OperatorFactory, UserFactory, reason
from users.models import User

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.as_owner,
]  # these tests write past the ledger, which the panel's role cannot


def refused(saying: str, kind: type[Exception] = DatabaseError) -> AbstractContextManager[Any]:
    return pytest.raises(kind, match=saying)


def attempt(work: Callable[[], object]) -> None:
    """Does the work in a savepoint and runs the checks that the database runs at commit."""
    with transaction.atomic():
        work()
        judge()


@pytest.fixture
def user() -> User:
    user = user_with_history()
    judge()
    return user


def state() -> tuple[Any, ...]:
    return (
        execute("SELECT * FROM billing_transaction ORDER BY id"),
        execute("SELECT * FROM billing_balance ORDER BY user_id"),
    )


# --- Transactions are append-only (G3) ----------------------------------------------------------

REWRITING_SQL = {
    "update": "UPDATE billing_transaction SET amount = 0",
    "update_of_one": "UPDATE billing_transaction SET description = 'Other' WHERE number = 3",
    "update_to_the_same": "UPDATE billing_transaction SET amount = amount",
    "update_of_none": "UPDATE billing_transaction SET amount = 0 WHERE false",
    "update_by_join": "UPDATE billing_transaction t SET device = 'x' FROM users_user u "
    "WHERE u.id = t.user_id",
    "update_in_a_query": "WITH u AS (UPDATE billing_transaction SET device = 'x' RETURNING *) "
    "SELECT * FROM u",
    "delete": "DELETE FROM billing_transaction",
    "delete_of_one": "DELETE FROM billing_transaction WHERE number = 7",
    "delete_of_none": "DELETE FROM billing_transaction WHERE false",
    "delete_only": "DELETE FROM ONLY billing_transaction",
    "truncate": "TRUNCATE billing_transaction",
    "truncate_cascade": "TRUNCATE users_user CASCADE",
    "truncate_restart": "TRUNCATE billing_transaction RESTART IDENTITY CASCADE",
    "upsert": "INSERT INTO billing_transaction SELECT * FROM billing_transaction "
    "ON CONFLICT (id) DO UPDATE SET amount = 0",
    "upsert_on_number": "INSERT INTO billing_transaction SELECT * FROM billing_transaction "
    "ON CONFLICT (user_id, number) DO UPDATE SET description = 'Other words'",
    "merge_update": "MERGE INTO billing_transaction t USING (SELECT 1) s ON t.number = 3 "
    "WHEN MATCHED THEN UPDATE SET amount = 0",
    "merge_delete": "MERGE INTO billing_transaction t USING (SELECT 1) s ON t.number = 3 "
    "WHEN MATCHED THEN DELETE",
}


@pytest.mark.parametrize("attack", REWRITING_SQL)
def test_transactions_cannot_be_rewritten_with_sql(attack: str, user: User) -> None:
    before = state()
    with refused("append-only"):
        attempt(lambda: execute(REWRITING_SQL[attack]))
    assert state() == before


REWRITING_WITH_MODELS: dict[str, Callable[[User], object]] = {
    "save": lambda user: user.transactions.first().save(),
    "save_fields": lambda user: user.transactions.first().save(update_fields=["description"]),
    "delete": lambda user: user.transactions.first().delete(),
    "queryset_update": lambda user: user.transactions.update(amount=0),
    "queryset_delete": lambda user: user.transactions.all().delete(),
    "raw_delete": lambda user: user.transactions.all()._raw_delete("default"),
    "bulk_update": lambda user: Transaction.objects.bulk_update(
        list(user.transactions.all()), ["description"]
    ),
    "bulk_create_conflict": lambda user: Transaction.objects.bulk_create(
        list(user.transactions.all()),
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=["amount"],
    ),
    "update_or_create": lambda user: Transaction.objects.update_or_create(
        user=user, number=3, defaults={"description": "Other words"}
    ),
}


@pytest.mark.parametrize("attack", REWRITING_WITH_MODELS)
def test_transactions_cannot_be_rewritten_with_models(attack: str, user: User) -> None:
    before = state()
    with refused("append-only"):
        attempt(lambda: REWRITING_WITH_MODELS[attack](user))
    assert state() == before


# --- A balance changes with its transaction only (G1, G3) ---------------------------------------

BALANCE_EDITS = {
    "real": "real = real + 1",
    "bonus": "bonus = bonus - 1",
    "both": "real = bonus, bonus = real",
    "refilled": "refilled = 0",
    "bonus_refilled": "bonus_refilled = 0",
    "last_number": "last_number = last_number + 1",
    "back_by_one": "last_number = last_number - 1",
    "last_digest": "last_digest = ''",
    "last_at": "last_at = now()",
    "last_at_none": "last_at = NULL",
}


@pytest.mark.parametrize("edit", BALANCE_EDITS)
def test_a_balance_cannot_be_edited(edit: str, user: User) -> None:
    before = state()
    with refused("does not match the last transaction"):
        attempt(
            lambda: execute(
                f"UPDATE billing_balance SET {BALANCE_EDITS[edit]} WHERE user_id = %s", [user.pk]
            )
        )
    assert state() == before


@pytest.mark.parametrize("number", [1, 6])
def test_a_balance_cannot_go_back_to_an_earlier_transaction(number: int, user: User) -> None:
    before = state()
    with refused("does not match the last transaction"):
        attempt(
            lambda: execute(
                "UPDATE billing_balance b SET real = t.new_balance, bonus = t.new_bonus, "
                "refilled = t.refilled, bonus_refilled = t.bonus_refilled, "
                "last_number = t.number, last_digest = t.digest, last_at = t.created_at "
                "FROM billing_transaction t WHERE t.user_id = b.user_id AND t.number = %s "
                "AND b.user_id = %s",
                [number, user.pk],
            )
        )
    assert state() == before


def test_a_balance_written_as_it_was_is_right(user: User) -> None:
    """An update that changes nothing is accepted, so the edits above are refused as edits."""
    before = state()
    attempt(lambda: execute("UPDATE billing_balance SET real = real WHERE user_id = %s", [user.pk]))
    assert state() == before


def test_a_balance_edited_next_to_a_posting_is_refused(user: User) -> None:
    def work() -> None:
        ledger.change_balance(user, amount=1, description="Honest refill", **BY_PANEL)
        Balance.objects.filter(user=user).update(real=F("real") + 1)

    with refused("does not match"):
        attempt(work)


def test_a_balance_edited_before_a_posting_is_refused(user: User) -> None:
    def work() -> None:
        Balance.objects.filter(user=user).update(real=F("real") + 1)
        ledger.change_balance(user, amount=1, description="Honest refill", **BY_PANEL)

    with refused("does not (match|follow)"):
        attempt(work)


def test_a_balance_edited_with_a_model_is_refused(user: User) -> None:
    balance = Balance.objects.get(user=user)
    balance.real += 1
    with refused("does not match"):
        attempt(balance.save)


def test_a_balance_is_checked_when_the_constraints_are_asked(user: User) -> None:
    with refused("does not match"), transaction.atomic():
        execute("SET CONSTRAINTS ALL IMMEDIATE")
        execute("UPDATE billing_balance SET real = real + 1")


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM billing_balance",
        "DELETE FROM billing_balance WHERE last_number = 0",
        "TRUNCATE billing_balance",
        "TRUNCATE billing_balance CASCADE",
    ],
)
def test_a_balance_row_cannot_be_removed(sql: str, user: User) -> None:
    UserFactory()
    judge()
    with refused("kept for ever"):
        attempt(lambda: execute(sql))


@pytest.fixture
def user_without_balance() -> User:
    """Makes a user and deletes the balance row, which only works with the triggers off."""
    user = UserFactory()
    judge()
    execute("ALTER TABLE billing_balance DISABLE TRIGGER USER")
    execute("DELETE FROM billing_balance WHERE user_id = %s", [user.pk])
    execute("ALTER TABLE billing_balance ENABLE TRIGGER USER")
    return user


def test_a_balance_row_stays_with_its_user(user_without_balance: User) -> None:
    other = UserFactory()
    judge()
    with refused("stays with its user"):
        attempt(
            lambda: execute(
                "UPDATE billing_balance SET user_id = %s WHERE user_id = %s",
                [user_without_balance.pk, other.pk],
            )
        )


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("real", "0.0001"),
        ("bonus", "0.0001"),
        ("refilled", "0.0001"),
        ("bonus_refilled", "0.0001"),
        ("last_number", "1"),
        ("last_digest", "'\\x00'"),
        ("last_at", "now()"),
    ],
)
def test_a_balance_row_cannot_be_opened_with_money(
    column: str, value: str, user_without_balance: User
) -> None:
    user_id = [user_without_balance.pk]
    opened = f"INSERT INTO billing_balance (user_id, {column}) VALUES (%s, {value})"
    with refused("does not match"):
        attempt(lambda: execute(opened, user_id))
    attempt(lambda: execute("INSERT INTO billing_balance (user_id) VALUES (%s)", user_id))


def test_a_balance_row_that_comes_before_its_user_is_the_users() -> None:
    """Some ways of copying a database insert the balance first, within one transaction."""
    execute("INSERT INTO billing_balance (user_id) VALUES (4711000)")
    user = UserFactory(pk=4711000)
    judge()
    assert ledger.balance(user) == (0, 0, 0)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO users_user (email, password, first_name, middle_name, last_name, phone, "
        "legal_name, tin, country, region, city, street_address, postal_code, time_zone, comment, "
        "is_active, is_staff, is_superuser, created_at) VALUES ('sql@example.com', '', '', '', '', "
        "'', '', '', '', '', '', '', '', '', '', true, false, false, now())",
    ],
)
def test_a_user_created_with_sql_has_a_balance(sql: str) -> None:
    execute(sql)
    assert ledger.balance(User.objects.get(email="sql@example.com")) == (0, 0, 0)


# --- What a row may contain (G2, G4, G5, G9) ----------------------------------------------------


def next_row(user: User, **changes: Any) -> dict[str, Any]:
    """Returns a valid next row that adds 2 to the real balance and 1 to the bonus balance."""
    balance = Balance.objects.get(user=user)
    [(next_id,)] = execute("SELECT nextval('billing_transaction_id_seq')")
    row: dict[str, Any] = {
        "id": next_id,
        "user_id": user.pk,
        "number": balance.last_number + 1,
        "type": "payment",
        "subtype": "partner",
        "description": "A forged refill",
        "device": "",
        "amount": "2",
        "old_balance": balance.real,
        "new_balance": balance.real + 2,
        "bonus_amount": "1",
        "old_bonus": balance.bonus,
        "new_bonus": balance.bonus + 1,
        "refilled": balance.refilled + 2,
        "bonus_refilled": balance.bonus_refilled + 1,
        "created_at": datetime.now(UTC) + timedelta(hours=1),
        "actor_id": None,
        "channel": "panel",
        "idempotency_key": None,
        "reverses": None,
        "metadata": "{}",
        "payment_date": None,
        "reason_id": None,
        "batch_id": None,
        "bonus_expires_at": None,
        "form": 1,
    }
    return row | changes


def forge(row: dict[str, Any], digest: str = "billing_digest(t, b.last_digest, NULL)") -> None:
    """Inserts the row, by default with its right digest, and updates the balance to match."""
    typed = ", ".join(
        f"%({column})s::{kind} AS {column}"
        for column, kind in execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = 'billing_transaction'::regclass AND attnum > 0 "
            "AND attname <> 'digest' ORDER BY attnum"
        )
    )
    execute(
        f"""CREATE TEMPORARY TABLE forged ON COMMIT DROP AS
        SELECT t.* FROM (SELECT {typed}) given,
        LATERAL jsonb_populate_record(NULL::billing_transaction, to_jsonb(given)) t""",
        row,
    )
    try:
        with transaction.atomic():
            execute(
                f"""UPDATE forged f SET digest = (SELECT {digest}
                FROM billing_balance b, jsonb_populate_record(NULL::billing_transaction,
                    to_jsonb(f)) t
                WHERE b.user_id = f.user_id)"""
            )
            execute("INSERT INTO billing_transaction SELECT * FROM forged")
            execute(
                """INSERT INTO billing_grant (user_id, number, amount, remaining)
                SELECT user_id, number, bonus_amount, bonus_amount FROM forged
                WHERE bonus_amount > 0 AND bonus_amount <> 'NaN'"""
            )
            execute(
                """UPDATE billing_balance b SET real = f.new_balance, bonus = f.new_bonus,
                refilled = f.refilled, bonus_refilled = f.bonus_refilled, last_number = f.number,
                last_digest = f.digest, last_at = f.created_at
                FROM forged f WHERE f.user_id = b.user_id"""
            )
            judge()
    finally:
        execute("DROP TABLE forged")


def test_a_row_that_is_right_in_everything_is_taken(user: User) -> None:
    """This row is accepted, so each row below is refused for the one thing that it changes."""
    forge(next_row(user))
    assert ledger.balance(user).number == 8


def test_a_row_does_not_follow_another_users(user: User) -> None:
    other = user_with_history()
    ledger.change_balance(other, amount=3, description="Somewhat richer", **BY_PANEL)
    ledger.change_balance(user, amount=1, description="As many rows", **BY_PANEL)
    theirs = Balance.objects.get(user=other)
    assert theirs.last_number == Balance.objects.get(user=user).last_number
    row = next_row(user, old_balance=theirs.real, new_balance=theirs.real + 2)
    row["refilled"] = theirs.refilled + 2
    last = f"(SELECT last_digest FROM billing_balance WHERE user_id = {other.pk})"
    with refused("does not follow"):
        forge(row, digest=f"billing_digest(t, {last}, NULL)")


TYPE_ALLOWS = "a_transaction_does_what_its_type_allows"

# For each wrong row: its changes to `next_row`, and the constraint or guard that refuses it.
WRONG_ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "number_left_out": ({"number": 9}, "does not follow"),
    "number_used": ({"number": 7}, "does not follow"),
    "number_zero": ({"number": 0}, "does not follow"),
    "sum": ({"amount": "3"}, "is wrong by itself"),
    "bonus_sum": ({"bonus_amount": "3"}, "is wrong by itself"),
    "old_balance": ({"old_balance": "1", "new_balance": "3"}, "does not follow"),
    "old_bonus": ({"old_bonus": "1", "new_bonus": "2"}, "does not follow"),
    "refilled": ({"refilled": "0"}, "does not follow"),
    "bonus_refilled": ({"bonus_refilled": "0"}, "does not follow"),
    "earlier": ({"created_at": "2020-01-01T00:00:00Z"}, "does not follow"),
    "in_the_future": ({"created_at": "2400-01-01T00:00:00Z"}, "does not follow"),
    "never": ({"created_at": "infinity"}, "does not follow"),
    "type": ({"type": "gift"}, TYPE_ALLOWS),
    "type_with_line": ({"type": "payment\n"}, TYPE_ALLOWS),
    "channel": ({"channel": "mail"}, TYPE_ALLOWS),
    "subtype": ({"subtype": "Two words"}, TYPE_ALLOWS),
    "subtype_empty": ({"subtype": ""}, TYPE_ALLOWS),
    "description_short": ({"description": "1234"}, "is wrong by itself"),
    "description_blank": ({"description": " " * 9}, "is wrong by itself"),
    "gift_of_real_money": ({"type": "bonus_charge"}, TYPE_ALLOWS),
    "subscription_from_bonus": ({"type": "main_charge"}, TYPE_ALLOWS),
    "service_that_gives": ({"type": "tariff_charge", "subtype": "traffic"}, TYPE_ALLOWS),
    "reversal_of_nothing": ({"type": "reversal", "subtype": "payment"}, TYPE_ALLOWS),
    "payment_that_reverses": ({"reverses": 1}, TYPE_ALLOWS),
    "reversal_of_what_never_was": (
        {"type": "reversal", "subtype": "payment", "reverses": 99},
        "is not the reverse of",
    ),
    "reversal_of_other_amounts": (
        {"type": "reversal", "subtype": "main_charge", "reverses": 4},
        "is not the reverse of",
    ),
    "reversal_of_itself": (
        {"type": "reversal", "subtype": "payment", "reverses": 8},
        "is not the reverse of",
    ),
    "reversal_of_what_was_reversed": (
        {"type": "reversal", "subtype": "tariff_charge", "reverses": 3},
        "is not the reverse of",
    ),
    "key_used": ({"idempotency_key": "messages-1"}, "idempotency_keys_are_unique_per_user"),
    "nobody": ({"actor_id": 4711000}, "foreign key"),
    "no_reason": ({"reason_id": "no_reason", "form": 2}, "foreign key"),
    "no_batch": ({"batch_id": 4711000, "form": 2}, "foreign key"),
    "payment_date_of_last_century": (
        {"payment_date": "1999-12-31", "form": 2},
        "is wrong by itself",
    ),
    "payment_date_never": ({"payment_date": "infinity", "form": 2}, "is wrong by itself"),
    "payment_date_of_another_age": ({"payment_date": "9001-01-01", "form": 2}, "wrong by itself"),
    "expiry_never": ({"bonus_expires_at": "infinity", "form": 2}, "is wrong by itself"),
    "expiry_always": ({"bonus_expires_at": "-infinity", "form": 2}, "is wrong by itself"),
    "form_3": ({"form": 3}, "is wrong by itself"),
}


@pytest.mark.parametrize("wrong", WRONG_ROWS)
def test_a_row_with_one_thing_wrong_is_refused(wrong: str, user: User) -> None:
    changes, guard = WRONG_ROWS[wrong]
    before = state()
    with refused(guard):
        forge(next_row(user, **changes))
    assert state() == before


@pytest.mark.parametrize(
    "disguise",
    [
        "CREATE TEMP TABLE billing_transaction AS SELECT * FROM public.billing_transaction",
        "CREATE SCHEMA evil; SET LOCAL search_path = evil, public; "
        "CREATE TABLE evil.billing_transaction AS SELECT * FROM public.billing_transaction",
    ],
)
def test_no_table_of_the_same_name_stands_in_for_the_ledgers(disguise: str, user: User) -> None:
    def attack() -> None:
        # PostgreSQL's default path looks up temporary tables first.
        execute('SET LOCAL search_path = "$user", public')
        execute(disguise)
        execute("UPDATE billing_transaction SET new_balance = 777")
        execute("UPDATE public.billing_balance SET real = 777 WHERE user_id = %s", [user.pk])
        judge()

    with refused("does not match the last transaction"):
        attempt(attack)
    assert ledger.balance(user).real != 777


def test_a_row_needs_its_digest(user: User) -> None:
    for digest in ("sha256('')", "''::bytea", "b.last_digest", "billing_digest(t, '', NULL)"):
        with refused("does not follow"):
            forge(next_row(user), digest=digest)


@pytest.mark.parametrize("amount", ["-91", "NaN", "Infinity", "-Infinity", "1e15", "1e40"])
@pytest.mark.parametrize("balance", ["real", "bonus"])
def test_no_row_can_hold_what_is_no_money(balance: str, amount: str, user: User) -> None:
    row = next_row(user)
    names = {
        "real": ("amount", "old_balance", "new_balance", "refilled"),
        "bonus": ("bonus_amount", "old_bonus", "new_bonus", "bonus_refilled"),
    }[balance]
    change, old, new, refilled = names
    [(added,)] = execute(f"SELECT {row[old]} + '{amount}'::numeric")
    row |= {change: amount, new: added, refilled: row[refilled] + 0}
    with refused("a_transaction_does_what|overflow|does not|by itself"):
        forge(row)


def test_a_row_that_changes_nothing_is_refused(user: User) -> None:
    row = next_row(user)
    row |= {"amount": "0", "new_balance": row["old_balance"], "refilled": row["refilled"] - 2}
    forge(dict(row))
    row = next_row(user)
    row |= {"amount": "0", "new_balance": row["old_balance"], "refilled": row["refilled"] - 2}
    row |= {"bonus_amount": "0", "new_bonus": row["old_bonus"]}
    row |= {"bonus_refilled": row["bonus_refilled"] - 1}
    with refused("is wrong by itself"):
        forge(row)


# Rows as (type, subtype, channel, amount, bonus_amount, new_bonus, reverses). Each row that is not
# allowed differs from an allowed row in one thing, so it is refused for that one thing.
ALLOWED = [
    ("payment", "partner", "panel", 2, 0, 5, None),
    ("payment", "partner", "panel", -2, -1, 5, None),
    ("payment", "partner", "panel", 0, 1, 5, None),
    ("bonus_charge", "register", "api", 0, 1, 5, None),
    ("bonus_expiry", "register", "system", 0, -1, 5, None),
    ("main_charge", "monthly", "charging", -2, 0, 5, None),
    ("main_charge", "remainder", "charging", 2, 0, 5, None),
    ("tariff_charge", "geo_lookup", "api", 0, -1, 5, None),
    ("tariff_charge", "geo_lookup", "api", -2, -1, 0, None),
    ("tariff_charge", "geo_lookup", "api", -2, 0, 0, None),
    ("reversal", "tariff_charge", "panel", 2, 1, 5, 3),
    ("reversal", "payment", "panel", -2, -1, 5, 3),
]
NOT_ALLOWED = [
    ("bonus_expiry", "register", "system", -1, -1, 5, None),
    ("bonus_expiry", "register", "system", 0, 1, 5, None),
    ("bonus_expiry", "register", "system", 0, -1, 5, 3),
    ("payment", "partner", "panel", 2, 0, 5, 3),
    ("payment", "Partner", "panel", 2, 0, 5, None),
    ("payment", "2_partners", "panel", 2, 0, 5, None),
    ("payment", "partner\n", "panel", 2, 0, 5, None),
    ("payment", "partner", "panel\n", 2, 0, 5, None),
    ("payment", "partner", "", 2, 0, 5, None),
    ("bonus_charge", "register", "api", 2, 1, 5, None),
    ("bonus_charge", "register", "api", -2, 1, 5, None),
    ("bonus_charge", "register", "api", 0, -1, 5, None),
    ("bonus_charge", "register", "api", 0, 1, 5, 3),
    ("bonus_charge", "register", "api", 0, 0, 5, None),
    ("main_charge", "monthly", "charging", 2, 0, 5, None),
    ("main_charge", "monthly", "charging", -2, -1, 5, None),
    ("main_charge", "monthly", "charging", -2, 1, 5, None),
    ("main_charge", "monthly", "charging", -2, 0, 5, 3),
    ("main_charge", "remainder", "charging", -2, 0, 5, None),
    ("main_charge", "remainder", "charging", 2, 1, 5, None),
    ("tariff_charge", "geo_lookup", "api", 0, 1, 5, None),
    ("tariff_charge", "geo_lookup", "api", -2, -1, 5, None),
    ("tariff_charge", "geo_lookup", "api", 2, -1, 0, None),
    ("tariff_charge", "geo_lookup", "api", -2, -1, 0, 3),
    ("reversal", "payment", "panel", -2, -1, 5, None),
    ("Payment", "partner", "panel", 2, 0, 5, None),
    ("payment\n", "partner", "panel", 2, 0, 5, None),
    ("", "partner", "panel", 2, 0, 5, None),
]


def type_allows(*row: Any, new_balance: Any = 5) -> bool | None:
    *before, new_bonus, reverses = row
    [(answer,)] = execute(
        "SELECT billing_type_allows(%s, %s, %s, %s, %s, %s, %s, %s)",
        [*before, new_balance, new_bonus, reverses],
    )
    return answer


@pytest.mark.parametrize("row", ALLOWED, ids=repr)
def test_each_type_allows_what_it_is_for(row: tuple[Any, ...]) -> None:
    assert type_allows(*row) is True


@pytest.mark.parametrize("row", NOT_ALLOWED, ids=repr)
def test_each_type_allows_nothing_else(row: tuple[Any, ...]) -> None:
    assert type_allows(*row) is False


@pytest.mark.parametrize("balance", ["-0.0001", "NaN", "-Infinity"])
def test_no_type_allows_a_balance_below_zero(balance: str) -> None:
    payment = ("payment", "partner", "panel", -2, -1)
    assert type_allows(*payment, 5, None, new_balance=0) is True
    assert type_allows(*payment, 5, None, new_balance=balance) is False
    assert type_allows(*payment, balance, None) is False


FURTHER = {
    "payment_date": "2026-11-20",
    "bonus_expires_at": "2099-01-01T00:00:00Z",
    "reason_id": "goodwill",
    "batch_id": 4711,
}


@pytest.mark.parametrize("field", FURTHER)
def test_what_form_2_alone_has_a_place_for_needs_it(field: str, user: User) -> None:
    reason("goodwill")
    Batch.objects.create(pk=4711, kind=Batch.Kind.REQUEST, title="To try", channel=Channel.API)
    for form in (1, 3, None):
        with (
            refused("wrong by itself|null value|does not match the transactions"),
            transaction.atomic(),
        ):
            forge(next_row(user, form=form, **{field: FURTHER[field]}))
    row = next_row(user, form=2, **{field: FURTHER[field]})
    try:
        forge(row)
    except DatabaseError as problem:
        assert field == "bonus_expires_at"  # its grant, which `forge` makes, has no expiry
        assert "does not match the transactions" in str(problem)  # noqa: PT017 - it may pass


def test_a_row_without_its_codes_is_not_allowed() -> None:
    """The function returns false, not NULL: a constraint accepts NULL."""
    for row in ALLOWED:
        for missing in range(3):
            assert type_allows(*row[:missing], None, *row[missing + 1 :]) is False


def test_the_database_knows_the_codes_of_the_models() -> None:
    assert {row[0] for row in ALLOWED} == set(TransactionType.values)
    for channel in Channel.values:
        assert type_allows("payment", "partner", channel, 2, 0, 5, None) is True


@pytest.mark.parametrize(
    ("subtype", "amount"), [("monthly", 2), ("everyday", 2), ("remainder", -2)]
)
def test_a_subscription_takes_and_a_remainder_gives(subtype: str, amount: int, user: User) -> None:
    def row(amount: int) -> dict[str, Any]:
        row = next_row(user, type="main_charge", subtype=subtype, amount=amount)
        row["new_balance"] = row["old_balance"] + amount
        row["refilled"] += max(amount, 0) - 2
        row |= {"bonus_amount": "0", "new_bonus": row["old_bonus"]}
        row["bonus_refilled"] -= 1
        return row

    with refused(TYPE_ALLOWS):
        forge(row(amount))
    forge(row(-amount))


def test_a_service_that_spares_the_bonus_is_refused(user: User) -> None:
    row = next_row(user, type="tariff_charge", subtype="traffic")
    row |= {"amount": "-2", "new_balance": row["old_balance"] - 2, "refilled": row["refilled"] - 2}
    row |= {"bonus_amount": "0", "new_bonus": row["old_bonus"]}
    row |= {"bonus_refilled": row["bonus_refilled"] - 1}
    with refused(TYPE_ALLOWS):
        forge(row)


def test_a_row_without_its_balance_is_refused(user: User) -> None:
    """The balance row must be updated too, either before or after the insert."""

    def insert_alone() -> None:
        execute(
            "INSERT INTO billing_transaction SELECT (jsonb_populate_record(t, jsonb_build_object("
            "'id', nextval('billing_transaction_id_seq'), 'number', 8))).* "
            "FROM billing_transaction t WHERE user_id = %s AND number = 7",
            [user.pk],
        )

    with refused("does not follow"):
        attempt(insert_alone)


def test_a_forged_row_cannot_be_copied_in(user: User) -> None:
    def copy_in() -> None:
        with connection.cursor() as cursor:
            # Found by its number, because rows of a table have no order.
            last = f"SELECT * FROM billing_transaction WHERE user_id = {user.pk} AND number = 7"
            with cursor.copy(f"COPY ({last}) TO STDOUT") as out:
                [row] = [bytes(chunk) for chunk in out]
            forged = row.split(b"\t")
            forged[0], forged[1] = b"99999999", b"8"
            copying = cursor.copy("COPY billing_transaction FROM STDIN")
            with connection.wrap_database_errors, copying as into:
                into.write(b"\t".join(forged))

    with refused("does not follow"):
        attempt(copy_in)


def columns(*without: str) -> str:
    names = [field.column for field in Transaction._meta.concrete_fields]
    return ", ".join(name for name in names if name not in without)


def test_a_row_cannot_be_there_twice(user: User) -> None:
    """With another ID, and the digest that the database makes for it."""
    again = columns("id", "digest")
    for conflict, saying in (
        ("", "transaction_numbers_are_unique_per_user"),
        ("ON CONFLICT (user_id, number) DO UPDATE SET device = 'x'", "append-only"),
    ):
        with refused(saying):
            attempt(
                lambda conflict=conflict: execute(
                    f"INSERT INTO billing_transaction ({again}) "
                    f"SELECT {again} FROM billing_transaction WHERE number = 1 {conflict}"
                )
            )
    before = state()
    execute(
        f"INSERT INTO billing_transaction ({again}) SELECT {again} FROM billing_transaction "
        "WHERE number = 1 ON CONFLICT DO NOTHING"
    )
    judge()
    assert state() == before


# What moves a balance without the posting function, in the owner's hands. Each writes a row that is
# right in everything, which `insert` stands for.
AROUND_THE_BALANCE = {
    "no balance": "{insert}",
    "merge": "MERGE INTO billing_transaction t USING (SELECT 1) s ON false WHEN NOT MATCHED THEN "
    "INSERT ({names}) VALUES ({values})",
    "on conflict": "{insert} ON CONFLICT DO NOTHING",
    "two rows at once": "WITH first AS ({insert} RETURNING 1) SELECT * FROM first",
    "its own settings": "SET LOCAL check_function_bodies = off; SET LOCAL search_path = pg_catalog;"
    "{insert}",
    "a trigger elsewhere": "CREATE TEMP TABLE door (x int); "
    "CREATE FUNCTION pg_temp.walk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "UPDATE public.billing_balance SET real = real + 1; RETURN NULL; END $$; "
    "CREATE TRIGGER walk AFTER INSERT ON door FOR EACH ROW EXECUTE FUNCTION pg_temp.walk(); "
    "INSERT INTO door VALUES (1)",
    "then back again": "{insert}; UPDATE public.billing_balance SET last_number = last_number + 1",
}


@pytest.mark.parametrize("way", AROUND_THE_BALANCE)
def test_no_row_moves_money_without_its_balance(way: str, user: User) -> None:
    row = next_row(user, bonus_amount="0", created_at=datetime.now(UTC))
    row |= {"new_bonus": row["old_bonus"], "bonus_refilled": row["bonus_refilled"] - 1}
    names = ", ".join(row)
    values = ", ".join("NULL" if value is None else f"'{value}'" for value in row.values())
    sql = AROUND_THE_BALANCE[way].format(
        insert=f"INSERT INTO public.billing_transaction ({names}) VALUES ({values})",
        names=names,
        values=values,
    )
    before = state()
    with refused("does not move the balance|does not match the last transaction"):
        attempt(lambda: execute(sql))
    assert state() == before


def test_the_database_makes_the_digest_and_takes_no_other(user: User) -> None:
    row = next_row(user, bonus_amount="0", created_at=datetime.now(UTC))
    row |= {"new_bonus": row["old_bonus"], "bonus_refilled": row["bonus_refilled"] - 1}
    [(before,)] = execute("SELECT last_digest FROM billing_balance WHERE user_id = %s", [user.pk])
    names = ", ".join(row)
    slots = ", ".join(f"%({name})s" for name in row)
    with transaction.atomic():
        [(made,)] = execute(
            f"INSERT INTO billing_transaction ({names}) VALUES ({slots}) RETURNING digest", row
        )
        [(expected,)] = execute(
            "SELECT billing_digest(t, %s, NULL) FROM billing_transaction t WHERE id = %s",
            [before, row["id"]],
        )
        assert bytes(made) == bytes(expected)
        transaction.set_rollback(True)
    with refused("does not follow"), transaction.atomic():
        execute(
            f"INSERT INTO billing_transaction ({names}, digest) VALUES ({slots}, %(digest)s)",
            row | {"digest": b"\x00" * 32},
        )


def test_a_history_cannot_be_made_up_with_models(user: User) -> None:
    row = user.transactions.get(number=7)
    row.pk, row.number = None, 8
    with refused("does not follow"):
        attempt(row.save)
    with refused("does not follow"):
        attempt(lambda: Transaction.objects.bulk_create([row]))


# --- The posting function, called without the module --------------------------------------------


def post(entry: str, *, actor: int | None = None, channel: str = "api") -> Any:
    with transaction.atomic():
        [(answer,)] = execute(
            "SELECT refusal FROM billing_post(%s, %s, %s, true)", [f"[{entry}]", actor, channel]
        )
        return answer


@pytest.mark.parametrize(
    ("amount", "reason"),
    [
        ("NaN", "not_a_number"),
        ("Infinity", "not_a_number"),
        ("-Infinity", "not_a_number"),
        ("0.00001", "too_many_decimals"),
        ("1.10000", "too_many_decimals"),
        ("1000000000000000", "out_of_range"),
        ("-1e300", "out_of_range"),
    ],
)
@pytest.mark.parametrize("field", ["amount", "bonus_amount"])
def test_the_posting_function_checks_amounts_itself(
    field: str, amount: str, reason: str, user: User
) -> None:
    answer = post(
        f'{{"user_id": {user.pk}, "type": "payment", "subtype": "partner", '
        f'"description": "By SQL", "{field}": "{amount}"}}'
    )
    assert f'"reason": "{reason}"' in answer
    assert f'"field": "{field}"' in answer


def test_the_posting_function_refuses_zero_and_wrong_signs(user: User) -> None:
    common = f'"user_id": {user.pk}, "description": "By SQL"'
    assert "nothing_to_change" in post(f'{{{common}, "type": "payment", "subtype": "partner"}}')
    assert "nothing_to_change" in post(
        f'{{{common}, "type": "tariff_charge", "subtype": "traffic", "amount": "0"}}'
    )
    assert "wrong_sign" in post(
        f'{{{common}, "type": "tariff_charge", "subtype": "traffic", "amount": "1"}}'
    )
    assert "unknown_user" in post(
        '{"type": "payment", "subtype": "partner", "description": "By SQL", "amount": "1"}'
    )


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ('"type": "gift", "subtype": "partner"', IntegrityError),
        ('"subtype": "partner"', IntegrityError),
        ('"type": "payment"', IntegrityError),
        ('"type": "payment", "subtype": "partner", "reverses": 1', IntegrityError),
    ],
)
def test_entries_that_make_no_row_are_refused_by_the_table(
    entry: str, kind: type[Exception], user: User
) -> None:
    before = state()
    with pytest.raises(kind):
        post(f'{{"user_id": {user.pk}, "description": "By SQL", "amount": "1", {entry}}}')
    assert state() == before


@pytest.mark.parametrize("moment", ["infinity", "12000-01-01", "9001-01-02T00:00:00Z"])
def test_no_gift_expires_when_python_knows_no_dates(moment: str, user: User) -> None:
    before = state()
    entry = {"user_id": user.pk, "type": "payment", "subtype": "partner", "bonus_amount": "1"}
    refusal = post(json.dumps(entry | {"description": "By SQL", "bonus_expires_at": moment}))
    assert json.loads(refusal) == {"code": "invalid_expiry", "reason": "too_far"}
    assert state() == before


@pytest.mark.parametrize(
    ("field", "length"), [("device", 101), ("idempotency_key", 101), ("subtype", 33)]
)
def test_the_posting_function_shortens_nothing(field: str, length: int, user: User) -> None:
    entry = {"user_id": user.pk, "type": "payment", "subtype": "partner", "amount": "1"}
    before = state()
    with refused("value too long"):
        post(json.dumps(entry | {"description": "By SQL", field: "a" * length}))
    assert state() == before
    post(json.dumps(entry | {"description": "By SQL", field: "a" * (length - 1)}))
    assert state() != before


def test_the_posting_function_takes_known_channels_and_actors_only(user: User) -> None:
    entry = (
        f'{{"user_id": {user.pk}, "type": "payment", "subtype": "partner", '
        '"description": "By SQL", "amount": "1"}'
    )
    with refused(TYPE_ALLOWS):
        post(entry, channel="mail")
    with refused("foreign key"):
        attempt(lambda: post(entry, actor=4711000))
    assert post(entry, actor=OperatorFactory().pk) is None


# --- Nothing can be cascaded away (G8) ----------------------------------------------------------


def test_users_cannot_be_deleted_with_sql(user: User) -> None:
    [actor] = user.transactions.exclude(actor=None).values_list("actor_id", flat=True)
    for person in (user.pk, actor, UserFactory().pk):
        with refused("foreign key"):
            attempt(lambda person=person: execute("DELETE FROM users_user WHERE id = %s", [person]))


def test_the_numbers_of_users_cannot_change_under_their_money(user: User) -> None:
    with refused("foreign key"):
        attempt(lambda: execute("UPDATE users_user SET id = id + 1000000 WHERE id = %s", [user.pk]))


def test_no_foreign_key_to_money_or_from_it_cascades() -> None:
    cascading = execute(
        """SELECT conname FROM pg_constraint
        WHERE contype = 'f' AND confdeltype NOT IN ('a', 'r')
        AND (conrelid = ANY(%(money)s::regclass[]) OR confrelid = ANY(%(money)s::regclass[]))""",
        {"money": ["billing_transaction", "billing_balance"]},
    )
    assert cascading == []


# --- Every guard is in place --------------------------------------------------------------------


def test_every_guard_is_installed_and_armed() -> None:
    armed = {
        (table, function)
        for table, function in execute(
            "SELECT t.tgrelid::regclass::text, p.proname FROM pg_trigger t "
            "JOIN pg_proc p ON p.oid = t.tgfoid WHERE NOT t.tgisinternal AND t.tgenabled = 'O'"
        )
        if function.startswith("billing_")
    }
    assert armed == {
        ("billing_transaction", "billing_refuse_rewriting_history"),
        ("billing_transaction", "billing_continue_history"),
        ("billing_transaction", "billing_check_transaction"),
        ("billing_event", "billing_refuse_rewriting_events"),
        ("billing_event", "billing_check_event"),
        ("billing_balance", "billing_refuse_balance_removal"),
        ("billing_balance", "billing_check_balance"),
        ("billing_grant", "billing_check_grant"),
        ("billing_grant", "billing_refuse_rewriting_grants"),
        ("billing_grantuse", "billing_refuse_rewriting_grants"),
        ("billing_grantuse", "billing_use_grant"),
        ("users_user", "billing_open_balance"),
        # test_plan_guards attacks the next two. The ones after them guard no money.
        ("billing_plan", "billing_refuse_other_cycle"),
        ("billing_service", "billing_refuse_other_code"),
        ("users_user", "billing_resume_after_activation"),
        ("billing_transaction", "billing_tell_of_transactions"),
        ("billing_subscription", "billing_tell_of_subscription"),
        ("users_user", "billing_count_users"),  # see test_kept_sums
        ("users_user", "billing_end_sessions"),
        # Late charging runs depend on these: see test_late_runs.
        ("users_user", "billing_note_activation"),
        ("billing_plan", "billing_note_terms"),
        ("billing_activation", "billing_refuse_rewriting_moments"),
        ("billing_planterms", "billing_refuse_rewriting_moments"),
    }


def test_every_constraint_is_attacked_here() -> None:
    """Each constraint must be named in this file, so that a test provokes it."""
    names = {
        constraint.name
        for model in (Transaction, Balance)
        for constraint in model._meta.constraints
    }
    source = Path(__file__).read_text()
    assert {name for name in names if name not in source} == set()


def test_a_balance_below_zero_is_refused(user: User) -> None:
    for edit in ("real = -1", "bonus = -0.0001", "real = 'NaN'", "bonus = 'NaN'"):
        with refused("does not match the last transaction"), transaction.atomic():
            execute(f"UPDATE billing_balance SET {edit}")
            judge()
