"""The calls of `/api/v1/` as data: the permission that each needs, and a request that succeeds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ninja.operation import Operation

from billing import ledger
from billing.api.rest import api
from billing.models import Batch, Channel, LowBalanceThreshold, Plan, Service, Subscription, Voucher
from billing.operations import batches
from tests.factories import (
    PlanFactory,
    ServiceFactory,
    UserFactory,
    a_voucher,
    plan_with,
    subscribed,
    user_with,
)
from users.models import User


class World(NamedTuple):
    """The objects that the calls are about. The user's transaction number 1 is a refill."""

    user: User
    service: Service
    subscription: Subscription
    other_plan: Plan
    other: User
    batch: Batch
    gone: User  # deactivated, without money
    voucher: Voucher


def make_world() -> World:
    user = user_with(real="100", bonus="20", email="ada@example.com")
    ledger.change_balance(
        user,
        amount="100",
        description="So the first can be reversed",
        actor=None,
        channel=Channel.API,
    )
    LowBalanceThreshold.objects.create(user=user, amount="5")
    service = ServiceFactory(code="outgoing_sms", name="Outgoing SMS", unit="")
    plan = plan_with({service: "0.3"}, name="Business", price="12.55")
    subscription = subscribed(user, plan)
    entries = [ledger.balance_change_entry(user, amount=3, description="Of a batch")]
    sheet = batches.Sheet(kind=Batch.Kind.REQUEST, title="Refills")
    posted = batches.post(entries, sheet, actor=None, channel=Channel.API)
    assert posted.batch is not None
    other_plan = PlanFactory(name="Basic", price="5")
    return World(
        user,
        service,
        subscription,
        other_plan,
        UserFactory(),
        posted.batch,
        UserFactory(is_active=False),
        a_voucher(),
    )


@dataclass(frozen=True)
class RestCall:
    """A call. `path` has placeholders, as in the OpenAPI description; `path_in` fills them in."""

    method: str
    path: str
    permission: str
    status: int = 200
    body: Callable[[World], Any] = lambda world: None
    query: str = ""
    is_preview: bool = False  # changes nothing, though it is a POST
    about: Callable[[World], User] = lambda world: world.user

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def writes(self) -> bool:
        return self.method != "GET" and not self.is_preview

    def path_in(self, world: World) -> str:
        path = self.path.format(
            user_id=self.about(world).pk,
            number=1,
            subscription_id=world.subscription.pk,
            plan_id=world.other_plan.pk,
            batch_id=world.batch.pk,
        )
        return path + self.query


def of_user(method: str, path: str, permission: str, *args: Any, **fields: Any) -> RestCall:
    return RestCall(method, f"/users/{{user_id}}{path}", permission, *args, **fields)


REFILL = {"description": "Bank transfer 4711", "amount": "12.50"}
TEN_SMS = {"service": "outgoing_sms", "quantity": "10"}
ANOTHER_PLAN = {"pay_back": True, "charge_now": True}
SUBSCRIPTION = "/subscriptions/{subscription_id}"

