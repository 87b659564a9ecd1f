"""The lists of transactions and a transaction's page, over HTTP. tests/browser/ tests clicks."""

import csv
import io
import json
import re
import zipfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from threading import Event
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils.formats import date_format
from hypothesis import given
from hypothesis import strategies as st

from billing import ledger, reports
from billing.files.exports import csv_table, write_xlsx_table
from billing.models import Channel, Transaction
from billing.plans import subscriptions
from tests.billing.clock import database_clock_at
from tests.billing.test_charging_races import until_somebody_waits_for_this
from tests.conftest import Connections
from tests.factories import (
    AdministratorFactory,
    OperatorFactory,
    PlanFactory,
    UserFactory,
    charge_cost,
    subscribed,
    user_with,
)
from tests.operators import client_of, operator_with
from users.models import User

BY_API: dict[str, Any] = {"actor": None, "channel": Channel.API}


def tab(user: User, query: str = "") -> str:
    return reverse("admin:users_user_transactions", args=[user.pk]) + query


def everybody(query: str = "") -> str:
    return reverse("admin:billing_transaction_changelist") + query


def page_of(row: Transaction, name: str = "change") -> str:
    return reverse(f"admin:billing_transaction_{name}", args=[row.pk])


def numbers(response: Any) -> list[int]:
    return [row.number for row in response.context["page"].rows]


def refill(user: User, moment: datetime, description: str = "Refill") -> Transaction:
    with database_clock_at(moment):
        return ledger.change_balance(user, amount=1, description=description, **BY_API)


# --- Lists --------------------------------------------------------------------------------------


def test_days_are_the_operators_and_inclusive(panel: Client, administrator: User) -> None:
    administrator.time_zone = "America/New_York"  # UTC−5 in January
    administrator.save()
    user = UserFactory()
    refill(user, datetime(2026, 1, 10, 4, 59, 59, 999999, tzinfo=UTC))  # 1: the 9th in New York
    refill(user, datetime(2026, 1, 10, 5, tzinfo=UTC))  # 2: the first moment of the 10th
    refill(user, datetime(2026, 1, 12, 4, 59, 59, 999999, tzinfo=UTC))  # 3: the end of the 11th
    refill(user, datetime(2026, 1, 12, 5, tzinfo=UTC))  # 4: the 12th
    for address in (tab(user), everybody()):
        response = panel.get(address + "?from_day=2026-01-10&to_day=2026-01-11")
        assert numbers(response) == [3, 2]
    assert "2026-01-11" in panel.get(tab(user)).content.decode()  # in New York's time, too


def test_presets_are_whole_periods_up_to_today(panel: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr("django.utils.timezone.now", lambda: datetime(2026, 3, 1, 12, tzinfo=UTC))
    periods = {
        preset.label: (preset.from_day.isoformat(), preset.to_day.isoformat())
        for preset in panel.get(everybody()).context["presets"]
    }
    assert periods == {
        "Today": ("2026-03-01", "2026-03-01"),
        "7 days": ("2026-02-23", "2026-03-01"),
        "30 days": ("2026-01-31", "2026-03-01"),
        "This month": ("2026-03-01", "2026-03-01"),
        "Last month": ("2026-02-01", "2026-02-28"),
    }


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("from_day=yesterday&q=traffic", "Write the day like 2026-11-28."),
        ("from_day=2026-01-02&to_day=2026-01-01&q=traffic", "This day is before the first one."),
        ("type=zz&q=traffic&goto=2", "Select a valid choice."),
    ],
)
def test_beside_a_mistaken_filter_there_are_no_figures(
    panel: Client, query: str, sentence: str
) -> None:
    user = user_with(real=5, bonus=1)
    charge_cost(user, service="traffic", cost=2, description="Some traffic", **BY_API)
    for address in (tab(user), everybody()):
        response = panel.get(f"{address}?{query}")
        page = response.text
        assert sentence in page
        assert "No transactions are shown: there is a mistake in the filters." in page
        assert 'value="traffic"' in page, "what was typed is kept"
        assert "No transactions match" not in page
        assert 'class="money' not in page.partition("<form")[0], "no totals"
        assert "panel-totals" not in page
        assert "panel-pager" not in page
        assert "page" not in response.context or not response.context["page"]


def test_a_mistaken_filter_is_not_exported(panel: Client) -> None:
    user = user_with(real=5)
    for query in ("from_day=2026-13-01", "type=zz", "from_day=2026-11-22&to_day=2026-11-01"):
        response = panel.get(tab(user, f"?export=csv&{query}"))
        assert response["Content-Type"].startswith("text/html")
        assert "error" in response.content.decode()


