"""Lists, filters, sums, charts and exports of transactions, exact to the row and the cent."""

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from billing import ledger, reports
from billing.models import Channel, Label, Reason, Service, Transaction
from billing.reports import Cursor, Listing
from tests import roles
from tests.billing.clock import database_clock_at
from tests.factories import (
    ServiceFactory,
    UserFactory,
    charge_cost,
    charge_price,
    reason,
    user_with,
)
from users.models import User

BY_API = {"actor": None, "channel": Channel.API}
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def a_transaction_a_day(days: int, user: User | None = None) -> User:
    """Day d (from 0) refills d + 1, gives 1 bonus on even days, and charges 0.5 as a service."""
    user = user or UserFactory()
    for day in range(days):
        with database_clock_at(NOON + timedelta(days=day)):
            ledger.change_balance(
                user,
                amount=day + 1,
                bonus_amount=(day + 1) % 2,
                description=f"Refill of day {day}",
                **BY_API,
            )
            charge_cost(
                user,
                service="traffic",
                cost="0.5",
                device=f"D{day % 3}",
                description=f"Traffic of day {day}",
                **BY_API,
            )
    return user


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports.pages, "PAGE_SIZE", 3)


def numbers(page: reports.Page) -> list[int]:
    return [row.number for row in page.rows]


def walk(listing: Listing, key: str) -> list[list[int]]:
    """Returns the row IDs of all pages, by `before`. Checks that `after` shows the same rows."""
    pages = [reports.page(listing, Cursor())]
    while pages[-1].has_older:
        pages.append(reports.page(listing, Cursor("before", getattr(pages[-1].rows[-1], key))))
    assert not pages[0].has_newer
    for newer, older in itertools.pairwise(pages):
        back = reports.page(listing, Cursor("after", getattr(older.rows[0], key)))
        assert [r.pk for r in back.rows] == [r.pk for r in newer.rows][-len(back.rows) :]
        assert older.has_newer
    return [[row.pk for row in page.rows] for page in pages]


@pytest.mark.parametrize(
    "filters",
    [{}, {"type": "payment"}, {"text": "day 1"}, {"kind": "charges"}, {"device": "d1"}],
)
@pytest.mark.parametrize("of", ["one", "all"])
def test_pages_show_every_row_once_newest_first(
    db: None, small_pages: None, of: str, filters: dict[str, str]
) -> None:
    user = a_transaction_a_day(5)
    a_transaction_a_day(2)
    listing = Listing(user_id=user.pk if of == "one" else None, **filters)
    pages = walk(listing, "number" if of == "one" else "id")
    expected = listing.rows.order_by("-created_at", "-id").values_list("pk", flat=True)
    assert [pk for page in pages for pk in page] == list(expected)
    assert all(len(page) == 3 for page in pages[:-1])


def test_the_last_page_is_full_and_ends_with_the_first_transaction(
    db: None, small_pages: None
) -> None:
    user = a_transaction_a_day(5)
    last = reports.page(Listing(user_id=user.pk), Cursor("after", 0))
    assert numbers(last) == [3, 2, 1]
    assert (last.has_newer, last.has_older) == (True, False)
    over_all = reports.page(Listing(), Cursor("after", 0))
    assert numbers(over_all) == [3, 2, 1]
    assert (over_all.has_newer, over_all.has_older) == (True, False)


def test_a_page_at_a_number_begins_with_it(db: None, small_pages: None) -> None:
    user = a_transaction_a_day(5)
    page = reports.page(Listing(user_id=user.pk), Cursor("at", 6))
    assert numbers(page) == [6, 5, 4]
    assert (page.has_newer, page.has_older) == (True, True)
    row = Transaction.objects.get(user=user, number=6)
    assert numbers(reports.page(Listing(), Cursor("at", row.pk))) == [6, 5, 4]


def test_a_page_knows_what_lies_on_both_sides_of_it(db: None, small_pages: None) -> None:
    user = a_transaction_a_day(4)
    ids = dict(Transaction.objects.filter(user=user).values_list("number", "pk"))
    for listing, key in ((Listing(user_id=user.pk), {n: n for n in ids}), (Listing(), ids)):
        seen = {
            (place, number): (numbers(page), page.has_newer, page.has_older)
            for place, number in [("after", 5), ("after", 4), ("at", 8), ("at", 3), ("before", 5)]
            for page in [reports.page(listing, Cursor(place, key[number]))]  # type: ignore[arg-type]
        }
        assert seen == {
            ("after", 5): ([8, 7, 6], False, True),
            ("after", 4): ([7, 6, 5], True, True),
            ("at", 8): ([8, 7, 6], False, True),
            ("at", 3): ([3, 2, 1], True, False),
            ("before", 5): ([4, 3, 2], True, True),
        }


