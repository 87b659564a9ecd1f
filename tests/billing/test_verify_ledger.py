"""verify_ledger finds changes that were made behind the guards' back."""

import re
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing import ledger
from billing.ledger import verification
from billing.ledger.rules import BALANCE_RULES, TRANSACTION_RULES, USE_RULES
from billing.models import Transaction
from billing.sql.guards import untrusting_cursor
from tests.billing.histories import BY_PANEL, execute, tamper, user_with_history
from tests.factories import UserFactory, reason
from users.models import User

pytestmark = pytest.mark.django_db


def verify(*arguments: str) -> tuple[int, str, str]:
    """Returns the exit code and the output on both streams."""
    out, err = StringIO(), StringIO()
    try:
        call_command("verify_ledger", *arguments, stdout=out, stderr=err, no_color=True)
    except SystemExit as exit_:
        return int(exit_.code or 0), out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


@pytest.fixture
def victim() -> User:
    """A user with a history, created between other users with and without one."""
    user_with_history()
    UserFactory()
    user = user_with_history()
    user_with_history()
    return user


# --- A correct ledger ---------------------------------------------------------------------------


def test_an_empty_ledger_is_right() -> None:
    assert verify() == (0, *verify()[1:])
    assert "0 transactions of 0 users" in verify()[1]


def test_what_the_ledger_writes_is_right_and_every_rule_is_named(victim: User) -> None:
    code, out, err = verify()
    assert (code, err) == (0, "")
    assert f"21 transactions of {User.objects.count()} users" in out
    for rule in (*TRANSACTION_RULES, *BALANCE_RULES):
        assert f"{rule.guarantee}  {rule.says}\n" in out


def test_one_user_alone_can_be_checked(victim: User) -> None:
    code, out, _ = verify("--user", str(victim.pk))
    assert code == 0
    assert "7 transactions of 1 user." in out


def test_an_unknown_user_is_an_error_in_one_sentence() -> None:
    with pytest.raises(CommandError, match=r"^There is no user with ID 4711\.$"):
        call_command("verify_ledger", "--user", "4711")


@pytest.mark.parametrize("rows_per_stretch", [1, 8, 9, 10_000])
def test_stretches_cover_everybody_whatever_their_size(victim: User, rows_per_stretch: int) -> None:
    parts = verification.stretches(rows_per_stretch)
    checked = list(verification.check(parts))
    assert sum(part.transactions for part in checked) == 21
    assert sum(part.users for part in checked) == User.objects.count()
    assert len(parts) == 1 or rows_per_stretch < 10_000


def test_it_uses_a_fixed_number_of_queries_for_each_stretch(victim: User) -> None:
    def queries(rows_per_stretch: int) -> tuple[int, int]:
        with CaptureQueriesContext(connection) as asked:
            parts = verification.stretches(rows_per_stretch)
            list(verification.check(parts))
        return len(parts), len(asked)

    one, few = queries(10_000), queries(8)
    assert one[0] == 1
    # Begin, settings, planner, rows, uses and grants, planner, keys, actors, balances, and two
    # queries at the end.
    assert few[1] - one[1] == 11 * (few[0] - one[0])


def test_grants_uses_and_balances_are_joined_for_a_whole_stretch(victim: User) -> None:
    """Also where the planner expects a single row."""
    with CaptureQueriesContext(connection) as asked:
        list(verification.check(verification.stretches()))
    [rows] = [query["sql"] for query in asked if "is_broken" in query["sql"]]
    with untrusting_cursor() as cursor, verification._joined_in_sets(cursor):
        cursor.execute(f"EXPLAIN {rows}")
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert plan.count(" Join ") >= 4
    assert "Nested Loop" not in plan
    # A reversal looks up what it reverses, and the reversals so far.
    assert len(re.findall(r"^ +SubPlan", plan, re.MULTILINE)) == 2


