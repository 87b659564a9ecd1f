"""The sidebar, the tabs of a user's pages and the account menu, by the operator's permissions."""

import re
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from unfold.enums import ActionVariant

from users.links import address, address_of
from users.models import User

# The URL names of a user's pages, and the tab that each belongs to.
USER_PAGES = {
    "users_user_change": "Profile",
    "users_user_transactions": "Transactions",
    "users_user_subscriptions": "Subscriptions",
    "users_user_subscription_add": "Subscriptions",
    "users_user_subscription_plan": "Subscriptions",
    "users_user_subscription_cancel": "Subscriptions",
    "users_user_change_balance": "",
    "users_user_charge_service": "",
    "users_user_redeem_voucher": "",
    "users_user_low_balance": "Profile",
    "users_user_gift_expiry": "Profile",
    "users_user_merge": "Profile",
    "users_user_forget": "Profile",
    "users_user_history": "History",
    "billing_transaction_change": "Transactions",
    "billing_transaction_reverse": "Transactions",
}

# Configuration pages with a History tab, and the names of their first tabs.
WITH_HISTORY = {
    "billing_plan": "Plan",
    "billing_service": "Service",
    "billing_userdefaults": "Defaults for new users",
    "billing_voucher": "Voucher",
    "billing_apikey": "API key",
    "billing_webhookendpoint": "Endpoint",
}

# Group, entry, icon, URL name, and permissions; one of them is enough.
ENTRIES = [
    ("", "Start page", "home", "index", ()),
    ("", "Users", "group", "users_user_changelist", ("users.view_user",)),
    (
        "",
        "Transactions",
        "receipt_long",
        "billing_transaction_changelist",
        ("billing.view_transaction",),
    ),
    ("", "Exports", "download", "billing_export_changelist", ("billing.view_transaction",)),
    (
        "Billing",
        "Plans",
        "sell",
        "billing_plan_changelist",
        ("billing.view_plan", "billing.change_plan"),
    ),
    (
        "Billing",
        "Services",
        "bolt",
        "billing_service_changelist",
        ("billing.view_service", "billing.change_service"),
    ),
    (
        "Billing",
        "Subscriptions",
        "event_repeat",
        "billing_subscription_changelist",
        ("billing.view_subscription", "billing.change_subscription"),
    ),
    (
        "Billing",
        "Charging runs",
        "sync",
        "billing_chargingrun_changelist",
        ("billing.view_chargingrun",),
    ),
    (
        "Billing",
        "Batches",
        "stacks",
        "billing_batch_changelist",
        ("billing.view_batch",),
    ),
    (
        "Billing",
        "Vouchers",
        "redeem",
        "billing_voucher_changelist",
        ("billing.view_voucher", "billing.change_voucher"),
    ),
    (
        "Billing",
        "Defaults for new users",
        "person_add",
        "billing_userdefaults_changelist",
        ("billing.view_userdefaults", "billing.change_userdefaults"),
    ),
    (
        "Billing",
        "Reasons",
        "format_list_bulleted",
        "billing_reason_changelist",
        ("billing.view_reason", "billing.change_reason"),
    ),
    (
        "Integrations",
        "API keys",
        "key",
        "billing_apikey_changelist",
        ("billing.view_apikey", "billing.change_apikey"),
    ),
    (
        "Integrations",
        "Webhooks",
        "webhook",
        "billing_webhookendpoint_changelist",
        ("billing.view_webhookendpoint", "billing.change_webhookendpoint"),
    ),
    (
        "Integrations",
        "Webhook deliveries",
        "outbox",
        "billing_webhookdelivery_changelist",
        ("billing.view_webhookdelivery", "billing.change_webhookdelivery"),
    ),
    (
        "Integrations",
        "Low balance",
        "notification_important",
        "billing_lowbalancethreshold_changelist",
        ("billing.view_lowbalancethreshold", "billing.change_lowbalancethreshold"),
    ),
    (
        "Administration",
        "Operators",
        "badge",
        "users_operator_changelist",
        ("users.view_operator", "users.change_operator"),
    ),
    (
        "Administration",
        "Groups",
        "shield_person",
        "auth_group_changelist",
        ("auth.view_group", "auth.change_group"),
    ),
]


