"""A list with a mistaken filter shows no rows, but says what is wrong."""

import pytest
from django.test import Client

from tests.every_page import Things
from users.models import User

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("address", "listed", "empty"),
    [
        ("/admin/billing/subscription/", "8617", "No subscriptions match"),
        ("/admin/billing/webhookdelivery/", "evt_", "No deliveries match"),
        ("/admin/billing/voucher/", "0 of 5", "No vouchers match"),
        ("/admin/billing/apikey/", "Begins with", "No API keys match"),
        ("/admin/users/user/{user}/subscriptions/", "8617", "No subscriptions match"),
    ],
)
def test_a_list_shows_nothing_beside_a_mistaken_filter(
    panel: Client, administrator: User, address: str, listed: str, empty: str
) -> None:
    address = address.format(user=Things(administrator).user.pk)
    assert listed in panel.get(address).text
    mistaken = panel.get(f"{address}?status=sideways&state=sideways").text
    assert "shown: there is a mistake in the filters" in mistaken
    assert "Select a valid choice. sideways is not one of the available choices." in mistaken
    assert listed not in mistaken
    assert empty not in mistaken
    assert f'<a href="{address}">clear the filters</a>' in mistaken