ODD_TEXTS = ('Quotes " and \\ and /', "Tab\tline\nreturn\rbell\x07 delete\x7f", "é" * 200, "Ω" * 5)


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_any_text_is_right(text: str) -> None:
    user = user_with_history()
    tamper(
        "UPDATE billing_transaction SET description = %(text)s, device = left(%(text)s, 100), "
        "metadata = jsonb_build_object(%(text)s::text, %(text)s::text, 'empty', '{}'::jsonb), "
        "idempotency_key = left(%(text)s, 100), reason_id = %(reason)s, "
        "payment_date = '2026-02-28', form = 2, bonus_expires_at = '2999-12-31 23:59:59.9Z' "
        "WHERE user_id = %(user)s AND number = 1;"
        "UPDATE billing_grant SET expires_at = '2999-12-31 23:59:59.9Z' "
        "WHERE user_id = %(user)s AND number = 1",
        user=user.pk,
        text=text,
        reason=reason(text[:32]).code,
    )
    chained_again(user)
    assert verify() == (0, *verify()[1:])


@pytest.mark.parametrize(
    ("description", "is_right"),
    [
        ("12345", True),
        ("     12345 ", True),
        (" 1234 5", True),
        ("1234 5", True),
        ("1 3 5", True),
        ("1234", False),
        ("1234 ", False),
        (" 1234     ", False),
        ("          ", False),
        ("", False),
        ("é" * 200, True),
        ("é" * 201, False),
        ("1" * 201, False),
    ],
)
def test_a_description_has_five_characters_between_spaces_and_at_most_two_hundred(
    description: str, is_right: bool
) -> None:
    user = user_with_history()
    tamper(
        "ALTER TABLE billing_transaction ALTER description TYPE text;"
        "UPDATE billing_transaction SET description = %(description)s "
        "WHERE user_id = %(user)s AND number = 2",
        user=user.pk,
        description=description,
    )
    chained_again(user)
    problem = list(verification.check(verification.stretches()))[-1].problem
    if is_right:
        assert problem is None
    else:
        assert problem is not None
        assert (problem.number, problem.rule.says[:28]) == (2, "its texts have their lengths")


def chained_again(user: User) -> None:
    """Gives all rows of a user the digests that they should have, and the balance the last one."""
    tamper(
        "DO $$ BEGIN FOR place IN 1..7 LOOP UPDATE billing_transaction t SET digest = digest_of(t) "
        f"WHERE user_id = {user.pk} AND number = place; END LOOP; END $$;"
        "UPDATE billing_balance b SET last_digest = t.digest FROM billing_transaction t "
        "WHERE t.user_id = b.user_id AND t.number = b.last_number",
    )


# --- Every column -------------------------------------------------------------------------------

# Edits of the victim's row 3: a service charge of 30.0000, of which the bonus paid 25.0000.
EDITS = {
    "id": "id = id + 1000000",
    "user_id": "user_id = (SELECT max(id) FROM users_user)",
    "number": "number = 30",
    "type": "type = 'payment'",
    "subtype": "subtype = 'incoming_sms'",
    "description": "description = '10 messages'",
    "device": "device = 'Truck 8'",
    "amount": "amount = amount + 1",
    "old_balance": "old_balance = old_balance + 1",
    "new_balance": "new_balance = new_balance + 1",
    "bonus_amount": "bonus_amount = bonus_amount + 1",
    "old_bonus": "old_bonus = old_bonus + 1",
    "new_bonus": "new_bonus = new_bonus + 1",
    "refilled": "refilled = refilled + 1",
    "bonus_refilled": "bonus_refilled = bonus_refilled + 1",
    "created_at": "created_at = created_at + interval '1 microsecond'",
    "actor_id": "actor_id = NULL",
    "channel": "channel = 'panel'",
    "idempotency_key": "idempotency_key = 'messages-2'",
    "reverses": "reverses = 1",
    "metadata": "metadata = '{\"messages\": 10}'",
    "digest": "digest = sha256('')",
    "payment_date": "payment_date = '2026-11-20'",
    "bonus_expires_at": "bonus_expires_at = '2099-01-01Z'",
    "form": "form = 1",
    "reason_id": "reason_id = 'other'",
    "batch_id": "batch_id = 4711000",
}


# The rule that the report names, if it is not the rule of the digest.
SAYS = {
    "user_id": "without gaps",
    "number": "without gaps",
    "amount": "add up",
    "new_balance": "add up",
    "bonus_amount": "add up",
    "new_bonus": "add up",
    "old_balance": "new balances of the transaction before",
    "old_bonus": "new balances of the transaction before",
    "refilled": "all refills so far",
    "bonus_refilled": "all refills so far",
    "reverses": "a reversal, and nothing else",
    "payment_date": "its dates are those of payments",
    "bonus_expires_at": "its dates are those of payments",
    "reason_id": "its dates are those of payments",
    "form": "what it takes comes from grants",
}


