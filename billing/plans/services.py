"""Services: what a use costs a user, and charging it."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

from django.db import transaction
from django.db.models import F, Func, JSONField

from billing import counters, ledger
from billing.counters import counts_refusals
from billing.descriptions import DESCRIPTION_MAX_LENGTH, DESCRIPTION_MIN_LENGTH
from billing.errors import (
    FreeOfCharge,
    IdempotencyConflict,
    InvalidDescription,
    InvalidEntry,
    InvalidQuantity,
    NoPlan,
    ServiceNotAvailable,
    ServiceRetired,
    SubscriptionSuspended,
    UnknownService,
    UnknownUser,
)
from billing.models import (
    Balance,
    Channel,
    Service,
    ServicePrice,
    Subscription,
    Transaction,
    TransactionType,
)
from billing.money import Amount, NotMoney, to_money
from billing.plans.pricing import format_quantity, service_cost, to_quantity
from users.models import User

PRICING: Final = "pricing"  # in a transaction's metadata: how its cost was computed


class Price(NamedTuple):
    """The price of one unit of a service for a user, and the plan it comes from."""

    service: str
    unit: str
    plan_id: int
    plan: str
    price: Decimal


class _Request(NamedTuple):
    """A caller's request: the content that is compared when an idempotency key is repeated."""

    service: str
    device: str
    quantity: Decimal
    metadata: Mapping[str, Any]
    description: str  # empty: generated


@counts_refusals
def charge_service(
    user: User | int,
    *,
    service: str,
    quantity: Amount,
    device: str = "",
    description: str = "",
    metadata: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    expected_number: int | None = None,
    actor: User | None,
    channel: Channel,
) -> Transaction:
    """Charges the use of a service at the price of the user's plan: the bonus balance pays first.

    `service` is its code; `quantity` is positive, with up to six decimals. The price is that of the
    device's own subscription or, if it has none, of the user's own plan. The description is
    generated if none is given. The price is stored in the metadata ("pricing"); a repeated key
    finds the first transaction even if prices have changed since.

    Raises InsufficientFunds, and takes nothing, if both balances together are too low. Raises
    InvalidQuantity, UnknownService, NoPlan, ServiceNotAvailable, ServiceRetired and
    SubscriptionSuspended. Raises FreeOfCharge if the cost is zero: the use counts as paid, nothing
    is posted, and the key stays free. `expected_number` is checked then, too.
    """
    user_id = ledger.user_id_of(user)
    asked = _Request(
        service=service,
        device=ledger.checked_device(device),
        quantity=_checked_quantity(quantity),
        metadata=_callers_metadata(metadata),
        description=ledger.checked_text("description", description, ledger.LONGEST_TEXT).strip(" "),
    )
    with transaction.atomic():
        # While the balance is locked, no run suspends the subscription and nobody uses the key.
        locked = ledger.lock_balances([user_id])
        if earlier := _charged_before(user_id, idempotency_key, asked):
            counters.replayed(channel)
            return earlier
        price = price_of(user, service=service, device=asked.device)
        cost = _cost(price, asked.quantity)
        description = asked.description or describe_service(price, asked.quantity, asked.device)
        if not cost:
            # Nothing is posted, so nothing else would refuse a description.
            if not DESCRIPTION_MIN_LENGTH <= len(description) <= DESCRIPTION_MAX_LENGTH:
                raise InvalidDescription
            ledger.refuse_if_moved(locked[user_id], expected_number)
            raise FreeOfCharge(
                service=service,
                quantity=format_quantity(asked.quantity),
                unit=price.unit,
                device=asked.device,
                plan_id=price.plan_id,
                plan=price.plan,
                unit_price=str(price.price),
                description=description,
            )
        entry = ledger.service_entry(
            user_id,
            service=service,
            cost=cost,
            device=asked.device,
            description=description,
            metadata={**asked.metadata, PRICING: explain_cost(price, asked.quantity)},
            idempotency_key=idempotency_key,
            expected_number=expected_number,
        )
        return ledger.post(entry, actor=actor, channel=channel)


