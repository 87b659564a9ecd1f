"""The services and plans of the made-up company, with their prices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Final

from billing.models import Plan, Service, ServicePrice, UserDefaults
from billing.plans.pricing import Cycle
from billing.plans.services import Price

GIFT_ON_REGISTRATION: Final = Decimal("5.0000")

PAY_PER_USE: Final = "Pay per use"
MONTHLY: Final = ("Start", "Business", "Fleet")  # between which customers change
BY_DAY: Final = "Daily"
ACTIVE_DAY: Final = "Rental"
ANNUAL: Final = "Annual"
RETIRED: Final = "Classic"  # only customers of the previous system have it
CONTROL_ROOM: Final = "Control room"  # more than anybody keeps on account

_SERVICES: Final = (
    ("outgoing_sms", "Outgoing SMS", "", "0.3000"),
    ("incoming_sms", "Incoming SMS", "", "0.1000"),
    ("service_sms", "Service SMS", "", "0.1500"),
    ("phone_call", "Phone call", "min", "0.1250"),
    ("traffic", "Traffic", "MB", "0.0150"),
    ("geo_lookup", "Geo lookup", "", "0.0025"),
)
_ALL: Final = tuple(code for code, *_ in _SERVICES)
_PLANS: Final = (
    # name, cycle, price, proportional, services
    (PAY_PER_USE, Cycle.MONTHLY, "0.0000", False, _ALL),
    ("Start", Cycle.MONTHLY, "4.9000", True, _ALL),
    ("Business", Cycle.MONTHLY, "12.5500", True, _ALL),
    ("Fleet", Cycle.MONTHLY, "29.0000", True, _ALL),
    (BY_DAY, Cycle.EVERY_DAY, "30.0000", False, _ALL),
    (ACTIVE_DAY, Cycle.ACTIVE_DAY, "0.5000", False, _ALL),
    (ANNUAL, Cycle.ANNUAL, "120.0000", True, _ALL),
    (CONTROL_ROOM, Cycle.ANNUAL, "1800.0000", False, ("phone_call", "service_sms")),
    (RETIRED, Cycle.MONTHLY, "9.9000", False, _ALL[:-1]),
)


@dataclass(frozen=True)
class Catalogue:
    plans: Mapping[str, Plan]
    services: Sequence[Service]
    service_prices: Sequence[ServicePrice]

    @cached_property
    def prices(self) -> dict[tuple[int, str], Price]:
        """Prices of a unit by plan ID and service code."""
        return {
            (each.plan.pk, each.service.code): Price(
                each.service.name, each.service.unit, each.plan.pk, each.plan.name, each.price
            )
            for each in self.service_prices
        }


def draw_up() -> Catalogue:
    """Makes the catalogue without saving it."""
    plans = {
        name: Plan(
            name=name,
            cycle=cycle,
            price=Decimal(price),
            proportional_charge=proportional,
            is_active=name != RETIRED,
        )
        for name, cycle, price, proportional, _ in _PLANS
    }
    services = [Service(code=code, name=name, unit=unit) for code, name, unit, _ in _SERVICES]
    offered = {name: codes for name, *_, codes in _PLANS}
    service_prices = [
        ServicePrice(plan=plan, service=service, price=Decimal(price))
        for plan in plans.values()
        for service, (*_, price) in zip(services, _SERVICES, strict=True)
        if service.code in offered[plan.name]
    ]
    return Catalogue(plans, services, service_prices)


def publish(catalogue: Catalogue) -> None:
    """Saves the catalogue and the defaults for new customers."""
    Service.objects.bulk_create(catalogue.services)
    Plan.objects.bulk_create(catalogue.plans.values())
    ServicePrice.objects.bulk_create(catalogue.service_prices)
    UserDefaults.objects.create(
        pk=UserDefaults.ONLY_ID,
        bonus=GIFT_ON_REGISTRATION,
        plan=catalogue.plans[PAY_PER_USE],
    )