def test_an_edit_of_every_column_is_tried() -> None:
    assert set(EDITS) == {field.column for field in Transaction._meta.concrete_fields}


@pytest.mark.parametrize("column", EDITS)
def test_an_edit_of_any_column_is_found(column: str, victim: User) -> None:
    tamper(
        f"UPDATE billing_transaction SET {EDITS[column]} WHERE user_id = %(user)s AND number = 3",
        user=victim.pk,
    )
    code, _, err = verify()
    assert code == 1
    # If row 3 gets another user or number, row 4 is the first of the victim's that breaks a rule.
    moved = {"user_id": 4, "number": 4}
    assert f"Transaction {moved.get(column, 3)} of user {victim.pk} breaks G" in err
    assert SAYS.get(column, "its digest is that of its fields") in err


@pytest.mark.parametrize("column", EDITS)
def test_an_edit_with_a_new_digest_for_that_row_is_found(column: str, victim: User) -> None:
    tamper(
        f"UPDATE billing_transaction SET {EDITS[column]} WHERE user_id = %(user)s AND number = 3;"
        "UPDATE billing_transaction t SET digest = digest_of(t) "
        "WHERE user_id = %(user)s AND number IN (3, 30)",
        user=victim.pk,
    )
    assert verify()[0] == (0 if column == "digest" else 1)  # the new digest is the original one


@pytest.mark.parametrize(
    "edit", ["real = real + 1", "bonus = bonus + 1", "refilled = refilled + 1"]
)
def test_an_edit_of_a_balance_is_found(edit: str, victim: User) -> None:
    tamper(f"UPDATE billing_balance SET {edit} WHERE user_id = %(user)s", user=victim.pk)
    code, _, err = verify()
    assert code == 1
    assert f"Balance of user {victim.pk} breaks G1" in err


@pytest.mark.parametrize(
    ("edit", "guarantee"),
    [
        ("bonus_refilled = 0", "G1"),
        ("last_number = last_number - 1", "G1"),
        ("last_number = -5", "G1"),
        ("last_at = now() + interval '1 day'", "G1"),
        ("last_at = NULL", "G1"),
        ("last_digest = ''", "G9"),
        ("real = 'NaN'", "G1"),
    ],
)
def test_an_edit_of_where_a_balance_stands_is_found(
    edit: str, guarantee: str, victim: User
) -> None:
    tamper(f"UPDATE billing_balance SET {edit} WHERE user_id = %(user)s", user=victim.pk)
    code, _, err = verify()
    assert code == 1
    assert f"Balance of user {victim.pk} breaks {guarantee}" in err


# --- Whole rows ---------------------------------------------------------------------------------

