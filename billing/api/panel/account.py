"""Calls about the session itself."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from django.contrib.auth.backends import AllowAllUsersModelBackend
from django.http import HttpRequest

from billing import authority
from billing.api.panel.calls import Call
from billing.api.panel.errors import (
    ACCESS_DENIED,
    WRONG_LOGIN,
    Refused,
    too_many_requests,
)
from billing.api.panel.parameters import Parameters
from users.models import User
from users.networks import client_network

LONGEST_PASSWORD: Final = 1_000

# The names of operators' permissions in the Panel API. Only those that work here are listed: a
# console offers what it is granted.
PERMISSIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "users": {
        "create": "users.add_user",
        "read": "users.view_user",
        "update": "users.change_user",
    },
    "trackers": {"read": "billing.view_subscription"},
    "tariffs": {"read": "billing.view_plan"},
    "transactions": {
        "create": "billing.change_balance",
        "read": "billing.view_transaction",
    },
}


def auth(request: HttpRequest, parameters: Parameters, now: datetime) -> dict[str, Any]:
    login = parameters.text("login", longest=254)
    password = parameters.text("password", longest=LONGEST_PASSWORD)
    address = client_network(request)
    wait = authority.spend_login(login, address=address, now=now)
    if wait is not None:
        raise too_many_requests(wait)
    operator = _operator(login, password)
    if operator is None:
        raise Refused(WRONG_LOGIN)
    authority.accept_login(login, address=address, now=now)
    if not operator.is_active:
        raise Refused(ACCESS_DENIED)
    return {"hash": authority.open_session(operator, now), "permissions": permissions(operator)}


def _operator(login: str, password: str) -> User | None:
    """Returns the operator with this login and password, also a deactivated one.

    Takes the same time for an unknown login, because Django hashes the password then, too.
    """
    found = AllowAllUsersModelBackend().authenticate(None, username=login, password=password)
    return found if isinstance(found, User) and found.is_staff else None


def get_permissions(call: Call) -> dict[str, Any]:
    return {"permissions": permissions(call.operator)}


def logout(call: Call) -> dict[str, Any]:
    authority.end_session(call.session)
    return {}


def permissions(operator: User) -> dict[str, list[str]]:
    """Returns the granted permissions by category, without empty categories."""
    granted = {
        category: [action for action, name in actions.items() if operator.has_perm(name)]
        for category, actions in PERMISSIONS.items()
    }
    return {"base": ["get_dealer_info"]} | {
        category: actions for category, actions in granted.items() if actions
    }
