"""Sums kept for the start page are those of the rows, whenever and in how many parts they are kept.

What is read is compared with the plain sums over all rows.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import Sum
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from billing import ledger, reports, tasks
from billing.ledger import history, turnovers
from billing.models import (
    Balance,
    Channel,
    KeptSums,
    Transaction,
    TransactionType,
    Turnover,
    UserCount,
)
from billing.reports import Listing
from tests.billing.clock import database_clock_at
from tests.billing.histories import execute, guards_down, user_with_history
from tests.billing.test_following import other_session, post_in, refill
from tests.conftest import Connections
from tests.factories import AdministratorFactory, OperatorFactory, UserFactory, user_with
from tests.operators import client_of
from users.models import User

BY_API: dict[str, Any] = {"actor": None, "channel": Channel.API}
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
AFTER_ALL = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def no_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums end at the very moment that is asked for."""
    monkeypatch.setattr(turnovers, "SLACK", timedelta(0))


def some_of_all(user: User, moment: datetime) -> None:
    """Posts a refill, a gift, a charge of both balances and two reversals, a minute apart."""
    steps: list[Callable[[], Any]] = [
        lambda: ledger.change_balance(
            user, amount="9.25", bonus_amount=3, description="A refill", **BY_API
        ),
        lambda: ledger.give_bonus(user, amount="0.5", description="A gift for you", **BY_API),
        lambda: ledger.change_balance(
            user, amount=-4, bonus_amount=-1, description="A deduction", **BY_API
        ),
    ]
    for place, step in enumerate(steps):
        with database_clock_at(moment + place * MINUTE):
            last = step()
    for place, number in enumerate((last.number, last.number - 1)):
        with database_clock_at(moment + (3 + place) * MINUTE):
            ledger.reverse(user, number=number, description="By mistake", **BY_API)


def plainly(since: datetime | None, until: datetime | None) -> list[list[Decimal]]:
    """Returns the sums of both balances over the rows of a period: refills, charges, reversals."""
    rows = list(
        Transaction.objects.filter(
            created_at__gte=since or datetime(2000, 1, 1, tzinfo=UTC),
            created_at__lt=until or AFTER_ALL,
        ).values_list("amount", "bonus_amount", "reverses")
    )
    return [
        [
            sum((row[part] for row in rows if row[part] > 0 and row[2] is None), Decimal()),
            -sum((row[part] for row in rows if row[part] < 0 and row[2] is None), Decimal()),
            sum((row[part] for row in rows if row[2] is not None), Decimal()),
        ]
        for part in (0, 1)
    ]


def read(since: datetime | None, until: datetime | None) -> list[list[Decimal]]:
    both = reports.turnover(Listing(since=since, until=until))
    return [list(both.real), list(both.bonus)]


def held() -> tuple[int, int, Decimal, Decimal]:
    """Returns the figures of `reports.holdings` by counting and adding up."""
    customers = User.objects.customers()
    sums = Balance.objects.filter(user__is_staff=False).aggregate(
        real=Sum("real", default=Decimal()), bonus=Sum("bonus", default=Decimal())
    )
    active = customers.filter(is_active=True).count()
    return customers.count(), active, sums["real"], sums["bonus"]


def proved() -> str:
    """Returns what verify_ledger says of the kept sums; "" if they are right."""
    err = StringIO()
    try:
        call_command("verify_ledger", stdout=StringIO(), stderr=err)
    except SystemExit:
        return err.getvalue()
    return ""


