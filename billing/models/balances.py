"""The present balances of each user."""

from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import models

from billing.money import DECIMALS, DIGITS


def money_field(verbose_name: str = "", **options: Any) -> "models.DecimalField[Any, Decimal]":
    """Returns a field for an amount in the installation's currency: NUMERIC(19,4)."""
    return models.DecimalField(
        verbose_name or None, max_digits=DIGITS, decimal_places=DECIMALS, **options
    )


def total_field(verbose_name: str) -> "models.DecimalField[Any, Decimal]":
    """Returns a field for a sum over a user's whole history, which may exceed a single amount."""
    return models.DecimalField(
        verbose_name, max_digits=25, decimal_places=DECIMALS, default=0, db_default=0
    )


class Balance(models.Model):
    """Both balances of one user, and where the user's transactions stand.

    This row is locked while a transaction is posted. `billing.ledger` alone writes it; a trigger
    creates it with each user, however the user is created. It repeats the figures of the user's
    last transaction, which a trigger checks at every commit (docs/ledger.md).
    """

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        primary_key=True,
        related_name="balance",
    )
    real = money_field("balance", default=Decimal(0), db_default=0)
    bonus = money_field("bonus balance", default=Decimal(0), db_default=0)
    refilled = total_field("all refills so far")
    bonus_refilled = total_field("all bonus refills so far")
    last_number = models.BigIntegerField(default=0, db_default=0)
    last_digest = models.BinaryField(default=b"", db_default=b"")
    last_at = models.DateTimeField("last transaction", null=True, blank=True)
    grants_since = models.BigIntegerField(
        default=0,
        db_default=0,
        help_text="The last transaction of a history without grants. Its bonus is one grant.",
    )

    class Meta:
        default_permissions = ("view", "change")

    def __str__(self) -> str:
        return f"Balance of user {self.pk}"
