"""Who people are: the customers ("users") and the operators of the panel. Nothing of money."""

from collections.abc import Collection
from functools import cache
from typing import Any, ClassVar
from zoneinfo import available_timezones

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Value
from django.db.models.functions import Lower
from django.utils import timezone

from users.texts import UNREADABLE


@cache  # looking them up reads the disk
def time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def validate_time_zone(name: str) -> None:
    if name not in time_zones():
        raise ValidationError(f"“{name}” is no known time zone; an example is Europe/Berlin.")


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """Creates a user; without a password, one that cannot log in to the panel."""
        user = self.model(email=self.normalize_email(email), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def with_email(self, email: str | None) -> "models.QuerySet[User]":
        """The one user with this login, if any. Upper and lower case are the same."""
        return self.alias(login=Lower("email")).filter(login=Lower(Value(email)))

    def get_by_natural_key(self, username: str | None) -> "User":
        return self.with_email(username).get()


class User(AbstractBaseUser, PermissionsMixin):
    """A person or company with an account: a customer, or (`is_staff`) an operator of the panel.

    Customers log in elsewhere. A user is deactivated, never deleted: money history hangs on it.
    """

    class LegalType(models.TextChoices):
        INDIVIDUAL = "individual", "Individual"
        LEGAL_ENTITY = "legal_entity", "Legal entity"
        SOLE_TRADER = "sole_trader", "Sole trader"

    email = models.EmailField("e-mail", help_text="The login. Unique without regard to case.")
    first_name = models.CharField(max_length=100, blank=True)
    middle_name = models.CharField(max_length=100, blank=True)
    last_name = models.CharField(max_length=100, blank=True)
    phone = models.CharField(max_length=30, blank=True)

    legal_type = models.CharField(
        max_length=16, choices=LegalType, default=LegalType.INDIVIDUAL, db_default="individual"
    )
    legal_name = models.CharField(
        max_length=255, blank=True, help_text="The company's registered name."
    )
    tin = models.CharField(
        "TIN", max_length=255, blank=True, help_text="Taxpayer identification number."
    )
    # Empty by the database's own default too: programs that add users with SQL know nothing of it.
    iec = models.CharField(
        "IEC",
        max_length=255,
        blank=True,
        default="",
        db_default="",
        help_text="Interbranch enterprise code.",
    )
    state_reg_num = models.CharField(
        "state registration number", max_length=15, blank=True, default="", db_default=""
    )
    okpo_code = models.CharField(
        "OKPO code",
        max_length=10,
        blank=True,
        default="",
        db_default="",
        help_text="Of the classifier of enterprises and organizations.",
    )

    country = models.CharField(max_length=100, blank=True)
    region = models.CharField(max_length=100, blank=True)
    city = models.CharField(max_length=100, blank=True)
    street_address = models.CharField(max_length=200, blank=True)
    postal_code = models.CharField(max_length=20, blank=True)

    # Where a company is registered, as far as it is not where it is written to.
    registered_country = models.CharField(max_length=100, blank=True, default="", db_default="")
    registered_region = models.CharField(max_length=100, blank=True, default="", db_default="")
    registered_city = models.CharField(max_length=100, blank=True, default="", db_default="")
    registered_street_address = models.CharField(
        max_length=200, blank=True, default="", db_default=""
    )
    registered_postal_code = models.CharField(max_length=20, blank=True, default="", db_default="")

    time_zone = models.CharField(
        max_length=64,
        blank=True,
        validators=[validate_time_zone],
        help_text="For example Europe/Berlin. Empty: the installation's time zone.",
    )
    comment = models.TextField(blank=True, help_text="For operators; the user does not see it.")

    is_active = models.BooleanField(
        "active",
        default=True,
        help_text="Clear this instead of deleting: money history is kept for ever.",
    )
    is_staff = models.BooleanField(
        "operator", default=False, help_text="Works in this panel, as far as permissions go."
    )
    created_at = models.DateTimeField("created", default=timezone.now, editable=False)

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        constraints = [
            models.UniqueConstraint(
                Lower("email"),
                name="user_email_is_unique_without_regard_to_case",
                violation_error_message="Another user has this e-mail address already.",
            ),
        ]
        indexes = [models.Index(fields=["-created_at"], name="user_newest_first")]

    def __str__(self) -> str:
        return self.get_full_name() or self.email

    def clean_fields(self, exclude: Collection[str] | None = None) -> None:
        super().clean_fields(exclude=exclude)
        texts = [
            field.name
            for field in self._meta.concrete_fields
            if isinstance(field, models.CharField) and field.name not in (exclude or ())
        ]
        garbled = [name for name in texts if UNREADABLE.search(getattr(self, name))]
        if garbled:
            unseen = "This contains characters that cannot be seen."
            raise ValidationError(dict.fromkeys(garbled, unseen))

    def clean(self) -> None:
        super().clean()
        if self.legal_type == self.LegalType.LEGAL_ENTITY and not self.legal_name.strip():
            raise ValidationError({"legal_name": "A legal entity needs its legal name."})

    def get_full_name(self) -> str:
        """The company's name for a legal entity, else the person's."""
        if self.legal_type == self.LegalType.LEGAL_ENTITY and self.legal_name:
            return self.legal_name
        return self.person_name

    @property
    def person_name(self) -> str:
        return " ".join(filter(None, (self.first_name, self.middle_name, self.last_name)))

    def get_short_name(self) -> str:
        return self.first_name or self.email


class Operator(User):
    """The users who work in this panel, listed apart from the customers."""

    class Meta:
        proxy = True
