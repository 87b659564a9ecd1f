"""Reasons: the standard descriptions of balance changes, each with a code."""

import re
from typing import Final

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinLengthValidator, RegexValidator
from django.db import models

from billing.descriptions import DESCRIPTION_MAX_LENGTH, DESCRIPTION_MIN_LENGTH
from billing.models.plans import validate_readable

FIELD: Final = re.compile(r"\{([^{}]+)\}")
LONGEST_BONUS_DAYS: Final = 3_660


def validate_fields(template: str) -> None:
    """Refuses braces that enclose no name."""
    if set(FIELD.sub("", template)) & set("{}"):
        raise ValidationError("Write a field as its name in braces: {reference}.")


class Reason(models.Model):
    """Why a balance is changed by hand or by a program: a bank transfer, goodwill, a correction.

    Its template becomes the description; a field in it, such as {reference}, is filled in each
    time. The database function `billing_reason_problem` checks each posting against its reason.
    """

    class Direction(models.TextChoices):
        BOTH = "both", "Either"
        ADDS = "adds", "Adds"
        TAKES = "takes", "Takes"

    class Balances(models.TextChoices):
        BOTH = "both", "Both"
        REAL = "real", "Real"
        BONUS = "bonus", "Bonus"

    code = models.CharField(
        max_length=32,
        unique=True,
        validators=[
            RegexValidator(
                r"^[a-z][a-z0-9_]*\Z", "Write small letters, digits and underscores: bank_transfer."
            )
        ],
        help_text="For programs and reports, such as bank_transfer. It cannot be changed once "
        "transactions have it.",
    )
    label = models.CharField(
        max_length=100,
        unique=True,
        validators=[validate_readable],
        help_text="What operators choose, such as Bank transfer.",
    )
    template = models.CharField(
        "description",
        max_length=DESCRIPTION_MAX_LENGTH,
        validators=[MinLengthValidator(DESCRIPTION_MIN_LENGTH), validate_readable, validate_fields],
        help_text="The description of its transactions. Write what differs as a name in braces: "
        "Bank transfer {reference}.",
    )
    direction = models.CharField(max_length=5, choices=Direction, default=Direction.BOTH)
    balances = models.CharField(max_length=5, choices=Balances, default=Balances.BOTH)
    bonus_days = models.PositiveSmallIntegerField(
        "days of a bonus",
        null=True,
        blank=True,
        validators=[MaxValueValidator(LONGEST_BONUS_DAYS)],
        help_text="For how many days a bonus added for this reason can be used, unless its change "
        "says otherwise. Empty: as the installation's setting says.",
    )
    is_comment_required = models.BooleanField(
        "comment required",
        default=False,
        help_text="The description has to say more than the text above.",
    )
    is_active = models.BooleanField(
        "active", default=True, help_text="Inactive: no longer offered or accepted."
    )
    position = models.PositiveSmallIntegerField(
        default=0, help_text="Lower numbers are offered first; equal ones are sorted by label."
    )

    class Meta:
        ordering = ["position", "label"]

    def __str__(self) -> str:
        return self.label

    @property
    def fields(self) -> list[str]:
        """The names of the template's fields, in order."""
        return FIELD.findall(self.template)
