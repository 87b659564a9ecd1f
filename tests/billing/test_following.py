"""A program that reads the ledger oldest first sees every transaction exactly once.

A row can become visible after rows of other users with a later time, if its database transaction
took longer. These tests keep such database transactions open on other connections.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from threading import Event
from typing import Any

import psycopg
import pytest
from django.db import connection, transaction

from billing import ledger, reports
from billing.models import Channel, Transaction
from billing.reports import Listing, Place
from tests.conftest import Connections
from tests.factories import UserFactory, user_with
from users.models import User

LIMIT = 5


def refill(user: User | int, amount: int = 1) -> Transaction:
    return ledger.change_balance(
        user, amount=amount, description="Bank transfer", actor=None, channel=Channel.API
    )


class Follower:
    """Reads page after page, each from where the previous one ended."""

    def __init__(self, **filters: Any) -> None:
        self.listing = Listing(**filters)
        self.place: Place | None = None
        self.seen: list[int] = []

    def read(self) -> list[int]:
        """Returns the IDs of the rows that are new since the last call."""
        new: list[int] = []
        while True:
            stretch = reports.slice_of_all(
                self.listing, beyond=self.place, newest_first=False, limit=LIMIT
            )
            new += [row.pk for row in stretch.rows]
            self.place = stretch.end
            if not stretch.has_more:
                self.seen += new
                return new


@contextmanager
def other_session(**options: Any) -> Iterator[psycopg.Connection[Any]]:
    """Yields another database session, which is rolled back unless the test commits it."""
    settings = connection.get_connection_params()
    wanted = {
        name: settings[name]
        for name in ("host", "port", "user", "password", "dbname")
        if settings.get(name) is not None
    }
    with psycopg.connect(**wanted | options) as session:
        try:
            yield session
        finally:
            if not session.closed:
                session.rollback()


def post_in(session: psycopg.Connection[Any], user: User, options: str = "{}") -> int:
    """Posts to `user` in a session's transaction, and leaves it open. Returns the row's ID."""
    row = session.execute(
        """
        SELECT (posted).id FROM billing_post(jsonb_build_array(jsonb_build_object(
            'user_id', %s::bigint, 'type', 'payment', 'subtype', 'partner',
            'description', 'Bank transfer', 'amount', '1')), NULL, 'api')
        """,
        [user.pk],
    ).fetchone()
    assert row is not None
    key: int = row[0]
    return key


def test_what_is_posted_beside_a_longer_transaction_waits_for_it(committed_db: None) -> None:
    first, second = UserFactory(), UserFactory()
    before = refill(first)
    follower = Follower()
    assert follower.read() == [before.pk]
    with other_session() as session:
        slow = post_in(session, first)
        quick = refill(second)
        assert follower.read() == []  # the quick one is visible, but an earlier one may follow
        session.commit()
    assert follower.read() == [slow, quick.pk]


def test_of_several_the_one_that_began_first_counts(committed_db: None) -> None:
    first, second, third = UserFactory(), UserFactory(), UserFactory()
    with other_session() as longest, other_session() as shorter:
        post_in(longest, first)
        refill(third)
        post_in(shorter, second)
        assert Follower().read() == []


@pytest.mark.as_owner  # other roles do not see a session's activity
def test_what_was_posted_before_a_longer_transaction_began_does_not_wait(
    committed_db: None,
) -> None:
    first, second = UserFactory(), UserFactory()
    follower = Follower()
    with other_session() as session:
        before = refill(second)
        post_in(session, first)
        assert follower.read() == [before.pk]


def test_a_transaction_that_only_reads_holds_nobody_up(committed_db: None) -> None:
    user = UserFactory()
    with other_session() as session:
        session.execute("SELECT count(*) FROM billing_transaction")
        assert session.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        posted = refill(user)
        assert Follower().read() == [posted.pk]


def test_a_transaction_that_began_long_before_it_writes_is_not_missed(committed_db: None) -> None:
    """It has no ID while it only reads. Its rows come after all rows shown until then."""
    first, second = UserFactory(), UserFactory()
    follower = Follower()
    with other_session() as session:
        session.execute("SELECT 1")
        quick = refill(second)
        assert follower.read() == [quick.pk]
        slow = post_in(session, first)
        later = refill(second)
        assert follower.read() == []
        session.commit()
    assert follower.read() == [slow, later.pk]


def test_the_bound_is_not_as_it_was_earlier_in_the_same_transaction(committed_db: None) -> None:
    """The server keeps the list of activities until a transaction ends, unless it is cleared."""
    first, second = UserFactory(), UserFactory()
    follower = Follower()
    with transaction.atomic():
        assert follower.read() == []
        with other_session() as session:
            slow = post_in(session, first)
            with other_session() as another:
                post_in(another, second)
                another.commit()
            assert follower.read() == []
            session.commit()
        assert follower.read()[0] == slow


@pytest.fixture
def superuser(committed_db: None) -> None:
    """Skips the test if the role of DATABASE_URL is not a superuser."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        if not cursor.fetchone()[0]:
            pytest.skip("the database's role is no superuser")


@pytest.mark.as_owner  # other roles do not see a session's activity
def test_of_what_is_hidden_an_hour_is_kept_clear(superuser: None) -> None:
    """The session hides its activity, so the beginning of its transaction is unknown."""
    first, second = UserFactory(), UserFactory()
    refill(second)
    with other_session() as session:
        session.execute("SET track_activities = off")
        session.commit()
        post_in(session, first)
        now = reports.complete_until()
        assert database_time() - now > timedelta(minutes=59)
        assert Follower().read() == []


