"""Making vouchers and redeeming one, by clicks."""

import pytest
from playwright.sync_api import expect

from billing import ledger
from billing.models import Voucher
from tests.browser.conftest import Windows
from tests.browser.panel import change_balance, notice
from tests.factories import user_with
from users.models import User

pytestmark = pytest.mark.browser


def test_vouchers_are_made_and_one_is_redeemed(windows: Windows, operator: User) -> None:
    user = user_with(real=1)
    page = windows(operator, "/admin/billing/voucher/")
    page.get_by_role("link", name="Add vouchers").click()
    page.get_by_label("How many").fill("2")
    page.get_by_label("Title").fill("Spring")
    page.get_by_label("Amount").fill("12.50")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("2 vouchers were made. Here are the codes.")).to_be_visible()
    codes = page.locator("td code").all_inner_texts()
    assert sorted(codes) == sorted(each.shown_code for each in Voucher.objects.all())
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert download.value.suggested_filename == "vouchers.csv"

    page.goto(change_balance(user).replace("change-balance", "transactions"))
    page.get_by_role("link", name="Redeem voucher").click()
    page.get_by_label("Code").fill(codes[0].lower())
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_text("Voucher: Spring")).to_be_visible()
    assert ledger.balance(user).real == 1
    page.get_by_role("button", name="Redeem voucher").click()
    expect(notice(page)).to_contain_text("Posted: transaction No. 2, “Voucher: Spring”.")
    assert ledger.balance(user).real == 13.5
