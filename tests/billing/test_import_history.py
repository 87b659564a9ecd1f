"""Importing another system's history: it is checked before it is written, and written only once."""

import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from os import getpid
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection
from django.utils import timezone

from billing import errors, events, ledger
from billing.imports.folder import Folder
from billing.imports.records import Problem
from billing.models import (
    Batch,
    Channel,
    Event,
    Plan,
    Service,
    ServicePrice,
    Subject,
    Subscription,
    Transaction,
    WebhookEndpoint,
    WebhookEvent,
)
from billing.operations import history
from billing.operations.history import Imported, ImportRefused
from billing.plans import subscriptions
from billing.plans.pricing import month_end
from tests.conftest import Connections
from tests.factories import OperatorFactory, PlanFactory, UserFactory, subscribed, user_with
from users.models import User

# An import copies rows into the tables, which needs the rights of their owner.
pytestmark = pytest.mark.as_owner

Files = Callable[..., Path]
BY = {"actor": None, "channel": Channel.PANEL}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """`files(users=[...], transactions=[...])` writes a folder of CSV files, line by line."""

    def write(**tables: list[str]) -> Path:
        for name, lines in tables.items():
            (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path

    return write


def run(folder: Path, **options: Any) -> Imported:
    return history.import_history(Folder(folder), now=timezone.now(), **{"actor": None, **options})


def command(folder: Path, *arguments: str) -> str:
    out = StringIO()
    call_command("import_history", str(folder), *arguments, stdout=out, stderr=out)
    return out.getvalue()


def problems(found: Imported) -> list[str]:
    return [str(each) for each in found.problems]


def rows_of(email: str) -> list[tuple[Any, ...]]:
    rows = Transaction.objects.filter(user__email=email).order_by("number")
    return [
        (row.type, row.subtype, row.description, row.amount, row.bonus_amount, row.new_balance)
        for row in rows
    ]


USERS = ["id,login,balance,bonus", "7,ada@example.com,70.5,3", "8,bob@example.com,,"]
TRANSACTIONS = [
    "user_id,id,at,amount,bonus_amount,description,type,subtype,device",
    "7,1,2025-01-05T10:00:00Z,100,5,First payment,payment,partner,",
    "7,2,2025-01-06T10:00:00Z,-29.5,,Plan Fleet January,main_charge,monthly,8601",
    "7,3,2025-01-07T10:00:00Z,,-2,Three SMS sent,tariff_charge,outgoing_sms,8601",
]


# --- What is written ----------------------------------------------------------------------------


def test_users_come_with_their_transactions_and_the_ledger_verifies(db: None, files: Files) -> None:
    found = run(files(users=USERS, transactions=TRANSACTIONS))
    assert problems(found) == []
    assert (found.users, found.transactions) == (2, 3)
    assert (found.real, found.bonus) == (Decimal("70.5"), Decimal(3))
    assert rows_of("ada@example.com") == [
        ("payment", "partner", "First payment", 100, 5, 100),
        ("main_charge", "monthly", "Plan Fleet January", Decimal("-29.5"), 0, Decimal("70.5")),
        ("tariff_charge", "outgoing_sms", "Three SMS sent", 0, -2, Decimal("70.5")),
    ]
    first = Transaction.objects.get(user__email="ada@example.com", number=1)
    assert (first.channel, first.actor, first.idempotency_key) == ("import", None, "import:1")
    assert first.created_at == datetime(2025, 1, 5, 10, tzinfo=UTC)
    assert first.metadata == {"imported": {"id": "1"}}
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # runs the checks of a commit
    call_command("verify_ledger", verbosity=0, stdout=StringIO())


def test_lines_may_come_in_any_order_and_are_sorted_by_time(db: None, files: Files) -> None:
    heading, *lines = TRANSACTIONS
    run(files(users=USERS, transactions=[heading, *reversed(lines)]))
    assert [row[2] for row in rows_of("ada@example.com")] == [
        *("First payment", "Plan Fleet January", "Three SMS sent"),
    ]


def test_operations_of_the_same_moment_keep_the_order_of_the_file(db: None, files: Files) -> None:
    lines = [f"7,2025-01-05T10:00:00Z,{amount}" for amount in (5, -5, 7, -7, 9)]
    run(files(users=[*USERS[:1], "7,ada@example.com,9,0"], transactions=[
        "user_id,at,amount", *lines
    ]))  # fmt: skip
    assert [row[3] for row in rows_of("ada@example.com")] == [5, -5, 7, -7, 9]


def test_payments_keep_the_day_on_which_they_were_made(db: None, files: Files) -> None:
    found = run(
        files(
            users=USERS[:2],
            transactions=[
                "user_id,id,at,amount,bonus_amount,type,subtype,payment_date",
                "7,1,2025-01-05T10:00:00Z,100,5,payment,partner,2025-01-02",
                "7,2,2025-01-06T10:00:00Z,-29.5,,main_charge,monthly,2025-01-02",
                "7,3,2025-01-07T10:00:00Z,,-2,tariff_charge,sms,",
            ],
        )
    )
    assert problems(found) == []
    payment, charge, _service = Transaction.objects.order_by("number")
    assert (payment.payment_date, payment.form) == (date(2025, 1, 2), 2)
    assert (charge.payment_date, charge.form) == (None, 2)  # it has a batch
    assert charge.metadata["imported"]["payment_date"] == "2025-01-02"
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    call_command("verify_ledger", verbosity=0, stdout=StringIO())


def test_two_spellings_of_a_device_are_one_device(db: None, files: Files) -> None:
    run(
        files(
            users=USERS,
            transactions=[
                *TRANSACTIONS[:2],
                "7,2,2025-01-06T10:00:00Z,-29.5,,\
Plan Fleet,main_charge,monthly,Caf\u0065\u0301",
                "7,3,2025-01-07T10:00:00Z,,-2,Three SMS,,,Caf\u00e9",
            ],
        )
    )
    devices = Transaction.objects.order_by("number").values_list("device", flat=True)
    assert list(devices) == ["", "Caf\u00e9", "Caf\u00e9"]


def test_a_history_that_begins_in_the_middle_takes_its_first_balance_over(
    db: None, files: Files
) -> None:
    run(
        files(
            users=["id,login", "7,ada@example.com"],
            transactions=[
                "user_id,at,amount,old_balance,new_balance,old_bonus,new_bonus",
                "7,2025-01-05T10:00:00Z,-10,40,30,2,2",
            ],
        )
    )
    taken_over, charge = rows_of("ada@example.com")
    assert taken_over[:5] == (
        *("payment", "import", "Balance taken over from the previous system", 40, 2),
    )
    assert charge[3:] == (-10, 0, 30)


def test_a_balance_without_operations_is_taken_over(db: None, files: Files) -> None:
    before = timezone.now()
    run(files(users=["id,login,balance,bonus", "7,ada@example.com,12.5,1"]))
    [row] = Transaction.objects.filter(user__email="ada@example.com")
    assert (row.amount, row.bonus_amount) == (Decimal("12.5"), 1)
    assert row.created_at >= before - timedelta(seconds=1)


def test_where_only_the_last_balance_is_known_the_first_one_is_worked_out(
    db: None, files: Files
) -> None:
    run(
        files(
            users=["id,login,balance", "7,ada@example.com,100"],
            transactions=["user_id,at,amount", "7,2025-01-05T10:00:00Z,-20"],
        )
    )
    assert [row[3] for row in rows_of("ada@example.com")] == [120, -20]


def test_profiles_are_kept(db: None, files: Files) -> None:
    run(
        files(
            users=[
                "id;login;active;created_at;first_name;legal_type;legal_name;registered_city;comment",
                "7;Ada@Example.com;no;2019-04-03 12:00:00;Ada;legal_entity;Ada GmbH;Köln;calls",
            ]
        )
    )
    user = User.objects.get()
    assert (user.email, user.is_active) == ("Ada@example.com", False)
    assert user.created_at == datetime(2019, 4, 3, 12, tzinfo=UTC)
    assert (user.first_name, user.legal_name, user.registered_city, user.comment) == (
        *("Ada", "Ada GmbH", "Köln", "calls"),
    )
    assert not user.is_staff
    assert not user.has_usable_password()


def test_the_history_page_says_where_a_user_came_from(db: None, files: Files) -> None:
    operator = OperatorFactory()
    run(files(users=USERS, transactions=TRANSACTIONS), actor=operator)
    user = User.objects.get(email="ada@example.com")
    [event] = events.of_subject(Subject.USER, user.pk)
    assert (event.actor, event.channel) == (operator, "import")
    assert events.sentence(event) == (
        "Imported from the previous system, where the ID was 7, "
        "with 3 transactions and 0 subscriptions."
    )
    assert {row.actor for row in user.transactions.all()} == {operator}


# --- Types ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "kept_as"),
    [
        ("-5,0,main_charge,monthly", ("main_charge", "monthly")),
        ("5,0,main_charge,monthly", ("main_charge", "remainder")),
        ("-5,-1,main_charge,monthly", ("payment", "import")),  # a bonus cannot pay for a plan
        ("0,5,bonus_charge,gift", ("bonus_charge", "gift")),
        ("0,-5,bonus_charge,gift", ("payment", "import")),
        ("-5,0,tariff_charge,Outgoing SMS", ("payment", "import")),  # 10 of bonus would go first
        ("-5,-10,tariff_charge,Outgoing SMS", ("tariff_charge", "outgoing_sms")),
        ("0,-5,tariff_charge,", ("tariff_charge", "service")),
        ("5,0,payment,partner", ("payment", "partner")),
        ("5,0,fancy_type,whatever", ("payment", "import")),
        ("5,0,reversal,", ("payment", "import")),  # names no transaction
    ],
)
def test_an_operation_keeps_its_type_where_the_ledger_allows_it(
    db: None, files: Files, line: str, kept_as: tuple[str, str]
) -> None:
    found = run(
        files(
            users=["id,login", "7,ada@example.com"],
            transactions=[
                "user_id,at,amount,bonus_amount,type,subtype",
                "7,2025-01-05T10:00:00Z,100,10,payment,partner",
                f"7,2025-01-06T10:00:00Z,{line}",
            ],
        )
    )
    assert problems(found) == []
    row = Transaction.objects.get(number=2)
    assert (row.type, row.subtype) == kept_as
    if kept_as == ("payment", "import"):
        assert row.metadata["imported"]["type"] == line.split(",")[2]
        assert found.as_payments == 1
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")


