"""Calls that change the balances of one user."""

from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from ninja import Header, Router
from ninja.responses import Status
from pydantic import Field

from billing import ledger, operations, representations
from billing.api.keys import IDEMPOTENCY_KEY, RequiresPermission, actor
from billing.api.repeats import PLAIN, REPLAYED
from billing.api.schemas import (
    BalanceChangeIn,
    IdempotencyKey,
    PathId,
    ProblemOut,
    TransactionOut,
)
from billing.models import Channel, Transaction

router = Router(tags=["Balance changes"])

KeyHeader = Annotated[
    Annotated[IdempotencyKey, Field(pattern=PLAIN)] | None, Header(alias=IDEMPOTENCY_KEY)
]
POSTED = {
    200: TransactionOut,
    201: TransactionOut,
    402: ProblemOut,
    404: ProblemOut,
    409: ProblemOut,
    422: ProblemOut,
}


def posted(response: HttpResponse, transaction: Transaction) -> Status[Any]:
    """Returns 201 with a new transaction; 200 and a header for one that an earlier call posted."""
    if transaction.replayed:
        response[REPLAYED] = "true"
    place = [transaction.user_id, transaction.number]
    response["Location"] = reverse("api-v1:read_transaction", args=place)
    return Status(200 if transaction.replayed else 201, representations.transaction(transaction))


@router.post(
    "/users/{int:user_id}/balance-changes",
    auth=RequiresPermission("billing.change_balance", writes=True, posting=True),
    response=POSTED,
    summary="Change a user's balances",
    description="Adds the signed amounts to both balances in one transaction.",
)
def change_balance(
    request: HttpRequest,
    user_id: PathId,
    change: BalanceChangeIn,
    response: HttpResponse,
    idempotency_key: KeyHeader = None,
) -> Status[Any]:
    transaction = operations.money.change_balance(
        user_id,
        **change.model_dump(),
        idempotency_key=ledger.callers_key(idempotency_key),
        actor=actor(request),
        channel=Channel.API,
    )
    return posted(response, transaction)
