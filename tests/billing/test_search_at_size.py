"""Lists of all users' transactions: an index for rare ones, and bounded searches for the rest."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing import ledger, reports
from billing.models import Channel, Label, Transaction
from billing.reports import Cursor, Listing, pages, searching
from tests.api.rest.programs import program_of_administrator
from tests.billing.histories import execute, guards_down
from tests.billing.test_kept_sums import rows_read
from tests.factories import AdministratorFactory, OperatorFactory, UserFactory, reason, user_with
from tests.operators import client_of
from users.models import User

pytestmark = pytest.mark.django_db

ALL = "/admin/billing/transaction/"


@pytest.fixture
def panel(db: None) -> Client:
    return client_of(AdministratorFactory())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of two rows, and searches of seven rows: first three, then three and one."""
    monkeypatch.setattr(pages, "PAGE_SIZE", 2)
    monkeypatch.setattr(searching, "FIRST_STRETCH", 3)
    monkeypatch.setattr(pages, "FIRST_STRETCH", 3)
    monkeypatch.setattr(searching, "SEARCHED_MAX", 4)


def post(*descriptions: str, user: User | None = None, **fields: Any) -> User:
    user = user or UserFactory()
    said: dict[str, Any] = {"actor": None, "channel": Channel.API} | fields
    for description in descriptions:
        ledger.change_balance(user, amount=1, description=description, **said)
    return user


# --- Searching in parts -------------------------------------------------------------------------


def found_in_parts(listing: Listing) -> Iterator[reports.Page[Transaction]]:
    """Yields the pages of a search, each from where the one before it ended."""
    page = reports.page(listing, Cursor())
    yield page
    while page.has_older:
        assert page.last_key is not None
        page = reports.page(listing, Cursor("before", page.last_key))
        yield page


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "which", [[], [0], [29], [0, 29], [3, 4, 5, 6, 7], [10, 20], range(30), range(0, 30, 3)]
)
def test_a_search_that_goes_on_finds_every_row_once(which: list[int]) -> None:
    for place in range(30):
        post("Needle in here" if place in which else "Hay and more hay")
    listing = Listing(text="needle")
    parts = list(found_in_parts(listing))
    found = [row.pk for page in parts for row in page.rows]
    expected = list(listing.rows.order_by("-created_at", "-id").values_list("pk", flat=True))
    assert found == expected
    assert len(found) == len(which)
    assert all(len(page.rows) <= 2 for page in parts)
    assert [page.searched_to is not None for page in parts][-1] is False
    # The way back.
    newest, going_back = parts[-1], []
    while newest.rows:
        newest = reports.page(listing, Cursor("after", newest.rows[0].pk))
        going_back = [row.pk for row in newest.rows] + going_back
        if len(newest.rows) < 2:
            break
    assert going_back == expected[: len(going_back)]


@pytest.mark.usefixtures("small")
def test_a_page_at_a_row_begins_with_it() -> None:
    post(*["Needle in here"] * 4)
    rows = list(Transaction.objects.order_by("-id"))
    page = reports.page(Listing(text="needle"), Cursor("at", rows[1].pk))
    assert [row.pk for row in page.rows] == [rows[1].pk, rows[2].pk]
    last = reports.page(Listing(text="needle"), Cursor("after", 0))
    assert [row.pk for row in last.rows] == [rows[2].pk, rows[3].pk]
    assert (last.has_newer, last.has_older) == (True, False)
    before_all = reports.page(Listing(text="needle"), Cursor("before", 0))
    assert not before_all.rows
    assert not before_all.has_older


@pytest.mark.usefixtures("small")
def test_a_search_stays_in_its_period() -> None:
    post(*["Hay and more hay"] * 9)
    begin = timezone.now()
    post(*["Hay and more hay"] * 2)
    page = reports.page(Listing(text="needle", since=begin), Cursor())
    assert (page.rows, page.searched_to, page.has_older) == ([], None, False)


@pytest.mark.as_owner  # nobody else may analyze a table
@pytest.mark.usefixtures("small")
def test_a_search_reads_no_more_rows_however_many_there_are() -> None:
    listing, needed = Listing(text="needle"), []
    for _ in range(2):
        post(*["Hay and more hay"] * 100)
        execute("ANALYZE billing_transaction")
        execute("SET LOCAL enable_seqscan = off")  # the table is still small
        needed.append(rows_read(lambda: reports.page(listing, Cursor())))
    assert needed[0] == needed[1] <= 2 * 7 + 4


