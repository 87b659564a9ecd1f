"""Calls that change balances: of one user, or of many users in one batch."""

from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from ninja import Header, Router
from ninja.responses import Status
from pydantic import Field

from billing import ledger, operations, representations
from billing.api.keys import IDEMPOTENCY_KEY, RequiresPermission, actor
from billing.api.problems import details
from billing.api.repeats import PLAIN, REPLAYED
from billing.api.schemas import (
    BalanceChangeIn,
    BatchEntryIn,
    BatchIn,
    BatchOut,
    IdempotencyKey,
    PathId,
    ProblemOut,
    TransactionOut,
)
from billing.errors import BillingError, UnknownUser
from billing.expiry import end_of_bonus
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


@router.post(
    "/balance-changes",
    auth=RequiresPermission("billing.change_balance", writes=True, lasts=True),
    response={200: BatchOut, 402: ProblemOut, 404: ProblemOut, 409: ProblemOut, 422: ProblemOut},
    summary="Change balances of many users",
    description="Up to 1,000 changes. Those of one user are posted in this order. Each can have "
    "its own idempotency key. All are posted, or none; in that case the problem's "
    "`entry` is the position, from 1, of an entry that was refused. With "
    "`skip_refused`, all others are posted.",
)
def change_balances(request: HttpRequest, batch: BatchIn, response: HttpResponse) -> dict[str, Any]:
    known = operations.customers.existing_customer_ids({entry.user_id for entry in batch.entries})
    refused: dict[int, BillingError] = {}
    entries: list[tuple[int, ledger.Entry]] = []
    for place, entry in enumerate(batch.entries, start=1):
        try:
            entries.append((place, _entry(entry, known)))
        except BillingError as refusal:
            refusal.data["entry"] = place
            if not batch.skip_refused:
                raise
            refused[place] = refusal
    results = _post(entries, request, skip_refused=batch.skip_refused)
    return {
        "results": [
            results[place] if place in results else _refused(refused[place])
            for place in range(1, len(batch.entries) + 1)
        ]
    }


def _entry(entry: BatchEntryIn, known: set[int]) -> ledger.Entry:
    if entry.user_id not in known:
        raise UnknownUser(user_id=entry.user_id)
    said = entry.model_dump(exclude={"user_id"})
    ledger.callers_key(entry.idempotency_key)
    operations.money.refuse_future_payment(entry.payment_date)
    said["bonus_expires_at"] = end_of_bonus(entry.bonus_expires_at)
    return ledger.balance_change_entry(entry.user_id, **said)


def _post(
    entries: list[tuple[int, ledger.Entry]], request: HttpRequest, *, skip_refused: bool
) -> dict[int, dict[str, Any]]:
    """Posts entries. Returns the results by the places of the entries."""
    results = operations.money.post_batch(
        [entry for _, entry in entries],
        actor=actor(request),
        channel=Channel.API,
        skip_refused=skip_refused,
    )
    return {
        place: _result(result, place) for (place, _), result in zip(entries, results, strict=True)
    }


def _result(result: ledger.Posted, place: int) -> dict[str, Any]:
    if result.refusal is not None:
        result.refusal.data["entry"] = place
        return _refused(result.refusal)
    assert result.transaction is not None  # noqa: S101 - posted or replayed
    return {
        "outcome": result.outcome,
        "transaction": representations.transaction(result.transaction),
        "problem": None,
    }


def _refused(refusal: BillingError) -> dict[str, Any]:
    return {"outcome": "refused", "transaction": None, "problem": details(refusal)}
