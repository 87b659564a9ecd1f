"""Helpers for browser tests: they read pages, fill in forms, and make users with a history."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import Group
from django.db import transaction
from playwright.sync_api import Locator, Page, expect

from billing import ledger
from billing.models import Channel
from tests.billing.histories import LEDGER_TABLES, execute, judge
from tests.factories import OperatorFactory
from users.models import User

BY_SYSTEM: dict[str, Any] = {"actor": None, "channel": Channel.CHARGING}


# --- Reading pages ------------------------------------------------------------------------------


def amount(text: str) -> Decimal:
    """Returns the number that a page shows as "−1,234.50"."""
    return Decimal(text.strip().replace("−", "-").replace(",", ""))


def transactions(page: Page) -> list[dict[str, str]]:
    """Returns the rows of the list: each cell by its column's heading, without symbols."""
    page.wait_for_load_state()  # a list is visible before all of its rows have loaded
    return page.locator("table.panel-table").evaluate(
        """table => {
            const text = (cell) => {
                const copy = cell.cloneNode(true);
                copy.querySelectorAll(".material-symbols-outlined").forEach((e) => e.remove());
                return copy.textContent.replace(/\\s+/g, " ").trim();
            };
            const headings = [...table.tHead.rows[0].cells].map(text);
            return [...table.tBodies[0].rows].map((row) => Object.fromEntries(
                [...row.cells].map((cell, column) => [headings[column], text(cell)])
            ));
        }"""
    )


def numbers(page: Page) -> list[int]:
    """Returns the numbers of the listed transactions, or [] if the page says the list is empty."""
    expect(page.locator(".panel-table, .panel-empty")).to_be_visible()
    if page.locator(".panel-empty").count():
        return []
    return [int(row["No."]) for row in transactions(page)]


def totals(page: Page) -> dict[str, tuple[Decimal, Decimal]]:
    """Returns the table above the list: balance and bonus, by the name of the line."""
    page.wait_for_load_state()
    lines = page.locator("table.panel-totals tr:has(th[scope=row])")
    return {
        line.locator("th").inner_text(): (
            amount(line.locator("td").nth(0).inner_text()),
            amount(line.locator("td").nth(1).inner_text()),
        )
        for line in lines.all()
    }


def reconciles(page: Page) -> bool:
    """True if the opening balance and the lines below it add up to the closing balance."""
    lines = totals(page)
    closing = lines.pop("Closing")
    return tuple(map(sum, zip(*lines.values(), strict=True))) == closing


def notice(page: Page) -> Locator:
    return page.locator(".panel-notice")


def scrolls_sideways(page: Page) -> bool:
    page.wait_for_load_state()
    # Until its font has loaded, a symbol is as wide as its name.
    return page.evaluate(
        """() => document.fonts.ready.then(() =>
            document.documentElement.scrollWidth > document.documentElement.clientWidth
        )"""
    )


# --- Addresses ----------------------------------------------------------------------------------


def tab(user: User, query: str = "") -> str:
    return f"/admin/users/user/{user.pk}/transactions/{query}"


def change_balance(user: User) -> str:
    return f"/admin/users/user/{user.pk}/change-balance/"


def transaction_page(transaction_id: int, action: str = "change") -> str:
    return f"/admin/billing/transaction/{transaction_id}/{action}/"


def fill_change(page: Page, description: str, real: str = "", bonus: str = "") -> None:
    page.get_by_label("Transaction description").fill(description)
    page.get_by_label("Balance changes").fill(real)
    page.get_by_label("Bonus changes").fill(bonus)


def confirm(page: Page) -> None:
    page.get_by_role("button", name="Change balance").click()


# --- People and histories -----------------------------------------------------------------------


def midday_zone() -> str:
    """Returns a time zone where it is about noon, so that midnight does not pass during a test."""
    return f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"  # signs as in POSIX: west is positive


def member_of(group: str, **fields: Any) -> User:
    """Creates an operator who is a member of one of the ready-made groups."""
    operator = OperatorFactory(**{"time_zone": midday_zone()} | fields)
    operator.groups.add(Group.objects.get(name=group))
    return operator


def refill(user: User, real: Any = 0, bonus: Any = 0, description: str = "Paid by card") -> None:
    ledger.change_balance(
        user, amount=real, bonus_amount=bonus, description=description, **BY_SYSTEM
    )


def many_transactions(user: User, count: int) -> None:
    ledger.post_batch(
        [
            ledger.balance_change_entry(user, amount=1, description=f"Payment of invoice {number}")
            for number in range(1, count + 1)
        ],
        **BY_SYSTEM,
    )


def happened_at(user: User, moments: Sequence[datetime]) -> None:
    """Gives the user's transactions these times, as if they had been posted then.

    The ledger sets the time itself, so this disables its guards. It computes the digests again, so
    that verify_ledger still finds nothing.
    """
    with transaction.atomic():
        for table in LEDGER_TABLES:
            execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        for number, moment in enumerate(moments, start=1):
            execute(
                "UPDATE billing_transaction SET created_at = %s WHERE user_id = %s AND number = %s",
                [moment, user.pk, number],
            )
            execute(
                """UPDATE billing_transaction t SET digest = billing_digest(t, coalesce(
                    (SELECT digest FROM billing_transaction p
                    WHERE p.user_id = t.user_id AND p.number = t.number - 1), ''), (
                    SELECT jsonb_agg(jsonb_build_array(u.grant_number::text, u.amount::text)
                        ORDER BY u.line) FROM billing_grantuse u
                    WHERE u.user_id = t.user_id AND u.number = t.number))
                WHERE t.user_id = %s AND t.number = %s""",
                [user.pk, number],
            )
        execute(
            """UPDATE billing_balance b SET last_digest = t.digest, last_at = t.created_at
            FROM billing_transaction t
            WHERE t.user_id = b.user_id AND t.number = b.last_number AND b.user_id = %s""",
            [user.pk],
        )
        judge()  # a table cannot be altered while checks are pending
        for table in LEDGER_TABLES:
            execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