@pytest.mark.parametrize("day", ["0001-01-01", "1969-12-31", "9999-12-31"])
def test_days_without_any_money_are_refused(panel: Client, day: str) -> None:
    for field in ("from_day", "to_day"):
        response = panel.get(tab(user_with(real=1), f"?{field}={day}"))
        assert response.context["form"].errors[field]


def test_a_user_is_named_by_digits_only(panel: Client) -> None:
    user = user_with(real=1)
    for odd in (f"%2B{user.pk}", f"%20{user.pk}", "%D9%A6"):
        for page in ("change", "history"):
            assert panel.get(f"/admin/users/user/{odd}/{page}/").status_code < 500


def test_going_to_a_number_or_a_day(panel: Client) -> None:
    user = UserFactory()
    for day in range(1, 6):
        refill(user, datetime(2026, 1, day, 12, tzinfo=UTC))
    assert numbers(panel.get(tab(user, "?goto=3"), follow=True)) == [3, 2, 1]
    assert numbers(panel.get(tab(user, "?goto=%232&type=payment"), follow=True)) == [2, 1]
    assert numbers(panel.get(tab(user, "?goto=2026-01-04"), follow=True)) == [4, 3, 2, 1]
    assert numbers(panel.get(everybody("?goto=2026-01-02"), follow=True)) == [2, 1]
    assert numbers(panel.get(tab(user, "?goto=2025-12-31"), follow=True)) == []
    missed = panel.get(tab(user, "?goto=<b>soon</b>"), follow=True).content.decode()
    assert "“&lt;b&gt;soon&lt;/b&gt;” is neither the number of a transaction nor a date" in missed


FIELDS = (
    *("from_day", "to_day", "type", "subtype", "direction", "q", "device"),
    *("before", "after", "at", "goto", "posted", "again", "missed"),
)
ODD_TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["9" * 30, "-1", "0", "0001-01-01", "9999-12-31", "%", "_", "\\", "٣", "\0"]),
)


@given(query=st.dictionaries(st.sampled_from(FIELDS), ODD_TEXTS, max_size=5))
def test_no_address_makes_the_lists_fail(panel: Client, query: dict[str, str]) -> None:
    if not hasattr(panel, "subject"):
        panel.subject = user_with(real=5)  # type: ignore[attr-defined]
    for address in (tab(panel.subject), everybody()):  # type: ignore[attr-defined]
        assert panel.get(address, query, follow=True).status_code == 200


