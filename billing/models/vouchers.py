"""Vouchers: activation codes that give money, a bonus or a plan, and who redeemed them."""

import uuid
from datetime import date
from decimal import Decimal
from typing import Final

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q

from billing.models.balances import money_field
from billing.models.plans import Plan, priced, validate_readable
from billing.models.reasons import LONGEST_BONUS_DAYS

# Digits and letters without those that look alike: 0 and O, 1, I and L.
CODE_LETTERS: Final = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"
CODE_LENGTH: Final = 12
NOT_NEGATIVE: Final = MinValueValidator(Decimal(0), "A voucher cannot take money.")


def normalised_code(typed: str) -> str:
    """Returns a code as it is stored: upper case, without spaces and hyphens."""
    return "".join(each for each in typed.upper() if not each.isspace() and each not in "-‐‑–")


class Voucher(models.Model):
    """An activation code. Each user redeems it at most once, and gets what it gives.

    `billing.operations.vouchers` makes and redeems vouchers. A code is stored as it is, because
    operators look it up; only operators who may change vouchers see whole codes.
    """

    code = models.CharField(max_length=CODE_LENGTH, unique=True, editable=False)
    series = models.UUIDField(
        default=uuid.uuid4,
        db_index=True,
        editable=False,
        help_text="Vouchers that were made together have the same.",
    )
    title = models.CharField(
        max_length=100,
        validators=[validate_readable],
        help_text="Users read it in their history: Voucher: Spring campaign.",
    )
    amount = money_field(
        default=Decimal(0),
        db_default=0,
        validators=[NOT_NEGATIVE],
        help_text="Added to the real balance.",
    )
    bonus = money_field(
        default=Decimal(0),
        db_default=0,
        validators=[NOT_NEGATIVE],
        help_text="Added to the bonus balance.",
    )
    bonus_days = models.PositiveSmallIntegerField(
        "days of the bonus",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(LONGEST_BONUS_DAYS)],
        help_text="How many days after the day of the redemption the bonus can still be used. "
        "Empty: until the day below or, without one, as the installation's setting says.",
    )
    bonus_until = models.DateField(
        "last day of the bonus",
        null=True,
        blank=True,
        help_text="The last day on which the bonus can be used, for all users. The voucher cannot "
        "be redeemed later.",
    )
    plan = models.ForeignKey(
        Plan,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text="The user is subscribed to it, and charged at once.",
    )
    uses_max = models.PositiveIntegerField(
        "uses at most",
        null=True,
        blank=True,
        default=1,
        validators=[MinValueValidator(1)],
        help_text="How many users can redeem it. Empty: any number.",
    )
    uses = models.PositiveIntegerField(
        default=0, db_default=0, editable=False, help_text="How many users have redeemed it."
    )
    valid_until = models.DateField(
        null=True,
        blank=True,
        help_text="The last day on which it can be redeemed, in the installation's time zone. "
        "Empty: no end.",
    )
    is_active = models.BooleanField(
        "active", default=True, help_text="Inactive: it cannot be redeemed."
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        null=True,
        editable=False,
        related_name="+",
        help_text="The operator who made it. Empty: the system.",
    )
    created_at = models.DateTimeField("made", db_default=models.functions.Now(), editable=False)

    class Meta:
        default_permissions = ("add", "change", "view")
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                name="a_voucher_has_a_code",
                condition=Q(code__regex=f"^[{CODE_LETTERS}]{{{CODE_LENGTH}}}$"),
            ),
            priced("a_voucher_gives_amounts", "amount", "bonus"),
            models.CheckConstraint(
                name="a_voucher_gives_something",
                condition=Q(amount__gt=0) | Q(bonus__gt=0) | Q(plan__isnull=False),
                violation_error_message="A voucher gives money, a bonus or a plan.",
            ),
            models.CheckConstraint(
                name="only_a_bonus_expires",
                condition=Q(bonus__gt=0) | Q(bonus_days__isnull=True, bonus_until__isnull=True),
                violation_error_message="Without a bonus there is nothing that expires.",
            ),
            models.CheckConstraint(
                name="a_bonus_of_a_voucher_has_one_expiry",
                condition=Q(bonus_days__isnull=True) | Q(bonus_until__isnull=True),
                violation_error_message="Give either the days of the bonus or its last day.",
            ),
            models.CheckConstraint(
                name="a_voucher_is_used_as_often_as_it_may_be",
                condition=Q(uses_max__isnull=True) | Q(uses__lte=F("uses_max")),
                violation_error_message="More users than that have redeemed it already.",
            ),
        ]

    def __str__(self) -> str:
        return self.title

    @property
    def shown_code(self) -> str:
        """The code in groups of four: 7QXK-M3WP-ZT9B."""
        return "-".join(self.code[place : place + 4] for place in range(0, len(self.code), 4))

    @property
    def hidden_code(self) -> str:
        """The end of the code, which tells vouchers apart and redeems nothing."""
        return f"…{self.code[-4:]}"

    @property
    def last_day(self) -> date | None:
        """The last day on which it can be redeemed; None: no end."""
        return min((day for day in (self.valid_until, self.bonus_until) if day), default=None)

    @property
    def is_used_up(self) -> bool:
        return self.uses_max is not None and self.uses >= self.uses_max


class VoucherRedemption(models.Model):
    """A user's redemption of a voucher. `billing.operations.vouchers` alone creates rows."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        related_name="+",
        db_index=False,  # the constraint has an index
    )
    voucher = models.ForeignKey(Voucher, on_delete=models.PROTECT, related_name="redemptions")
    number = models.BigIntegerField(
        null=True, help_text="The number of the user's transaction. Empty: it gave only a plan."
    )
    redeemed_at = models.DateTimeField()

    class Meta:
        default_permissions = ()
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["user", "voucher"], name="a_user_redeems_a_voucher_once"
            ),
        ]

    def __str__(self) -> str:
        return f"Voucher {self.voucher_id} redeemed by user {self.user_id}"