def test_a_reversal_names_what_it_reverses_and_only_once(db: None, files: Files) -> None:
    run(
        files(
            users=["id,login", "7,ada@example.com"],
            transactions=[
                "user_id,id,at,amount,type,subtype,reverses",
                "7,a,2025-01-05T10:00:00Z,100,payment,partner,",
                "7,b,2025-01-06T10:00:00Z,-30,tariff_charge,sms,",
                "7,c,2025-01-07T10:00:00Z,30,reversal,tariff_charge,b",
                "7,d,2025-01-08T10:00:00Z,30,reversal,tariff_charge,b",
                "7,e,2025-01-09T10:00:00Z,-99,reversal,payment,a",
            ],
        )
    )
    rows = Transaction.objects.order_by("number")
    assert [(row.type, row.reverses) for row in rows][2:] == [
        *(("reversal", 2), ("payment", None), ("payment", None)),
    ]
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", "Payment (imported)"),
        ("ok", "Payment: ok"),
        ("two\u200b words", "two words"),
        ("x" * 250, "x" * 199 + "…"),
    ],
)
def test_a_description_is_made_to_fit_and_kept_as_it_was(
    db: None, files: Files, given: str, kept: str
) -> None:
    run(
        files(
            users=["id,login", "7,ada@example.com"],
            transactions=["user_id,at,amount,description", f"7,2025-01-05T10:00:00Z,1,{given}"],
        )
    )
    row = Transaction.objects.get()
    assert row.description == kept
    assert row.metadata.get("imported", {}).get("description", "") == (
        given if given != kept else ""
    )


