"""Calls that change many balances together, and read and reverse such batches."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from django.http import HttpRequest, HttpResponse
from ninja import Query, Router

from billing import ledger, operations, representations
from billing.api import cursors
from billing.api.keys import RequiresPermission, actor
from billing.api.problems import Problem, details
from billing.api.schemas import (
    BatchEntryIn,
    BatchFiguresOut,
    BatchIn,
    BatchOut,
    BatchPage,
    BatchReversalIn,
    CursorIn,
    Limit,
    NewBatchIn,
    Parameters,
    PathId,
    PostedBatchOut,
    ProblemOut,
    ReasonsOut,
)
from billing.errors import BillingError, UnknownReason, UnknownUser
from billing.models import Batch, Channel, Reason
from billing.operations.batches import Sheet

router = Router(tags=["Batches"])

REFUSED: Final = {402: ProblemOut, 404: ProblemOut, 409: ProblemOut, 422: ProblemOut}


@router.post(
    "/balance-changes",
    auth=RequiresPermission("billing.change_balance", writes=True, lasts=True),
    response={200: BatchOut} | REFUSED,
    summary="Change balances of many users",
    description="Up to 1,000 changes. Those of one user are posted in this order. Each can have "
    "its own idempotency key. All are posted, or none; in that case the problem's "
    "`entry` is the position, from 1, of an entry that was refused. With "
    "`skip_refused`, all others are posted.",
    tags=["Balance changes"],
)
def change_balances(request: HttpRequest, batch: BatchIn, response: HttpResponse) -> dict[str, Any]:
    posted = _post(request, batch)
    return {
        "results": posted.results,
        "batch": posted.batch and posted.batch.pk,
    }


@router.post(
    "/batches",
    auth=RequiresPermission("billing.change_balance", writes=True, lasts=True),
    response={200: PostedBatchOut} | REFUSED,
    summary="Post a batch",
    description="Up to 1,000 changes, as entries or as a CSV file with the same fields. A file is "
    "posted once, however often it is sent: entries that were refused are tried again. With "
    "`dry_run`, nothing is posted.",
)
def post_batch(request: HttpRequest, batch: NewBatchIn, response: HttpResponse) -> dict[str, Any]:
    file = batch.file
    posted = _post(
        request,
        batch,
        file_name=file.name if file else "",
        file_hash=hashlib.sha256(file.content.encode()).hexdigest() if file else "",
        dry_run=batch.dry_run,
    )
    return {"batch": _figures(posted.batch), "results": posted.results}


class BatchFilters(Parameters):
    limit: Limit = 50
    cursor: CursorIn = None


@router.get(
    "/batches",
    auth=RequiresPermission("billing.view_batch"),
    response=BatchPage,
    summary="List batches",
    description="The latest first.",
)
def list_batches(request: HttpRequest, filters: Query[BatchFilters]) -> dict[str, Any]:
    rows = Batch.objects.with_state().order_by("-pk")
    if filters.cursor is not None:
        [last] = cursors.from_text("batches", filters.cursor, 1)
        rows = rows.filter(pk__lt=last)
    found = list(rows[: filters.limit + 1])
    page = found[: filters.limit]
    more = len(found) > filters.limit
    return {
        "batches": [_figures(row) for row in page],
        "next_cursor": cursors.to_text("batches", page[-1].pk) if more else None,
    }


@router.get(
    "/batches/{int:batch_id}",
    auth=RequiresPermission("billing.view_batch"),
    response={200: BatchFiguresOut, 404: ProblemOut},
    summary="Read a batch",
    description="Its transactions: `GET /transactions?batch=`.",
)
def read_batch(request: HttpRequest, batch_id: PathId) -> dict[str, Any]:
    row = Batch.objects.filter(pk=batch_id).first()
    if row is None:
        raise Problem("not_found")
    return representations.batch(row)


@router.post(
    "/batches/{int:batch_id}/reversal",
    auth=RequiresPermission("billing.change_balance", writes=True, lasts=True),
    response={200: PostedBatchOut} | REFUSED,
    summary="Reverse a batch",
    description="Reverses what is left of each of its transactions, the latest first, as a batch "
    "of its own. All, or none: then `entry` is the position of one that cannot be reversed. With "
    "`skip_refused`, all others are reversed.",
)
def reverse_batch(
    request: HttpRequest, batch_id: PathId, reversal: BatchReversalIn, response: HttpResponse
) -> dict[str, Any]:
    posted = operations.batches.reverse(
        batch_id, **reversal.model_dump(), actor=actor(request), channel=Channel.API
    )
    results = [_result(result, place) for place, result in enumerate(posted.results, start=1)]
    return {"batch": _figures(posted.batch), "results": results}


@router.get(
    "/reasons",
    auth=RequiresPermission("billing.view_reason"),
    response=ReasonsOut,
    summary="List reasons of balance changes",
    tags=["Balance changes"],
)
def list_reasons(request: HttpRequest) -> dict[str, Any]:
    return {"reasons": [representations.reason(row) for row in Reason.objects.all()]}


# --- How it is done -----------------------------------------------------------------------------


class Answered(NamedTuple):
    """A batch, and the results of all entries of the request."""

    batch: Batch | None
    results: list[dict[str, Any]]


def _post(
    request: HttpRequest,
    batch: BatchIn,
    *,
    file_name: str = "",
    file_hash: str = "",
    dry_run: bool = False,
) -> Answered:
    refused: dict[int, BillingError] = {}
    places: list[int] = []
    entries: list[ledger.Entry] = []
    for place, entry in _entries(batch.entries, file_hash):
        if isinstance(entry, ledger.Entry):
            places.append(place)
            entries.append(entry)
            continue
        entry.data["entry"] = place
        if not batch.skip_refused:
            raise entry
        refused[place] = entry
    posted = operations.batches.post(
        entries,
        Sheet(
            kind=Batch.Kind.FILE if file_hash else Batch.Kind.REQUEST,
            title=batch.title or file_name[:200] or "Changes of balances by the API",
            file_name=file_name,
            file_hash=file_hash,
        ),
        actor=actor(request),
        channel=Channel.API,
        skip_refused=batch.skip_refused,
        refused_before=len(refused),
        dry_run=dry_run,
    )
    results = {place: _refused(refusal) for place, refusal in refused.items()} | {
        place: _result(result, place) for place, result in zip(places, posted.results, strict=True)
    }
    return Answered(posted.batch, [results[place] for place in sorted(results)])


def _entries(
    said: Sequence[BatchEntryIn], file_hash: str
) -> list[tuple[int, ledger.Entry | BillingError]]:
    """Returns the entries with their places, from 1; a refusal for one that cannot be made.

    Each line of a file has a key of its own, also before and after those that are refused.
    """
    known = operations.customers.existing_customer_ids({entry.user_id for entry in said})
    codes = {entry.reason for entry in said if entry.reason is not None}
    reasons = {row.code: row for row in Reason.objects.filter(code__in=codes)}
    made: list[tuple[int, ledger.Entry | BillingError]] = []
    for place, entry in enumerate(said, start=1):
        try:
            key = ledger.callers_key(entry.idempotency_key)
            if key is None and file_hash:
                key = operations.batches.key_of_line(file_hash, place)
            made.append((place, _entry(entry, key, known, reasons)))
        except BillingError as refusal:
            made.append((place, refusal))
    return made


def _entry(
    entry: BatchEntryIn, key: str | None, known: set[int], reasons: Mapping[str, Reason]
) -> ledger.Entry:
    if entry.user_id not in known:
        raise UnknownUser(user_id=entry.user_id)
    if entry.reason is not None and entry.reason not in reasons:
        raise UnknownReason(reason=entry.reason)
    said = entry.model_dump(exclude={"user_id"})
    operations.money.refuse_future_payment(entry.payment_date)
    terms = operations.reasons.terms(
        reasons[entry.reason] if entry.reason else None,
        description=entry.description,
        bonus_amount=entry.bonus_amount,
        bonus_expires_at=entry.bonus_expires_at,
    )
    terms = operations.reasons.terms_of_repeat(
        terms, entry.user_id, key, is_said=entry.bonus_expires_at is not None
    )
    said |= terms._asdict() | {"idempotency_key": key}
    return ledger.balance_change_entry(entry.user_id, **said)


def _figures(batch: Batch | None) -> dict[str, Any] | None:
    return None if batch is None else representations.batch(batch)


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
