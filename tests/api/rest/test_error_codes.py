"""Provokes every error code over HTTP. A new code without an entry here fails a test."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any, NamedTuple

import pytest
from django.db import connection, transaction
from django.http import HttpResponse
from django.utils import timezone

from billing import errors, ledger
from billing.api.problems import OWN, STATUS_BY_CODE
from billing.models import Reason, Service
from tests.api.rest.calls import REFILL, TEN_SMS, World, make_world
from tests.api.rest.programs import Program, assert_problem, program_of_administrator, program_with
from tests.billing.histories import posted_ahead
from tests.factories import PlanFactory, ServiceFactory, UserFactory, a_voucher, subscribed


class Scene(NamedTuple):
    program: Program
    world: World
    patch: pytest.MonkeyPatch
    settings: Any

    @property
    def user(self) -> str:
        return f"/users/{self.world.user.pk}"

    @property
    def subscription(self) -> str:
        return f"{self.user}/subscriptions/{self.world.subscription.pk}"

    def post(self, path: str, body: Any, **options: Any) -> HttpResponse:
        """Posts to `path`, which is below the address of the user."""
        return self.program.post(f"{self.user}{path}", body, **options)

    def refill(self, **fields: Any) -> HttpResponse:
        return self.post("/balance-changes", REFILL | fields)

    def charge(self, **fields: Any) -> HttpResponse:
        return self.post("/service-charges", TEN_SMS | fields)


BOTH = {"pay_back": True, "charge_now": True}


def conflict(scene: Scene) -> HttpResponse:
    scene.post("/balance-changes", REFILL, key="17")
    return scene.post("/balance-changes", REFILL | {"amount": "1"}, key="17")


def reversed_twice(scene: Scene) -> HttpResponse:
    scene.post("/transactions/1/reversal", {"description": "Wrong user"})
    return scene.post("/transactions/1/reversal", {"description": "Wrong user"})


def reversed_though_paid_back(scene: Scene) -> HttpResponse:
    body = {"plan_id": scene.world.other_plan.pk, "device": "paid-back"}
    subscription = scene.post("/subscriptions", body).json()
    [charge] = subscription["transactions"]
    its = f"{scene.user}/subscriptions/{subscription['subscription']['id']}"
    scene.program.post(f"{its}/cancel", {"pay_back": True})
    body = {"description": "Wrong device"}
    return scene.post(f"/transactions/{charge['number']}/reversal", body)


def reversed_reversal(scene: Scene) -> HttpResponse:
    number = scene.post("/transactions/1/reversal", {"description": "Wrong user"}).json()["number"]
    return scene.post(f"/transactions/{number}/reversal", {"description": "Wrong user"})


def moved_charge(scene: Scene) -> HttpResponse:
    number = scene.charge().json()["number"]
    body = {"description": "No payment", "to_user_id": scene.world.other.pk}
    return scene.post(f"/transactions/{number}/moves", body)


def of_duplicate(scene: Scene) -> HttpResponse:
    scene.post("/merge", {"into_user_id": scene.world.other.pk})
    return scene.refill()


def of_forgotten_user(scene: Scene) -> HttpResponse:
    gone = f"/users/{scene.world.gone.pk}"
    scene.program.post(f"{gone}/forget", None)
    return scene.program.patch(gone, {"city": "Berlin"})


def without_plan(scene: Scene) -> HttpResponse:
    return scene.program.post(f"/users/{UserFactory().pk}/service-charges", TEN_SMS)


def of_retired_service(scene: Scene) -> HttpResponse:
    Service.objects.update(is_active=False)
    return scene.charge()


def of_deactivated_user(scene: Scene) -> HttpResponse:
    user = UserFactory(is_active=False)
    body = {"plan_id": scene.world.other_plan.pk}
    return scene.program.post(f"/users/{user.pk}/subscriptions", body)


def of_suspended_subscription(scene: Scene) -> HttpResponse:
    user = UserFactory()
    subscribed(user, scene.world.subscription.plan)  # suspended, as the user has no money
    return scene.program.post(f"/users/{user.pk}/service-charges", TEN_SMS)


def cancelled_twice(scene: Scene) -> HttpResponse:
    scene.program.post(f"{scene.subscription}/cancel", {"pay_back": False})
    return scene.program.post(f"{scene.subscription}/cancel", {"pay_back": False})


def on_active_day(scene: Scene) -> HttpResponse:
    tomorrow = (timezone.now() + timedelta(days=1)).date().isoformat()
    body = {"device": "8617", "day": tomorrow}
    return scene.program.call("PUT", f"{scene.user}/active-days", body)


def started(scene: Scene, plan_id: int, **fields: Any) -> HttpResponse:
    return scene.post("/subscriptions", {"plan_id": plan_id} | fields)


def too_slow(scene: Scene) -> HttpResponse:
    def sleep(execute: Any, sql: str, params: Any, many: Any, context: Any) -> Any:
        if 'FROM "billing_transaction"' in sql:
            return execute("SELECT pg_sleep(60)", None, many, context)
        return execute(sql, params, many, context)

    scene.patch.setattr("billing.api.transactions.SEARCH_SECONDS", 0.05)
    with connection.execute_wrapper(sleep):
        return scene.program.get("/transactions?device=8617")


def failing(scene: Scene) -> HttpResponse:
    scene.patch.setattr(ledger, "change_balance", lambda *args, **options: 1 / 0)
    return scene.refill()


def with_a_clock_that_went_back(scene: Scene) -> HttpResponse:
    posted_ahead(timedelta(days=3), scene.world.user)
    return scene.refill()


def with_retired_reason(scene: Scene) -> HttpResponse:
    Reason.objects.create(code="old", label="Old", template="Old reason", is_active=False)
    return scene.refill(reason="old")


def reversed_batch_twice(scene: Scene) -> HttpResponse:
    entry = REFILL | {"user_id": scene.world.user.pk}
    batch = scene.program.post("/batches", {"entries": [entry]}).json()["batch"]["id"]
    for _ in range(2):
        response = scene.program.post(f"/batches/{batch}/reversal", {"description": "Taken back"})
    return response


def redeemed(scene: Scene, **fields: Any) -> HttpResponse:
    return scene.post("/vouchers", {"code": a_voucher(**fields).code})


def of_used_up_voucher(scene: Scene) -> HttpResponse:
    code = {"code": scene.world.voucher.code}
    scene.program.post(f"/users/{scene.world.other.pk}/vouchers", code)
    return scene.post("/vouchers", code)


def redeemed_twice(scene: Scene) -> HttpResponse:
    for _ in range(2):
        response = scene.post("/vouchers", {"code": scene.world.voucher.code})
    return response


def failing_by(state: str) -> Callable[[Scene], HttpResponse]:
    """Returns a function that makes a refill fail with a database error of this SQLSTATE."""

    def fail(*args: Any, **options: Any) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$")

    def provoke(scene: Scene) -> HttpResponse:
        scene.patch.setattr(ledger, "change_balance", fail)
        return scene.refill()

    return provoke


def too_often(scene: Scene) -> HttpResponse:
    program = program_of_administrator(requests_per_minute=1)
    program.get("/users")
    return program.get("/users")


def with_limit(name: str, value: int, call: Callable[[Scene], HttpResponse]) -> Any:
    def provoke(scene: Scene) -> HttpResponse:
        setattr(scene.settings, name, value)
        return call(scene)

    return provoke


PROVOKED: dict[str, Callable[[Scene], HttpResponse]] = {
    # Raised by the ledger
    "invalid_amount": lambda scene: scene.refill(amount="five"),
    "nothing_to_change": lambda scene: scene.refill(amount="0"),
    "invalid_description": lambda scene: scene.refill(description="Four"),
    "invalid_entry": lambda scene: scene.refill(description="Line\nbreak"),
    "invalid_expiry": lambda scene: scene.refill(bonus_expires_at="2999-12-31"),
    "invalid_payment_date": lambda scene: scene.refill(payment_date="2999-12-31"),
    "unknown_reason": lambda scene: scene.refill(reason="no_reason"),
    "reason_refused": with_retired_reason,
    "unknown_batch": lambda scene: scene.program.post(
        "/batches/99/reversal", {"description": "Which one"}
    ),
    "batch_reversed": reversed_batch_twice,
    "unknown_voucher": lambda scene: redeemed(scene, is_active=False),
    "voucher_expired": lambda scene: redeemed(scene, valid_until=date(2020, 1, 31)),
    "voucher_used_up": of_used_up_voucher,
    "voucher_redeemed": redeemed_twice,
    "refund_too_large": lambda scene: scene.post(
        "/transactions/1/refunds", {"description": "Too much", "amount": "1000000"}
    ),
    "not_movable": moved_charge,
    "same_user": lambda scene: scene.post(
        "/transactions/1/moves",
        {"description": "To itself", "to_user_id": scene.world.user.pk},
    ),
    "unknown_grant": lambda scene: scene.program.call(
        "PATCH", f"{scene.user}/grants/99", {"expires_at": None}
    ),
    "unknown_user": lambda scene: scene.program.get(f"/users/{2**63 - 1}"),
    "unknown_transaction": lambda scene: scene.program.get(f"{scene.user}/transactions/999"),
    "insufficient_funds": lambda scene: scene.refill(amount="-9999"),
    "balance_out_of_range": lambda scene: scene.refill(amount="999999999999999"),
    "balance_moved": lambda scene: scene.refill(expected_number=0),
    "clock_behind": with_a_clock_that_went_back,
    "idempotency_conflict": conflict,
    "already_reversed": reversed_twice,
    "already_paid_back": reversed_though_paid_back,
    "not_reversible": reversed_reversal,
    "invalid_quantity": lambda scene: scene.charge(quantity="0"),
    "invalid_day": on_active_day,
    "no_plan": without_plan,
    "unknown_service": lambda scene: scene.charge(service="teleport"),
    "service_not_available": lambda scene: scene.charge(service=ServiceFactory().code),
    "service_retired": of_retired_service,
    "plan_retired": lambda scene: started(scene, PlanFactory(is_active=False).pk, device="8617"),
    "same_plan": lambda scene: scene.program.post(
        f"{scene.subscription}/change-plan", BOTH | {"plan_id": scene.world.subscription.plan_id}
    ),
    "user_deactivated": of_deactivated_user,
    "duplicate_user": of_duplicate,
    "forgotten_user": of_forgotten_user,
    "not_closed": lambda scene: scene.post("/forget", None),
    "subscription_exists": lambda scene: started(scene, scene.world.other_plan.pk),
    "subscription_suspended": of_suspended_subscription,
    "subscription_cancelled": cancelled_twice,
    # Raised by the API itself
    "malformed_json": lambda scene: scene.post("/balance-changes", b"{"),
    "bad_request": lambda scene: scene.program.get("/users", Host="evil.example.com"),
    "too_many_parameters": with_limit(
        "DATA_UPLOAD_MAX_NUMBER_FIELDS", 1, lambda scene: scene.program.get("/users?a=1&b=2")
    ),
    "unauthenticated": lambda scene: scene.program.get("/users", Authorization=None),
    "forbidden": lambda scene: program_with().get("/users"),
    "read_only_key": lambda scene: program_of_administrator(is_read_only=True).post("/users", {}),
    "not_found": lambda scene: scene.program.get("/nothing"),
    "unknown_plan": lambda scene: started(scene, 2**63 - 1),
    "unknown_subscription": lambda scene: scene.program.get(
        f"/users/{UserFactory().pk}/subscriptions/{scene.world.subscription.pk}"
    ),
    "method_not_allowed": lambda scene: scene.program.call("DELETE", "/users"),
    "email_taken": lambda scene: scene.program.post("/users", {"email": scene.world.user.email}),
    "repeated_header": lambda scene: scene.program.client.get(
        "/api/v1/users", **{"HTTP_REPEATED HEADER": "IDEMPOTENCY-KEY"}
    ),
    "precondition_failed": lambda scene: scene.program.patch(
        scene.user, {"city": "Berlin"}, If_Match='"another"'
    ),
    "too_large": with_limit("DATA_UPLOAD_MAX_MEMORY_SIZE", 10, lambda scene: scene.refill()),
    "unsupported_media_type": lambda scene: scene.post(
        "/balance-changes", REFILL, content_type="text/plain"
    ),
    "invalid_request": lambda scene: scene.refill(ammount="5"),
    "too_many_requests": too_often,
    "too_slow": too_slow,
    "internal_error": failing,
    # Raised by the database
    "busy": failing_by("55P03"),
    "database_unavailable": failing_by("57P01"),
    "database_read_only": failing_by("25006"),
    "database_full": failing_by("53100"),
}


def family(kind: type[errors.BillingError]) -> set[str]:
    return {each.code for each in kind.__subclasses__()}.union(
        *(family(each) for each in kind.__subclasses__())
    )


def test_every_code_has_an_entry_here() -> None:
    only_for_operators = {"reason_required"}
    assert set(PROVOKED) == (family(errors.BillingError) | set(OWN)) - only_for_operators


@pytest.mark.parametrize("code", PROVOKED)
def test_every_code_is_told_with_its_status(
    db: None, code: str, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)  # no day begins, no month ends
    scene = Scene(program_of_administrator(), make_world(), monkeypatch, settings)
    status = OWN[code][0] if code in OWN else STATUS_BY_CODE.get(code, 422)
    response = PROVOKED[code](scene)
    problem = assert_problem(response, status, code)
    assert ("seconds" in problem) == ("Retry-After" in response)
    assert "{" not in problem["detail"]
