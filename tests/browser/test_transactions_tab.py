"""The Transactions tab: what it shows, filters, paging and downloads."""

import csv
import io
import re
import zipfile
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Page, expect

from billing.models import Transaction
from tests.billing.histories import user_with_history
from tests.browser.conftest import Windows
from tests.browser.panel import (
    happened_at,
    many_transactions,
    notice,
    numbers,
    reconciles,
    refill,
    tab,
    totals,
    transaction_page,
    transactions,
)
from tests.factories import OperatorFactory, UserFactory
from users.models import User

pytestmark = pytest.mark.browser

NEPAL = "Asia/Kathmandu"  # always 5 hours and 45 minutes ahead of UTC


def press_filter(page: Page) -> None:
    with page.expect_navigation():  # the old list may look like the new one
        page.get_by_role("button", name="Filter", exact=True).click()


def test_the_tab_tells_everything_about_each_transaction(windows: Windows) -> None:
    operator = OperatorFactory(is_superuser=True, time_zone=NEPAL)
    user = user_with_history()
    happened_at(
        user, [datetime(2024, 2, 29, 18, 10 + minute, 7, tzinfo=UTC) for minute in range(7)]
    )
    page = windows(operator, tab(user))
    actor = Transaction.objects.get(user=user, number=3).actor
    assert actor
    rows = transactions(page)
    assert [row["No."] for row in rows] == ["7", "6", "5", "4", "3", "2", "1"]
    assert rows[4] == {
        "No.": "3",
        "Date": "2024-02-29 23:57:07",
        "Description": "100 messages Reversed by No. 6",
        "Type, subtype": "Service Outgoing SMS",
        "Device": "Truck 7",
        "Amount": "−5.00",
        "Old → new balance": "100.00 → 95.00",
        "Bonus": "−25.00",
        "Old → new bonus": "25.00 → 0.00",
        "Who": f"{actor.person_name} API",
    }
    assert rows[6]["Amount"] == "+100.00"
    assert rows[6]["Who"] == "System Import"
    assert rows[1]["Type, subtype"] == "Reversal Service"
    assert rows[1]["Date"] == "2024-03-01 00:00:07"
    assert totals(page) == {
        "Opening": (Decimal(0), Decimal(0)),
        "Refills": (Decimal("102.55"), Decimal(25)),
        "Charges": (Decimal("-17.55"), Decimal(-26)),
        "Reversals": (Decimal(5), Decimal(25)),
        "Closing": (Decimal(90), Decimal(24)),
    }
    assert reconciles(page)


FILTERS = [
    ("Type", "tariff_charge", [7, 3]),
    ("Subtype", "outgoing_sms", [3]),
    ("Direction", "refills", [5, 2, 1]),
    ("Direction", "charges", [7, 4, 3]),
    ("Direction", "reversals", [6]),
    ("Description", "messages NOT", [6]),
    ("Device", "truck", [6, 3]),
    ("Description", "no such words", []),
]


def set_filter(page: Page, label: str, value: str) -> None:
    field = page.get_by_label(label, exact=True)
    if field.evaluate("field => field.tagName") == "SELECT":
        field.select_option(value)
    else:
        field.fill(value)


def test_a_filter_leaves_what_it_names_and_the_totals_reconcile(
    windows: Windows, operator: User, subtests: pytest.Subtests
) -> None:
    user = user_with_history()
    page = windows(operator, tab(user))
    for label, value, expected in FILTERS:
        with subtests.test(label=label, value=value):
            set_filter(page, label, value)
            press_filter(page)
            assert numbers(page) == expected
            assert "Not listed" in totals(page)
            assert totals(page)["Closing"] == (Decimal(90), Decimal(24))
            assert reconciles(page)
            set_filter(page, label, "")
    page.get_by_role("link", name="Clear", exact=True).click()
    expect(page.locator(".panel-table")).to_be_visible()
    assert numbers(page) == [7, 6, 5, 4, 3, 2, 1]
    assert "Not listed" not in totals(page)


