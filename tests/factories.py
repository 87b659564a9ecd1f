"""People for tests, money for them (given through the ledger, like anybody's), and plans."""

from datetime import date
from typing import Any

import factory
from factory.django import DjangoModelFactory

from billing import ledger
from billing.models import Channel, Plan, Service, ServicePrice, Subscription, Transaction
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
    """Works in the panel; without permissions until a test gives some. Logs in with PASSWORD."""

    email = factory.Sequence(lambda n: f"operator{n}@example.com")
    is_staff = True
    password = factory.django.Password(PASSWORD)


class AdministratorFactory(OperatorFactory):
    """May do everything."""

    email = factory.Sequence(lambda n: f"administrator{n}@example.com")
    is_superuser = True


def user_with(real: Amount = 0, bonus: Amount = 0, **fields: Any) -> User:
    """A customer who has this much, by one transaction; by none if it is nothing."""
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
    """A service charge of a given `cost`, for tests that are not about plans and their prices."""
    batch = [ledger.service_entry(user, **entry)]
    [result] = ledger.post_batch(batch, actor=actor, channel=channel)
    assert result.transaction is not None
    return result.transaction


def charge_price(user: User | int, **said: Any) -> Transaction:
    """A subscription's charge of a given `price`, posted as `subscriptions` posts what is due."""
    return _posted(ledger.subscription_entry, user, **said)


def pay_back(user: User | int, **said: Any) -> Transaction:
    """A given `amount` of what was paid for a subscription, posted alike."""
    return _posted(ledger.remainder_entry, user, **said)


def _posted(
    make: Any, user: User | int, *, actor: User | None, channel: Channel, **said: Any
) -> Transaction:
    entry = make(user, **said)
    [number] = ledger.post_for_numbers([entry], actor=actor, channel=channel)
    return Transaction.objects.get(user=entry.user_id, number=number)


class PlanFactory(DjangoModelFactory[Plan]):
    """A monthly plan of 10, which offers no services."""

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
    """A plan that offers these services at these prices."""
    plan = PlanFactory(**fields)
    for service, price in prices.items():
        ServicePrice.objects.create(plan=plan, service=service, price=price)
    return plan


def subscribed(
    user: User, plan: Plan, *, day: date = date(2026, 4, 1), **options: Any
) -> Subscription:
    """`user`'s subscription to `plan`, made as an operator makes it; waits if there is no money."""
    options = {"actor": None, "channel": Channel.PANEL, "wait_for_money": True} | options
    return subscriptions.start(user, plan, day=day, **options).subscription
