"""People: the customers ("users") and the operators of the panel. Money is in `billing`."""

from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import Any, ClassVar, Final, Self
from zoneinfo import available_timezones

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.contrib.postgres.indexes import GinIndex
from django.core.exceptions import ValidationError
from django.db import IntegrityError, models
from django.db.models import Exists, F, Func, OuterRef, Q, Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Lower
from django.utils import timezone

from users.addresses import Mailbox, composed, validate_address
from users.texts import CANNOT_BE_SEEN, has_invisible

ADDRESS_IS_TAKEN: Final = "Another user has this e-mail address."
# The constraints by which the database refuses an address that another user has.
ONE_MAILBOX: Final = (
    "user_email_is_one_mailbox",
    "user_email_is_unique_without_regard_to_case",
)


@cache  # listing them reads the disk
def time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def validate_time_zone(name: str) -> None:
    if name not in time_zones():
        raise ValidationError(f"“{name}” is not a known time zone; an example is Europe/Berlin.")


def constraint_of(problem: IntegrityError) -> str:
    """Returns the name of the constraint that refused a write; "" if the error names none."""
    diagnostics = getattr(problem.__cause__, "diag", None)
    return getattr(diagnostics, "constraint_name", None) or ""


@cache
def customer_sql() -> str:
    """Returns SQL for the ID of a customer. Its one parameter is the ID, as text."""
    rows = User.objects.customers().filter(pk=RawSQL("%s::bigint", ()))
    sql, _ = rows.values_list("pk").query.sql_with_params()
    return sql


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """Creates a user. Without a password, the user cannot log in to the panel."""
        user = self.model(email=self.normalize_email(email), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def customers(self) -> "models.QuerySet[User]":
        """Returns the users who are not operators. Operators' accounts have no money."""
        return self.filter(is_staff=False)

    def with_mailbox(self, email: str | None) -> "models.QuerySet[User]":
        """Returns the users with this address in any spelling.

        That is one user at most, except for users who shared a mailbox before it was forbidden.
        """
        return self.filter(email_identity=Mailbox(email or ""))

    def with_email(self, email: str | None) -> "models.QuerySet[User]":
        """Returns the one user with this login in any spelling, if there is one.

        Users who share a mailbox (see `twins`) are each found by their own spelling only, upper and
        lower case being the same.
        """
        others = self.filter(email_identity=OuterRef("email_identity")).exclude(pk=OuterRef("pk"))
        is_spelled_so = Q(login=Lower(Value(email)))
        return (
            self.with_mailbox(email)
            .alias(login=Lower("email"))
            .filter(is_spelled_so | ~Exists(others))
        )

    def sharing_mailbox(self) -> "models.QuerySet[User]":
        """Returns the users who share a mailbox, ordered by mailbox.

        They had the same mailbox before this was forbidden; no new ones can be added.
        """
        later = self.filter(email_twin__gt=0).values("email_identity")  # few, found by an index
        others = self.filter(email_identity=OuterRef("email_identity")).exclude(pk=OuterRef("pk"))
        shared = self.filter(Exists(others), email_identity__in=later)
        return shared.order_by("email_identity", "email_twin")

    def get_by_natural_key(self, username: str | None) -> "User":
        return self.with_email(username).get()


class User(AbstractBaseUser, PermissionsMixin):
    """A person or company with an account: a customer, or (`is_staff`) an operator of the panel.

    Customers log in elsewhere. Users are deactivated, never deleted, because their money history
    refers to them.
    """

    class LegalType(models.TextChoices):
        INDIVIDUAL = "individual", "Individual"
        LEGAL_ENTITY = "legal_entity", "Legal entity"
        SOLE_TRADER = "sole_trader", "Sole trader"

    email = models.EmailField("e-mail", help_text="The login. It must be unique in all spellings.")
    # The database sets both: see users/migrations/sql.
    email_identity = models.GeneratedField(
        expression=Func(F("email"), function="users_email_identity"),
        output_field=models.TextField(db_collation="C"),
        db_persist=True,
        editable=False,
    )
    email_twin = models.SmallIntegerField(default=0, db_default=0, editable=False)
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
    # Newer columns have a default in the database too, for programs that add users with SQL and do
    # not know these columns.
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
        help_text="The code in the classifier of enterprises and organizations.",
    )

    country = models.CharField(max_length=100, blank=True)
    region = models.CharField(max_length=100, blank=True)
    city = models.CharField(max_length=100, blank=True)
    street_address = models.CharField(max_length=200, blank=True)
    postal_code = models.CharField(max_length=20, blank=True)

    # Where a company is registered, if that is not its postal address.
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
    comment = models.TextField(blank=True, help_text="Shown to operators only.")

    is_active = models.BooleanField(
        "active",
        default=True,
        help_text="Clear this instead of deleting the user: money history is kept permanently.",
    )
    is_staff = models.BooleanField(
        "operator",
        default=False,
        help_text="An operator of this panel, within the operator's permissions.",
    )
    created_at = models.DateTimeField("created", default=timezone.now, editable=False)
    # Both are set for good, for users who are deactivated.
    duplicate_of = models.ForeignKey(
        "self",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="duplicates",
        editable=False,
        db_index=False,  # see the index below
        help_text="The same person's other account, to which everything was moved.",
    )
    forgotten_at = models.DateTimeField(
        "forgotten",
        null=True,
        blank=True,
        editable=False,
        help_text="When the personal data was erased.",
    )

    # The text in which users are searched (users/search.py). The database generates it.
    search_text = models.GeneratedField(
        expression=Func(
            "email",
            "phone",
            # These numbers and postal codes come first: they are also found without their spaces.
            "tin",
            "iec",
            "state_reg_num",
            "okpo_code",
            "postal_code",
            "registered_postal_code",
            "first_name",
            "middle_name",
            "last_name",
            "legal_name",
            "country",
            "region",
            "city",
            "street_address",
            "registered_country",
            "registered_region",
            "registered_city",
            "registered_street_address",
            function="users_search_text",
        ),
        output_field=models.TextField(db_collation="C"),
        db_persist=True,
        editable=False,
    )

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        constraints = [
            models.UniqueConstraint(
                Lower("email"),
                name="user_email_is_unique_without_regard_to_case",
                violation_error_message=ADDRESS_IS_TAKEN,
            ),
            models.UniqueConstraint(
                fields=["email_identity", "email_twin"],
                name="user_email_is_one_mailbox",
                violation_error_message=ADDRESS_IS_TAKEN,
            ),
            models.CheckConstraint(
                name="duplicates_and_forgotten_users_stay_deactivated",
                condition=Q(is_active=False)
                | Q(duplicate_of__isnull=True, forgotten_at__isnull=True),
                violation_error_message="A duplicate or forgotten user stays deactivated.",
            ),
            models.CheckConstraint(
                name="nobody_is_a_duplicate_of_themselves",
                condition=Q(duplicate_of__isnull=True) | ~Q(duplicate_of=F("id")),
            ),
        ]
        # In `users`, because they are about a person; what is moved is the business of `billing`.
        permissions = [
            ("merge_user", "Can merge user"),
            ("forget_user", "Can forget user"),
        ]
        indexes = [
            models.Index(fields=["-created_at"], name="user_newest_first"),
            models.Index(fields=["id"], condition=Q(is_staff=True), name="user_is_operator"),
            models.Index(
                fields=["duplicate_of"],
                condition=Q(duplicate_of__isnull=False),
                name="duplicates_of_a_user",
            ),
            models.Index(
                fields=["email_identity"],
                condition=Q(email_twin__gt=0),
                name="user_twins_of_old",
            ),
            GinIndex(
                Func(F("search_text"), function="users_trigrams"),
                name="user_found_by_any_part",
            ),
        ]

    def __str__(self) -> str:
        return self.get_full_name() or self.email

    @classmethod
    def from_db(cls, *row: Any, **options: Any) -> Self:
        user = super().from_db(*row, **options)
        user._remember()
        return user

    def refresh_from_db(self, *args: Any, **options: Any) -> None:
        super().refresh_from_db(*args, **options)
        self._remember()

    def _remember(self) -> None:
        """Notes the stored texts, so that texts which do not change need not meet newer rules."""
        self._stored = {name: self.__dict__.get(name) for name in self.texts()}

    @classmethod
    @cache
    def texts(cls) -> Sequence[str]:
        """Returns the names of the text fields that people fill in."""
        return [
            field.name
            for field in cls._meta.concrete_fields
            if isinstance(field, models.CharField | models.TextField)
            and field.editable
            and field.name != "password"
        ]

    def _changed_texts(self) -> list[str]:
        stored: dict[str, Any] = getattr(self, "_stored", {})
        return [
            name
            for name in self.texts()
            if name in self.__dict__ and self.__dict__[name] != stored.get(name, "")
        ]

    def clean_fields(self, exclude: Collection[str] | None = None) -> None:
        excluded = set(exclude or ())
        changed = set(self._changed_texts()) - excluded
        problems: dict[str, Any] = {}
        if "email" in changed:
            self.email = composed(self.email)
        elif not self._state.adding:
            excluded.add("email")  # it was accepted earlier, perhaps by other rules
        try:
            super().clean_fields(exclude=excluded)
        except ValidationError as problem:
            problems = problem.update_error_dict({})
        if "email" in changed and "email" not in problems:
            try:
                validate_address(self.email)
            except ValidationError as problem:
                problems["email"] = problem.messages
        for name in sorted(changed - problems.keys()):
            if self._has_unseen(name):
                problems[name] = [CANNOT_BE_SEEN]
        if problems:
            raise ValidationError(problems)

    def _has_unseen(self, name: str) -> bool:
        value = getattr(self, name)
        return isinstance(value, str) and has_invisible(value, lines=name == "comment")

    def clean(self) -> None:
        super().clean()
        if self.legal_type == self.LegalType.LEGAL_ENTITY and not self.legal_name.strip():
            raise ValidationError({"legal_name": "A legal entity needs its legal name."})

    def shares_mailbox(self) -> bool:
        """True if the address was changed to a mailbox that another user has."""
        if "email" not in self._changed_texts():
            return False
        others = User.objects.with_mailbox(self.email)
        if self.pk is not None:
            if others.filter(pk=self.pk).exists():
                return False  # it is another spelling of this user's own mailbox
            others = others.exclude(pk=self.pk)
        return others.exists()

    def validate_constraints(self, exclude: Collection[str] | None = None) -> None:
        # The constraints on the address are replaced by one query, which allows for old twins.
        skipped = {*(exclude or ()), "email", "email_identity", "email_twin"}
        super().validate_constraints(exclude=skipped)
        if "email" not in (exclude or ()) and self.shares_mailbox():
            raise ValidationError({"email": ADDRESS_IS_TAKEN})

    def save(self, *args: Any, **options: Any) -> None:
        """Saves the user. Raises ValidationError for invisible characters or a malformed address.

        This protects callers that do not call `full_clean`. Texts that do not change are not
        checked.
        """
        written: Iterable[str] | None = options.get("update_fields")
        changed = [each for each in self._changed_texts() if written is None or each in written]
        if "email" in changed:
            self.email = composed(self.email)
            validate_address(self.email)
        if unseen := [name for name in changed if self._has_unseen(name)]:
            raise ValidationError(dict.fromkeys(unseen, CANNOT_BE_SEEN))
        super().save(*args, **options)
        if changed:
            self._remember()

    def get_full_name(self) -> str:
        """Returns the company's name for a legal entity, else the person's."""
        if self.legal_type == self.LegalType.LEGAL_ENTITY and self.legal_name:
            return self.legal_name
        return self.person_name

    @property
    def person_name(self) -> str:
        return " ".join(filter(None, (self.first_name, self.middle_name, self.last_name)))

    @property
    def is_closed(self) -> bool:
        """True for duplicates and forgotten users, who stay deactivated and get no money."""
        return self.duplicate_of_id is not None or self.forgotten_at is not None

    def get_short_name(self) -> str:
        return self.first_name or self.email


class Operator(User):
    """Users who work in this panel. The proxy gives them pages and permissions of their own."""

    class Meta:
        proxy = True
