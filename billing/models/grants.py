"""Grants: gifts of bonus money, what is left of them, and the transactions that used them."""

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.lookups import GreaterThan

from billing.models.balances import money_field


class Grant(models.Model):
    """Bonus money that one transaction gave a user, and what remains of it.

    `billing_post` creates grants and takes from them, soonest expiry first. The remainders of a
    user's grants add up to the bonus balance. Triggers allow no other change (docs/ledger.md).
    """

    pk = models.CompositePrimaryKey("user_id", "number")
    number = models.BigIntegerField(
        help_text="The number of the user's transaction that gave it, or after which grants began."
    )
    amount = money_field()
    remaining = money_field()
    uses = models.BigIntegerField(default=0, db_default=0, help_text="How often it was used.")
    expires_at = models.DateTimeField(
        "expires",
        null=True,
        blank=True,
        help_text="The moment from which it cannot be spent. Empty: it never expires.",
    )
    is_open = models.GeneratedField(
        expression=GreaterThan(F("remaining"), 0),
        output_field=models.BooleanField(),
        db_persist=True,
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        related_name="grants",
        db_index=False,  # the primary key serves
        db_constraint=False,  # its transaction has one
    )

    class Meta:
        default_permissions = ()
        indexes = [
            models.Index(fields=["user", "number"], condition=Q(is_open=True), name="open_grants"),
            models.Index(
                fields=["expires_at"],
                condition=Q(is_open=True, expires_at__isnull=False),
                name="open_grants_by_expiry",
            ),
        ]

    def __str__(self) -> str:
        return f"Grant {self.number} of user {self.user_id}"


class GrantUse(models.Model):
    """What one transaction took from one grant or, if negative, gave back to it. Append-only."""

    pk = models.CompositePrimaryKey("user_id", "grant_number", "place")
    grant_number = models.BigIntegerField(help_text="The number of the grant.")
    place = models.BigIntegerField(help_text="1, 2, 3, … for each grant, without gaps.")
    number = models.BigIntegerField(help_text="The number of the user's transaction.")
    line = models.IntegerField(help_text="1, 2, 3, … for each transaction: the order of taking.")
    amount = money_field()
    remaining = money_field(help_text="What remained of the grant afterwards.")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        related_name="+",
        db_index=False,  # the primary key serves
        db_constraint=False,  # its transaction has one
    )

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["user", "number", "line"],
                name="a_transaction_uses_grants_in_order",
            ),
        ]

    def __str__(self) -> str:
        return f"Use {self.place} of grant {self.grant_number} of user {self.user_id}"
