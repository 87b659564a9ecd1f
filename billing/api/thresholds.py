"""Calls about the real balance below which programs are told of it (the event `balance.low`)."""

from decimal import Decimal
from typing import Any, NamedTuple

from django.db import transaction
from django.http import HttpRequest
from ninja import Router

from billing import ledger, wire
from billing.api.history import note
from billing.api.keys import Needs, actor
from billing.api.schemas import PathId, ProblemOut, ThresholdIn, ThresholdOut
from billing.api.users import customer, customer_id
from billing.errors import InvalidAmount
from billing.models import LowBalanceThreshold
from billing.money import NotMoney, format_money, to_money
from users.models import User

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
        user = _held(request, user_id)
        before = _threshold(user.pk)
        LowBalanceThreshold.objects.update_or_create(user=user, defaults={"amount": amount})
        _note_change(request, user, before)
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
        user = _held(request, user_id)
        before = _threshold(user.pk)
        LowBalanceThreshold.objects.filter(user=user).delete()
        _note_change(request, user, before)
    return _shown(user.pk)


def _amount(text: str) -> Decimal:
    try:
        amount = to_money(text)
    except NotMoney as problem:
        raise InvalidAmount(field="amount", reason=problem.reason, value=text) from None
    if amount < 0:
        raise InvalidAmount(field="amount", reason="wrong_sign", value=text)
    return amount


class Threshold(NamedTuple):
    """What counts for a user. No amount: nobody is told."""

    amount: Decimal | None
    is_default: bool

    def __str__(self) -> str:
        told = "never" if self.amount is None else f"below {format_money(self.amount)}"
        return f"{told}, by default" if self.is_default else told


def _threshold(user_id: int) -> Threshold:
    own = LowBalanceThreshold.objects.filter(user=user_id).first()
    if own is not None:
        return Threshold(own.amount, is_default=False)
    default = LowBalanceThreshold.objects.filter(user=None).first()
    return Threshold(default.amount if default else None, is_default=True)


def _held(request: HttpRequest, user_id: int) -> User:
    """The user, while nobody else can do anything to the user's money."""
    user = customer(request, user_id)
    ledger.hold([user.pk])
    return user


def _note_change(request: HttpRequest, user: User, before: Threshold) -> None:
    after = _threshold(user.pk)
    if after != before:
        sentence = f"Low balance: programs are told {after} (before: {before}). By the API."
        note(actor(request), user, sentence)


def _shown(user_id: int) -> dict[str, Any]:
    amount, is_default = _threshold(user_id)
    return {
        "user_id": user_id,
        "amount": None if amount is None else wire.amount(amount),
        "is_default": is_default,
    }