# --- What is read -------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    posted=st.lists(st.integers(-3_000, 3_000), max_size=4),
    kept_until=st.lists(st.integers(-3_000, 3_000), max_size=3),
    ends=st.lists(st.none() | st.integers(-3_100, 3_100), min_size=2, max_size=2),
    zone=st.sampled_from(["UTC", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe"]),
)
@pytest.mark.django_db
def test_kept_sums_and_rows_since_are_the_sums_of_all_rows(
    posted: list[int], kept_until: list[int], ends: list[int | None], zone: str
) -> None:
    with transaction.atomic():
        for minutes in sorted(posted):
            some_of_all(UserFactory(), NOON + minutes * MINUTE)
        for minutes in kept_until:  # also one before the last
            turnovers.sum_up(NOON + minutes * MINUTE + timedelta(seconds=20))
            turnovers.sum_up(NOON + minutes * MINUTE + timedelta(seconds=40))
        since, until = (None if each is None else NOON + each * MINUTE for each in ends)
        assert read(since, until) == plainly(since, until)
        assert reports.holdings() == held()
        by_day: dict[date, list[list[Decimal]]] = {}
        first = datetime(2026, 3, 7, tzinfo=ZoneInfo(zone))
        for day in reports.turnover_by_day(first, first + 7 * DAY, ZoneInfo(zone)):
            by_day[day.day.astimezone(ZoneInfo(zone)).date()] = [list(day.real), list(day.bonus)]
        for place in range(7):
            midnight, next_one = (
                datetime(2026, 3, 7 + place + more, tzinfo=ZoneInfo(zone)) for more in (0, 1)
            )
            expected = plainly(midnight, next_one)
            assert by_day.get(midnight.date(), [[0, 0, 0], [0, 0, 0]]) == expected
        assert turnovers.difference(connection.cursor()) is None
        transaction.set_rollback(True)


def test_days_begin_at_a_quarter_of_an_hour_in_every_time_zone() -> None:
    moments = [datetime(2000, 1, 1, tzinfo=UTC) + 20 * place * DAY for place in range(800)]
    for name in available_timezones():
        zone = ZoneInfo(name)
        for moment in moments:
            offset = moment.astimezone(zone).utcoffset()
            assert offset is not None
            assert offset % timedelta(minutes=15) == timedelta(0), (name, moment)


def test_a_day_with_a_change_of_the_clocks_has_its_23_or_25_hours(db: None) -> None:
    user = UserFactory()
    # 23:00 on the 28th to 00:00 on the 30th, in Berlin.
    for day, hour in ((28, 22), (28, 23), (29, 0), (29, 12), (29, 21), (29, 22)):
        with database_clock_at(datetime(2026, 3, day, hour, tzinfo=UTC)):
            ledger.change_balance(user, amount=1, description="A refill", **BY_API)
    turnovers.sum_up(AFTER_ALL)
    berlin = ZoneInfo("Europe/Berlin")
    days = reports.turnover_by_day(
        datetime(2026, 3, 28, tzinfo=berlin), datetime(2026, 3, 31, tzinfo=berlin), berlin
    )
    assert [day.real.refills for day in days] == [1, 4, 1]


BIG = ("billing_transaction", "users_user", "billing_balance")


def plans(of: Callable[[], Any]) -> Iterator[dict[str, Any]]:
    """Yields the nodes that read the big tables, of the plans of all queries of `of`."""

    def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if node.get("Relation Name") in BIG:
            yield node
        for part in node.get("Plans", []):
            yield from nodes(part)

    with CaptureQueriesContext(connection) as captured:
        of()
    for query in captured.captured_queries:
        if query["sql"].lstrip().startswith(("SELECT", "WITH")):
            [[[plan]]] = execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query['sql']}")
            yield from nodes(plan["Plan"])