def subject_id(request: HttpRequest) -> int | None:
    """Returns the ID of the user whose page this is. `page_context` sets it on the request."""
    return getattr(request, "subject_id", None)


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """Returns the entries that the operator may open, by group."""
    groups: dict[str, list[dict[str, Any]]] = {}
    here = address("admin:users_user_changelist") if subject_id(request) else request.path
    for heading, title, icon, name, permissions in ENTRIES:
        if permissions and not any(request.user.has_perm(each) for each in permissions):
            continue
        link = address(f"admin:{name}")
        is_here = here == link or (name != "index" and here.startswith(link))
        groups.setdefault(heading, []).append(
            {"title": title, "icon": icon, "link": link, "active": is_here}
        )
    return [
        {"title": heading, "separator": bool(heading), "items": items}
        for heading, items in groups.items()
    ]


def user_tabs(request: HttpRequest) -> list[dict[str, Any]]:
    """Returns the tabs of a user's pages: Profile, Transactions, Subscriptions, History."""
    here = request.resolver_match
    if here is None or here.url_name not in USER_PAGES:
        return []
    user_id = subject_id(request) or here.kwargs["object_id"]
    if not re.fullmatch("[0-9]+", str(user_id)):
        return []  # such as "+50", which the database would read as 50
    tabs = [
        ("Profile", "users_user_change", "users.view_user"),
        ("Transactions", "users_user_transactions", "billing.view_transaction"),
        ("Subscriptions", "users_user_subscriptions", "billing.view_subscription"),
        ("History", "users_user_history", "users.view_user"),
    ]
    items = [
        {
            "title": title,
            "link": address_of(f"admin:{name}", user_id),
            "active": USER_PAGES[here.url_name] == title,
        }
        for title, name, permission in tabs
        if request.user.has_perm(permission)
        or (permission == "users.view_user" and request.user.has_perm("users.change_user"))
    ]
    # Under both names, because Unfold looks tabs up by kind of page.
    models = ["users.user", {"name": "users.user", "detail": True}]
    return [{"models": models, "items": items}]


def tabs(request: HttpRequest) -> list[dict[str, Any]]:
    """Returns the tabs of a user or of a configuration page."""
    here = request.resolver_match
    model, _, page = here.url_name.rpartition("_") if here and here.url_name else ("", "", "")
    pages = [("change", WITH_HISTORY.get(model, "")), ("history", "History")]
    if model == "billing_webhookendpoint" and request.user.has_perm(
        "billing.change_webhookendpoint"
    ):
        pages.insert(1, ("secret", "Secret"))
    if model == "billing_voucher":
        pages.insert(1, ("redemptions", "Redeemed by"))
    if here is None or model not in WITH_HISTORY or page not in dict(pages):
        return user_tabs(request)
    [object_id] = here.kwargs.values()
    items = [
        {
            "title": title,
            "link": reverse(f"admin:{model}_{name}", args=[object_id]),
            "active": page == name,
        }
        for name, title in pages
    ]
    label = model.replace("_", ".")
    return [{"models": [label, {"name": label, "detail": True}], "items": items}]


def account_links(request: HttpRequest) -> list[dict[str, Any]]:
    """Returns the entries of the account menu, in addition to theme and logout."""
    return [
        {"title": "My time zone", "link": address("admin:my_time_zone")},
        {"title": "Change password", "link": address("admin:password_change")},
    ]


def may_change_balance(request: HttpRequest, user: User | None) -> bool:
    """Returns whether the pages of `user` offer changes of the balance."""
    is_closed = user is not None and user.is_closed
    return request.user.has_perm("billing.change_balance") and not is_closed


def header_actions(request: HttpRequest, user: User) -> list[dict[str, Any]]:
    """Returns the buttons at the top right of a user's pages, for Unfold's header."""
    if not may_change_balance(request, user):
        return []
    return [
        {
            "title": "Redeem voucher",
            "icon": "redeem",
            "variant": ActionVariant.DEFAULT,
            "attrs": {},
            "path": reverse("admin:users_user_redeem_voucher", args=[user.pk]),
        },
        {
            "title": "Charge service",
            "icon": "bolt",
            "variant": ActionVariant.DEFAULT,
            "attrs": {},
            "path": reverse("admin:users_user_charge_service", args=[user.pk]),
        },
        {
            "title": "Change balance",
            "icon": "account_balance_wallet",
            "variant": ActionVariant.PRIMARY,
            "attrs": {},
            "path": reverse("admin:users_user_change_balance", args=[user.pk]),
        },
    ]