def test_filters_choose_by_what_a_transaction_did_to_either_balance(db: None) -> None:
    user = user_with(real=10, bonus=6)  # 1
    ledger.give_bonus(user, amount=1, description="Gift of the month", **BY_API)  # 2
    charge_cost(user, service="traffic", cost=6, description="From bonus", **BY_API)  # 3
    charge_cost(user, service="traffic", cost=1, description="From real", **BY_API)  # 4
    ledger.change_balance(
        user, amount=-1, bonus_amount=1, description="Both ways at once", **BY_API
    )  # 5

    def shown(**filters: str) -> list[int]:
        listing = Listing(user_id=user.pk, **filters)  # type: ignore[arg-type]
        return sorted(row.number for row in listing.rows)

    reverse(user, 4)  # 6
    reverse(user, 2)  # 7
    assert shown(direction="adds") == [1, 2, 5, 6]
    assert shown(direction="takes") == [3, 4, 5, 7]
    assert shown(kind="refills") == [1, 2, 5]
    assert shown(kind="charges") == [3, 4, 5]
    assert shown(kind="reversals") == [6, 7]
    assert shown(channel="import") == [1]
    assert shown(text="FROM bon") == [3]
    assert shown(type="tariff_charge", subtype="traffic") == [3, 4]
    assert shown(subtype="register") == [2]


def test_a_page_beyond_the_ends_is_empty_or_the_whole(db: None, small_pages: None) -> None:
    user = a_transaction_a_day(2)
    listing = Listing(user_id=user.pk)
    assert numbers(reports.page(listing, Cursor("before", 1))) == []
    assert numbers(reports.page(listing, Cursor("at", 2**62))) == [4, 3, 2]
    assert numbers(reports.page(Listing(), Cursor("before", 0))) == []
    assert numbers(reports.page(Listing(user_id=UserFactory().pk), Cursor())) == []


def test_going_to_a_moment_begins_with_the_last_transaction_before_it(
    db: None, small_pages: None
) -> None:
    user = a_transaction_a_day(5)
    for listing in (Listing(user_id=user.pk), Listing()):
        cursor = reports.cursor_at(listing, NOON + timedelta(days=2))
        assert numbers(reports.page(listing, cursor))[0] == 4  # noon of day 2 itself is excluded
        assert numbers(reports.page(listing, reports.cursor_at(listing, NOON))) == []


def test_a_period_includes_its_beginning_and_excludes_its_end(db: None) -> None:
    user = a_transaction_a_day(4)
    for user_id in (user.pk, None):
        listing = Listing(
            user_id=user_id, since=NOON + timedelta(days=1), until=NOON + timedelta(days=3)
        )
        assert sorted(row.number for row in listing.rows) == [3, 4, 5, 6]
    just_before = Listing(user_id=user.pk, until=NOON)
    assert list(just_before.rows) == []


def reverse(user: User, number: int) -> Transaction:
    return ledger.reverse(user, number=number, description="Posted by mistake", **BY_API)


@pytest.fixture
def week(db: None) -> User:
    """A user with fourteen transactions. Two charges and a refill are reversed on later days."""
    user = a_transaction_a_day(7)
    for days, number in enumerate((2, 7, 8)):
        with database_clock_at(NOON + timedelta(days=7 + days)):
            reverse(user, number)
    return user


@given(first=st.integers(-1, 8), days=st.integers(0, 9))
def test_totals_reconcile_with_the_rows_of_any_period(week: User, first: int, days: int) -> None:
    user = week
    since, until = NOON + timedelta(days=first), NOON + timedelta(days=first + days)
    for filters in (
        {},
        {"type": "tariff_charge"},
        {"kind": "refills"},
        {"kind": "reversals"},
        {"text": "nothing like it"},
    ):
        listing = Listing(user_id=user.pk, since=since, until=until, **filters)
        totals = reports.totals(listing)
        assert reports.overview(listing) == (totals, reports.balance_points(listing))
        shown = list(listing.rows)
        in_period = [
            row for row in Transaction.objects.filter(user=user) if since <= row.created_at < until
        ]
        before = [row for row in Transaction.objects.filter(user=user) if row.created_at < since]
        for real, column in ((totals.real, "amount"), (totals.bonus, "bonus_amount")):
            changes = [getattr(row, column) for row in shown if row.reverses is None]
            reversed_ = [getattr(row, column) for row in shown if row.reverses is not None]
            assert real.opening == sum((getattr(row, column) for row in before), Decimal(0))
            assert real.refills == sum((c for c in changes if c > 0), Decimal(0))
            assert real.charges == -sum((c for c in changes if c < 0), Decimal(0))
            assert real.reversals == sum(reversed_, Decimal(0))
            assert real.closing - real.opening == sum(getattr(row, column) for row in in_period)
            assert (
                real.opening + real.refills - real.charges + real.reversals + real.unlisted
                == real.closing
            )
        if not filters:
            assert totals.real.unlisted == totals.bonus.unlisted == 0