def price_of(user: User | int, *, service: str, device: str = "") -> Price:
    """Returns the price of one unit for this user or, if given, for this device.

    Raises what `charge_service` raises.
    """
    user_id = ledger.user_id_of(user)
    known = Service.objects.filter(code=service).first() if _is_code(service) else None
    if known is None:
        raise UnknownService(service=str(service)[:40])
    if not known.is_active:
        raise ServiceRetired(service=known.name)
    subscription = (
        Subscription.objects.live()
        .filter(user=user_id, device__in={device, ""})
        .select_related("plan")
        .order_by("-device")  # the device's subscription before the account's
        .first()
    )
    if subscription is None:
        if not Balance.objects.filter(user=user_id).exists():
            raise UnknownUser(user_id=user_id)
        ledger.refuse_closed(user_id)
        raise NoPlan(user_id=user_id, device=device)
    plan = subscription.plan
    if subscription.status == Subscription.Status.SUSPENDED:
        raise SubscriptionSuspended(
            plan=plan.name,
            device=subscription.device,
            reason=subscription.suspension_reason,
            until=subscription.suspended_until,
        )
    price = ServicePrice.objects.filter(plan=plan, service=known).first()
    if price is None:
        raise ServiceNotAvailable(plan=plan.name, service=known.name)
    return Price(known.name, known.unit, plan.pk, plan.name, price.price)


def _is_code(service: object) -> bool:
    return isinstance(service, str) and ledger.CODE.fullmatch(service) is not None


def describe_service(price: Price, quantity: Decimal, device: str) -> str:
    """Returns the standardised description: "Outgoing SMS × 10, plan Business, device 8617"."""
    unit = price.unit and f" {price.unit}"
    of_device = device and f", device {device}"
    return ledger.shorten_description(
        f"{price.service} × {format_quantity(quantity)}{unit}, plan {price.plan}{of_device}"
    )


def explain_cost(price: Price, quantity: Decimal) -> dict[str, Any]:
    """Returns how the cost was computed, for the transaction's metadata (`PRICING`)."""
    return {
        "plan": price.plan_id,
        "price": str(price.price),
        "quantity": format_quantity(quantity),
    }


# --- Repeated keys ------------------------------------------------------------------------------


class _CallersMetadata(Func):
    """An expression: a transaction's metadata without what the panel adds."""

    template = f"(%(expressions)s - '{ledger.REQUEST_ID}' - '{PRICING}')"
    output_field = JSONField()


def cost_of_part(charge: Transaction, quantity: Amount) -> Decimal:
    """Returns what `quantity` units of a service charge cost, at the price of the charge.

    Raises InvalidQuantity, also for more than was charged, and InvalidEntry for other transactions.
    """
    pricing = charge.metadata.get(PRICING)
    if charge.type != TransactionType.SERVICE or not isinstance(pricing, dict):
        raise InvalidEntry(field="quantity", reason="this transaction charges no quantity")
    part, whole = _checked_quantity(quantity), to_quantity(pricing["quantity"])
    if part > whole:
        raise InvalidQuantity(reason="out_of_range", value=format_quantity(part))
    if part == whole:
        return -charge.amount - charge.bonus_amount
    return service_cost(to_money(pricing["price"]), part)


def _charged_before(user_id: int, key: str | None, asked: _Request) -> Transaction | None:
    """Returns the charge that was posted with this key, at any price.

    Raises IdempotencyConflict if something else was posted with it.
    """
    if key is None:
        return None
    key = ledger.checked_text("idempotency_key", key, 100)
    of_key = Transaction.objects.filter(user=user_id, idempotency_key=key)
    earlier = of_key.first()
    if earlier is None:
        return None
    same = of_key.annotate(callers=_CallersMetadata(F("metadata"))).filter(
        type=TransactionType.SERVICE,
        subtype=asked.service,
        device=asked.device,
        callers=dict(asked.metadata),
        **{f"metadata__{PRICING}__quantity": format_quantity(asked.quantity)},
        **({"description": asked.description} if asked.description else {}),
    )
    if not _is_code(asked.service) or not same.exists():
        raise IdempotencyConflict(number=earlier.number)
    earlier.replayed = True
    return earlier


def _callers_metadata(metadata: Mapping[str, Any] | None) -> Mapping[str, Any]:
    given = dict(metadata) if isinstance(metadata, Mapping) else metadata
    checked = ledger.json_object("metadata", {} if given is None else given)
    if PRICING in checked:
        raise InvalidEntry(field="metadata", reason=f"“{PRICING}” in it is the panel's own")
    return checked


def _checked_quantity(value: Amount) -> Decimal:
    try:
        return to_quantity(value)
    except NotMoney as problem:
        shown = Decimal(value) if type(value) is int else value
        raise InvalidQuantity(reason=problem.reason, value=str(shown)[:40]) from None


def _cost(price: Price, quantity: Decimal) -> Decimal:
    try:
        return service_cost(price.price, quantity)
    except NotMoney as problem:
        raise InvalidQuantity(reason=problem.reason, value=format_quantity(quantity)) from None
