"""Every list that shows times names their time zone."""

import re

import pytest
from django.test import Client

from tests.every_page import Things, pages
from users.models import User

pytestmark = pytest.mark.django_db

# A time of day in a table, as the panel writes it: 2026-11-28 <span>15:36:09</span>.
TIME_IN_A_TABLE = re.compile(
    r"<td(?:(?!</td>).)*?\d{4}-\d\d-\d\d (?:<span>)?\d\d:\d\d(?!(?::\d\d)? UTC)", re.DOTALL
)
LISTS = re.compile(r'<table class="panel-table.*?</table>|<table id="result_list".*?</table>', re.S)


def test_lists_name_the_time_zone_they_show(panel: Client, administrator: User) -> None:
    administrator.time_zone = "Asia/Tokyo"
    administrator.save()
    panel.force_login(administrator)
    things = Things(administrator)
    named = []
    for page in pages(things):
        if page.name == "logout":
            continue
        html = panel.get(page.path).text
        if any(TIME_IN_A_TABLE.search(table) for table in LISTS.findall(html)):
            assert "Times in <strong>Asia/Tokyo</strong>" in html, page
            named.append(page.name)
    assert {
        "index",
        "users_user_changelist",
        "users_user_transactions",
        "billing_transaction_changelist",
        "billing_chargingrun_changelist",
        "billing_webhookdelivery_changelist",
        "billing_apikey_changelist",
    } <= set(named)


def test_lists_of_days_say_that_they_are_of_utc(panel: Client, administrator: User) -> None:
    things = Things(administrator)
    its = f"/admin/users/user/{things.user.pk}/subscriptions/"
    for path in (its, "/admin/billing/subscription/"):
        assert "Days in <strong>UTC</strong>" in panel.get(path).text