# The SQL that changes the victim's rows, the first row that breaks a rule (None: the balance),
# and the broken guarantee.
REWRITES: dict[str, tuple[str, int | None, str]] = {
    "first_row_deleted": (
        "DELETE FROM billing_transaction WHERE user_id = %(user)s AND number = 1",
        2,
        "G2",
    ),
    "middle_row_deleted": (
        "DELETE FROM billing_transaction WHERE user_id = %(user)s AND number = 4",
        5,
        "G2",
    ),
    "last_row_deleted": (
        "DELETE FROM billing_transaction WHERE user_id = %(user)s AND number = 7",
        None,
        "G1",
    ),
    "all_rows_deleted": (
        "DELETE FROM billing_transaction WHERE user_id = %(user)s",
        None,
        "G1",
    ),
    "middle_row_deleted_and_the_gap_closed": (
        "DELETE FROM billing_transaction WHERE user_id = %(user)s AND number = 4;"
        "UPDATE billing_transaction SET number = number - 1 "
        "WHERE user_id = %(user)s AND number > 4",
        4,
        "G2",
    ),
    "two_rows_swapped": (
        "UPDATE billing_transaction SET number = 7 - number "
        "WHERE user_id = %(user)s AND number IN (3, 4)",
        3,
        "G2",
    ),
    "a_row_doubled": (
        "INSERT INTO billing_transaction SELECT (jsonb_populate_record(t, "
        "jsonb_build_object('id', t.id + 1000000))).* FROM billing_transaction t "
        "WHERE user_id = %(user)s AND number = 2",
        2,
        "G[29]",  # whichever of the two comes first
    ),
    "a_row_appended": (
        "INSERT INTO billing_transaction SELECT (jsonb_populate_record(t, "
        "jsonb_build_object('id', t.id + 1000000, 'number', 8))).* FROM billing_transaction t "
        "WHERE user_id = %(user)s AND number = 7",
        8,
        "G2",
    ),
    "every_amount_of_a_row_shifted_alike": (
        "UPDATE billing_transaction SET type = 'payment', amount = -50, "
        "new_balance = old_balance - 50 WHERE user_id = %(user)s AND number = 7;"
        "UPDATE billing_transaction t SET digest = digest_of(t) "
        "WHERE user_id = %(user)s AND number = 7",
        None,
        "G1",
    ),
    "the_last_row_and_the_balance_edited_alike": (
        "UPDATE billing_transaction SET description = 'Something else' "
        "WHERE user_id = %(user)s AND number = 7",
        7,
        "G9",
    ),
    "the_digest_made_anew_for_one_row_only": (
        "UPDATE billing_transaction SET description = 'Something else' "
        "WHERE user_id = %(user)s AND number = 2;"
        "UPDATE billing_transaction t SET digest = digest_of(t) "
        "WHERE user_id = %(user)s AND number = 2",
        3,
        "G9",
    ),
    "the_digest_of_the_last_row_made_anew": (
        "UPDATE billing_transaction SET description = 'Something else' "
        "WHERE user_id = %(user)s AND number = 7;"
        "UPDATE billing_transaction t SET digest = digest_of(t) "
        "WHERE user_id = %(user)s AND number = 7",
        None,
        "G9",
    ),
    "time_goes_back": (
        "UPDATE billing_transaction SET created_at = created_at - interval '1 hour' "
        "WHERE user_id = %(user)s AND number = 5",
        5,
        "G2",
    ),
    "a_balance_row_deleted": (
        "DELETE FROM billing_balance WHERE user_id = %(user)s",
        1,
        "G1",
    ),
    "a_service_pays_with_real_money_first": (
        "UPDATE billing_transaction SET amount = -1, bonus_amount = 0, "
        "new_balance = old_balance - 1, new_bonus = old_bonus "
        "WHERE user_id = %(user)s AND number = 7",
        7,
        "G5",
    ),
    "a_service_gives_money": (
        "UPDATE billing_transaction SET amount = 0, bonus_amount = 1, "
        "new_bonus = old_bonus + 1, bonus_refilled = bonus_refilled + 2 - 1 "
        "WHERE user_id = %(user)s AND number = 7",
        7,
        "G5",
    ),
    "a_subscription_pays_with_the_bonus": (
        "UPDATE billing_transaction SET type = 'main_charge', subtype = 'monthly' "
        "WHERE user_id = %(user)s AND number = 7",
        7,
        "G5",
    ),
    "a_negative_balance": (
        "UPDATE billing_transaction SET type = 'payment', bonus_amount = -old_bonus - 1, "
        "new_bonus = -1 WHERE user_id = %(user)s AND number = 7",
        7,
        "G4",
    ),
    "not_a_number": (
        "UPDATE billing_transaction SET amount = 'NaN', new_balance = 'NaN', refilled = 'NaN' "
        "WHERE user_id = %(user)s AND number = 7",
        7,
        "G4",
    ),
    "a_change_of_nothing": (
        "UPDATE billing_transaction SET bonus_amount = 0, new_bonus = old_bonus "
        "WHERE user_id = %(user)s AND number = 7",
        7,
        "G4",
    ),
    "another_reversal_of_the_same": (
        "UPDATE billing_transaction SET type = 'reversal', subtype = 'tariff_charge', reverses = 3 "
        "WHERE user_id = %(user)s AND number = 7",
        7,
        "G2",
    ),
    "a_reversal_of_something_else": (
        "UPDATE billing_transaction SET reverses = 4 WHERE user_id = %(user)s AND number = 6",
        6,
        "G2",
    ),
    "a_reversal_of_what_never_was": (
        "UPDATE billing_transaction SET reverses = 5000 WHERE user_id = %(user)s AND number = 6",
        6,
        "G2",
    ),
    "a_reversal_under_another_name": (
        "UPDATE billing_transaction SET type = 'payment' WHERE user_id = %(user)s AND number = 6",
        6,
        "G2",
    ),
}


