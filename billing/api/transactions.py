"""Calls that read the ledger: transactions of one user or all users, and balances at any time.

Pages use indexes; no page counts or skips rows. A list that is sorted oldest first can be followed:
its cursor continues after everything that was seen (`reports.Slice`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Literal

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Query, Router
from ninja.responses import Status
from pydantic import Field

from billing import ledger, operations, reports, representations
from billing.api import cursors, etags
from billing.api.balance_changes import POSTED, KeyHeader, posted
from billing.api.keys import RequiresPermission, actor
from billing.api.problems import Problem
from billing.api.schemas import (
    BalanceAtOut,
    CursorIn,
    Day,
    Device,
    GrantChangeIn,
    GrantOut,
    GrantsOut,
    Limit,
    Moment,
    MovedOut,
    MoveIn,
    Parameters,
    PathId,
    ProblemOut,
    RefundIn,
    ReversalIn,
    Text,
    TransactionPage,
    TransactionWithReversalOut,
)
from billing.errors import UnknownTransaction
from billing.models import Channel, Transaction, TransactionType
from billing.operations.customers import customer_id
from users.ids import MAX_ID

router = Router(tags=["Transactions"])

SEARCH_SECONDS: Final = 10
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
INSTANT: Final = timedelta(microseconds=1)
FAR_AHEAD: Final = date(9000, 12, 31)  # the day after the last possible one cannot be computed
# Words of the API from before reversals were counted separately.
DIRECTIONS: Final[dict[str, Literal["adds", "takes"]]] = {"refills": "adds", "charges": "takes"}


class TransactionFilters(Parameters):
    since: Moment | None = Field(None, alias="from", description="From this time on, included.")
    until: Moment | None = Field(None, alias="to", description="Up to this time, excluded.")
    type: TransactionType | None = None
    subtype: Text | None = Field(None, max_length=32, examples=["outgoing_sms"])
    device: Device | None = Field(
        None, description="Only this device; empty: transactions that concern no device."
    )
    direction: Literal["refills", "charges"] | None = Field(
        None,
        description="Transactions that added to a balance, or that took from one. A reversal "
        "counts by what it did.",
    )
    paid_from: Day | None = Field(
        None, description="Payments made on this day or later, by their payment date."
    )
    paid_to: Day | None = Field(None, description="Payments made on this day or earlier.")
    reason: Text | None = Field(None, max_length=32, examples=["goodwill"])
    batch: int | None = Field(None, ge=1, le=MAX_ID, description="The ID of a batch.")
    actor_id: int | None = Field(
        None, ge=1, le=MAX_ID, description="The ID of the operator who caused them."
    )
    order: Literal["newest", "oldest"] = Field(
        "newest",
        description="`oldest` is for programs that follow the list: its cursor continues later "
        "with the transactions posted since, without gaps.",
    )
    limit: Limit = 50
    cursor: CursorIn = None

    @property
    def newest_first(self) -> bool:
        return self.order == "newest"

    def listing(self, user_id: int | None = None) -> reports.Listing:
        if self.since and self.until and self.since > self.until:
            raise _later_than("from", "to")
        if self.paid_from and self.paid_to and self.paid_from > self.paid_to:
            raise _later_than("paid_from", "paid_to")
        return reports.Listing(
            user_id=user_id,
            since=self.since and max(self.since, EPOCH),
            until=self.until and max(self.until, EPOCH),
            type=self.type or "",
            subtype=self.subtype or "",
            exact_device=None if self.device is None else ledger.checked_device(self.device),
            direction=DIRECTIONS[self.direction] if self.direction else "",
            paid_from=self.paid_from,
            paid_to=self.paid_to and min(self.paid_to, FAR_AHEAD),
            reason=self.reason or "",
            batch=self.batch,
            actor=self.actor_id,
        )


def _later_than(first: str, last: str) -> Problem:
    reason = f"It is later than “{last}”."
    return Problem(
        "invalid_request", reasons=f"{first}: {reason}", errors=[{"field": first, "reason": reason}]
    )


@router.get(
    "/users/{int:user_id}/transactions",
    auth=RequiresPermission("billing.view_transaction"),
    response={200: TransactionPage, 404: ProblemOut, 503: ProblemOut},
    summary="List a user's transactions",
    description="Sorted by number. A page takes the same time however many there are.",
)
def list_transactions_of_user(
    request: HttpRequest, user_id: PathId, filters: Query[TransactionFilters]
) -> dict[str, Any]:
    listing = filters.listing(customer_id(user_id))
    of = f"transactions of {user_id}, {filters.order} first"
    beyond = None
    if filters.cursor is not None:
        [beyond] = cursors.from_text(of, filters.cursor, 1)
    with _time_limit(listing):
        stretch = reports.slice_of_user(
            listing, beyond=beyond, newest_first=filters.newest_first, limit=filters.limit
        )
    end = None if stretch.end is None else cursors.to_text(of, stretch.end)
    return _page(stretch, filters, end)


@router.get(
    "/transactions",
    auth=RequiresPermission("billing.view_transaction"),
    response={200: TransactionPage, 503: ProblemOut},
    summary="List transactions of all users",
    description="Sorted by date. Oldest first, a transaction appears once no earlier one can "
    "still be added: usually at once, at the latest when all operations that were "
    "running beside it have ended.",
)
def list_transactions(request: HttpRequest, filters: Query[TransactionFilters]) -> dict[str, Any]:
    listing = filters.listing()
    of = f"transactions, {filters.order} first"
    beyond = None if filters.cursor is None else _place(of, filters.cursor)
    with _time_limit(listing):
        stretch = reports.slice_of_all(
            listing, beyond=beyond, newest_first=filters.newest_first, limit=filters.limit
        )
    return _page(stretch, filters, None if stretch.end is None else _cursor(of, stretch.end))


@router.get(
    "/users/{int:user_id}/transactions/{int:number}",
    auth=RequiresPermission("billing.view_transaction", tagged=True),
    response={200: TransactionWithReversalOut, 404: ProblemOut},
    summary="Read a transaction",
)
def read_transaction(
    request: HttpRequest, user_id: PathId, number: PathId, response: HttpResponse
) -> dict[str, Any]:
    of_user = Transaction.objects.filter(user=customer_id(user_id))
    row = of_user.filter(number=number).first()
    if row is None:
        raise UnknownTransaction(number=number)
    reversals = list(
        of_user.filter(reverses=number).order_by("number").values_list("number", flat=True)
    )
    left = ledger.left_of(row)
    answer = {
        **representations.transaction(row),
        "reversed_by": reversals[-1] if reversals and not any(left) else None,
        "reversals": reversals,
        "grants_used": [
            {"number": use.grant_number, "amount": representations.amount(use.amount)}
            for use in reports.grants_used(row)
        ],
    }
    etags.show(request, response, etags.tag_of(answer))
    return answer


@router.post(
    "/users/{int:user_id}/transactions/{int:number}/reversal",
    auth=RequiresPermission("billing.change_balance", writes=True, posting=True),
    response=POSTED,
    summary="Reverse a transaction",
    description="Posts a transaction with the same amounts and opposite signs, less what was "
    "refunded before. A transaction can be reversed once; a reversal cannot be reversed.",
)
def reverse_transaction(  # noqa: PLR0917 - the framework names them
    request: HttpRequest,
    user_id: PathId,
    number: PathId,
    reversal: ReversalIn,
    response: HttpResponse,
    idempotency_key: KeyHeader = None,
) -> Status[Any]:
    transaction = operations.money.reverse(
        user_id,
        number=number,
        **reversal.model_dump(),
        idempotency_key=ledger.callers_key(idempotency_key),
        actor=actor(request),
        channel=Channel.API,
    )
    return posted(response, transaction)


@router.post(
    "/users/{int:user_id}/transactions/{int:number}/refunds",
    auth=RequiresPermission("billing.change_balance", writes=True, posting=True),
    response=POSTED,
    summary="Refund a part of a transaction",
    description="Takes back an amount or, of a service charge, a quantity: as often as wanted, "
    "together never more than all of it. Money goes back in the reverse order in which it was "
    "taken: real money first, then the grants.",
)
def refund_transaction(  # noqa: PLR0917 - the framework names them
    request: HttpRequest,
    user_id: PathId,
    number: PathId,
    refund: RefundIn,
    response: HttpResponse,
    idempotency_key: KeyHeader = None,
) -> Status[Any]:
    transaction = operations.money.refund(
        user_id,
        number=number,
        **refund.model_dump(),
        idempotency_key=ledger.callers_key(idempotency_key),
        actor=actor(request),
        channel=Channel.API,
    )
    return posted(response, transaction)


@router.post(
    "/users/{int:user_id}/transactions/{int:number}/moves",
    auth=RequiresPermission("billing.change_balance", writes=True, lasts=True),
    response={
        200: MovedOut,
        402: ProblemOut,
        404: ProblemOut,
        409: ProblemOut,
        422: ProblemOut,
    },
    summary="Move a payment to the right user",
    description="Takes a payment or a gift back from the user and posts it for another one: both, "
    "or neither. Each of the two transactions names the other in its metadata.",
)
def move_transaction(
    request: HttpRequest, user_id: PathId, number: PathId, move: MoveIn, response: HttpResponse
) -> dict[str, Any]:
    moved = operations.money.move(
        user_id,
        number=number,
        **move.model_dump(),
        actor=actor(request),
        channel=Channel.API,
    )
    return {
        "reversal": representations.transaction(moved.reversal),
        "transaction": representations.transaction(moved.payment),
    }


@router.get(
    "/users/{int:user_id}/grants",
    auth=RequiresPermission("billing.view_balance"),
    response={200: GrantsOut, 404: ProblemOut},
    summary="List what is left of a user's bonus grants",
    description="Each addition to the bonus balance is a grant. Services take from grants, the one "
    "that expires soonest first. A grant that has expired cannot be spent, and is not listed.",
)
def list_grants(request: HttpRequest, user_id: PathId) -> dict[str, Any]:
    grants = reports.spendable_grants(customer_id(user_id), timezone.now())
    return {"grants": [representations.grant(each) for each in grants]}


@router.patch(
    "/users/{int:user_id}/grants/{int:number}",
    auth=RequiresPermission("billing.change_balance", writes=True),
    response={200: GrantOut, 404: ProblemOut, 422: ProblemOut},
    summary="Change when a bonus grant expires",
    description="Only while something is left of it.",
)
def change_grant(
    request: HttpRequest,
    user_id: PathId,
    number: PathId,
    change: GrantChangeIn,
    response: HttpResponse,
) -> dict[str, Any]:
    grant = operations.bonus.change_expiry(
        user_id, number, change.expires_at, actor=actor(request), channel=Channel.API
    )
    return representations.grant(grant)


class BalanceMoment(Parameters):
    at: Moment | None = Field(None, description="As of this time, included. Without it: now.")


@router.get(
    "/users/{int:user_id}/balance",
    auth=RequiresPermission("billing.view_balance"),
    response={200: BalanceAtOut, 404: ProblemOut},
    summary="Read a user's balances, now or as of a time",
)
def read_balance(
    request: HttpRequest, user_id: PathId, moment: Query[BalanceMoment]
) -> dict[str, Any]:
    customer_id(user_id)
    at = moment.at
    had = ledger.balance(user_id) if at is None else ledger.balance_at(user_id, at)
    return {
        "user_id": user_id,
        "currency": settings.BILLING_CURRENCY,
        "at": at and representations.moment(at),
        "real": representations.amount(had.real),
        "bonus": representations.amount(had.bonus),
        "number": had.number,
    }


# --- How it is done -----------------------------------------------------------------------------


@contextmanager
def _time_limit(listing: reports.Listing) -> Iterator[None]:
    """Limits the time of filtered lists. Without filters, an index leads straight to the page."""
    if listing.is_filtered:
        with reports.time_limit(SEARCH_SECONDS):
            yield
    else:
        yield


def _page(
    stretch: reports.Slice[Any], filters: TransactionFilters, end: str | None
) -> dict[str, Any]:
    goes_on = stretch.has_more or not filters.newest_first
    return {
        "transactions": [representations.transaction(row) for row in stretch.rows],
        "has_more": stretch.has_more,
        "next_cursor": end if goes_on else None,
    }


def _cursor(of: str, place: reports.Place) -> str:
    return cursors.to_text(of, (place.created_at - EPOCH) // INSTANT, place.id)


def _place(of: str, cursor: str) -> reports.Place:
    instants, key = cursors.from_text(of, cursor, 2)
    try:
        return reports.Place(EPOCH + instants * INSTANT, key)
    except OverflowError:
        raise cursors.not_one() from None