def test_a_search_that_takes_too_long_is_given_up_with_a_sentence(
    panel: Client, monkeypatch: Any
) -> None:
    user = user_with(real=5)

    def sleep(*args: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(60)")

    monkeypatch.setattr("billing.admin.transactions.SEARCH_MAX_SECONDS", 1)
    monkeypatch.setattr("billing.reports.page", sleep)
    for address in (tab(user), everybody()):
        page = panel.get(address + "?q=needle").content.decode()
        assert "This search took too long and was stopped." in page
        assert 'value="needle"' in page


def _limit() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        return str(cursor.fetchone()[0])


def test_the_time_limit_of_a_search_ends_with_it(db: None) -> None:
    before = _limit()
    with reports.time_limit(7):
        assert _limit() == "7s"
    assert _limit() == before


def test_outside_a_database_transaction_too(committed_db: None) -> None:
    before = _limit()
    with reports.time_limit(7):
        assert _limit() == "7s"
    assert _limit() == before


def test_what_is_typed_is_searched_literally(panel: Client) -> None:
    user = user_with(real=100)
    ledger.change_balance(user, amount=1, description="Rebate 100% for June", **BY_API)
    ledger.change_balance(user, amount=1, description="Rebate 1000 for June", **BY_API)
    assert numbers(panel.get(tab(user), {"q": "100%"})) == [2]


def test_the_list_of_all_names_the_users(panel: Client) -> None:
    ada, ben = user_with(real=1, first_name="Ada"), user_with(real=2, first_name="Ben")
    page = panel.get(everybody()).content.decode()
    for user in (ada, ben):
        assert f'<a href="{tab(user)}">{user}</a>' in page


@pytest.fixture
def of_many_pages(db: None) -> User:
    """A user with more than a page of transactions, among them reversals of others."""
    user = user_with(real=1)
    for place in range(reports.PAGE_SIZE + 2):
        actor = OperatorFactory() if place % 10 == 0 else None
        ledger.change_balance(
            user, amount=1, description="One of many", actor=actor, channel=Channel.PANEL
        )
    ledger.reverse(user, number=reports.PAGE_SIZE, description="Reversed", **BY_API)
    return user


def statements(client: Client, address: str) -> list[str]:
    """Returns the statements of a request, from the session to the end of the page."""
    with CaptureQueriesContext(connection) as captured:
        assert client.get(address).status_code == 200
    return [each["sql"] for each in captured]


@pytest.mark.parametrize("group", ["Viewer", "Billing operator", "Administrator"])
def test_the_tab_takes_six_statements_whoever_looks_at_it(of_many_pages: User, group: str) -> None:
    """Session; operator with permissions; user; choices; page; totals with chart."""
    client = client_of(operator_with(group=group))
    client.get(tab(of_many_pages))  # the first request notes when the session began
    asked = statements(client, tab(of_many_pages))
    assert len(asked) == 6, asked
    few = user_with(real=1)
    assert len(statements(client, tab(few))) == 6


def test_a_period_or_a_filter_takes_some_more_statements_but_not_with_the_rows(
    panel: Client, of_many_pages: User
) -> None:
    few = user_with(real=1)
    for query in ("?from_day=2026-01-01", "?q=many", "?type=reversal", "?at=20"):
        of_few, of_many = (
            len(statements(panel, tab(user, query))) for user in (few, of_many_pages)
        )
        assert of_many <= max(of_few, 13), query
    assert len(statements(panel, everybody())) <= 9


def test_descriptions_are_text_on_the_page(panel: Client) -> None:
    user = user_with(real=1)
    ledger.change_balance(
        user, amount=1, description="<script>alert(1)</script>", device='"><i>', **BY_API
    )
    page = panel.get(tab(user)).content.decode()
    assert "<script>alert" not in page
    assert '"><i>' not in page


# --- Who may see what ---------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["tab", "everybody", "transaction", "reverse"])
def test_transactions_take_the_permission(client: Client, operator: User, address: str) -> None:
    user = user_with(real=1)
    row = Transaction.objects.get(user=user)
    places = {
        "tab": tab(user),
        "everybody": everybody(),
        "transaction": page_of(row),
        "reverse": page_of(row, "reverse"),
    }
    assert client.get(places[address]).status_code == 302  # to the login page
    client.force_login(operator)
    assert client.get(places[address]).status_code == 403


def test_whoever_may_only_look_is_offered_no_change(db: None) -> None:
    client = client_of(operator_with("billing.view_transaction"))
    user = user_with(real=1)
    row = Transaction.objects.get(user=user)
    for address in (tab(user), everybody(), page_of(row)):
        page = client.get(address)
        assert page.status_code == 200
        assert "change-balance" not in page.content.decode()
        assert "/reverse/" not in page.content.decode()
    assert client.get(page_of(row, "reverse")).status_code == 403
    assert client.post(page_of(row, "reverse"), {"description": "Taken back"}).status_code == 403


@pytest.mark.parametrize("action", ["add", "delete", "history"])
def test_transactions_are_not_added_removed_or_edited_by_djangos_pages(
    panel: Client, action: str
) -> None:
    row = Transaction.objects.get(user=user_with(real=1))
    address = everybody("add/") if action == "add" else page_of(row, action)
    assert panel.post(address, {"post": "yes"}).status_code in (403, 404)
    panel.post(page_of(row), {"description": "Something else"})
    panel.post(everybody(), {"action": "delete_selected", "_selected_action": row.pk})
    row.refresh_from_db()
    assert row.description == "Money to start with"


# --- One transaction ----------------------------------------------------------------------------


def test_the_page_of_a_transaction_names_the_request_that_brought_it(panel: Client) -> None:
    user = user_with(real=10)
    assert "Request ID" not in panel.get(page_of(Transaction.objects.get(user=user))).text
    with ledger.for_request("req_0123456789abcdef"):
        row = ledger.change_balance(
            user, amount=1, description="Paid by card", actor=None, channel=Channel.API
        )
    text = panel.get(page_of(row)).text
    assert re.search(r"Request ID</th><td><code>req_0123456789abcdef</code>", text)


def test_the_page_of_a_transaction_shows_everything_on_its_row(panel: Client) -> None:
    user = user_with(real=10, bonus=1)
    row = charge_cost(
        user,
        service="geo_lookup",
        cost="3.5",
        description="Where the truck is",
        device="Truck 7",
        metadata={"request": "r-17"},
        idempotency_key="lookup-17",
        actor=OperatorFactory(first_name="Grace"),
        channel=Channel.API,
    )
    page = panel.get(page_of(row)).content.decode()
    shown = (
        *("Where the truck is", "geo_lookup", "Geo lookup", "Truck 7", "lookup-17", "r-17", "API"),
        *("−2.50", "−1.00", "10.00", "7.50", "Grace", str(user), user.email),
        *(bytes(row.digest).hex(), f"(ID {row.pk})", f"{row.created_at:%Y-%m-%d %H:%M:%S.%f}"),
    )
    for text in shown:
        assert text in page, text
    assert page_of(Transaction.objects.get(user=user, number=1)) in page


@pytest.mark.parametrize(
    "key",
    ["0", "999999", "x", "1.5", str(2**63), "%00", pytest.param("9" * 5000, id="5000 digits")],
)
def test_there_is_no_page_of_no_transaction(panel: Client, key: str) -> None:
    assert panel.get(f"/admin/billing/transaction/{key}/change/").status_code == 404


def test_a_reversal_asks_why_and_links_both_ways(panel: Client, administrator: User) -> None:
    user = user_with(real=10)
    row = ledger.change_balance(user, amount=5, description="Wrong customer", **BY_API)
    form = panel.get(page_of(row, "reverse"))
    key = form.context["form"]["key"].value()
    empty = panel.post(page_of(row, "reverse"), {"description": "", "key": key})
    assert "This field is required." in empty.content.decode()
    sent = {"description": "Meant for another customer", "key": key}
    response = panel.post(page_of(row, "reverse"), sent)
    assert response["Location"] == tab(user, "?posted=3")
    reversal = Transaction.objects.get(user=user, number=3)
    assert (reversal.amount, reversal.reverses, reversal.actor) == (-5, 2, administrator)
    again = panel.post(page_of(row, "reverse"), sent)  # a double click
    assert again["Location"] == tab(user, "?posted=3&again=1")
    assert page_of(reversal) in panel.get(page_of(row)).content.decode()
    assert page_of(row) in panel.get(page_of(reversal)).content.decode()
    assert "/reverse/" not in panel.get(page_of(row)).content.decode()


def test_a_second_reversal_and_one_of_money_that_is_gone_are_refused(panel: Client) -> None:
    user = user_with(real=10)
    first = Transaction.objects.get(user=user)
    ledger.change_balance(user, amount=-8, description="Spent meanwhile", **BY_API)
    sent = {"description": "Take it back", "key": "a-key"}
    page = panel.post(page_of(first, "reverse"), sent)
    assert "Nothing was posted. Not enough money on the balance: 10.00 needed, 2.00" in (
        page.content.decode()
    )
    ledger.change_balance(user, amount=8, description="Refilled again", **BY_API)
    panel.post(page_of(first, "reverse"), sent)
    page = panel.post(page_of(first, "reverse"), sent | {"key": "another"})
    assert "Transaction number 1 was already reversed by number 4." in page.content.decode()
    assert Transaction.objects.filter(user=user).count() == 4


def test_what_cannot_be_reversed_is_not_offered_for_it(panel: Client) -> None:
    user = user_with(real=10)
    first = Transaction.objects.get(user=user)
    assert "The reversal will change" in panel.get(page_of(first, "reverse")).text
    reversal = ledger.reverse(user, number=1, description="Take it back", **BY_API)
    sent = {"description": "Take it back again", "key": "a-key"}
    for row, why, named in (
        (first, "Transaction number 1 was already reversed by number 2.", reversal),
        (
            reversal,
            "Transaction number 2 is a reversal or an expiry; change the balance instead.",
            first,
        ),
    ):
        for response in (
            panel.get(page_of(row, "reverse")),
            panel.post(page_of(row, "reverse"), sent),
        ):
            assert f"Nothing was posted. {why}" in response.text
            assert "The reversal will change" not in response.text
            assert '<form class="panel-form"' not in response.text
            assert page_of(row) in response.text
            assert named is first or page_of(named) in response.text


def test_the_list_names_what_a_row_reverses_and_what_reversed_it(panel: Client) -> None:
    user = user_with(real=10)
    first = Transaction.objects.get(user=user)
    reversal = ledger.reverse(user, number=1, description="Take it back", **BY_API)
    for address in (tab(user), everybody(), "/admin/", page_of(first), page_of(reversal)):
        page = panel.get(address).text
        if address != page_of(first):
            assert f'Reverses <a href="{page_of(first)}">No. 1</a>' in page
        if address != page_of(reversal):
            assert f'Reversed by <a href="{page_of(reversal)}">No. 2</a>' in page


def test_a_bonus_that_expired_has_its_badge_in_every_list(panel: Client) -> None:
    user = UserFactory()
    with database_clock_at(datetime(2026, 3, 1, tzinfo=UTC)):
        ledger.give_bonus(
            user,
            amount=5,
            description="A gift for a day",
            bonus_expires_at=datetime(2026, 3, 2, tzinfo=UTC),
            **BY_API,
        )
    ledger.expire_grants([user.pk])
    for address in (tab(user), "/admin/billing/transaction/", "/admin/"):
        assert 'class="panel-badge bonus-expiry"' in panel.get(address).text


def test_a_badge_says_what_a_change_by_hand_did(panel: Client) -> None:
    user = user_with(real=10)
    ledger.change_balance(user, amount=-4, description="Taken by hand", **BY_API)
    ledger.change_balance(user, bonus_amount=5, description="Given by hand", **BY_API)
    page = panel.get(tab(user)).text
    badges = re.findall(
        r'panel-badge ([a-z-]+)"><span class="material-symbols-outlined" [^>]*>[a-z_]+</span>(\w+)',
        page,
    )
    assert badges == [("bonus-charge", "Gift"), ("deduction", "Deduction"), ("payment", "Payment")]
    assert numbers(panel.get(tab(user, "?type=deduction"))) == [2]


# --- Exports ------------------------------------------------------------------------------------


def exported_csv(panel: Client, address: str) -> list[dict[str, str]]:
    response = panel.get(address)
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    text = b"".join(response.streaming_content).decode("utf-8-sig")  # type: ignore[attr-defined]
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_holds_what_is_filtered_in_the_operators_time(
    panel: Client, administrator: User
) -> None:
    administrator.time_zone = "Asia/Tokyo"
    administrator.save()
    user = UserFactory()
    for hour in (10, 20):
        refill(user, datetime(2026, 1, 1, hour, tzinfo=UTC), f"Refill at {hour}")
    rows = exported_csv(panel, tab(user, "?export=csv&from_day=2026-01-02"))
    assert [row["description"] for row in rows] == ["Refill at 20"]
    assert rows[0]["date (Asia/Tokyo)"] == "2026-01-02T05:00:00"
    assert (rows[0]["amount"], rows[0]["new_balance"], rows[0]["number"]) == (
        "1.0000",
        "2.0000",
        "2",
    )


def test_files_name_what_a_row_reverses_and_what_reversed_it(panel: Client) -> None:
    user = user_with(real=10)
    ledger.change_balance(user, amount=-4, description="Taken by hand", **BY_API)
    ledger.reverse(user, number=2, description="Take it back", **BY_API)
    rows = exported_csv(panel, tab(user, "?export=csv"))
    assert [(row["label"], row["reverses"], row["reversed_by"]) for row in rows] == [
        ("Payment", "", ""),
        ("Deduction", "", "3"),
        ("Reversal", "2", ""),
    ]
    content = b"".join(panel.get(tab(user, "?export=xlsx")).streaming_content)  # type: ignore[attr-defined]
    book = zipfile.ZipFile(io.BytesIO(content))
    assert "Deduction" in "".join(book.read(name).decode() for name in book.namelist())


def test_each_row_of_a_file_has_a_cell_under_each_heading(panel: Client) -> None:
    content = b"".join(panel.get(tab(user_with(real=10), "?export=csv")).streaming_content)  # type: ignore[attr-defined]
    heading, *rows = csv.reader(io.StringIO(content.decode("utf-8-sig")))
    assert {len(row) for row in rows} == {len(heading)}
    assert len(set(heading)) == len(heading)


def test_csv_gives_spreadsheets_no_formulas_and_keeps_amounts_numbers(panel: Client) -> None:
    user = user_with(real=10)
    ledger.change_balance(user, amount=-1, description="=1+1 and more", device="@x", **BY_API)
    [_, row] = exported_csv(panel, tab(user, "?export=csv"))
    assert (row["description"], row["device"], row["amount"]) == (
        "'=1+1 and more",
        "'@x",
        "-1.0000",
    )


@pytest.mark.parametrize(
    ("device", "written"),
    [
        ("00123", "'00123"),
        ("861785007918323", "'861785007918323"),
        ("12E345", "'12E345"),
        ("3-4", "'3-4"),
        ("1/2", "'1/2"),
        ("10:30", "'10:30"),
        ("MAR-12", "'MAR-12"),
        ("12 Mar", "'12 Mar"),
        ("+49 176 1234567", "'+49 176 1234567"),
        ("8617", "8617"),
        ("0", "0"),
        ("Truck 12", "Truck 12"),
        ("Marina 12a", "Marina 12a"),
    ],
)
def test_csv_marks_what_a_spreadsheet_would_change(
    panel: Client, device: str, written: str
) -> None:
    user = user_with(real=10)
    ledger.change_balance(user, amount=-1, description="Charged", device=device, **BY_API)
    assert exported_csv(panel, tab(user, "?export=csv"))[1]["device"] == written


def test_csv_for_programs_marks_formulas_only() -> None:
    rows = csv_table(["phone", "name"], [["00491761234567", "=1+1"]])
    assert list(rows)[1] == "00491761234567,'=1+1\r\n"


@pytest.mark.parametrize(
    ("currency", "amounts", "number_format"),
    [
        ("USD", ["482.40", "2.43"], "#,##0.00"),
        ("USD", ["482.40", "2.4354"], "#,##0.0000"),
        ("JPY", ["482", "2"], "#,##0"),
        ("KWD", ["482.4", "2"], "#,##0.000"),
    ],
)
def test_xlsx_shows_amounts_with_one_number_of_decimals(
    settings: Any, currency: str, amounts: list[str], number_format: str
) -> None:
    settings.BILLING_CURRENCY = currency
    book = io.BytesIO()
    write_xlsx_table("T", ["amount"], [[Decimal(each)] for each in amounts], book)
    styles = zipfile.ZipFile(book).read("xl/styles.xml").decode()
    assert f'formatCode="{number_format}"' in styles


def test_xlsx_names_the_time_zone_and_keeps_long_numbers(
    panel: Client, administrator: User
) -> None:
    administrator.time_zone = "Asia/Tokyo"
    administrator.save()
    response = panel.get(tab(user_with(real=1), "?export=xlsx"))
    book = zipfile.ZipFile(io.BytesIO(b"".join(response.streaming_content)))  # type: ignore[attr-defined]
    assert "date (Asia/Tokyo)" in book.read("xl/worksheets/sheet1.xml").decode()
    target = io.BytesIO()
    write_xlsx_table("T", ["id"], [[1234567890123456789], ["00123"]], target)
    sheet = zipfile.ZipFile(target).read("xl/worksheets/sheet1.xml").decode()
    assert "<t>1234567890123456789</t>" in sheet
    assert "<t>00123</t>" in sheet


# --- Decimals and days --------------------------------------------------------------------------


def test_amounts_in_one_column_have_one_number_of_decimals(panel: Client) -> None:
    user = user_with(real="482.40", bonus=5)
    ledger.change_balance(user, amount="-2.4354", description="A part of a cent", **BY_API)
    page = panel.get(tab(user)).text
    rows = page.split("<tbody>")[-1]
    shown = re.findall(r'class="(?:\w+ )?money[^"]*">([^<]*\d)(?: →)?<', rows)
    real = [each for each in shown if each not in ("+5.00", "5.00", "0.00")]
    assert real == ["−2.4354", "482.4000", "479.9646", "+482.4000", "0.0000", "482.4000"]
    totals = page.split('<table class="panel-totals">')[1].split("</table>")[0]
    for figure in ("0.0000", "+482.4000", "−2.4354", "479.9646", "5.00"):
        assert f">{figure}<" in totals


def test_a_list_of_users_shows_balances_with_one_number_of_decimals(panel: Client) -> None:
    user_with(real="482.40", bonus=1)
    user_with(real="2.4354", bonus=2)
    page = panel.get("/admin/users/user/").text
    assert re.findall(r'<span class="money">([^<]*)</span>', page) == [
        "2.4354", "2.00", "482.4000", "1.00",
    ]  # fmt: skip


def test_sums_on_the_start_page_have_the_decimals_of_the_currency(
    panel: Client, settings: Any
) -> None:
    cache.clear()
    user_with(real="6697.9036")
    assert '<p class="figure money">6,697.90 <small>USD' in panel.get("/admin/").text
    settings.BILLING_CURRENCY = "JPY"
    assert '<p class="figure money">6,698 <small>JPY' in panel.get("/admin/").text


@pytest.mark.parametrize("typed", ["11/28/2026", "28.11.2026", "2026-13-01"])
def test_days_are_typed_in_one_way_that_a_mistake_names(panel: Client, typed: str) -> None:
    user = user_with(real=1)
    page = panel.get(tab(user), {"from_day": typed}).text
    assert "Write the day like 2026-11-28." in page
    assert f'value="{typed}"' in page
    assert 'placeholder="YYYY-MM-DD"' in page
    assert 'type="date" name=' not in page


def test_django_writes_days_as_the_panel_does() -> None:
    at = datetime(2026, 11, 28, 15, 36, tzinfo=UTC)
    assert date_format(at, "DATE_FORMAT") == date_format(at, "SHORT_DATE_FORMAT") == "2026-11-28"
    assert date_format(at, "DATETIME_FORMAT") == "2026-11-28 15:36"


def test_csv_starts_before_the_rows_are_read(panel: Client, monkeypatch: Any) -> None:
    user = user_with(real=10)

    def chunks(listing: Any, read: Any) -> Any:
        raise AssertionError("read already")
        yield

    monkeypatch.setattr("billing.files.exports.in_chunks", chunks)
    lines = iter(panel.get(tab(user, "?export=csv")).streaming_content)  # type: ignore[attr-defined]
    assert next(lines).startswith(b"\xef\xbb\xbfid,")
    with pytest.raises(AssertionError, match="read already"):
        next(lines)


def test_xlsx_holds_numbers_and_texts(panel: Client) -> None:
    user = user_with(real="10.0001")
    ledger.change_balance(user, amount=-1, description="=1+1 and more", **BY_API)
    response = panel.get(tab(user, "?export=xlsx"))
    content = b"".join(response.streaming_content)  # type: ignore[attr-defined]
    sheet = zipfile.ZipFile(io.BytesIO(content)).read("xl/worksheets/sheet1.xml").decode()
    assert len(re.findall("<row ", sheet)) == 3
    assert "<v>10.0001</v>" in sheet
    assert "<f>" not in sheet
    assert "=1+1 and more" in sheet


def test_xlsx_writes_what_no_number_can_hold_as_text(panel: Client) -> None:
    user = user_with(real="999999999999999.9999")
    response = panel.get(tab(user, "?export=xlsx"))
    book = zipfile.ZipFile(io.BytesIO(b"".join(response.streaming_content)))  # type: ignore[attr-defined]
    written = "".join(book.read(name).decode() for name in book.namelist() if "sheet1" in name)
    assert "999999999999999.9999" in written
    assert "1000000000000000" not in written


def test_xlsx_says_when_a_sheet_is_too_small(panel: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr("billing.files.exports.XLSX_MAX_ROWS", 1)
    user = user_with(real=1)
    ledger.change_balance(user, amount=1, description="One too many", **BY_API)
    response = panel.get(tab(user, "?export=xlsx"))
    assert response.status_code == 400
    assert b"choose a shorter period, or CSV" in response.content


# --- Start page ---------------------------------------------------------------------------------


# The zone "Etc/GMT-13" calls itself +13, which PostgreSQL takes for 13 hours west.
@pytest.mark.parametrize("zone", ["Pacific/Auckland", "Etc/GMT-13"])  # UTC+13 in January
def test_the_start_page_counts_today_and_thirty_days_in_the_operators_time(
    panel: Client, administrator: User, monkeypatch: Any, zone: str
) -> None:
    cache.clear()
    administrator.time_zone = zone
    administrator.save()
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)  # 01:00 on 1 February in Auckland
    monkeypatch.setattr("django.utils.timezone.now", lambda: now)
    user = UserFactory()
    refill(user, datetime(2026, 1, 2, 10, 59, tzinfo=UTC))  # the 2nd: before the 30 days
    refill(user, datetime(2026, 1, 2, 11, tzinfo=UTC))  # the 3rd: the first of the 30 days
    refill(user, now - timedelta(minutes=61))  # yesterday
    refill(user, now)
    context = panel.get("/admin/").context
    assert context["turnover_today"].real == (1, 0, 0)
    assert context["turnover_days"].real == (3, 0, 0)
    assert context["holdings"].real == 4
    assert [row.number for row in context["latest"]] == [4, 3, 2, 1]
    assert json.loads(panel.get(tab(user)).context["chart"])["timeZone"] == zone


def test_the_start_page_counts_reversals_apart_and_leads_to_them(panel: Client) -> None:
    cache.clear()
    user = user_with(real=50)
    charge_cost(user, service="traffic", cost=12, description="Some traffic", **BY_API)
    ledger.reverse(user, number=2, description="Posted by mistake", **BY_API)
    response = panel.get("/admin/")
    assert response.context["turnover_today"].real == (50, 12, 12)
    assert response.context["turnover_days"].real == (50, 12, 12)
    links = re.findall(r'<a class="panel-card" href="([^"]+)"', response.text)
    for kind, shown in (("refills", [1]), ("charges", [2]), ("reversals", [3])):
        [link] = [each for each in links if f"direction={kind}" in each]
        assert numbers(panel.get(link.replace("&amp;", "&"))) == shown


def test_the_start_page_shows_each_what_they_may_see(client: Client, operator: User) -> None:
    user_with(real=1)
    client.force_login(operator)
    page = client.get("/admin/").content.decode()
    assert "may see nothing yet" in page
    assert "Money to start with" not in page


def test_who_reverses_a_charge_sees_what_was_paid_back_of_it(panel: Client) -> None:
    user = user_with(real=100)
    said: dict[str, Any] = {"actor": None, "channel": Channel.PANEL}
    for device in ("8617", "8618"):
        it = subscribed(user, PlanFactory(price=30), day=date(2026, 4, 1), device=device)
        subscriptions.cancel(it, day=date(2026, 4, 10), pay_back=True, **said)
    first, remainder, second, other = Transaction.objects.filter(
        user=user, type="main_charge"
    ).order_by("number")
    warning = f"No. {remainder.number}</a> has already paid back 21.00 of this charge."
    assert warning in panel.get(page_of(first, "reverse")).content.decode()
    page = panel.get(page_of(second, "reverse")).content.decode()
    assert f"No. {other.number}</a> has already paid back" in page
    assert f"No. {remainder.number}</a> has already paid back" not in page
    assert "of this charge." not in panel.get(page_of(other, "reverse")).content.decode()
    ledger.reverse(user, number=remainder.number, description="Paid in error", **said)
    assert "of this charge." not in panel.get(page_of(first, "reverse")).content.decode()


def unseen_remainder(panel: Client) -> tuple[User, Transaction, dict[str, str]]:
    """Returns a user, a charge of 30, and the fields of its Reverse page.

    21 of the charge was paid back after the page was opened.
    """
    user = user_with(real=100)
    it = subscribed(user, PlanFactory(price=30), day=date(2026, 4, 1))
    charge = Transaction.objects.get(user=user, number=2)
    seen = sent_from(panel.get(page_of(charge, "reverse")))
    subscriptions.cancel(
        it, day=date(2026, 4, 10), pay_back=True, actor=None, channel=Channel.PANEL
    )
    return user, charge, seen | {"description": "Charged in error"}


def sent_from(page: Any) -> dict[str, str]:
    """Returns the fields that a page's form sends if nothing is changed."""
    return {field.name: field.value() or "" for field in page.context["form"]}


def test_what_is_paid_back_while_the_page_is_open_is_not_given_twice_unseen(panel: Client) -> None:
    user, charge, seen = unseen_remainder(panel)
    page = panel.post(page_of(charge, "reverse"), seen)
    assert ledger.balance(user) == (91, 0, 3)
    text = page.content.decode()
    assert "Nothing was posted. 21.00 of transaction number 2 was already paid back by" in text
    assert "No. 3</a> has already paid back 21.00 of this charge." in text
    shown_again = sent_from(page)
    assert shown_again["description"] == "Charged in error"

    assert panel.post(page_of(charge, "reverse"), shown_again)["Location"] == tab(user, "?posted=4")
    assert ledger.balance(user).real == 121  # accepted: the warning was seen


def test_what_a_mistake_in_the_form_brings_along_counts_as_seen(panel: Client) -> None:
    user, charge, seen = unseen_remainder(panel)
    page = panel.post(page_of(charge, "reverse"), seen | {"description": "Oops"})
    assert "No. 3</a> has already paid back 21.00 of this charge." in page.content.decode()
    again = sent_from(page) | {"description": "Charged in error"}
    assert panel.post(page_of(charge, "reverse"), again).status_code == 302
    assert ledger.balance(user).real == 121


def test_what_was_paid_back_and_taken_back_again_stands_in_no_reversals_way(panel: Client) -> None:
    user, charge, _ = unseen_remainder(panel)
    seen = sent_from(panel.get(page_of(charge, "reverse")))
    ledger.reverse(user, number=3, description="Paid in error", **BY_API)
    seen |= {"description": "Charged in error"}
    assert panel.post(page_of(charge, "reverse"), seen).status_code == 302
    assert ledger.balance(user).real == 100


def test_what_is_paid_back_while_the_form_is_on_its_way_is_not_given_twice_unseen(
    connections: Connections,
) -> None:
    user = user_with(real=100)
    it = subscribed(user, PlanFactory(price=30), day=date(2026, 4, 1))
    charge = Transaction.objects.get(user=user, number=2)
    clients = client_of(AdministratorFactory())
    seen = sent_from(clients.get(page_of(charge, "reverse")))
    paid_back = Event()

    def work(place: int) -> Any:
        if place:
            paid_back.wait()
            return clients.post(
                page_of(charge, "reverse"), seen | {"description": "Charged in error"}
            )
        with transaction.atomic():
            subscriptions.cancel(it, day=date(2026, 4, 10), pay_back=True, **BY_API)
            paid_back.set()
            return until_somebody_waits_for_this()

    _, reversal = connections(2, work)
    assert reversal.error is None
    assert "was already paid back" in reversal.result.content.decode()
    assert ledger.balance(user) == (91, 0, 3)