def test_a_reversal_is_neither_a_refill_nor_a_charge(db: None) -> None:
    user = user_with(real=50, bonus=4)  # 1
    charge_cost(user, service="traffic", cost=12, description="Some traffic", **BY_API)  # 2
    reverse(user, 2)  # 3: gives back 8 and 4
    reverse(user, 1)  # 4: takes 50 and 4 back
    nobody = UserFactory()
    for listing in (Listing(user_id=user.pk), Listing(user_id=user.pk, channel="api")):
        totals = reports.totals(listing)
        assert reports.overview(listing) == (totals, reports.balance_points(listing))
        refills = (50, 4) if not listing.channel else (0, 0)
        assert (totals.real.refills, totals.bonus.refills) == refills
        assert (totals.real.charges, totals.bonus.charges) == (8, 4)
        assert (totals.real.reversals, totals.bonus.reversals) == (8 - 50, 4 - 4)
        assert (totals.real.closing, totals.bonus.closing) == (0, 0)
    of_all = reports.turnover(Listing())
    assert of_all.real == (50, 8, -42)
    assert of_all.bonus == (4, 4, 0)
    of_nobody = Listing(user_id=nobody.pk)
    assert reports.totals(of_nobody).real == (0, 0, 0, 0, 0, 0)
    assert reports.overview(of_nobody) == (reports.totals(of_nobody), [])


def test_a_row_names_what_it_reverses_and_what_reversed_it(db: None) -> None:
    user, other = user_with(real=50), user_with(real=7)
    charge_cost(user, service="traffic", cost=2, description="Some traffic", **BY_API)  # 2
    reverse(user, 2)  # 3
    reverse(other, 1)  # another user's transactions with the same numbers
    for found in (
        reports.page(Listing(user_id=user.pk), Cursor()).rows,
        [row for row in reports.page(Listing(), Cursor()).rows if row.user_id == user.pk],
        [row for row in reports.latest(10) if row.user_id == user.pk],
    ):
        reversal, charge, refill = found
        assert reversal.reversed_one == (charge.pk, 2, False)
        assert charge.reversed_by == [(reversal.pk, 3, False)]
        assert (refill.reversed_by, refill.reversed_one) == ([], None)


def test_the_reversals_of_a_long_history_are_found_without_reading_it(db: None) -> None:
    user = UserFactory()
    ledger.post_batch(
        [
            ledger.balance_change_entry(user, amount=1, description="One of very many")
            for _ in range(3_000)
        ],
        **BY_API,
    )
    reverse(user, 1500)
    with CaptureQueriesContext(connection) as queries:
        assert reports.totals(Listing(user_id=user.pk)).real == (0, 3000, 0, -1, 0, 2999)
    [sums] = [query["sql"] for query in queries if "SUM(" in query["sql"]]
    with roles.as_owner(), connection.cursor() as cursor:
        cursor.execute("ANALYZE billing_transaction")
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sums}")
        [[plan]] = cursor.fetchone()
    read = plan["Plan"]["Plans"][0]
    assert read["Actual Rows"] + read.get("Rows Removed by Filter", 0) <= 10


def test_every_transaction_is_found_by_what_it_is_called(db: None) -> None:
    """The label that a page shows for a row is the label that the filter finds it by."""
    user = user_with(real=50)  # 1
    for amount, bonus in ((-3, 0), (0, 5), (0, -1), (2, -1), (-2, 1)):  # 2 to 6
        ledger.change_balance(
            user, amount=amount, bonus_amount=bonus, description="Changed by hand", **BY_API
        )
    ledger.give_bonus(user, amount=3, description="Gift of the month", **BY_API)  # 7
    charge_cost(user, service="traffic", cost=1, description="Some traffic", **BY_API)  # 8
    charge_price(user, cycle="monthly", price=1, description="Monthly fee", **BY_API)  # 9
    reverse(user, 2)  # 10
    reverse(user, 7)  # 11
    found = {
        label: [row.number for row in Listing(user_id=user.pk, label=label).rows.order_by("number")]
        for label in Label
    }
    assert found == {
        Label.PAYMENT: [1, 5],
        Label.DEDUCTION: [2, 4, 6],
        Label.GIFT: [3, 7],
        Label.EXPIRY: [],
        Label.SERVICE: [8],
        Label.SUBSCRIPTION: [9],
        Label.REVERSAL: [10, 11],
    }
    rows = Transaction.objects.filter(user=user)
    assert {row.number: row.label for row in rows} == {
        number: label for label, numbers in found.items() for number in numbers
    }
    assert rows.get(number=10).subtype_label == "Deduction"
    assert rows.get(number=11).subtype_label == "Gift"