CALLS = (
    RestCall("GET", "/users", "users.view_user"),
    RestCall("POST", "/users", "users.add_user", 201, lambda world: {"email": "new@example.com"}),
    of_user("GET", "", "users.view_user"),
    of_user("PATCH", "", "users.change_user", body=lambda world: {"city": "Berlin"}),
    # Money
    RestCall("GET", "/transactions", "billing.view_transaction"),
    of_user("GET", "/transactions", "billing.view_transaction"),
    of_user("GET", "/transactions/{number}", "billing.view_transaction"),
    of_user("GET", "/balance", "billing.view_balance"),
    of_user("POST", "/balance-changes", "billing.change_balance", 201, lambda world: REFILL),
    RestCall(
        "POST",
        "/balance-changes",
        "billing.change_balance",
        body=lambda world: {"entries": [REFILL | {"user_id": world.user.pk}]},
    ),
    RestCall(
        "POST",
        "/batches",
        "billing.change_balance",
        body=lambda world: {"title": "Refills", "entries": [REFILL | {"user_id": world.user.pk}]},
    ),
    RestCall("GET", "/batches", "billing.view_batch"),
    RestCall("GET", "/batches/{batch_id}", "billing.view_batch"),
    RestCall(
        "POST",
        "/batches/{batch_id}/reversal",
        "billing.change_balance",
        body=lambda world: {"description": "The wrong month"},
    ),
    RestCall("GET", "/reasons", "billing.view_reason"),
    of_user(
        "POST",
        "/transactions/{number}/reversal",
        "billing.change_balance",
        201,
        lambda world: {"description": "Wrong user"},
    ),
    of_user(
        "POST",
        "/transactions/{number}/refunds",
        "billing.change_balance",
        201,
        lambda world: {"description": "A part of it", "amount": "1"},
    ),
    of_user(
        "POST",
        "/transactions/{number}/moves",
        "billing.change_balance",
        body=lambda world: {"description": "Of another user", "to_user_id": world.other.pk},
    ),
    of_user(
        "POST", "/merge", "users.merge_user", body=lambda world: {"into_user_id": world.other.pk}
    ),
    of_user(
        "POST",
        "/merge/preview",
        "users.merge_user",
        body=lambda world: {"into_user_id": world.other.pk},
        is_preview=True,
    ),
    of_user("POST", "/forget", "users.forget_user", about=lambda world: world.gone),
    of_user("GET", "/grants", "billing.view_balance"),
    of_user(
        "PATCH",
        "/grants/{number}",
        "billing.change_balance",
        body=lambda world: {"expires_at": "2999-12-31"},
    ),
    of_user("POST", "/service-charges", "billing.change_balance", 201, lambda world: TEN_SMS),
    of_user(
        "POST",
        "/service-charges/quote",
        "billing.change_balance",
        body=lambda world: TEN_SMS,
        is_preview=True,
    ),
    of_user("GET", "/low-balance-threshold", "billing.view_lowbalancethreshold"),
    of_user(
        "PUT",
        "/low-balance-threshold",
        "billing.change_lowbalancethreshold",
        body=lambda world: {"amount": "10"},
    ),
    of_user("DELETE", "/low-balance-threshold", "billing.change_lowbalancethreshold"),
    # Plans and subscriptions
    RestCall("GET", "/plans", "billing.view_plan"),
    RestCall("GET", "/plans/{plan_id}", "billing.view_plan"),
    RestCall("GET", "/services", "billing.view_service"),
    of_user("GET", "/subscriptions", "billing.view_subscription"),
    of_user("GET", SUBSCRIPTION, "billing.view_subscription"),
    of_user(
        "POST",
        "/subscriptions",
        "billing.add_subscription",
        201,
        lambda world: {"plan_id": world.other_plan.pk, "device": "8617"},
    ),
    of_user(
        "POST",
        "/subscriptions/preview",
        "billing.add_subscription",
        body=lambda world: {"plan_id": world.other_plan.pk, "device": "8617"},
        is_preview=True,
    ),
    of_user(
        "POST",
        f"{SUBSCRIPTION}/change-plan",
        "billing.change_subscription",
        body=lambda world: ANOTHER_PLAN | {"plan_id": world.other_plan.pk},
    ),
    of_user(
        "POST",
        f"{SUBSCRIPTION}/change-plan/preview",
        "billing.change_subscription",
        body=lambda world: ANOTHER_PLAN | {"plan_id": world.other_plan.pk},
        is_preview=True,
    ),
    of_user(
        "POST",
        f"{SUBSCRIPTION}/cancel",
        "billing.change_subscription",
        body=lambda world: {"pay_back": True},
    ),
    of_user(
        "POST",
        f"{SUBSCRIPTION}/cancel/preview",
        "billing.change_subscription",
        body=lambda world: {"pay_back": True},
        is_preview=True,
    ),
    of_user(
        "POST",
        "/vouchers",
        "billing.change_balance",
        201,
        lambda world: {"code": world.voucher.shown_code},
    ),
    of_user("GET", "/active-days", "billing.view_subscription", query="?device=8617"),
    of_user(
        "PUT",
        "/active-days",
        "billing.change_subscription",
        body=lambda world: {"device": "8617", "day": datetime.now(UTC).date().isoformat()},
    ),
)


def operations() -> Iterator[tuple[str, Operation]]:
    """Yields the name ("GET /users") and the operation of every call, read from the routers."""
    for prefix, router in api._routers:
        for path, view in router.path_operations.items():
            for operation in view.operations:
                for method in operation.methods:
                    yield f"{method} {prefix}{path}".replace("{int:", "{"), operation
