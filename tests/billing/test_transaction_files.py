"""Files of transactions: what the database writes is what Python wrote row by row, to the byte."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.db.models import QuerySet
from django.utils import timezone
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg.pq import TransactionStatus

from billing import ledger, reports
from billing.files import transactions
from billing.files.exports import Cell, csv_pieces, csv_table, headings, write_xlsx
from billing.models import Channel, Label, Transaction, TransactionType
from billing.models.transactions import label_of
from billing.reports import Listing
from tests.billing.histories import execute, guards_down, user_with_history
from tests.billing.test_following import other_session, post_in
from tests.factories import OperatorFactory, UserFactory, user_with
from users.models import User

BY: dict[str, Any] = {"actor": None, "channel": Channel.API}
ZONES = (
    *("UTC", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Africa/Casablanca"),
    *("Europe/Dublin", "America/St_Johns", "Pacific/Apia", "Asia/Gaza", "America/Scoresbysund"),
)
ODD = (
    *("=1+1", "+49 176 1", "-5 for tea", "@SUM(A1)", "\tTabbed", "\rReturned", "'quoted", "''"),
    *('Say "no", twice', '"', ",", "a,b", "line\nline", "line\r\nline", "\r", "\n", "ends\n"),
    *("00123", "8617", "0", "12345678901", "123456789012", "861785007918323", "12E5", "1e+10"),
    *("3-4", "1/2", "10:30", "1.5%", "MAR-12", "12 Mar", "mar 3 2026", "June", "june 1", "12 1"),
    *(" 12 ", "12\n", "\u00a012", "１２", "٣-٤", "ſep 12", "SEP 1", "12 K", "\\.", "\\N", "NULL"),
    *("", " ", "Ω ☃ 🚚 é", "e\u0301", "{0} %s %% $1 {cells}", "x" * 100, "null", "--", "1'000"),
)


# --- Row by row, in Python ----------------------------------------------------------------------


def cells_of(row: Transaction) -> list[Cell]:
    """Returns the cells of a row. This says what stands in a file."""
    return [
        row.id, row.user_id, row.user.email, row.number, timezone.localtime(row.created_at),
        row.type, row.subtype, row.description, row.device,
        row.amount, row.old_balance, row.new_balance,
        row.bonus_amount, row.old_bonus, row.new_bonus,
        row.actor.email if row.actor else "", row.channel, row.reverses,
        " ".join(str(each.number) for each in row.reversed_by), row.label.label,
        row.payment_date, row.bonus_expires_at and timezone.localtime(row.bonus_expires_at),
        row.reason_id or "", row.batch_id,
    ]  # fmt: skip


def rows_of(listing: Listing) -> list[Transaction]:
    order = ["created_at", "id"] if listing.user_id is None else ["number"]
    rows = list(listing.rows.select_related("user", "actor").order_by(*order))
    reports.tie_reversals(rows)
    return rows


def row_by_row(listing: Listing) -> bytes:
    cells = [cells_of(row) for row in rows_of(listing)]
    return ("\ufeff" + "".join(csv_table(headings(), cells, for_people=True))).encode()


def written(listing: Listing) -> bytes:
    return b"".join(csv_pieces(listing))


# --- The same text ------------------------------------------------------------------------------


@pytest.fixture
def odd_rows(db: None) -> User:
    """A user of whose transactions each has something odd in it, in each column that may have."""
    ledger.change_balance(
        user := user_with_history(email="+odd@example.com"),
        amount="-1.0001",
        description="Paid late",
        payment_date=date(2024, 2, 29),
        actor=OperatorFactory(email="-minus@example.com"),
        channel=Channel.PANEL,
    )
    far = datetime(2399, 7, 1, tzinfo=UTC)
    ledger.change_balance(user, bonus_amount=3, description="A gift", bonus_expires_at=far, **BY)
    for text in ODD:
        ledger.change_balance(user, amount=1, description=f"Row of {text!r}"[:100], **BY)
    for part in ("0.2", "0.3"):  # a row that several have reversed
        ledger.reverse(user, number=1, amount=part, description="A part of it", **BY)
    rows = Transaction.objects.filter(user=user)
    last = rows.count()
    with guards_down():
        for number, text in enumerate(ODD, start=last - len(ODD) - 1):
            rows.filter(number=number).update(
                description=text, device=text[::-1], subtype=text[:32] or "partner"
            )
        for number in range(1, last + 1):
            moment = datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
            rows.filter(number=number).update(created_at=moment + number * timedelta(days=97))
    return user


@pytest.mark.as_owner  # tampers with rows
@pytest.mark.parametrize("zone", ZONES)
def test_the_database_writes_what_python_writes_row_by_row(odd_rows: User, zone: str) -> None:
    user_with(real=5)
    with timezone.override(zone):
        for listing in (
            Listing(user_id=odd_rows.pk),
            Listing(),
            Listing(text="a"),
            Listing(kind="reversals"),
            Listing(user_id=odd_rows.pk, since=datetime(2010, 1, 1, tzinfo=UTC)),
            Listing(until=datetime(2010, 1, 1, tzinfo=UTC)),
            Listing(text="%"),
            Listing(text="no such words"),
        ):
            expected = row_by_row(listing)
            assert written(listing).splitlines() == expected.splitlines()
            assert written(listing) == expected


@pytest.mark.as_owner  # tampers with rows
def test_the_odd_rows_are_odd(odd_rows: User) -> None:
    text = row_by_row(Listing(user_id=odd_rows.pk)).decode()
    for part in ("'=1+1", "'+odd@", "'-minus@", '"Say ""no"", twice"', "'MAR-12", "2024-02-29"):
        assert part in text
    last = len(ODD) + 11
    assert f",'{last - 1} {last}," in text  # the numbers of two reversals
    assert len(list(csv.reader(io.StringIO(text, newline="")))) == 1 + last


@pytest.mark.as_owner  # tampers with rows
def test_a_workbook_has_the_same_cells(odd_rows: User) -> None:
    with timezone.override("Asia/Kathmandu"):
        for listing in (Listing(user_id=odd_rows.pk), Listing()):
            [chunk] = reports.in_chunks(listing, transactions.cells_of)
            # Times are compared as moments, whatever their zones.
            assert [list(row) for row in chunk] == [cells_of(row) for row in rows_of(listing)]


def by_the_database(cell: Callable[[str], str], kind: str, values: Sequence[Any]) -> list[str]:
    """Returns the cells that COPY writes of these values, as read by Python's csv."""
    since, offsets = transactions._offsets(timezone.get_current_timezone())
    constants = transactions._literally(
        transactions._CONSTANTS,
        [
            transactions.MARKED, transactions.HARMLESS, since, offsets,
            transactions.RULES_REPEAT, transactions.RULES_CYCLE.total_seconds(),
        ],
    )  # fmt: skip
    given_values = transactions._literally(f"SELECT %s::{kind}[]", [list(values)])
    statement = (
        f"COPY (SELECT v.place, {cell('v.value')} FROM unnest(({given_values})) "
        f"WITH ORDINALITY v (value, place) {constants} ORDER BY 1) TO STDOUT (FORMAT csv)"
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        text = b"".join(bytes(line) for line in copy).decode()
    return [row[1] for row in csv.reader(io.StringIO(text, newline=""))]


SHORT = st.text("0123456789 .,:/'-+=@%eE\t\n\rabcJjaAnNsSpPſK１", max_size=12)
ANY = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
MONTHS = st.tuples(
    st.sampled_from(["", "1", "12 ", "2026-", "99999"]),
    st.sampled_from(["jan", "MARCH", "sEpt", "Decem", "maſ", "Juni", "apr"]),
    st.sampled_from(["", "1", " 12", "-2026", "/1 2", "\n", " "]),
).map("".join)


@given(texts=st.lists(st.one_of(SHORT, ANY, MONTHS), min_size=1, max_size=100))
@example(texts=list(ODD))
def test_the_same_texts_are_marked(db: None, texts: list[str]) -> None:
    written = csv_table(["a", "b"], [[1, text] for text in texts], for_people=True)
    expected = [row[1] for row in csv.reader(io.StringIO("".join(written), newline=""))][1:]
    assert by_the_database(transactions._text, "text", texts) == expected


@pytest.mark.parametrize("zone", ZONES)
def test_times_are_those_of_python_s_zones_for_all_years(db: None, zone: str) -> None:
    with timezone.override(zone):
        since, _ = transactions._offsets(timezone.get_current_timezone())
        edges = [*since[1:], transactions.RULES_REPEAT]
        edges += [edge + transactions.RULES_CYCLE for edge in since[-2:]]
        moments = [
            edge + timedelta(seconds=seconds)
            for edge in edges
            for seconds in (-1, -0.000001, 0, 0.999999, 1)
        ]
        moments += [
            datetime(year, month, 15, 12, 34, 56, tzinfo=UTC)
            for year in (1901, 1969, 1970, 2026, 2100, 2499, 2500, 2501, 2899, 2900, 3333, 9000)
            for month in range(1, 13)
        ]
        expected = [
            timezone.localtime(each).replace(tzinfo=None).isoformat(timespec="seconds")
            for each in moments
        ]
        assert by_the_database(transactions._local, "timestamptz", moments) == expected


def test_no_change_of_a_zone_is_missed(db: None) -> None:
    """Compares with a look at every hour of a year with two changes within a month."""
    zone = ZoneInfo("Africa/Casablanca")
    since, _ = transactions._offsets(zone)
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    hours = [begin + timedelta(hours=hour) for hour in range(24 * 365)]
    changes = [
        later
        for earlier, later in pairwise(hours)
        if earlier.astimezone(zone).utcoffset() != later.astimezone(zone).utcoffset()
    ]
    assert changes
    assert [each for each in since if each.year == 2026] == changes


@pytest.mark.parametrize("kind", TransactionType.values)
@pytest.mark.parametrize(("amount", "bonus"), [(1, 0), (-1, 0), (0, 1), (0, -1), (-1, 1), (1, -1)])
def test_labels_are_those_of_the_pages(db: None, kind: str, amount: int, bonus: int) -> None:
    [(label,)] = execute(
        f"SELECT {transactions._label()} FROM (SELECT %s AS type, %s AS amount, %s AS bonus_amount)"
        " t",
        [kind, amount, bonus],
    )
    assert label == label_of(kind, amount, bonus).label  # type: ignore[arg-type]
    assert label in Label.labels


# --- Chunks -------------------------------------------------------------------------------------


def ids(rows: QuerySet[Transaction]) -> tuple[list[int], int | None]:
    found = list(rows.values_list("id", flat=True))
    return found, found[-1] if found else None


def post(user: User) -> None:
    ledger.change_balance(user, amount=1, description="One of many", **BY)


def test_each_row_comes_once_oldest_first_in_chunks(db: None) -> None:
    users = [user_with(real=1), user_with(real=1)]
    for place in range(9):
        post(users[place % 2])
    for user_id, order in ((users[0].pk, ["number"]), (None, ["created_at", "id"])):
        listing = Listing(user_id=user_id)
        expected = list(listing.rows.order_by(*order).values_list("id", flat=True))
        for chunk_rows in (1, 2, 5, 100):
            chunks = list(reports.in_chunks(listing, ids, chunk_rows=chunk_rows))
            assert [row for chunk in chunks for row in chunk] == expected
            assert max(map(len, chunks)) <= chunk_rows
    assert list(reports.in_chunks(Listing(user_id=UserFactory().pk), ids)) == []


def test_a_file_has_what_was_committed_when_it_was_begun(committed_db: None) -> None:
    users = [user_with(real=1) for _ in range(3)]
    with other_session() as session:
        post_in(session, users[0])  # earlier than the rest, and not committed
        post(users[1])
        post(users[2])
        before = {row.pk for row in Transaction.objects.all()}
        for listing in (Listing(), Listing(user_id=users[1].pk)):
            assert before >= {row for chunk in reports.in_chunks(listing, ids) for row in chunk}
        of_all = reports.in_chunks(Listing(), ids, chunk_rows=1)
        of_one = reports.in_chunks(Listing(user_id=users[1].pk), ids, chunk_rows=1)
        found = [*next(of_all)]
        found_of_one = [*next(of_one)]
        session.commit()
        for user in users:
            post(user)
        found += [row for chunk in of_all for row in chunk]
        found_of_one += [row for chunk in of_one for row in chunk]
    assert sorted(found) == sorted(before)
    assert found_of_one == list(
        Transaction.objects.filter(user=users[1], number__lte=2)
        .order_by("number")
        .values_list("id", flat=True)
    )


def test_between_pieces_the_connection_is_idle(
    committed_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So no limit ends a slow download, and one that is given up leaves nothing behind."""
    monkeypatch.setattr("billing.files.exports.PIECE_LINES", 1)
    user = user_with(real=1)
    for _ in range(4):
        post(user)
    pieces = csv_pieces(Listing())
    for _ in islice(pieces, 3):
        assert connection.connection.info.transaction_status == TransactionStatus.IDLE
    assert isinstance(pieces, Iterator)
    pieces.close()  # type: ignore[attr-defined]
    assert connection.connection.info.transaction_status == TransactionStatus.IDLE
    assert written(Listing()).count(b"\r\n") == 6


def test_a_file_takes_few_statements(db: None, django_assert_num_queries: Any) -> None:
    user = user_with(real=1)
    for _ in range(20):
        post(user)
    written(Listing())
    with django_assert_num_queries(7):
        assert written(Listing()).count(b"\r\n") == 22


def test_a_workbook_tells_how_far_it_is(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.files.exports.XLSX_CHUNK_ROWS", 2)
    user = user_with(real=1)
    for _ in range(4):
        post(user)
    told: list[int] = []
    write_xlsx(Listing(user_id=user.pk), io.BytesIO(), told.append)
    assert told == [2, 4, 5]
