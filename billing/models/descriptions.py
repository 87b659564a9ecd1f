"""Standard descriptions: the usual wordings of an installation."""

from django.core.validators import MinLengthValidator
from django.db import models

from billing.descriptions import DESCRIPTION_MAX_LENGTH, DESCRIPTION_MIN_LENGTH
from billing.models.plans import validate_readable


class StandardDescription(models.Model):
    """A description that the Change balance page suggests, so that wordings are uniform.

    Operators with the permission maintain the list. Other descriptions are allowed, too.
    """

    text = models.CharField(
        max_length=DESCRIPTION_MAX_LENGTH,
        unique=True,
        validators=[MinLengthValidator(DESCRIPTION_MIN_LENGTH), validate_readable],
    )
    position = models.PositiveSmallIntegerField(
        default=0, help_text="Lower numbers are offered first; equal ones are sorted by text."
    )

    class Meta:
        ordering = ["position", "text"]

    def __str__(self) -> str:
        return self.text