def test_an_operation_that_changed_nothing_is_left_out(db: None, files: Files) -> None:
    found = run(
        files(
            users=["id,login", "7,ada@example.com"],
            transactions=["user_id,at,amount", "7,2025-01-05T10:00:00Z,0"],
        )
    )
    assert (found.users, found.transactions, found.problem_count) == (1, 0, 0)


# --- What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({"users": ["id", "7"]}, "There is no column login"),
        ({"users": ["id,login,colour", "7,a@example.com,red"]}, "Column colour is not known"),
        ({"users": ["id,login,id", "7,a@example.com,8"]}, "A column appears twice"),
        ({"users": ["id,login", "7"]}, "It has 1 values, not 2"),
        ({"users": ["id,login", "7,nobody"]}, "users.csv, line 2: email: "),
        ({"users": ["id,login", ",a@example.com"]}, "There is no id"),
        ({"users": ["id,login", "7,a@example.com", "7,b@example.com"]}, "User 7 is there twice"),
        (
            {"users": ["id,login", "7,a@example.com", "8,A@EXAMPLE.com"]},
            "Users 7 and 8 share one mailbox",
        ),
        ({"users": ["id,login,balance", "7,a@example.com,much"]}, "balance “much” is not an"),
        ({"users": ["id,login,balance", "7,a@example.com,1.23456"]}, "more than four decimals"),
        ({"users": ["id,login,balance", '7,a@example.com,"1,500"']}, "is not an amount like"),
        ({"users": ["id,login,balance", "7,a@example.com,NaN"]}, "is not an amount like"),
        ({"users": ["id,login,balance", "7,a@example.com,1e3"]}, "is not an amount like"),
        ({"users": ["id,login,balance", "7,a@example.com,-1"]}, "The history begins with −1.00"),
        ({"users": ["id,login,active", "7,a@example.com,maybe"]}, "neither true nor false"),
        ({"users": ["id,login,time_zone", "7,a@example.com,Mars/Base"]}, "not a known time zone"),
        ({"users": ["id,login,phone", f"7,a@example.com,{'1' * 31}"]}, "phone: "),
        ({"users": ["id,login,created_at", "7,a@example.com,soon"]}, "is not a time like"),
        (
            {"users": USERS, "transactions": ["user_id,at,amount", "9,2025-01-05,1"]},
            "User 9 is not in users.csv",
        ),
        (
            {"users": USERS, "transactions": ["user_id,at,amount", "7,yesterday,1"]},
            "transactions.csv, line 2: at “yesterday” is not a time like",
        ),
        (
            {"users": USERS, "transactions": ["user_id,at,amount", "7,1999-12-31,1"]},
            "is before the year 2000",
        ),
        (
            {"users": [*USERS[:1], "7,a@example.com,,"], "transactions": [
                "user_id,at,amount", "7,2999-01-01,1"]},
            "is in the future",
        ),
        (
            {"users": [*USERS[:1], "7,a@example.com,,"], "transactions": [
                "user_id,at,amount", "7,2025-01-05,-1"]},
            "a balance cannot be negative",
        ),
        (
            {"users": [*USERS[:1], "7,a@example.com,5,"], "transactions": [
                "user_id,at,amount,old_balance,new_balance", "7,2025-01-05,1,3,4"]},
            "The real balance is 5.00 after the last operation, but the operations so far make "
            "4.00",
        ),
        (
            {"users": [*USERS[:1], "7,a@example.com,,"], "transactions": [
                "user_id,at,amount,old_balance,new_balance", "7,2025-01-05,1,3,5"]},
            "The old balance and the amount do not make the new balance",
        ),
        (
            {"users": [*USERS[:1], "7,a@example.com,,"], "transactions": [
                "user_id,id,at,amount", "7,x,2025-01-05,1", "7,x,2025-01-06,1"]},
            "two operations with the ID x",
        ),
        (
            {"users": USERS, "subscriptions": ["user_id,plan_id,started_on", "7,5,2025-01-01"]},
            "There is no plan 5 in plans.csv",
        ),
        (
            {"users": USERS, "plans": ["id,name,cycle,price", "5,Fleet,fortnightly,10"]},
            "cycle “fortnightly” is none of monthly",
        ),
        ({"users": USERS, "plans": ["id,name,cycle,price", "5,Fleet,monthly,-1"]}, "is negative"),
        (
            {"users": USERS, "plans": [
                "id,name,cycle,price", "5,Fleet,monthly,1", "6,Fleet,monthly,2"]},
            "Two plans are called Fleet",
        ),
        (
            {"users": USERS, "plans": ["id,name,cycle,price", "5,Fleet,monthly,1"],
             "service_prices": ["plan_id,service,price", "5,Not a code,1"]},
            "code: ",
        ),
        (
            {"users": USERS, "plans": ["id,name,cycle,price", "5,Fleet,monthly,1"],
             "subscriptions": ["user_id,plan_id,started_on,device",
                               "7,5,2025-01-01,86", "7,5,2025-01-01,86"]},
            "Device 86 has two subscriptions",
        ),
        (
            {"users": USERS, "plans": ["id,name,cycle,price", "5,Fleet,monthly,1"],
             "subscriptions": ["user_id,plan_id,started_on", "7,5,2999-01-01"]},
            "It starts in the future",
        ),
        (
            {"users": USERS, "transactions": ["user_id,at,amount,payment_date",
                                              "7,2025-01-01T10:00:00Z,1,2999-01-01"]},
            "The payment date 2999-01-01 is in the future",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line_and_nothing_is_imported(
    db: None, files: Files, tables: dict[str, list[str]], sentence: str
) -> None:
    found = run(files(**tables))
    assert sentence in "\n".join(problems(found))
    assert not User.objects.exists()
    assert not Plan.objects.exists()


def test_a_folder_without_users_is_refused(db: None, tmp_path: Path) -> None:
    assert "There is no users.csv" in problems(run(tmp_path))[0]


def test_bytes_that_are_no_utf_8_are_a_problem_of_their_line(db: None, files: Files) -> None:
    folder = files(users=USERS)
    content = b"id,login,city\n7,ada@example.com,K\xf6ln\n8,bob@example.com,Bonn\n"
    (folder / "users.csv").write_bytes(content)
    [problem] = run(folder).problems
    assert problem == Problem("city contains half a character.", "users.csv, line 2", "7")


def test_a_quoted_cell_over_two_lines_keeps_the_numbers_of_the_lines_after_it(
    db: None, files: Files
) -> None:
    folder = files(users=["id,login,comment", '7,ada@example.com,"two', 'lines"', "8,x,y"])
    assert [each.place for each in run(folder).problems] == ["users.csv, line 4"]


def test_the_command_shows_the_first_problems_and_keeps_all_in_a_file(
    db: None, files: Files
) -> None:
    folder = files(users=["id,login", *(f"{n},nobody{n}" for n in range(30))])
    out = StringIO()
    with pytest.raises(CommandError, match=r"30 problems\. Nothing was imported\."):
        call_command("import_history", str(folder), stdout=out, stderr=out)
    shown = out.getvalue().splitlines()
    assert len(shown) == 21
    assert len((folder / "problems.txt").read_text().splitlines()) == 30


def test_users_with_problems_can_be_left_out(db: None, files: Files) -> None:
    folder = files(
        users=[*USERS, "9,nobody,,"], transactions=[*TRANSACTIONS, "8,4,2025-01-05,-1,,x,,,"]
    )
    said = command(folder, "--skip-users")
    assert [user.email for user in User.objects.all()] == ["ada@example.com"]
    assert "Imported: 1 user, 3 transactions" in said
    assert "2 users left out" in said


def test_a_problem_of_no_user_stops_everything_all_the_same(db: None, files: Files) -> None:
    folder = files(users=USERS, plans=["id,name,cycle,price", "5,Fleet,never,1"])
    with pytest.raises(CommandError, match="Nothing was imported"):
        command(folder, "--skip-users")
    assert not User.objects.exists()


def test_a_gap_can_be_filled(db: None, files: Files) -> None:
    folder = files(
        users=["id,login,balance", "7,ada@example.com,50"],
        transactions=[
            "user_id,at,amount,old_balance,new_balance",
            "7,2025-01-05,10,0,10",
            "7,2025-01-06,5,20,25",
        ],
    )
    assert run(folder).problem_count == 1
    found = run(folder, fill_gaps=True)
    assert (found.differences, found.problem_count) == (2, 0)
    assert [row[2:4] for row in rows_of("ada@example.com")][1::2] == [
        ("Difference in the history of the previous system", 10),
        ("Difference in the history of the previous system", 25),
    ]


def test_a_role_that_does_not_own_the_ledger_is_told_who_has_to_do_it(
    db: None, files: Files
) -> None:
    folder, role = files(users=USERS), f"import_of_{getpid()}"
    with connection.cursor() as cursor:
        cursor.execute(f'CREATE ROLE "{role}"')
        cursor.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{role}"')
        cursor.execute(f'SET LOCAL ROLE "{role}"')
        with pytest.raises(ImportRefused, match=f"role {role} may not import a history"):
            run(folder)
        assert run(folder, dry_run=True).problem_count == 0
        cursor.execute("RESET ROLE")
    assert not User.objects.exists()


# --- Once, and after an interruption ------------------------------------------------------------


def test_a_check_writes_nothing(db: None, files: Files) -> None:
    said = command(files(users=USERS, transactions=TRANSACTIONS), "--check")
    assert "Would be imported: 2 users, 3 transactions" in said
    assert not User.objects.exists()


def test_nothing_stays_locked_after_a_failure(db: None, files: Files) -> None:
    with pytest.raises(ImportRefused), history._alone():
        raise ImportRefused
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        )
        assert cursor.fetchone() == (0,)


