"""The call that redeems a voucher for a user."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from ninja import Router
from ninja.responses import Status

from billing import operations, representations
from billing.api.keys import RequiresPermission, actor
from billing.api.schemas import PathId, PreviewedTransactionOut, ProblemOut, RedeemedOut, VoucherIn
from billing.api.subscriptions import shown
from billing.api.today import utc_today
from billing.models import Channel, Transaction
from billing.operations.vouchers import Redeemed

router = Router(tags=["Vouchers"])


@router.post(
    "/users/{int:user_id}/vouchers",
    auth=RequiresPermission("billing.change_balance", writes=True),
    response={
        200: RedeemedOut,
        201: RedeemedOut,
        402: ProblemOut,
        404: ProblemOut,
        409: ProblemOut,
    },
    summary="Redeem a voucher",
    description="Gives the user what the voucher gives, once: again is answered 409 "
    "`voucher_redeemed`, with the number of the transaction. If it gives a plan that cannot be "
    "started or paid, nothing is given. With `dry_run`, the answer (200) is what would happen now.",
)
def redeem_voucher(
    request: HttpRequest, user_id: PathId, voucher: VoucherIn, response: HttpResponse
) -> Status[Any]:
    redeemed = operations.vouchers.redeem(
        user_id,
        voucher.code,
        now=timezone.now(),
        actor=actor(request),
        channel=Channel.API,
        dry_run=voucher.dry_run,
    )
    if voucher.dry_run:
        return Status(200, _answer(redeemed, is_real=False))
    response["Location"] = _location(redeemed, user_id)
    return Status(201, _answer(redeemed, is_real=True))


def _location(redeemed: Redeemed, user_id: int) -> str:
    """Returns the address of the transaction or, if there is none, of the subscription."""
    if redeemed.transaction is not None:
        return reverse("api-v1:read_transaction", args=[user_id, redeemed.transaction.number])
    assert redeemed.subscription is not None  # noqa: S101 - a voucher gives something
    return reverse("api-v1:read_subscription", args=[user_id, redeemed.subscription.pk])


def _answer(redeemed: Redeemed, *, is_real: bool) -> dict[str, Any]:
    def told(row: Transaction) -> dict[str, Any]:
        whole = representations.transaction(row)
        if is_real:
            return whole
        return {name: whole[name] for name in PreviewedTransactionOut.model_fields}

    subscription = None
    if redeemed.subscription is not None:
        subscription = shown(redeemed.subscription, utc_today())
        subscription["id"] = redeemed.subscription.pk if is_real else None
    return {
        "voucher": {"id": redeemed.voucher.pk, "title": redeemed.voucher.title},
        "transaction": None if redeemed.transaction is None else told(redeemed.transaction),
        "subscription": subscription,
        "charges": [told(row) for row in redeemed.charges],
    }
