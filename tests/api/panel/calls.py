"""The calls of `/v2/panel/` as data: the permission that each needs, and a minimal request."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from billing.models import Plan
from tests.factories import PlanFactory, UserFactory, subscribed
from users.models import User


class World(NamedTuple):
    """The objects that the calls are about."""

    user: User
    plan: Plan


# Each legal type needs the fields of the legal types before it, and more.
INDIVIDUAL: dict[str, Any] = {
    "legal_type": "individual",
    "login": "new@example.com",
    "first_name": "Grace",
    "middle_name": "",
    "last_name": "Hopper",
    "phone": "",
    "post_country": "",
    "post_region": "",
    "post_city": "",
    "post_street_address": "",
    "post_index": "",
}
SOLE_TRADER: dict[str, Any] = INDIVIDUAL | {
    "legal_type": "sole_trader",
    "phone": "491761234567",
    "post_country": "Germany",
    "post_region": "Berlin",
    "post_city": "Berlin",
    "post_street_address": "Unter den Linden 1",
    "post_index": "10117",
    "registered_country": "USA",
    "registered_region": "New York",
    "registered_city": "New York",
    "registered_street_address": "5th Ave. 1/2",
    "registered_index": "NY 10003",
    "tin": "DE-123",
}
LEGAL_ENTITY: dict[str, Any] = SOLE_TRADER | {
    "legal_type": "legal_entity",
    "legal_name": 'Compilers "A-0" Ltd.',
    "iec": "773101001",
}
REST_OF_CREATE: dict[str, Any] = {
    "password": "correct horse battery staple",
    "locale": "en_US",
    "time_zone": "Europe/London",
}


def a_tracker() -> int:
    """Subscribes a device, and returns its number."""
    subscribed(UserFactory(), PlanFactory(price="0"), device="4711")
    return 4711


@dataclass(frozen=True)
class PanelCall:
    """A call. Without a `permission`, any operator may make it. `parameters` make it succeed."""

    path: str
    permission: str | None
    parameters: Callable[[World], dict[str, Any]] = lambda world: {}

    def __str__(self) -> str:
        return self.path


CALLS = (
    PanelCall("account/get_permissions", None),
    PanelCall("dealer/get_info", None),
    PanelCall("payment_system/list", None),
    PanelCall("paas/plugins/list", None),
    PanelCall("user/list", "users.view_user"),
    PanelCall("user/read", "users.view_user", lambda world: {"user_id": world.user.pk}),
    PanelCall("user/create", "users.add_user", lambda _: {"user": INDIVIDUAL, **REST_OF_CREATE}),
    PanelCall(
        "user/update",
        "users.change_user",
        lambda world: {"user": INDIVIDUAL | {"id": world.user.pk, "activated": True}},
    ),
    PanelCall("user/export", "users.view_user"),
    PanelCall(
        "user/transaction/list",
        "billing.view_transaction",
        lambda world: {
            "user_id": world.user.pk,
            "from": "2026-01-01 00:00:00",
            "to": "2026-12-31 23:59:59",
        },
    ),
    PanelCall(
        "user/transaction/change_balance",
        "billing.change_balance",
        lambda world: {
            "user_id": world.user.pk,
            "amount": 12.5,
            "type": "balance",
            "text": "Bank transfer 4711",
        },
    ),
    PanelCall("user/menu/read", "users.view_user", lambda world: {"user_id": world.user.pk}),
    PanelCall("user/menu/default/read", "users.view_user"),
    PanelCall("user/mfa/settings/default/read", "users.view_user"),
    PanelCall("tracker/list", "billing.view_subscription"),
    PanelCall(
        "tracker/read",
        "billing.view_subscription",
        lambda world: {"tracker_id": a_tracker()},
    ),
    PanelCall("tariff/list", "billing.view_plan"),
    PanelCall("tariff/defaults/read", "billing.view_plan"),
    PanelCall("tariff/read", "billing.view_plan", lambda world: {"tariff_id": world.plan.pk}),
    PanelCall("account/logout", None),  # last: it ends the session
)
CALL = {call.path: call for call in CALLS}