@pytest.mark.usefixtures("small")
def test_the_page_says_how_far_it_searched_and_leads_on(panel: Client) -> None:
    post(*["Needle in here"], *["Hay and more hay"] * 7)
    first = panel.get(ALL, {"q": "needle"})
    end = first.context["page"].searched_to
    assert f"Searched back to {end.created_at:%Y-%m-%d %H:%M}: nothing found there." in first.text
    assert "No transactions match these filters so far." in first.text
    assert f'href="?q=needle&amp;before={end.id}">Search further back.' in first.text
    second = panel.get(ALL, {"q": "needle", "before": end.id})
    assert "Needle in here" in second.text
    assert "Searched back" not in second.text
    assert "Searched back" not in panel.get(ALL, {"q": "hay"}).text


def test_filters_that_leave_few_of_many_are_searched_in_parts_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operator = OperatorFactory()
    monkeypatch.setattr(pages, "FIRST_STRETCH", 1)
    post("Needle in here", "Hay and more hay", actor=operator)

    def sleep(*args: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(60)")

    monkeypatch.setattr(pages, "_page", sleep)
    page = reports.page(Listing(actor=operator.pk, text="needle"), Cursor())
    assert [row.description for row in page.rows] == ["Needle in here"]


# --- Indexes ------------------------------------------------------------------------------------

MANY = 30_000
RARE_ONES: dict[str, tuple[str, Callable[[int, int], Listing]]] = {
    "reversal": ("reversals_of_a_transaction", lambda operator, batch: Listing(type="reversal")),
    "reversals": ("reversals_of_a_transaction", lambda operator, batch: Listing(kind="reversals")),
    "expiry": ("gifts_and_expiries", lambda operator, batch: Listing(label=Label.EXPIRY)),
    "gift": ("gifts_and_expiries", lambda operator, batch: Listing(label=Label.GIFT)),
    "gift by type": ("gifts_and_expiries", lambda operator, batch: Listing(type="bonus_charge")),
    "operator": ("transaction_by_actor", lambda operator, batch: Listing(actor=operator)),
    "device": ("transaction_devices", lambda operator, batch: Listing(exact_device="Rare 7")),
    "batch": ("transaction_by_batch", lambda operator, batch: Listing(batch=batch)),
}


@pytest.mark.as_owner
def test_rare_transactions_are_found_by_their_index() -> None:
    user, operator = UserFactory(), OperatorFactory()
    with guards_down():
        execute(
            "INSERT INTO billing_transaction (user_id, number, type, subtype, description, device, "
            "amount, old_balance, new_balance, bonus_amount, old_bonus, new_bonus, created_at, "
            "channel, metadata, digest, actor_id, batch_id, reverses) "
            "SELECT %(user)s, n, CASE n % 5000 WHEN 1 THEN 'reversal' WHEN 2 THEN 'bonus_expiry' "
            "WHEN 3 THEN 'bonus_charge' ELSE 'payment' END, 'partner', 'Bank transfer', "
            "CASE n % 5000 WHEN 4 THEN 'Rare 7' ELSE 'Usual ' || n % 500 END, "
            "CASE WHEN n % 5000 IN (2, 3) THEN 0 ELSE 1 END, 9, 10, 0, 0, 0, "
            "now() - (100000 - n) * interval '1 minute', 'api', '{}', '', "
            "CASE n % 5000 WHEN 6 THEN %(operator)s END, CASE n % 5000 WHEN 7 THEN 77 END, "
            "CASE n % 5000 WHEN 1 THEN 1 END FROM generate_series(1, %(many)s) n".replace(
                "% 5", "%% 5"
            ),
            {"user": user.pk, "operator": operator.pk, "many": MANY},
        )
    execute("SELECT brin_summarize_new_values('transaction_devices')")
    execute("ANALYZE billing_transaction")
    for name, (index, listing_of) in RARE_ONES.items():
        if name == "device":
            execute("SET LOCAL enable_seqscan = off")  # the table is still small
        listing = listing_of(operator.pk, 77)
        with CaptureQueriesContext(connection) as captured:
            page = reports.page(listing, Cursor())
        assert len(page.rows) == MANY // 5_000, name
        listed = [each["sql"] for each in captured if "LIMIT 51" in each["sql"]][-1]
        plan = "\n".join(line for (line,) in execute(f"EXPLAIN {listed}"))
        assert index in plan, f"{name}: {plan}"
        assert listing.has_index


# --- By operator and by device ------------------------------------------------------------------


def test_transactions_of_an_operator_are_found_by_address_or_id(panel: Client) -> None:
    ada, ben = OperatorFactory(email="Ada@example.com"), OperatorFactory()
    user = post("By Ada herself", actor=ada)
    post("By Ben himself", actor=ben, user=user)
    post("By the system", user=user)
    for address in (ALL, f"/admin/users/user/{user.pk}/transactions/"):
        for typed in ("ada@EXAMPLE.com", str(ada.pk), f" {ada.pk} "):
            page = panel.get(address, {"operator": typed})
            assert [row.description for row in page.context["page"].rows] == ["By Ada herself"]
        for typed in ("nobody@example.com", str(user.pk), user.email, "Ada", "9" * 30):
            text = panel.get(address, {"operator": typed}).text
            assert "No operator has this e-mail address or ID." in text
            assert "By Ada herself" not in text
    exported = panel.get(ALL, {"operator": str(ada.pk), "export": "csv"})
    text = b"".join(exported.streaming_content).decode()  # type: ignore[attr-defined]
    assert "By Ada herself" in text
    assert "By Ben himself" not in text


@pytest.mark.parametrize("of", ["/transactions", "/users/{}/transactions"])
def test_programs_find_transactions_of_an_operator(of: str) -> None:
    ada = OperatorFactory()
    user = post("By Ada herself", actor=ada)
    post("By the system", user=user)
    program = program_of_administrator()
    for order in ("newest", "oldest"):
        listed = program.get(f"{of.format(user.pk)}?actor_id={ada.pk}&order={order}").json()
        assert [row["description"] for row in listed["transactions"]] == ["By Ada herself"]


def test_a_whole_name_of_a_device_is_that_device_and_a_part_is_searched(panel: Client) -> None:
    post("Van seven here", device="Van 7")
    post("Van seventy here", device="Van 70")
    whole = panel.get(ALL, {"device": "Van 7"})
    assert [row.device for row in whole.context["page"].rows] == ["Van 7"]
    assert "Only the device that is named exactly “Van 7”." in whole.text
    exported = panel.get(ALL, {"device": "Van 7", "export": "csv"})
    assert b"Van 70" not in b"".join(exported.streaming_content)  # type: ignore[attr-defined]
    for part in ("van 7", "Van", "70"):
        page = panel.get(ALL, {"device": part})
        assert "Van 70" in [row.device for row in page.context["page"].rows]
        assert "Only the device" not in page.text


# --- Sums of a period ---------------------------------------------------------------------------


def test_a_period_whose_sums_would_take_too_long_is_listed_without_them(
    panel: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason()
    post("Refund of goodwill", reason="goodwill")
    today = f"{timezone.now():%Y-%m-%d}"
    assert panel.get(ALL, {"from_day": today}).context["by_reason"]

    def sleep(*args: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(60)")

    monkeypatch.setattr("billing.admin.transactions.SUMS_MAX_SECONDS", 1)
    monkeypatch.setattr(reports, "by_reason", sleep)
    page = panel.get(ALL, {"from_day": today})
    assert "Refund of goodwill" in page.text
    assert "Not all sums of this period are shown" in page.text
    assert page.context["turnover"].real.refills == 1


def test_sums_by_reason_are_not_made_where_no_change_has_one(panel: Client) -> None:
    user_with(real=5)
    today = f"{timezone.now():%Y-%m-%d}"
    with CaptureQueriesContext(connection) as captured:
        page = panel.get(ALL, {"from_day": today})
    assert "by_reason" not in page.context
    assert not [
        each["sql"] for each in captured if "GROUP BY" in each["sql"] and "reason" in each["sql"]
    ]