def rows_read(of: Callable[[], Any]) -> int:
    return sum(
        int((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
        for node in plans(of)
    )


def rows_expected(of: Callable[[], Any]) -> int:
    """Returns the most rows that PostgreSQL expects of a scan of transactions."""
    return max(
        node["Plan Rows"] for node in plans(of) if node["Relation Name"] == "billing_transaction"
    )


@pytest.mark.as_owner
def test_the_start_page_reads_no_more_rows_however_many_there_are(db: None) -> None:
    panel = client_of(AdministratorFactory())
    user = user_with(real=10)
    needed = []
    for before, rows in ((1, 2_000), (2_000, 8_000)):
        UserFactory.create_batch(20)
        with guards_down():
            execute(
                "INSERT INTO users_user (password, is_superuser, email, first_name, middle_name, "
                "last_name, phone, legal_type, legal_name, tin, country, region, city, "
                "street_address, postal_code, time_zone, comment, is_active, is_staff, created_at)"
                "SELECT '!', false, n || '@many.example', '', '', '', '', 'individual', '', '', "
                "'', '', '', '', '', '', '', true, false, now() "
                "FROM generate_series(%s, %s) n",
                [before + 1, rows],
            )
            execute(
                "INSERT INTO billing_transaction (user_id, number, type, subtype, description, "
                "amount, old_balance, new_balance, bonus_amount, old_bonus, new_bonus, created_at, "
                "channel, metadata, digest) "
                "SELECT %s, n, 'payment', 'partner', 'Bank transfer', 1, 9, 10, 0, 0, 0, "
                "now() - (100000 - n) * interval '1 minute', 'api', '{}', '' "
                "FROM generate_series(%s, %s) n",
                [user.pk, before + 1, rows],
            )
        execute("DELETE FROM billing_keptsums")
        execute("DELETE FROM billing_turnover")
        turnovers.sum_up(timezone.now() + MINUTE)
        execute("ANALYZE")
        needed.append(rows_read(lambda: panel.get("/admin/")))
        # Otherwise the whole of a much larger table would be read.
        assert rows_expected(reports.holdings) < rows / 100
        assert rows_expected(lambda: reports.turnover_by_day(NOON, NOON + DAY, UTC)) < rows / 50
    assert needed[1] <= needed[0] + 5
    assert needed[1] < 100


def test_only_transactions_since_are_read(db: None) -> None:
    user = UserFactory()
    for place in range(20):
        with database_clock_at(NOON + place * MINUTE):
            ledger.change_balance(user, amount=1, description="A refill", **BY_API)
    turnovers.sum_up(NOON + 17 * MINUTE)
    execute("SET LOCAL enable_seqscan = off")
    midnight = NOON - timedelta(hours=12)

    def ask() -> None:
        [day] = reports.turnover_by_day(midnight, midnight + DAY, UTC)
        assert day.real.refills == 20

    assert rows_read(ask) == 3


# --- Keeping ------------------------------------------------------------------------------------


def test_a_long_past_is_summed_up_in_stretches(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turnovers, "ROWS_AT_ONCE", 3)
    user = UserFactory()
    for minutes in (0, 1, 2, 2, 2, 2, 2, 3, 20, 40, 60):
        with database_clock_at(NOON + minutes * MINUTE):
            ledger.change_balance(user, amount=1, description="A refill", **BY_API)
    stretches = 0

    def stop_after_one() -> bool:
        nonlocal stretches
        stretches += 1
        return stretches > 1

    turnovers.sum_up(AFTER_ALL, should_stop=stop_after_one)
    assert list(Turnover.objects.values_list("transactions", flat=True)) == [7]
    assert turnovers.difference(connection.cursor()) is None
    assert read(None, None)[0][0] == 11
    turnovers.sum_up(AFTER_ALL)
    kept = dict(Turnover.objects.values_list("at", "transactions"))
    assert kept == {
        NOON: 8, NOON + 15 * MINUTE: 1, NOON + 30 * MINUTE: 1, NOON + 60 * MINUTE: 1
    }  # fmt: skip
    assert KeptSums.objects.get().until == AFTER_ALL
    assert read(None, None)[0][0] == 11


def test_the_worker_keeps_them(committed_db: None) -> None:
    user_with_history()
    tasks.sum_up.func(Context(), 0)
    assert Turnover.objects.aggregate(number=Sum("transactions"))["number"] == 7
    assert UserCount.objects.count() == 1
    assert not proved()


class Context:
    def should_abort(self) -> bool:
        return False


def test_the_last_seconds_are_left_for_a_clock_that_is_set_right(
    committed_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turnovers, "SLACK", timedelta(seconds=10))
    turnovers.sum_up(NOON)
    assert KeptSums.objects.get().until == NOON - timedelta(seconds=10)


def test_a_posting_that_is_open_over_midnight_is_not_left_out(committed_db: None) -> None:
    first, second = UserFactory(), UserFactory()
    with other_session() as session:
        post_in(session, first)  # its time is earlier than its commit
        later = refill(second)
        turnovers.sum_up(reports.complete_until())
        assert KeptSums.objects.get().until < later.created_at
        assert read(None, None)[0][0] == 1
        session.commit()
    assert read(None, None)[0][0] == 2
    turnovers.sum_up(reports.complete_until())
    assert KeptSums.objects.get().until > later.created_at
    assert read(None, None)[0][0] == 2
    assert reports.holdings() == held()
    assert not proved()


def test_postings_and_workers_at_the_same_time_lose_nothing(connections: Connections) -> None:
    users = UserFactory.create_batch(4)

    def work(place: int) -> None:
        for _ in range(15):
            if place < 4:
                refill(users[place])
                UserFactory(is_active=place > 0)
            else:
                turnovers.sum_up(reports.complete_until())
            assert read(None, None)[0][0] >= 1 or place >= 4

    outcomes = connections(7, work)
    assert [each.error for each in outcomes] == [None] * 7
    assert read(None, None)[0][0] == 60
    assert reports.holdings() == held() == (64, 49, 60, 0)
    turnovers.sum_up(reports.complete_until())
    assert read(None, None)[0][0] == 60
    assert reports.holdings() == held()
    assert not proved()


# --- Transactions of the past -------------------------------------------------------------------


def past(user: User, *moments: datetime) -> list[history.PastTransaction]:
    return [
        history.PastTransaction(
            user.pk, moment, TransactionType.PAYMENT, "import", "A payment of then", amount=20_000
        )
        for moment in moments
    ]


@pytest.mark.as_owner
def test_a_history_that_is_loaded_is_summed_up(db: None) -> None:
    for moment in (NOON, NOON + 2 * DAY):
        some_of_all(UserFactory(), moment)
    turnovers.sum_up(NOON + 4 * DAY)
    loaded = past(UserFactory(), NOON + DAY, NOON + 3 * DAY)
    history.load_history(loaded, expected=2)
    assert KeptSums.objects.get().until == NOON + DAY
    assert set(Turnover.objects.values_list("at", flat=True)) == {NOON}
    for _ in range(2):
        assert read(None, None) == plainly(None, None)
        assert reports.holdings() == held()
        assert turnovers.difference(connection.cursor()) is None
        turnovers.sum_up(NOON + 4 * DAY)
    history.load_history(past(UserFactory(), NOON + 5 * DAY), expected=1)
    assert KeptSums.objects.get().until == NOON + 4 * DAY
    assert read(None, None) == plainly(None, None)


@pytest.mark.as_owner
@pytest.mark.parametrize("kept_before", [True, False])
def test_a_worker_leaves_out_nothing_of_a_history_that_is_being_loaded(
    connections: Connections, kept_before: bool
) -> None:
    user, other = UserFactory(), UserFactory()
    refill(other)
    if kept_before:
        turnovers.sum_up(reports.complete_until())
    with transaction.atomic():
        history.load_history(past(user, NOON), expected=1)
        [outcome] = connections(1, lambda place: turnovers.sum_up(timezone.now()))
        assert outcome.error is None
    assert read(None, None)[0][0] == 3
    turnovers.sum_up(reports.complete_until())
    assert read(None, None)[0][0] == 3
    assert not proved()


@pytest.mark.as_owner
def test_demo_data_leaves_right_sums(committed_db: None) -> None:
    turnovers.sum_up(timezone.now())
    call_command("seed_demo", users=40, transactions=400, stdout=StringIO(), stderr=StringIO())
    for _ in range(2):
        assert read(None, None) == plainly(None, None)
        assert reports.holdings() == held()
        turnovers.sum_up(reports.complete_until())
    assert not proved()


# --- The number of users ------------------------------------------------------------------------


def make_operator_with_money() -> None:
    user_with(real=7, bonus=1)
    User.objects.filter(pk=user_with(real=5).pk).update(is_staff=True)


def delete_one() -> None:
    user = UserFactory(is_active=False)
    with guards_down():
        execute("DELETE FROM billing_balance WHERE user_id = %s", [user.pk])
        execute("DELETE FROM users_user WHERE id = %s", [user.pk])


@pytest.mark.as_owner
@pytest.mark.parametrize(
    "change",
    [
        UserFactory,
        lambda: UserFactory(is_active=False),
        OperatorFactory,
        lambda: User.objects.bulk_create(User(email=f"{i}@a.example") for i in range(5)),
        lambda: User.objects.update(is_active=False),
        lambda: User.objects.update(is_active=True),
        lambda: User.objects.update(is_staff=True),
        lambda: User.objects.update(is_staff=True, is_active=False),
        lambda: User.objects.update(last_name="Renamed"),
        make_operator_with_money,
        delete_one,
    ],
)
def test_users_are_counted_however_they_change(db: None, change: Callable[[], Any]) -> None:
    UserFactory.create_batch(2)
    UserFactory(is_active=False)
    OperatorFactory()
    turnovers.sum_up(NOON)
    assert list(UserCount.objects.values_list("users", "active_users")) == [(3, 2)]
    change()
    assert reports.holdings() == held()
    turnovers.sum_up(AFTER_ALL)
    assert UserCount.objects.count() == 1
    assert reports.holdings() == held()
    assert turnovers.difference(connection.cursor()) is None


# --- Proving, and setting right -----------------------------------------------------------------

QUARTER = "The kept sums of the quarter of an hour from 2026-03-10 12:00 UTC on are not those of "
TAMPERED: dict[str, tuple[str, str]] = {
    "a sum": ("UPDATE billing_turnover SET refills = refills + 1", QUARTER),
    "two sums that cancel out": (
        "UPDATE billing_turnover SET refills = refills + 1, charges = charges + 1",
        QUARTER,
    ),
    "a number": ("UPDATE billing_turnover SET transactions = 4", QUARTER),
    "a missing quarter": ("DELETE FROM billing_turnover", QUARTER),
    "one too many": (
        "INSERT INTO billing_turnover (at, transactions) VALUES ('2026-03-10 11:45Z', 0)",
        "from 2026-03-10 11:45 UTC on",
    ),
    "all together": (
        "UPDATE billing_keptsums SET real = real + 0.0001",
        "The kept sums of all transactions are not those of all quarters of an hour together.",
    ),
    "the bonus of all together": (
        "UPDATE billing_keptsums SET bonus = 0",
        "The kept sums of all transactions are not those of all quarters of an hour together.",
    ),
    "how far": ("UPDATE billing_keptsums SET until = '2026-03-10 12:02Z'", QUARTER),
    "nothing that says how far": ("DELETE FROM billing_keptsums", QUARTER),
    "users": (
        "UPDATE billing_usercount SET users = users + 1",
        "The kept numbers of users and of active users are not those of the users.",
    ),
    "active users": (
        "UPDATE billing_usercount SET active_users = 0",
        "The kept numbers of users and of active users are not those of the users.",
    ),
    "no count": ("DELETE FROM billing_usercount", "The kept numbers of users"),
}


@pytest.fixture
def summed_up(db: None) -> None:
    some_of_all(UserFactory(), NOON)
    turnovers.sum_up(NOON + DAY)


@pytest.mark.parametrize("what", TAMPERED)
def test_the_proof_finds_a_sum_that_was_changed_and_it_can_be_set_right(
    summed_up: None, what: str
) -> None:
    statement, said = TAMPERED[what]
    assert not proved()
    execute(statement)
    problem = proved()
    assert said in problem
    assert "No money depends on it. To sum up again: manage.py keep_sums --again." in problem
    out = StringIO()
    call_command("keep_sums", again=True, stdout=out)
    assert out.getvalue().startswith("Summed up: transactions before ")
    assert not proved()
    assert reports.holdings() == held()
    assert read(None, None) == plainly(None, None)


def test_the_proof_of_one_user_says_nothing_of_sums_over_all(summed_up: None) -> None:
    execute(TAMPERED["a sum"][0])
    user = Transaction.objects.values_list("user_id", flat=True)[0]
    call_command("verify_ledger", user=user, stdout=StringIO())


def test_keep_sums_goes_on_where_it_stopped(db: None) -> None:
    some_of_all(UserFactory(), NOON)
    turnovers.sum_up(NOON + 2 * MINUTE)
    execute("UPDATE billing_turnover SET refills = 100")
    call_command("keep_sums", stdout=StringIO())
    assert read(None, None)[0][0] == 100  # what was kept before stays
    assert KeptSums.objects.get().until > NOON + 5 * MINUTE


def test_each_kept_row_says_what_it_is() -> None:
    moment = datetime(2026, 3, 1, 10, 15, tzinfo=UTC)
    assert str(Turnover(at=moment)) == "Turnover from 2026-03-01 10:15 UTC"
    assert str(KeptSums(until=moment)) == "Summed up until 2026-03-01 10:15:00 UTC"
    assert str(UserCount(users=3, active_users=-2)) == "+3 users, -2 active"