def test_days_are_the_operators_and_the_last_one_counts_whole(windows: Windows) -> None:
    operator = OperatorFactory(is_superuser=True, time_zone=NEPAL)
    user = UserFactory()
    for _ in range(4):
        refill(user, real=10)
    midnight = datetime(2024, 3, 1, tzinfo=ZoneInfo(NEPAL))
    instant = timedelta(microseconds=1)
    end = midnight + timedelta(days=2)
    happened_at(user, [midnight - instant, midnight, end - instant, end])
    page = windows(operator, tab(user))
    page.get_by_label("From", exact=True).fill("2024-03-01")
    page.get_by_label("To", exact=True).fill("2024-03-02")
    press_filter(page)
    assert numbers(page) == [3, 2]
    expect(page.locator(".panel-totals caption")).to_have_text("2024-03-01 – 2024-03-02, USD")
    assert totals(page)["Opening"] == (10, 0)
    assert totals(page)["Closing"] == (30, 0)
    assert reconciles(page)

    page.get_by_label("To", exact=True).fill("2024-02-28")
    press_filter(page)
    expect(page.locator(".field.to_day .error")).to_have_text("This day is before the first one.")
    expect(page.get_by_label("To", exact=True)).to_have_value("2024-02-28")


def test_a_preset_chooses_its_period(
    windows: Windows, operator: User, subtests: pytest.Subtests
) -> None:
    zone = ZoneInfo(operator.time_zone)
    today = datetime.now(zone).date()
    month = today.replace(day=1)
    last_month = (month - timedelta(days=1)).replace(day=1)
    periods = {
        "Today": (today, today),
        "7 days": (today - timedelta(days=6), today),
        "30 days": (today - timedelta(days=29), today),
        "This month": (month, today),
        "Last month": (last_month, month - timedelta(days=1)),
    }
    edges = {day for period in periods.values() for day in period}
    days = sorted(edges | {day - timedelta(days=1) for day in edges})
    user = UserFactory()
    many_transactions(user, len(days))
    happened_at(user, [datetime.combine(day, time.min, zone) for day in days])
    page = windows(operator, tab(user))
    for name, (first, last) in periods.items():
        with subtests.test(preset=name):
            page.get_by_role("link", name=name, exact=True).click()
            expect(page.locator(".presets a[aria-current]", has_text=name)).to_be_visible()
            expected = [n for n, day in enumerate(days, start=1) if first <= day <= last]
            assert numbers(page) == expected[::-1]
            expect(page.get_by_label("From", exact=True)).to_have_value(first.isoformat())
            expect(page.get_by_label("To", exact=True)).to_have_value(last.isoformat())
            assert reconciles(page)


def test_an_empty_list_says_what_to_do(windows: Windows, operator: User) -> None:
    user = UserFactory(first_name="Nora", last_name="New")
    page = windows(operator, tab(user))
    expect(page.get_by_text("Nora New has no transactions yet.")).to_be_visible()
    page.get_by_role("link", name="Today", exact=True).click()
    expect(page.get_by_text("No transactions match these filters.")).to_be_visible()
    page.get_by_role("link", name="clear the filters").click()
    page.get_by_role("link", name="change the balance").click()
    expect(page.get_by_role("heading", name="Change balance")).to_be_visible()
    page.goto("/admin/billing/transaction/")
    expect(page.get_by_text("There are no transactions yet.")).to_be_visible()


def test_pages_follow_each_other_without_gaps(windows: Windows, operator: User) -> None:
    user = UserFactory()
    many_transactions(user, 120)
    page = windows(operator, tab(user))

    def step(name: str, newest: int, oldest: int) -> None:
        page.locator(".panel-pager.top").get_by_role("link", name=name).click()
        expect(page.locator(".panel-pager.top .where")).to_contain_text(f"No. {newest} – {oldest}")
        assert numbers(page) == list(range(newest, oldest - 1, -1))

    assert numbers(page) == list(range(120, 70, -1))
    expect(page.locator(".panel-pager.top .where")).to_contain_text("120 in all")
    expect(page.locator(".panel-pager.top [aria-disabled]")).to_have_text(["« First", "‹ Previous"])
    step("Next", 70, 21)
    step("Next", 20, 1)
    expect(page.locator(".panel-pager.top [aria-disabled]")).to_have_text(["Next ›", "Last »"])
    step("Previous", 70, 21)
    step("First", 120, 71)
    step("Last", 50, 1)
    step("Previous", 100, 51)