def test_totals_and_pages_of_a_long_history_read_a_few_rows(db: None) -> None:
    """No query uses COUNT or OFFSET. A long history takes at most one query more."""
    short, long = a_transaction_a_day(3), UserFactory()
    ledger.post_batch(
        [
            ledger.balance_change_entry(long, amount=1, description="One of very many")
            for _ in range(3_000)
        ],
        **BY_API,
    )
    for cursor in (Cursor(), Cursor("after", 0), Cursor("at", 1500)):
        reads = []
        for user in (short, long):
            with CaptureQueriesContext(connection) as queries:
                listing = Listing(user_id=user.pk)
                reports.page(listing, cursor)
                reports.totals(listing)
            statements = [query["sql"] for query in queries]
            assert not any("COUNT(" in sql.upper() or "OFFSET" in sql.upper() for sql in statements)
            reads.append(len(statements))
        assert reads[1] <= reads[0] + 1


def test_the_chart_samples_a_long_history_and_keeps_its_ends(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports.sums, "CHART_POINTS", 4)
    user = a_transaction_a_day(9)
    rows = Transaction.objects.filter(user=user).order_by("number")
    points = reports.balance_points(Listing(user_id=user.pk))
    assert len(points) <= 5
    first, last = rows[0], rows[17]
    assert points[0] == (first.created_at, first.new_balance, first.new_bonus)
    assert points[-1] == (last.created_at, last.new_balance, last.new_bonus)
    assert reports.balance_points(Listing(user_id=UserFactory().pk)) == []


def test_days_are_those_of_the_time_zone(db: None) -> None:
    user = UserFactory()
    for hour in (22, 23):  # 23:00 and 00:00 in Berlin
        with database_clock_at(datetime(2026, 1, 1, hour, tzinfo=UTC)):
            ledger.change_balance(
                user, amount=hour, bonus_amount=1, description="Late refill", **BY_API
            )
    with database_clock_at(datetime(2026, 1, 2, 12, tzinfo=UTC)):
        ledger.change_balance(user, amount=-5, description="Charge at noon", **BY_API)
    since, until = datetime(2025, 12, 31, 23, tzinfo=UTC), datetime(2026, 1, 2, 23, tzinfo=UTC)
    berlin = reports.turnover_by_day(since, until, ZoneInfo("Europe/Berlin"))
    assert [(d.real.refills, d.real.charges, d.bonus.refills) for d in berlin] == [
        (22, 0, 1),
        (23, 5, 1),
    ]
    utc = reports.turnover_by_day(since, until, UTC)
    assert [(d.real.refills, d.real.charges) for d in utc] == [(45, 0), (0, 5)]


def test_reversals_of_a_day_are_counted_apart(db: None) -> None:
    user = UserFactory()
    with database_clock_at(NOON):
        ledger.change_balance(user, amount=9, bonus_amount=2, description="A refill", **BY_API)
        ledger.change_balance(user, amount=-4, description="A deduction", **BY_API)
        reverse(user, 2)
        ledger.change_balance(user, bonus_amount=1, description="A gift", **BY_API)
        reverse(user, 4)
    [day] = reports.turnover_by_day(NOON, NOON + timedelta(days=1), UTC)
    assert (day.real, day.bonus) == ((9, 4, 4), (3, 0, -1))


def test_holdings_are_those_of_customers(db: None, operator: User) -> None:
    user_with(real=10, bonus=2)
    user_with(real=5, is_active=False)
    assert reports.holdings() == (2, 1, Decimal(15), Decimal(2))


def test_what_can_be_chosen_is_in_the_order_of_services_and_reasons(
    db: None, django_assert_num_queries: Any
) -> None:
    for code, name in (("b", "Alpha"), ("a", "Beta")):
        ServiceFactory(code=code, name=name)
    for code, position in (("second", 2), ("first", 1)):
        reason(code, position=position)
    with django_assert_num_queries(1):
        services, reasons = reports.choices()
    assert list(services.items()) == list(Service.objects.values_list("code", "name"))
    assert list(reasons.items()) == list(Reason.objects.values_list("code", "label"))
    assert list(reasons)[:2] == ["first", "second"]