def test_the_same_folder_again_changes_nothing(db: None, files: Files) -> None:
    folder = files(users=USERS, transactions=TRANSACTIONS)
    run(folder)
    ledger.change_balance(
        User.objects.get(email="ada@example.com"), amount=5, description="Afterwards", **BY
    )
    found = run(folder)
    assert (found.users, found.kept, found.problem_count) == (0, 2, 0)
    assert Transaction.objects.count() == 4
    assert Event.objects.filter(action="imported").count() == 2
    [batch] = Batch.objects.all()
    assert (batch.kind, batch.posted, batch.file_name) == ("history", 3, folder.name)
    assert set(Transaction.objects.values_list("batch", flat=True)) == {batch.pk, None}


def test_an_interrupted_import_goes_on_where_it_stopped(
    committed_db: None, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = files(users=["id,login,balance", *(f"{n},u{n}@example.com,{n}" for n in range(1, 8))])
    monkeypatch.setattr("billing.imports.staging.USERS_AT_ONCE", 2)
    add_subscriptions, left = history.add_subscriptions, iter(range(3))

    def interrupted(*arguments: Any) -> None:
        add_subscriptions(*arguments)
        if next(left) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(history, "add_subscriptions", interrupted)
    with pytest.raises(CommandError, match="start it again to continue"):
        command(folder)
    assert User.objects.count() == 4
    assert not connection.in_atomic_block

    monkeypatch.setattr(history, "add_subscriptions", add_subscriptions)
    said = command(folder)
    assert "Imported: 3 users" in said
    assert "4 users imported earlier" in said
    assert "The ledger verifies: 7 transactions" in said
    assert [row.user.email for row in Transaction.objects.order_by("id")] == [
        f"u{n}@example.com" for n in range(1, 8)
    ]
    [batch] = Batch.objects.all()
    assert (batch.entries, batch.posted, batch.real) == (7, 7, 28)


def test_only_one_import_runs_at_a_time(
    connections: Connections, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = files(users=USERS)
    inside, refused = threading.Event(), threading.Event()
    add_customers = history.add_customers

    def waiting(users: Any) -> None:
        inside.set()
        assert refused.wait(60)
        add_customers(users)

    monkeypatch.setattr(history, "add_customers", waiting)

    def work(place: int) -> Any:
        if place == 0:
            return run(folder)
        assert inside.wait(60)
        try:
            return run(folder)
        finally:
            refused.set()

    first, second = connections(2, work)
    assert first.error is None
    assert isinstance(second.error, ImportRefused)
    assert User.objects.count() == 2


# --- Who is here already ------------------------------------------------------------------------


def test_a_user_without_transactions_gets_the_history_and_keeps_the_profile(
    db: None, files: Files
) -> None:
    user = UserFactory(email="ada@example.com", first_name="Augusta")
    run(files(users=USERS, transactions=TRANSACTIONS))
    user.refresh_from_db()
    assert user.first_name == "Augusta"
    assert ledger.balance(user).real == Decimal("70.5")


def test_a_user_with_transactions_or_a_subscription_is_refused(db: None, files: Files) -> None:
    user_with(real=1, email="ada@example.com")
    subscribed(UserFactory(email="bob@example.com"), PlanFactory(price=0))
    said = problems(run(files(users=USERS, transactions=TRANSACTIONS)))
    assert len(said) == 2
    assert "is a user here already" in said[0]
    assert said[0].endswith("and has transactions.")
    assert said[1].endswith("and has a subscription.")


def test_an_operator_is_not_made_a_customer(db: None, files: Files) -> None:
    OperatorFactory(email="ada@example.com")
    assert "ada@example.com is an operator here" in problems(run(files(users=USERS)))[0]


def test_somebody_who_posts_meanwhile_loses_nothing(
    connections: Connections, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user gets the first transaction after the check, and the import skips the user."""
    user = UserFactory(email="ada@example.com")
    folder = files(users=USERS, transactions=TRANSACTIONS)
    write = history._Import.write

    def after_somebody_posted(*arguments: Any) -> Any:
        ledger.change_balance(user, amount=5, description="In between", **BY)
        return write(*arguments)

    monkeypatch.setattr(history._Import, "write", after_somebody_posted)
    [outcome] = connections(1, lambda place: run(folder))
    assert outcome.error is None
    assert outcome.result.skipped == 1
    assert ledger.balance(user).real == 5


def test_a_subscription_that_somebody_adds_meanwhile_stops_the_import(
    connections: Connections, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = UserFactory(email="ada@example.com")
    plan = PlanFactory(name="Fleet", cycle="monthly", price=0)
    folder = files(
        users=USERS,
        plans=["id,name,cycle,price", "5,Fleet,monthly,0"],
        subscriptions=["user_id,plan_id,started_on", "7,5,2025-02-03"],
    )
    add_subscriptions = history.add_subscriptions

    def after_somebody_subscribed(found: Any) -> None:
        subscribed(user, plan)
        add_subscriptions(found)

    monkeypatch.setattr(history, "add_subscriptions", after_somebody_subscribed)
    [outcome] = connections(1, lambda place: run(folder))
    assert isinstance(outcome.error, ImportRefused)
    assert "added a subscription" in str(outcome.error)
    assert not Transaction.objects.exists()


# --- Programs -----------------------------------------------------------------------------------


@pytest.fixture
def endpoint(db: None) -> WebhookEndpoint:
    return WebhookEndpoint.objects.create(
        name="ERP", url="https://erp.example.com/", events=["transaction.posted"], secret="x"
    )


def test_programs_are_not_told_of_the_past_by_accident(
    endpoint: WebhookEndpoint, files: Files
) -> None:
    folder = files(users=USERS, transactions=TRANSACTIONS)
    with pytest.raises(CommandError, match="Webhook endpoints are active: “ERP”"):
        command(folder)
    assert not User.objects.exists()
    run(folder, tell_programs=True)
    assert WebhookEvent.objects.count() == 3


def test_an_endpoint_that_is_switched_on_meanwhile_stops_the_import(
    committed_db: None, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = files(users=["id,login,balance", *(f"{n},u{n}@example.com,{n}" for n in range(1, 5))])
    monkeypatch.setattr("billing.imports.staging.USERS_AT_ONCE", 2)
    add_customers = history.add_customers

    def and_an_endpoint(users: Any) -> None:
        add_customers(users)
        WebhookEndpoint.objects.create(
            name="ERP", url="https://erp.example.com/", events=["transaction.posted"], secret="x"
        )

    monkeypatch.setattr(history, "add_customers", and_an_endpoint)
    with pytest.raises(ImportRefused, match="so the import was stopped"):
        run(folder)
    assert User.objects.count() == 2


# --- Plans and subscriptions --------------------------------------------------------------------

PLANS = [
    "id,name,cycle,price,proportional_charge,active",
    "5,Fleet,monthly,31,yes,yes",
    "6,Rental,activeday,0.5,,",
    "7,Classic,monthly,9,,no",
]
PRICES = ["plan_id,service,price,name,unit", "5,outgoing_sms,0.3,,", "5,traffic,0.01,Data,MB"]


def test_plans_and_their_prices_are_made(db: None, files: Files) -> None:
    found = run(files(users=USERS, plans=PLANS, service_prices=PRICES))
    assert found.plans == 3
    plan = Plan.objects.get(name="Fleet")
    assert (plan.cycle, plan.price, plan.proportional_charge) == ("monthly", 31, True)
    assert not Plan.objects.get(name="Classic").is_active
    prices = ServicePrice.objects.filter(plan=plan).order_by("service__code")
    assert [(each.service.code, each.service.name, each.price) for each in prices] == [
        ("outgoing_sms", "Outgoing SMS", Decimal("0.3")),
        ("traffic", "Data", Decimal("0.01")),
    ]
    event = events.of_subject(Subject.PLAN, plan.pk).get()
    assert (event.action, event.channel) == ("configured", "import")


def test_a_plan_that_is_here_already_stays_as_it_is(db: None, files: Files) -> None:
    plan = PlanFactory(name="Fleet", price=5, cycle="monthly")
    assert run(files(users=USERS, plans=PLANS, service_prices=PRICES)).plans == 2
    plan.refresh_from_db()
    assert plan.price == 5
    assert not Service.objects.exists()


def test_a_plan_of_the_same_name_and_another_cycle_is_refused(db: None, files: Files) -> None:
    PlanFactory(name="Fleet", cycle="every_year")
    assert "with another billing cycle" in problems(run(files(users=USERS, plans=PLANS)))[0]


def import_subscription(files: Files, line: str, *more: str, active: str = "yes") -> Any:
    run(
        files(
            users=["id,login,active", f"7,ada@example.com,{active}"],
            plans=PLANS,
            subscriptions=["user_id,plan_id,started_on,device,paid_through,suspended", line],
            transactions=[TRANSACTIONS[0], "7,1,2025-01-05T10:00:00Z,100,0,First,,,", *more],
        )
    )
    return Subscription.objects.select_related("plan", "user").get()


def test_what_is_paid_ahead_is_charged_from_the_day_after(db: None, files: Files) -> None:
    today = timezone.now().date()
    end = month_end(today)
    found = import_subscription(files, f"7,5,2025-02-03,8601,{end},")
    assert (found.status, found.device, found.started_on) == ("active", "8601", date(2025, 2, 3))
    assert (found.charged_from, found.charged_through) == (today.replace(day=1), end)
    assert (found.paid, found.due_on) == (0, end + timedelta(days=1))
    call_command("charge_due", verbosity=0, stdout=StringIO())
    assert Transaction.objects.count() == 1
    call_command("charge_due", at=None, verbosity=0, stdout=StringIO())


def test_what_was_paid_ahead_there_is_paid_back_here(db: None, files: Files) -> None:
    today = timezone.now().date()
    first, end = today.replace(day=1), month_end(today)
    found = import_subscription(
        files,
        f"7,5,2025-02-03,8601,{end},",
        f"7,2,{first}T00:05:00Z,-31,,Plan Fleet,main_charge,monthly,8601",
        f"7,3,{first}T00:05:01Z,-9,,Plan of another device,main_charge,monthly,8602",
    )
    assert (found.charge_number, found.paid) == (2, 31)
    charge = Transaction.objects.get(number=2)
    assert charge.metadata == {
        "imported": {"id": "2"},
        "subscription": found.pk,
        "plan": found.plan_id,
        "from": f"{first}",
        "through": f"{end}",
    }
    _, posted = subscriptions.cancel(found, day=today, pay_back=True, **BY)
    days, left = (end - first).days + 1, (end - today).days + 1
    assert [row.amount for row in posted] == [round(Decimal(31) * left / days, 4)]


def test_what_is_not_paid_is_charged_from_today_and_never_for_days_before(
    db: None, files: Files
) -> None:
    today = timezone.now().date()
    found = import_subscription(files, "7,5,2025-02-03,,2025-06-30,")
    assert found.due_on == today
    call_command("charge_due", verbosity=0, stdout=StringIO())
    [charge] = Transaction.objects.filter(type="main_charge")
    assert charge.metadata["from"] == f"{today}"
    assert charge.metadata["through"] == f"{month_end(today)}"


def test_by_active_day_only_days_that_are_reported_here_are_charged(db: None, files: Files) -> None:
    today = timezone.now().date()
    found = import_subscription(files, "7,6,2025-02-03,8601,,")
    assert (found.due_on, found.plan_since) == (None, today)
    subscriptions.record_active_day(
        found.user, device="8601", day=today - timedelta(days=3), today=today
    )
    subscriptions.record_active_day(found.user, device="8601", day=today, today=today)
    call_command(
        "charge_due", at=timezone.now() + timedelta(days=1), verbosity=0, stdout=StringIO()
    )
    [charge] = Transaction.objects.filter(type="main_charge")
    assert (charge.amount, charge.metadata["from"]) == (Decimal("-0.5"), f"{today}")


def test_who_is_suspended_there_is_suspended_here_and_resumes_by_the_next_run(
    db: None, files: Files
) -> None:
    found = import_subscription(files, "7,5,2025-02-03,,,yes")
    assert (found.status, found.suspension_reason) == ("suspended", "no_money")
    call_command(
        "charge_due", at=timezone.now() + timedelta(days=1), verbosity=0, stdout=StringIO()
    )
    found.refresh_from_db()
    assert found.status == "active"


def test_the_subscription_of_somebody_inactive_waits(db: None, files: Files) -> None:
    found = import_subscription(files, "7,5,2025-02-03,,,", active="no")
    assert (found.status, found.suspension_reason) == ("suspended", "user_deactivated")


def test_a_retired_plan_is_kept_by_who_has_it(db: None, files: Files) -> None:
    assert import_subscription(files, "7,7,2025-02-03,,,").plan.name == "Classic"


# --- Much ---------------------------------------------------------------------------------------


def test_many_users_are_written_in_parts_and_all_of_it_verifies(
    committed_db: None, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.imports.staging.ROWS_AT_ONCE", 50)
    day = date(2024, 1, 1)
    folder = files(
        users=["id,login", *(f"{n},u{n}@example.com" for n in range(40))],
        transactions=[
            "user_id,id,at,amount,type,subtype",
            *(
                f"{n},{place},{day + timedelta(days=place)},{-1 if place % 3 else 5},"
                f"{'tariff_charge,sms' if place % 3 else 'payment,partner'}"
                for place in range(30)
                for n in range(40)
            ),
        ],
    )
    steps: list[tuple[str, int, int]] = []
    found = run(folder, progress=lambda *step: steps.append(step))
    assert (found.users, found.transactions) == (40, 1_200)
    assert found.real == 40 * (10 * 5 - 20)
    assert [step for step in steps if step[1] == 40] == [("check", 40, 40), ("import", 40, 40)]
    assert len(steps) > 20
    call_command("verify_ledger", verbosity=0, stdout=StringIO())


def test_without_transactions_a_user_can_be_subscribed_and_charged_as_any_other(
    db: None, files: Files
) -> None:
    run(files(users=USERS))
    user = User.objects.get(email="bob@example.com")
    with pytest.raises(errors.InsufficientFunds):
        subscriptions.start(user, PlanFactory(price=5), day=timezone.now().date(), **BY)


def test_a_check_finds_any_number_of_problems_and_keeps_the_first(
    db: None, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.operations._history_checks.PROBLEMS_MAX", 3)
    found = run(files(users=["id,login", *(f"{n},nobody{n}" for n in range(5))]))
    assert (len(found.problems), found.problem_count) == (3, 5)


def test_a_problem_with_a_device_is_the_users(db: None, files: Files) -> None:
    found = run(
        files(
            users=USERS,
            plans=PLANS,
            subscriptions=["user_id,plan_id,started_on,device", f"7,5,2025-01-01,{'8' * 101}"],
        )
    )
    [problem] = found.problems
    assert problem.user_id == "7"
    assert "more than 100 characters" in str(problem)


def test_a_price_of_a_plan_that_is_not_there_is_refused(db: None, files: Files) -> None:
    found = run(files(users=USERS, service_prices=["plan_id,service,price", "5,sms,1"]))
    assert "There is no plan 5 in plans.csv" in problems(found)[0]


def test_a_user_who_was_imported_under_another_id_is_refused(db: None, files: Files) -> None:
    run(files(users=USERS))
    found = run(files(users=["id,login", "70,ada@example.com"]))
    assert "was imported here as another user" in problems(found)[0]


def test_two_plans_may_price_the_same_service(db: None, files: Files) -> None:
    run(
        files(
            users=USERS,
            plans=PLANS,
            service_prices=[PRICES[0], "5,traffic,0.01,,", "6,traffic,0.02,,"],
        )
    )
    assert [each.price for each in ServicePrice.objects.order_by("price")] == [
        Decimal("0.01"),
        Decimal("0.02"),
    ]
    assert Service.objects.count() == 1


def test_one_charge_pays_for_one_subscription(db: None, files: Files) -> None:
    today = timezone.now().date()
    first, end = today.replace(day=1), month_end(today)
    run(
        files(
            users=["id,login", "7,ada@example.com"],
            plans=PLANS,
            subscriptions=[
                "user_id,plan_id,started_on,device,paid_through",
                f"7,5,2025-02-03,8601,{end}",
                f"7,5,2025-02-03,8602,{end}",
            ],
            transactions=[
                TRANSACTIONS[0],
                "7,1,2025-01-05T10:00:00Z,100,0,First,,,",
                f"7,2,{first}T00:05:00Z,-31,,Plan Fleet,main_charge,monthly,8601",
            ],
        )
    )
    paid = Subscription.objects.order_by("device").values_list("device", "paid", "charge_number")
    assert list(paid) == [("8601", 31, 2), ("8602", 0, None)]


def test_who_is_added_meanwhile_stops_the_import(db: None) -> None:
    UserFactory(email="ada@example.com")
    with pytest.raises(errors.EmailTaken):
        history.add_customers([User(email="Ada@example.com")])
    with pytest.raises(IntegrityError):
        history.add_customers(
            [User(email="bob@example.com", legal_type="x" * 16, pk=1), User(pk=1)]
        )


def test_somebody_who_posts_in_the_last_moment_stops_the_import(
    connections: Connections, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user gets a transaction after the last check, and before the import locks the balance."""
    user = UserFactory(email="ada@example.com")
    folder = files(users=USERS, transactions=TRANSACTIONS)
    add_customers = history.add_customers

    def after_somebody_posted(users: Any) -> None:
        ledger.change_balance(user, amount=5, description="In between", **BY)
        add_customers(users)

    monkeypatch.setattr(history, "add_customers", after_somebody_posted)
    [outcome] = connections(1, lambda place: run(folder))
    assert isinstance(outcome.error, ImportRefused)
    assert "Start the import again" in str(outcome.error)
    assert not Transaction.objects.exists()


# --- What other systems do differently ----------------------------------------------------------


def test_the_balance_after_an_operation_is_enough(db: None, files: Files) -> None:
    users = ["id,login", "7,ada@example.com"]
    heading = "user_id,at,amount,new_balance"
    folder = files(users=users, transactions=[heading, "7,2025-01-05,-10,30"])
    run(folder)
    assert [row[3] for row in rows_of("ada@example.com")] == [40, -10]


def test_a_gap_shows_in_the_balances_after_operations(db: None, files: Files) -> None:
    folder = files(
        users=["id,login", "7,ada@example.com"],
        transactions=[
            "user_id,at,amount,new_balance", "7,2025-01-05,10,10", "7,2025-01-06,-3,5"
        ],
    )  # fmt: skip
    assert "The real balance is 8.00 before this operation" in problems(run(folder))[0]


def test_a_balance_beyond_all_bounds_is_a_problem(db: None, files: Files) -> None:
    folder = files(
        users=["id,login", "7,ada@example.com"],
        transactions=["user_id,at,amount", *["7,2025-01-05,600000000000000"] * 2],
    )
    assert "would be too large" in problems(run(folder))[0]


def test_who_changed_address_since_is_not_imported_twice(db: None, files: Files) -> None:
    run(files(users=USERS, transactions=TRANSACTIONS))
    User.objects.filter(email="ada@example.com").update(email="countess@example.com")
    found = run(files(users=USERS, transactions=TRANSACTIONS))
    assert "User 7 was imported before, as user " in problems(found)[0]
    assert User.objects.count() == 2


def test_an_operation_of_nobody_stops_everything(db: None, files: Files) -> None:
    folder = files(users=USERS, transactions=[*TRANSACTIONS, ",9,2025-01-08,5,,x,,,"])
    found = run(folder, skip_users=True)
    assert (found.is_written, found.stops) == (False, True)


@pytest.mark.parametrize(
    ("given_back", "number"),
    [
        ("7,3,{day}T00:05:00Z,31,,Taken back,reversal,,8601", None),
        ("7,3,{day}T00:05:00Z,5,,Rest of the month,main_charge,remainder,8601", None),
        ("7,3,{day}T00:05:00Z,31,,Another payment,payment,,8602", 2),
    ],
)
def test_what_was_given_back_there_is_not_paid_back_here(
    db: None, files: Files, given_back: str, number: int | None
) -> None:
    today = timezone.now().date()
    first, end = today.replace(day=1), month_end(today)
    found = import_subscription(
        files,
        f"7,5,2025-02-03,8601,{end},",
        f"7,2,{first}T00:05:00Z,-31,,Plan Fleet,main_charge,monthly,8601",
        given_back.format(day=first),
    )
    assert found.charge_number == number
    assert found.paid == (31 if number else 0)


def test_a_period_begins_with_its_charge(db: None, files: Files) -> None:
    """A period may end within a month, because plan Fleet charges the rest of it proportionally."""
    today = timezone.now().date()
    charged_on, through = today - timedelta(days=10), today + timedelta(days=5)
    found = import_subscription(
        files,
        f"7,5,2025-02-03,8601,{through},",
        f"7,2,{charged_on}T00:05:00Z,-31,,Plan Fleet,main_charge,monthly,8601",
    )
    assert (found.charged_from, found.charged_through) == (charged_on, through)
    assert (found.paid, found.due_on) == (31, through + timedelta(days=1))


def test_a_period_that_ends_elsewhere_needs_a_proportional_plan(db: None, files: Files) -> None:
    today = timezone.now().date()
    through = month_end(today) + timedelta(days=14)
    folder = files(
        users=USERS,
        plans=PLANS,
        subscriptions=["user_id,plan_id,started_on,paid_through", f"7,7,2025-01-01,{through}"],
    )
    assert (
        f"It is paid through {through}, but periods of plan Classic end"
        in (problems(run(folder))[0])
    )


def test_one_users_long_history_locks_no_table(
    committed_db: None, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.ledger.history.CHECKED_MAX", 1)
    monkeypatch.setattr("billing.ledger.history.GUARDS", ["no_such_guard"])
    assert run(files(users=USERS, transactions=TRANSACTIONS)).transactions == 3