@pytest.mark.parametrize("rewrite", REWRITES)
def test_history_rewritten_is_found(rewrite: str, victim: User) -> None:
    sql, number, guarantee = REWRITES[rewrite]
    tamper(sql, user=victim.pk)
    what = "Balance" if number is None else f"Transaction {number}"
    for arguments in ([], ["--user", str(victim.pk)]):
        code, out, err = verify(*arguments)
        assert (code, out) == (1, "")
        assert re.match(f"{what} of user {victim.pk} breaks {guarantee}: ", err), err


@pytest.mark.parametrize("rewrite", REWRITES)
def test_a_divided_history_shows_the_same(rewrite: str, victim: User) -> None:
    sql, number, _ = REWRITES[rewrite]
    tamper(sql, user=victim.pk)
    whole, divided = (
        list(verification.check(verification.stretches(rows)))[-1].problem for rows in (1_000, 2)
    )
    assert whole is not None
    assert divided is not None
    assert (whole.user_id, whole.number) == (victim.pk, number)
    assert divided.user_id == victim.pk
    if rewrite == "all_rows_deleted":  # the first part has uses, the last one the balance
        assert divided.rule in USE_RULES
    else:
        assert divided.number == number
        # Whichever of the two comes first.
        assert divided.rule is whole.rule or rewrite == "a_row_doubled"


def test_a_long_history_is_divided_by_its_numbers(victim: User) -> None:
    parts = [part for part in verification.stretches(3) if part.up_to == victim.pk]
    assert [(part.above, part.to) for part in parts] == [(None, 3), (3, 6), (6, None)]
    [alone] = [verification.stretch_of(victim.pk)]
    assert alone is not None
    assert verification.divided([alone], 3) == parts
    with CaptureQueriesContext(connection) as asked:
        checked = list(verification.check(parts[1:2]))
    assert checked[0].transactions == 3
    assert "number >= 3" in str(asked.captured_queries)


@pytest.mark.parametrize("number", [2**62, 10**6])
def test_a_number_that_somebody_wrote_into_a_balance_makes_no_endless_work(
    number: int, victim: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "PARTS_MAX", 10)
    tamper(
        "UPDATE billing_balance SET last_number = %(number)s WHERE user_id = %(user)s",
        user=victim.pk,
        number=number,
    )
    parts = verification.stretches(1_000)
    assert len(parts) < 20
    problem = list(verification.check(parts))[-1].problem
    assert problem is not None
    assert (problem.user_id, problem.number, problem.rule.guarantee) == (victim.pk, None, "G1")


@pytest.mark.parametrize("rows", [2, 1_000])
@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (
            "ALTER TABLE billing_grantuse ALTER number DROP NOT NULL;"
            "INSERT INTO billing_grantuse SELECT grant_number, 9, NULL, 1, 1, 0, user_id",
            "Use 9 of grant 1",
        ),
        (
            "INSERT INTO billing_grantuse SELECT grant_number, 9, 5000, 1, 1, 0, user_id",
            "Use 9 of grant 1",
        ),
        (
            "INSERT INTO billing_grantuse SELECT grant_number, 9, -1, 1, 1, 0, user_id",
            "Use 9 of grant 1",
        ),
        (
            "INSERT INTO billing_grant (user_id, number, amount, remaining, uses) "
            "SELECT user_id, -1, 1, 0, 0",
            "Grant -1",
        ),
        (
            "INSERT INTO billing_grant (user_id, number, amount, remaining, uses) "
            "SELECT user_id, 5000, 1, 0, 0",
            "Grant 5000",
        ),
    ],
)
def test_grants_and_uses_without_a_transaction_are_found(
    rows: int, edit: str, says: str, victim: User
) -> None:
    tamper(
        f"{edit} FROM billing_grantuse WHERE user_id = %(user)s AND grant_number = 1 AND place = 1",
        user=victim.pk,
    )
    problem = list(verification.check(verification.stretches(rows)))[-1].problem
    assert str(problem).startswith(f"{says} of user {victim.pk} breaks G")


