"""People for tests, and money for them: given through the ledger, like anybody's."""

from typing import Any

import factory
from factory.django import DjangoModelFactory

from billing import ledger
from billing.models import Channel, Transaction
from billing.money import Amount
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
