"""The calls of `/api/v1/` as data: the permission that each takes, and a request that succeeds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ninja.operation import Operation

from billing.api.rest import api
from billing.models import Plan, Service, Subscription
from tests.factories import PlanFactory, ServiceFactory, plan_with, subscribed, user_with
from users.models import User


class World(NamedTuple):
    """What there is to call about. The user's transaction number 1 is a refill."""

    user: User
    service: Service
    subscription: Subscription
    other_plan: Plan


def make_world() -> World:
    user = user_with(real="100", bonus="20", email="ada@example.com")
    service = ServiceFactory(code="outgoing_sms", name="Outgoing SMS", unit="")
    plan = plan_with({service: "0.3"}, name="Business", price="12.55")
    return World(user, service, subscribed(user, plan), PlanFactory(name="Basic", price="5"))


@dataclass(frozen=True)
class RestCall:
    """`path` with the names of its parts, as in the description; `body` fills them, too."""

    method: str
    path: str
    permission: str
    status: int = 200
    body: Callable[[World], Any] = lambda world: None
    query: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def writes(self) -> bool:
        return self.method != "GET"

    def path_in(self, world: World) -> str:
        path = self.path.format(
            user_id=world.user.pk,
            number=1,
            subscription_id=world.subscription.pk,
            plan_id=world.other_plan.pk,
        )
        return path + self.query


REFILL = {"description": "Bank transfer 4711", "amount": "12.50"}

CALLS = (
    RestCall("GET", "/users", "users.view_user"),
    RestCall("POST", "/users", "users.add_user", 201, lambda world: {"email": "new@example.com"}),
    RestCall("GET", "/users/{user_id}", "users.view_user"),
    RestCall(
        "PATCH", "/users/{user_id}", "users.change_user", body=lambda world: {"city": "Berlin"}
    ),
    RestCall(
        "POST",
        "/users/{user_id}/balance-changes",
        "billing.change_balance",
        201,
        lambda world: REFILL,
    ),
    RestCall(
        "POST",
        "/balance-changes",
        "billing.change_balance",
        body=lambda world: {"entries": [REFILL | {"user_id": world.user.pk}]},
    ),
)


def operations() -> Iterator[tuple[str, Operation]]:
    """Each call that there is, as "GET /users", from the interface itself."""
    for prefix, router in api._routers:
        for path, view in router.path_operations.items():
            for operation in view.operations:
                for method in operation.methods:
                    yield f"{method} {prefix}{path}", operation
