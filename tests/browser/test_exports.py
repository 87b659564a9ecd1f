"""A large workbook: asked for with one click, followed on its page, left, found and downloaded."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from billing.models import Export
from tests.billing.histories import user_with_history
from tests.browser.conftest import Windows
from tests.browser.panel import tab
from tests.browser.test_transactions_tab import spreadsheet
from users.models import User

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True)
def two_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.admin.exports.AT_ONCE_ROWS", 2)


def test_a_large_workbook_from_the_click_to_the_file(
    windows: Windows, operator: User, work: Callable[[], None]
) -> None:
    user = user_with_history()
    page = windows(operator, tab(user, "?direction=charges"))
    page.get_by_role("button", name="XLSX").click()
    expect(page.get_by_role("heading", name="Exports")).to_be_visible()
    row = page.locator("tbody tr")
    expect(row).to_contain_text("Direction: Charges")
    expect(row).to_contain_text("Waiting")
    # The page shows by itself what a worker does meanwhile.
    Export.objects.update(
        state=Export.State.RUNNING, done=1, started_at=timezone.now() - timedelta(minutes=1)
    )
    expect(row).to_contain_text("1 of 3 transactions, 2 min")
    expect(row.get_by_role("progressbar")).to_be_visible()
    Export.objects.update(state=Export.State.WAITING, done=0, started_at=None)
    work()
    expect(row).to_contain_text("Finished")
    expect(row).to_contain_text("3 transactions")

    page.goto(tab(user))
    page.get_by_role("link", name="Exports").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename.startswith(f"transactions-user-{user.pk}-")
    rows = spreadsheet(download.value.path())
    assert [Decimal(row["amount"]) for row in rows] == [-5, Decimal("-12.55"), 0]
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_text("was removed.")).to_be_visible()
    expect(page.get_by_text("You have no exports.")).to_be_visible()


def test_without_scripts_it_works_too(
    windows: Windows, operator: User, work: Callable[[], None]
) -> None:
    user = user_with_history()
    page = windows(operator, tab(user, "?export=xlsx"), java_script_enabled=False)
    expect(page.get_by_text("A workbook of 7 transactions takes some minutes.")).to_be_visible()
    page.get_by_role("button", name="Write the workbook").click()
    expect(page.locator("tbody tr")).to_contain_text("Waiting")
    Export.objects.update(state=Export.State.FAILED, problem="The disk was full.")
    page.reload()
    expect(page.locator("tbody tr")).to_contain_text("The disk was full.")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("tbody tr")).to_contain_text("Waiting")
    work()
    page.reload()
    expect(page.get_by_role("link", name="Download")).to_be_visible()