def test_go_to_takes_a_number_or_a_date_and_says_what_it_cannot_take(windows: Windows) -> None:
    operator = OperatorFactory(is_superuser=True, time_zone=NEPAL)
    user = UserFactory()
    many_transactions(user, 60)
    midnight = datetime(2024, 3, 2, tzinfo=ZoneInfo(NEPAL))
    happened_at(user, [midnight + timedelta(seconds=number - 30) for number in range(60)])
    page = windows(operator, tab(user))

    def go_to(place: str) -> None:
        page.get_by_label("Go to").fill(place)
        page.get_by_role("button", name="Go", exact=True).click()

    go_to("42")
    page.wait_for_url(re.compile(r"at=42$"))
    assert numbers(page) == list(range(42, 0, -1))
    go_to("2024-03-01")
    page.wait_for_url(re.compile(r"at=30$"))
    assert numbers(page) == list(range(30, 0, -1))
    go_to("some day")
    expect(notice(page)).to_have_text(
        "“some day” is neither the number of a transaction nor a date like 2026-11-22."
    )
    assert numbers(page) == list(range(60, 10, -1))


def test_going_to_a_place_keeps_the_filters(windows: Windows, operator: User) -> None:
    user = user_with_history()
    page = windows(operator, tab(user, "?direction=charges"))
    page.get_by_label("Go to").fill("6")
    page.get_by_role("button", name="Go", exact=True).click()
    page.wait_for_url(re.compile(r"at=6$"))
    assert numbers(page) == [4, 3]


def test_a_transaction_has_a_page_with_everything_on_its_row(
    windows: Windows, operator: User
) -> None:
    user = user_with_history()
    row = Transaction.objects.get(user=user, number=3)
    page = windows(operator, tab(user))
    page.get_by_role("link", name="3", exact=True).click()
    page.wait_for_url(f"**{transaction_page(row.pk)}")
    details = {
        line.locator("th").inner_text(): line.locator("td").inner_text()
        for line in page.locator(".panel-details tr").all()
    }
    assert details["Idempotency key"] == "messages-1"
    assert '"messages": 100' in details["Metadata"]
    assert details["Digest (SHA-256)"] == bytes(row.digest).hex()
    assert "tariff_charge" in details["Type"]
    assert row.created_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f") in details["Date"]
    expect(page.get_by_role("button", name="Reverse")).to_have_count(0)
    page.get_by_role("link", name="No. 6", exact=True).first.click()
    expect(page.get_by_role("row", name="Reversal Reverses")).to_contain_text("No. 3")
    page.get_by_role("row", name="User").get_by_role("link").click()
    page.wait_for_url(f"**/admin/users/user/{user.pk}/change/")


def test_the_list_of_all_users_names_each_user(windows: Windows, operator: User) -> None:
    first, second = UserFactory(last_name="First"), UserFactory(last_name="Second")
    refill(first, real=10)
    refill(second, bonus=20)
    page = windows(operator, "/admin/billing/transaction/")
    rows = transactions(page)
    assert [row["User"] for row in rows] == ["Ada Second", "Ada First"]
    page.get_by_role("link", name="Ada First").click()
    page.wait_for_url(f"**{tab(first)}")


def spreadsheet(path: Path) -> list[dict[str, str]]:
    """Returns the rows of an XLSX file: each cell by its column's heading, without empty cells."""
    name = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    with zipfile.ZipFile(path) as book:
        written = book.read("xl/worksheets/sheet1.xml")
    sheet = ElementTree.fromstring(written)  # noqa: S314 - the panel's own file

    def cells(row: ElementTree.Element) -> dict[str, str]:
        return {
            cell.attrib["r"].rstrip("0123456789"): "".join(cell.itertext())
            for cell in row.iter(f"{name}c")
        }

    heading, *rows = map(cells, sheet.iter(f"{name}row"))
    return [{heading[column]: value for column, value in row.items()} for row in rows]


def test_downloads_hold_what_is_filtered(windows: Windows, operator: User) -> None:
    user = user_with_history()
    page = windows(operator, tab(user, "?direction=charges"))
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert download.value.suggested_filename.endswith(".csv")
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text("utf-8-sig"))))
    assert [row["number"] for row in rows] == ["3", "4", "7"]
    assert rows[0]["amount"] == "-5.0000"
    assert rows[0]["new_bonus"] == "0.0000"
    [date] = [name for name in rows[0] if name.startswith("date (")]
    assert rows[0][date].replace("T", " ") == transactions(page)[-1]["Date"]

    with page.expect_download() as download:
        page.get_by_role("button", name="XLSX").click()
    assert download.value.suggested_filename.endswith(".xlsx")
    rows = spreadsheet(download.value.path())
    assert [row["number"] for row in rows] == ["3", "4", "7"]
    assert [Decimal(row["amount"]) for row in rows] == [-5, Decimal("-12.55"), 0]