def test_a_user_without_a_balance_row_is_found() -> None:
    user = UserFactory()
    tamper("DELETE FROM billing_balance WHERE user_id = %(user)s", user=user.pk)
    assert "every user has a balance" in verify()[2]
    assert verify("--user", str(user.pk))[0] == 1


def test_money_of_nobody_is_found(victim: User) -> None:
    tamper("INSERT INTO billing_balance (user_id) VALUES (4711000)")
    assert "Balance of user 4711000 breaks G1" in verify()[2]


def test_transactions_of_nobody_are_found(victim: User) -> None:
    tamper(
        "UPDATE billing_transaction SET user_id = 4711000 WHERE user_id = %(user)s;"
        "DELETE FROM billing_grantuse WHERE user_id = %(user)s;"
        "DELETE FROM billing_grant WHERE user_id = %(user)s;"
        "UPDATE billing_balance SET real = 0, bonus = 0, refilled = 0, bonus_refilled = 0, "
        "last_number = 0, last_digest = '', last_at = NULL WHERE user_id = %(user)s",
        user=victim.pk,
    )
    assert "Transaction 1 of user 4711000 breaks G1" in verify()[2]


def test_the_first_bad_row_is_the_one_reported(victim: User) -> None:
    others = User.objects.filter(pk__gt=victim.pk, balance__last_number__gt=0)
    for user in (victim, *others):
        tamper(
            "UPDATE billing_transaction SET device = 'Forged' "
            "WHERE user_id = %(user)s AND number >= 5",
            user=user.pk,
        )
    assert f"Transaction 5 of user {victim.pk} breaks G9" in verify()[2]
    for part in (verification.stretches(1), verification.stretches(1000)):
        problem = list(verification.check(part))[-1].problem
        assert problem is not None
        assert (problem.user_id, problem.number) == (victim.pk, 5)


def test_a_forgery_of_one_user_does_not_blame_another(victim: User) -> None:
    tamper(
        "UPDATE billing_transaction SET device = 'Forged' WHERE user_id = %(user)s", user=victim.pk
    )
    [innocent, *_] = User.objects.filter(pk__gt=victim.pk, balance__last_number__gt=0)
    assert verify("--user", str(innocent.pk))[0] == 0
    assert verify("--user", str(victim.pk))[0] == 1


# --- Limits of the proof, as in docs/ledger.md --------------------------------------------------


def test_a_tail_cut_off_with_its_balance_shows_only_against_an_earlier_digest(victim: User) -> None:
    [(kept,)] = execute("SELECT last_digest FROM billing_balance WHERE user_id = %s", [victim.pk])
    tamper(
        "DELETE FROM billing_transaction WHERE user_id = %(user)s AND number > 5;"
        "DELETE FROM billing_grantuse WHERE user_id = %(user)s AND number > 5;"
        "UPDATE billing_grant g SET uses = u.place, remaining = u.remaining FROM ("
        "SELECT DISTINCT ON (grant_number) * FROM billing_grantuse WHERE user_id = %(user)s "
        "ORDER BY grant_number, place DESC) u "
        "WHERE g.user_id = u.user_id AND g.number = u.grant_number;"
        "UPDATE billing_balance b SET real = t.new_balance, bonus = t.new_bonus, "
        "refilled = t.refilled, bonus_refilled = t.bonus_refilled, last_number = t.number, "
        "last_digest = t.digest, last_at = t.created_at FROM billing_transaction t "
        "WHERE b.user_id = %(user)s AND t.user_id = b.user_id AND t.number = 5",
        user=victim.pk,
    )
    assert verify()[0] == 0
    assert not Transaction.objects.filter(user=victim, number=7, digest=kept).exists()


def test_the_ledger_goes_on_after_all_this(victim: User) -> None:
    """After `tamper`, the guards are up again and the connection works."""
    tamper("SELECT")
    ledger.change_balance(victim, amount=1, description="One more", **BY_PANEL)
    assert verify()[0] == 0
    assert connection.is_usable()
