"""Calls that charge the use of a service, or say what it would cost."""

from decimal import Decimal
from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import Router
from ninja.responses import Status

from billing import ledger, operations, representations
from billing.api.balance_changes import POSTED, KeyHeader, posted
from billing.api.keys import RequiresPermission, actor
from billing.api.schemas import PathId, ProblemOut, QuoteOut, ServiceChargeIn, TransactionOut
from billing.errors import FreeOfCharge
from billing.models import Channel, Plan, Service, Transaction
from billing.money import ZERO
from billing.plans import services

router = Router(tags=["Service charges"])


@router.post(
    "/users/{int:user_id}/service-charges",
    auth=RequiresPermission("billing.change_balance", writes=True, posting=True),
    response=POSTED | {200: TransactionOut | QuoteOut},
    summary="Charge the use of a service",
    description="Charges the price of the device's plan or, without one, of the user's own plan: "
    "from the bonus balance first, then from the real one, all or nothing. A use that "
    "costs nothing counts as paid: the response is 200 with the quote, and nothing "
    "is posted.",
)
def charge_service(
    request: HttpRequest,
    user_id: PathId,
    charge: ServiceChargeIn,
    response: HttpResponse,
    idempotency_key: KeyHeader = None,
) -> Status[Any]:
    try:
        charged = _charge(request, user_id, charge, idempotency_key)
    except FreeOfCharge as use:
        return Status(200, _quote_for_nothing(user_id, use))
    return posted(response, charged)


@router.post(
    "/users/{int:user_id}/service-charges/quote",
    auth=RequiresPermission("billing.change_balance"),
    response={200: QuoteOut, 402: ProblemOut, 404: ProblemOut, 409: ProblemOut},
    summary="Quote the use of a service",
    description="Returns what the charge would come to now and posts nothing. It is refused "
    "exactly when the charge would be.",
)
def quote_service(request: HttpRequest, user_id: PathId, charge: ServiceChargeIn) -> dict[str, Any]:
    try:
        return _quote(_charge(request, user_id, charge, None, dry_run=True))
    except FreeOfCharge as use:
        return _quote_for_nothing(user_id, use)


def _charge(
    request: HttpRequest,
    user_id: int,
    charge: ServiceChargeIn,
    key: str | None,
    *,
    dry_run: bool = False,
) -> Transaction:
    return operations.money.charge_service(
        user_id,
        **charge.model_dump(),
        idempotency_key=ledger.callers_key(key),
        actor=actor(request),
        channel=Channel.API,
        dry_run=dry_run,
    )


def _quote(row: Transaction) -> dict[str, Any]:
    pricing = row.metadata[services.PRICING]
    plan = Plan.objects.get(pk=pricing["plan"])
    service = Service.objects.get(code=row.subtype)
    return {
        "service": service.code,
        "quantity": pricing["quantity"],
        "unit": service.unit,
        "device": row.device,
        "plan_id": plan.pk,
        "plan": plan.name,
        "unit_price": representations.amount(Decimal(pricing["price"])),
        "cost": representations.amount(-(row.amount + row.bonus_amount)),
        "bonus_pays": representations.amount(-row.bonus_amount),
        "real_pays": representations.amount(-row.amount),
        "new_balance": representations.amount(row.new_balance),
        "new_bonus": representations.amount(row.new_bonus),
        "description": row.description,
    }


def _quote_for_nothing(user_id: int, use: FreeOfCharge) -> dict[str, Any]:
    balance = ledger.balance(user_id)
    nothing = dict.fromkeys(("cost", "bonus_pays", "real_pays"), representations.amount(ZERO))
    left = {
        "new_balance": representations.amount(balance.real),
        "new_bonus": representations.amount(balance.bonus),
    }
    return use.data | nothing | left
