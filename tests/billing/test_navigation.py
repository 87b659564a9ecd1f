"""The sidebar and the tabs show the pages that an operator may open, and mark the current one."""

import pytest

from tests.factories import PlanFactory, ServiceFactory, UserFactory
from tests.operators import client_of, operator_with
from users.models import Operator

pytestmark = pytest.mark.django_db

EVERYTHING = [
    "Start page",
    "Users",
    "Transactions",
    "Exports",
    "Plans",
    "Services",
    "Subscriptions",
    "Charging runs",
    "Batches",
    "Vouchers",
    "Defaults for new users",
    "Reasons",
    "API keys",
    "Webhooks",
    "Webhook deliveries",
    "Low balance",
    "Operators",
    "Groups",
]
FOR_VIEWERS = [*EVERYTHING[:9], "Reasons"]


def sidebar_of(operator: Operator, address: str = "/admin/my-time-zone/") -> dict[str, bool]:
    """Returns the entries of the sidebar. True marks the entry of the current page."""
    answer = client_of(operator).get(address)
    return {
        item["title"]: item["active"]
        for group in answer.context["sidebar_navigation"]
        for item in group["items"]
    }


@pytest.mark.parametrize(
    ("group", "entries"),
    [
        ("", EVERYTHING[:1]),
        ("Viewer", FOR_VIEWERS),
        ("Billing operator", [*EVERYTHING[:10], "Reasons", "Low balance"]),
        ("Administrator", EVERYTHING),
    ],
)
def test_the_sidebar_offers_what_the_operator_may_open(group: str, entries: list[str]) -> None:
    operator = operator_with(group=group)
    assert list(sidebar_of(operator)) == entries
    client = client_of(operator)
    answer = client.get("/admin/my-time-zone/")
    for heading in answer.context["sidebar_navigation"]:
        for item in heading["items"]:
            assert client.get(item["link"], follow=True).status_code == 200


def test_the_sidebar_marks_where_one_is() -> None:
    operator = operator_with(group="Administrator")
    user = UserFactory()
    for address, title in (
        ("/admin/users/user/", "Users"),
        (f"/admin/users/user/{user.pk}/change/", "Users"),
        (f"/admin/users/user/{user.pk}/transactions/", "Users"),
        ("/admin/users/operator/add/", "Operators"),
        ("/admin/billing/transaction/", "Transactions"),
        ("/admin/billing/export/", "Exports"),
        ("/admin/billing/plan/add/", "Plans"),
        ("/admin/billing/service/", "Services"),
        ("/admin/billing/subscription/", "Subscriptions"),
        ("/admin/billing/chargingrun/", "Charging runs"),
        ("/admin/billing/voucher/add/", "Vouchers"),
        ("/admin/billing/userdefaults/1/change/", "Defaults for new users"),
        ("/admin/billing/apikey/add/", "API keys"),
        ("/admin/billing/webhookendpoint/add/", "Webhooks"),
        ("/admin/billing/webhookdelivery/?status=failed", "Webhook deliveries"),
        ("/admin/billing/lowbalancethreshold/", "Low balance"),
        ("/admin/", "Start page"),
    ):
        active = [name for name, is_here in sidebar_of(operator, address).items() if is_here]
        assert active == [title], address


@pytest.mark.parametrize(
    ("name", "active"),
    [
        ("change", ["Profile"]),
        ("transactions", ["Transactions"]),
        ("subscriptions", ["Subscriptions"]),
        ("subscriptions/add", ["Subscriptions"]),
        ("charge-service", []),
        ("redeem-voucher", []),
        ("low-balance", ["Profile"]),
        ("history", ["History"]),
        ("change-balance", []),
    ],
)
def test_a_users_pages_have_tabs(name: str, active: list[str]) -> None:
    user = UserFactory()
    client = client_of(operator_with(group="Billing operator"))
    answer = client.get(f"/admin/users/user/{user.pk}/{name}/")
    (tabs,) = answer.context["tab_list"]
    assert [item["title"] for item in tabs["items"]] == [
        "Profile",
        "Transactions",
        "Subscriptions",
        "History",
    ]
    assert [item["title"] for item in tabs["items"] if item["active"]] == active
    assert f'href="/admin/users/user/{user.pk}/transactions/"' in answer.text


def test_tabs_are_for_those_who_may_open_them() -> None:
    user = UserFactory()
    answer = client_of(operator_with("users.view_user")).get(f"/admin/users/user/{user.pk}/change/")
    (tabs,) = answer.context["tab_list"]
    assert [item["title"] for item in tabs["items"]] == ["Profile", "History"]


@pytest.mark.parametrize("page", ["change", "history"])
def test_what_is_configured_has_a_tab_for_its_history(page: str) -> None:
    client = client_of(operator_with(group="Administrator"))
    for model, object_id, title in (
        ("plan", PlanFactory().pk, "Plan"),
        ("service", ServiceFactory().pk, "Service"),
        ("userdefaults", 1, "Defaults for new users"),
    ):
        answer = client.get(f"/admin/billing/{model}/{object_id}/{page}/")
        (tabs,) = answer.context["tab_list"]
        assert [(item["title"], item["active"]) for item in tabs["items"]] == [
            (title, page == "change"),
            ("History", page == "history"),
        ]
        for item in tabs["items"]:
            assert f'href="{item["link"]}"' in answer.text
            assert client.get(item["link"]).status_code == 200


@pytest.mark.parametrize(
    "address",
    [
        "/admin/users/user/",
        "/admin/users/user/add/",
        "/admin/billing/plan/",
        "/admin/billing/plan/add/",
        "/admin/",
    ],
)
def test_other_pages_have_no_tabs(address: str) -> None:
    client = client_of(operator_with(group="Administrator"))
    assert not client.get(address).context["tab_list"]


def test_the_account_menu_leads_to_time_zone_and_password() -> None:
    text = client_of(operator_with()).get("/admin/").text
    assert "/admin/my-time-zone/" in text
    assert "/admin/password_change/" in text
