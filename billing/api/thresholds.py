"""Calls about the real balance below which programs are told of it (the event `balance.low`)."""

from decimal import Decimal
from typing import Any

from django.db import transaction
from django.http import HttpRequest
from ninja import Router

from billing import wire
from billing.api.history import note
from billing.api.keys import Needs, actor
from billing.api.schemas import PathId, ProblemOut, ThresholdIn, ThresholdOut
from billing.api.users import customer, customer_id
from billing.errors import InvalidAmount
from billing.models import LowBalanceThreshold
from billing.money import NotMoney, format_money, to_money

router = Router(tags=["Low balance thresholds"])

ANSWERS = {200: ThresholdOut, 404: ProblemOut}


@router.get(
    "/users/{int:user_id}/low-balance-threshold",
    auth=Needs("billing.view_lowbalancethreshold"),
    response=ANSWERS,
    summary="Read a user's low balance threshold",
)
def read_threshold(request: HttpRequest, user_id: PathId) -> dict[str, Any]:
    return _shown(customer_id(user_id))


@router.put(
    "/users/{int:user_id}/low-balance-threshold",
    auth=Needs("billing.change_lowbalancethreshold", writes=True),
    response=ANSWERS,
    summary="Set a user's own low balance threshold",
)
def set_threshold(request: HttpRequest, user_id: PathId, new: ThresholdIn) -> dict[str, Any]:
    amount = None if new.amount is None else _amount(new.amount)
    with transaction.atomic():
        user = customer(request, user_id)
        own, is_new = LowBalanceThreshold.objects.select_for_update().get_or_create(
            user=user, defaults={"amount": amount}
        )
        if is_new or own.amount != amount:
            own.amount = amount
            own.save(update_fields=["amount"])
            to = "none: nobody is told" if amount is None else format_money(amount)
            note(actor(request), user, f"Set the low balance threshold to {to}. By the API.")
    return _shown(user.pk)


@router.delete(
    "/users/{int:user_id}/low-balance-threshold",
    auth=Needs("billing.change_lowbalancethreshold", writes=True),
    response=ANSWERS,
    summary="Put a user back on the default low balance threshold",
    description="Answers what counts for the user then.",
)
def unset_threshold(request: HttpRequest, user_id: PathId) -> dict[str, Any]:
    with transaction.atomic():
        user = customer(request, user_id)
        removed, _ = LowBalanceThreshold.objects.filter(user=user).delete()
        if removed:
            note(actor(request), user, "Put back to the default low balance threshold. By the API.")
    return _shown(user.pk)


def _amount(text: str) -> Decimal:
    try:
        amount = to_money(text)
    except NotMoney as problem:
        raise InvalidAmount(field="amount", reason=problem.reason, value=text) from None
    if amount < 0:
        raise InvalidAmount(field="amount", reason="wrong_sign", value=text)
    return amount


def _shown(user_id: int) -> dict[str, Any]:
    rows = LowBalanceThreshold.objects
    own = rows.filter(user=user_id).first()
    counts = own or rows.filter(user=None).first()
    amount = counts.amount if counts else None
    return {
        "user_id": user_id,
        "amount": None if amount is None else wire.amount(amount),
        "is_default": own is None,
    }
