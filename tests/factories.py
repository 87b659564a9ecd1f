"""Makes users, plans and subscriptions for tests. Users get their money through the ledger."""

from datetime import date
from decimal import Decimal
from typing import Any

import factory
from factory.django import DjangoModelFactory

from billing import ledger, operations
from billing.models import (
    Channel,
    Plan,
    Reason,
    Service,
    ServicePrice,
    Subscription,
    Transaction,
    Voucher,
)
from billing.money import Amount
from billing.plans import subscriptions
from billing.plans.pricing import Cycle
from users.models import User

PASSWORD = "correct horse battery staple"


class UserFactory(DjangoModelFactory[User]):
    """A customer without money."""

    class Meta:
        model = User
        skip_postgeneration_save = True

    email = factory.Sequence(lambda n: f"user{n}@example.com")
    first_name = "Ada"
    last_name = factory.Sequence(lambda n: f"Test {n}")


class OperatorFactory(UserFactory):
    """An operator without permissions, whose password is PASSWORD."""

    email = factory.Sequence(lambda n: f"operator{n}@example.com")
    is_staff = True
    password = factory.django.Password(PASSWORD)


class AdministratorFactory(OperatorFactory):
    """An operator who may do everything."""

    email = factory.Sequence(lambda n: f"administrator{n}@example.com")
    is_superuser = True


def user_with(real: Amount = 0, bonus: Amount = 0, **fields: Any) -> User:
    """Creates a customer with these balances, posted as one transaction unless both are zero."""
    user = UserFactory(**fields)
    if real or bonus:
        ledger.change_balance(
            user,
            amount=real,
            bonus_amount=bonus,
            description="Money to start with",
            actor=None,
            channel=Channel.IMPORT,
        )
    return user


def charge_cost(
    user: User | int, *, actor: User | None, channel: Channel, **entry: Any
) -> Transaction:
    """Posts a service charge of a given `cost`, for tests that are not about plans and prices."""
    batch = [ledger.service_entry(user, **entry)]
    [result] = ledger.post_batch(batch, actor=actor, channel=channel)
    assert result.transaction is not None
    return result.transaction


def charge_price(user: User | int, **fields: Any) -> Transaction:
    """Posts a subscription's charge of a given `price`, the way `billing.plans` does."""
    return _posted(ledger.subscription_entry, user, **fields)


def pay_back(user: User | int, **fields: Any) -> Transaction:
    """Posts a remainder of a given `amount`, the way `billing.plans` does."""
    return _posted(ledger.remainder_entry, user, **fields)


def _posted(
    make: Any, user: User | int, *, actor: User | None, channel: Channel, **fields: Any
) -> Transaction:
    entry = make(user, **fields)
    [number] = ledger.post_for_numbers([entry], actor=actor, channel=channel)
    return Transaction.objects.get(user=entry.user_id, number=number)


class PlanFactory(DjangoModelFactory[Plan]):
    """A monthly plan with a price of 10 and no services."""

    class Meta:
        model = Plan

    name = factory.Sequence(lambda n: f"Plan {n}")
    cycle = Cycle.MONTHLY
    price = "10"


class ServiceFactory(DjangoModelFactory[Service]):
    class Meta:
        model = Service

    code = factory.Sequence(lambda n: f"service_{n}")
    name = factory.Sequence(lambda n: f"Service {n}")


def plan_with(prices: dict[Service, Amount], **fields: Any) -> Plan:
    """Creates a plan that offers these services at these prices."""
    plan = PlanFactory(**fields)
    for service, price in prices.items():
        ServicePrice.objects.create(plan=plan, service=service, price=price)
    return plan


def subscribed(
    user: User, plan: Plan, *, day: date = date(2026, 4, 1), **options: Any
) -> Subscription:
    """Subscribes `user` to `plan` as an operator does; without money, the subscription waits."""
    options = {"actor": None, "channel": Channel.PANEL, "wait_for_money": True} | options
    return subscriptions.start(user, plan, day=day, **options).subscription


def reason(code: str = "goodwill", **fields: Any) -> Reason:
    """Creates a reason; its label and template are made from its code."""
    label = code.replace("_", " ").capitalize()
    return Reason.objects.create(**{"code": code, "label": label, "template": label} | fields)


def a_voucher(**fields: Any) -> Voucher:
    """Makes a voucher; unless `fields` say what it gives, it gives 10 to one user."""
    given = {"amount": Decimal(10)} if not {"amount", "bonus", "plan"} & set(fields) else {}
    fields = {"title": "Spring"} | given | fields
    [voucher] = operations.vouchers.make(1, actor=None, channel=Channel.PANEL, **fields)
    return voucher