def test_of_another_role_s_session_an_hour_is_kept_clear(superuser: None) -> None:
    """A role without pg_read_all_stats does not see when another role's transaction began."""
    user = UserFactory()
    with connection.cursor() as cursor:
        cursor.execute("DROP ROLE IF EXISTS billing_test_reader")
        cursor.execute("CREATE ROLE billing_test_reader")
        try:
            before = database_time()
            with other_session() as session:
                post_in(session, user)
                assert reports.complete_until() >= before
                cursor.execute("SET ROLE billing_test_reader")
                bound = reports.complete_until()
                assert database_time() - bound > timedelta(minutes=59)
        finally:
            cursor.execute("RESET ROLE")
            cursor.execute("DROP ROLE billing_test_reader")


def test_a_prepared_transaction_is_waited_for(db: None) -> None:
    """A view simulates the prepared transaction, because most servers allow none."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMPORARY VIEW pg_prepared_xacts AS "
            "SELECT statement_timestamp() - interval '1 day' AS prepared, "
            "current_database() AS database"
        )
        cursor.execute("SET LOCAL search_path = pg_temp, public, pg_catalog")
    bound = reports.complete_until()
    assert database_time() - bound >= timedelta(days=1) + reports.LONGEST_TRANSACTION


@pytest.mark.parametrize(("role", "waits"), [("10", True), ("NULL", False)])
def test_autovacuum_is_waited_for_by_nobody(db: None, role: str, *, waits: bool) -> None:
    """A view simulates autovacuum, which runs at any time and is listed without a role."""
    before = database_time()
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMPORARY VIEW pg_stat_activity AS "
            f"SELECT current_database() AS datname, 0 AS pid, {role}::oid AS usesysid, "
            "'1'::xid AS backend_xid, 'active' AS state, "
            "statement_timestamp() - interval '1 minute' AS xact_start"
        )
        cursor.execute("SET LOCAL search_path = pg_temp, public, pg_catalog")
    assert (reports.complete_until() < before) == waits


def database_time() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        [now] = cursor.fetchone()
    assert isinstance(now, datetime)
    return now


def test_other_databases_hold_nobody_up(committed_db: None) -> None:
    user = UserFactory()
    with other_session(dbname="postgres") as session:
        session.execute("SELECT pg_current_xact_id()")
        posted = refill(user)
        assert Follower().read() == [posted.pk]


def test_a_follower_misses_nothing_while_many_post(connections: Connections) -> None:
    """Writers post to one or two users per transaction; their transactions overlap at random."""
    users = [UserFactory() for _ in range(4)]
    writers, rounds = 3, 15
    done = Event()
    follower = Follower()
    left = [writers]

    def write(place: int) -> None:
        for turn in range(rounds):
            with transaction.atomic():
                for user in sorted({users[(place + turn) % 4].pk, users[place].pk}):
                    refill(user)
        left[0] -= 1
        if not left[0]:
            done.set()

    def follow(place: int) -> None:
        while not done.is_set():
            follower.read()

    work: Callable[[int], None] = lambda place: (follow if place == 3 else write)(place)  # noqa: E731
    for outcome in connections(writers + 1, work):
        assert outcome.error is None, outcome.error
    follower.read()
    everything = list(Transaction.objects.order_by("created_at", "id").values_list("pk", flat=True))
    assert follower.seen == everything
    assert len(everything) > writers * rounds


def test_a_follower_of_one_user_misses_nothing_while_many_post(connections: Connections) -> None:
    user = UserFactory()
    writers, rounds = 3, 15
    seen: list[int] = []

    def read(beyond: int) -> int:
        stretch = reports.slice_of_user(
            Listing(user_id=user.pk), beyond=beyond, newest_first=False, limit=LIMIT
        )
        seen.extend(row.number for row in stretch.rows)
        assert stretch.end is not None
        return stretch.end

    def work(place: int) -> None:
        if place < writers:
            for _ in range(rounds):
                refill(user)
            return
        reached = 0
        while reached < writers * rounds:
            reached = read(reached)

    for outcome in connections(writers + 1, work):
        assert outcome.error is None, outcome.error
    assert seen == list(range(1, writers * rounds + 1))


def test_a_follower_who_filters_does_not_search_the_same_again(db: None) -> None:
    user = user_with(real=1)
    follower = Follower(type="reversal")
    assert follower.read() == []
    assert follower.place is not None
    assert follower.place.created_at > Transaction.objects.get(user=user).created_at


def test_a_stretch_of_a_user_ends_where_nothing_more_was(db: None) -> None:
    user = user_with(real=1)
    for _ in range(3):
        refill(user)
    listing = Listing(user_id=user.pk, type="reversal")
    stretch = reports.slice_of_user(listing, beyond=None, newest_first=False, limit=LIMIT)
    assert (stretch.rows, stretch.has_more, stretch.end) == ([], False, 4)
    listing = Listing(user_id=user.pk)
    stretch = reports.slice_of_user(listing, beyond=9, newest_first=False, limit=LIMIT)
    assert (stretch.rows, stretch.has_more, stretch.end) == ([], False, 9)
    stretch = reports.slice_of_user(listing, beyond=1, newest_first=False, limit=2)
    assert ([row.number for row in stretch.rows], stretch.has_more, stretch.end) == (
        [2, 3],
        True,
        3,
    )


@pytest.mark.parametrize("newest_first", [True, False])
def test_a_stretch_reads_one_range_of_an_index(db: None, newest_first: bool) -> None:
    user = user_with(real=1)
    of_user = Listing(user_id=user.pk).rows.filter(number__gt=0)
    order = "-number" if newest_first else "number"
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
    plan = of_user.order_by(order)[:LIMIT].explain()
    assert "Index Scan" in plan
    assert "Sort" not in plan
