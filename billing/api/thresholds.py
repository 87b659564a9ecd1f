"""Calls about the threshold of the real balance below which webhooks send `balance.low`."""

from collections.abc import Callable
from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from ninja import Router

from billing import operations, representations, thresholds
from billing.api import etags
from billing.api.keys import RequiresPermission, actor
from billing.api.schemas import PathId, ProblemOut, ThresholdIn, ThresholdOut
from billing.models import Channel
from billing.operations.customers import customer_id

router = Router(tags=["Low balance thresholds"])

ANSWERS = {200: ThresholdOut, 404: ProblemOut}


@router.get(
    "/users/{int:user_id}/low-balance-threshold",
    auth=RequiresPermission("billing.view_lowbalancethreshold", tagged=True),
    response=ANSWERS,
    summary="Read a user's low balance threshold",
)
def read_threshold(request: HttpRequest, user_id: PathId, response: HttpResponse) -> dict[str, Any]:
    return _tagged(request, response, customer_id(user_id))


@router.put(
    "/users/{int:user_id}/low-balance-threshold",
    auth=RequiresPermission("billing.change_lowbalancethreshold", writes=True, tagged=True),
    response=ANSWERS,
    summary="Set a user's own low balance threshold",
)
def set_threshold(
    request: HttpRequest, user_id: PathId, new: ThresholdIn, response: HttpResponse
) -> dict[str, Any]:
    with transaction.atomic():
        operations.thresholds.set_own(
            user_id,
            new.amount,
            actor=actor(request),
            channel=Channel.API,
            if_unchanged=_check(request, user_id),
        )
        return _tagged(request, response, user_id)


@router.delete(
    "/users/{int:user_id}/low-balance-threshold",
    auth=RequiresPermission("billing.change_lowbalancethreshold", writes=True, tagged=True),
    response=ANSWERS,
    summary="Put a user back on the default low balance threshold",
    description="Returns the threshold that applies to the user afterwards.",
)
def unset_threshold(
    request: HttpRequest, user_id: PathId, response: HttpResponse
) -> dict[str, Any]:
    with transaction.atomic():
        operations.thresholds.unset_own(
            user_id,
            actor=actor(request),
            channel=Channel.API,
            if_unchanged=_check(request, user_id),
        )
        return _tagged(request, response, user_id)


def _check(request: HttpRequest, user_id: int) -> Callable[[], None]:
    return lambda: etags.check(request, etags.tag_of(_shown(user_id)))


def _tagged(request: HttpRequest, response: HttpResponse, user_id: int) -> dict[str, Any]:
    answer = _shown(user_id)
    etags.show(request, response, etags.tag_of(answer))
    return answer


def _shown(user_id: int) -> dict[str, Any]:
    amount, is_own = thresholds.of(user_id)
    return {
        "user_id": user_id,
        "amount": None if amount is None else representations.amount(amount),
        "is_default": not is_own,
    }
