"""Plans, services and their prices, and the defaults for new customers."""

from decimal import Decimal
from typing import ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q

from billing.models.balances import money_field
from billing.plans.pricing import PRICE_IS_PER, Cycle, Terms
from users.texts import CANNOT_BE_SEEN, has_invisible

NOT_NEGATIVE = MinValueValidator(Decimal(0), "A price cannot be negative.")


def validate_readable(name: str) -> None:
    """Refuses invisible characters: names become part of descriptions, beside figures."""
    if has_invisible(name):
        raise ValidationError(CANNOT_BE_SEEN)


def priced(name: str, *fields: str) -> models.CheckConstraint:
    """Returns a constraint: zero or more, and not NaN, which PostgreSQL sorts above all numbers."""
    return models.CheckConstraint(
        name=name,
        condition=Q(**{f"{field}__gte": 0 for field in fields})
        & Q(**{f"{field}__lt": Decimal(10) ** 15 for field in fields}),
        violation_error_message="A price cannot be negative.",
    )


class Service(models.Model):
    """Something charged per use: SMS, phone calls, traffic. Each plan has its own price for it."""

    code = models.CharField(
        max_length=32,
        unique=True,
        validators=[
            RegexValidator(
                r"\A[a-z][a-z0-9_]*\Z",
                "A code has small letters, digits and underscores, like outgoing_sms.",
            )
        ],
        help_text="Identifies the service in transactions and to programs, like outgoing_sms. It "
        "cannot be changed.",
    )
    name = models.CharField(
        max_length=40,
        validators=[validate_readable],
        help_text="The name in descriptions of transactions, like Outgoing SMS.",
    )
    unit = models.CharField(
        max_length=20,
        blank=True,
        validators=[validate_readable],
        help_text="The unit of a quantity, like min or MB. May be empty.",
    )
    is_active = models.BooleanField(
        "active",
        default=True,
        help_text="Clear this to retire the service: then it cannot be charged.",
    )

    class Meta:
        ordering = ["name", "code"]
        constraints = [
            models.CheckConstraint(
                name="a_service_code_is_a_code",
                condition=Q(code__regex=r"^[a-z][a-z0-9_]*$"),
                violation_error_message="A code has small letters, digits and underscores.",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Plan(models.Model):
    """A pricing plan: a fee with a billing cycle, and prices of the services that it offers."""

    name = models.CharField(max_length=60, unique=True, validators=[validate_readable])
    cycle = models.CharField(
        "billing cycle",
        max_length=16,
        choices=Cycle,
        default=Cycle.MONTHLY,
        help_text="Cannot be changed once somebody has subscribed.",
    )
    price = money_field(
        validators=[NOT_NEGATIVE],
        help_text="Per month, day, active day or year, depending on the billing cycle. A new price "
        "applies from the next charge on.",
    )
    proportional_charge = models.BooleanField(
        default=False,
        help_text="A subscription that starts within a month (or year) is charged for its remaining"
        " days only. No effect on plans charged by day.",
    )
    is_active = models.BooleanField(
        "active",
        default=True,
        help_text="It can be chosen for new subscriptions. Clear this to retire the plan: users who"
        " have it keep it.",
    )
    services: "models.ManyToManyField[Service, ServicePrice]" = models.ManyToManyField(
        Service, through="ServicePrice", related_name="plans"
    )

    class Meta:
        ordering = ["name"]
        constraints = [
            priced("a_plan_has_a_price", "price"),
            models.CheckConstraint(name="a_plan_has_a_cycle", condition=Q(cycle__in=Cycle.values)),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def terms(self) -> Terms:
        return Terms(self.cycle, self.price, self.proportional_charge)

    @property
    def price_is_per(self) -> str:
        return PRICE_IS_PER[Cycle(self.cycle)]


class ServicePrice(models.Model):
    """The price of one unit of a service under a plan, which offers it only if there is a row."""

    plan = models.ForeignKey(Plan, on_delete=models.CASCADE, related_name="service_prices")
    service = models.ForeignKey(Service, on_delete=models.PROTECT, related_name="prices")
    price = money_field("price per unit", validators=[NOT_NEGATIVE])

    class Meta:
        default_permissions = ()  # part of its plan
        ordering = ["service__name"]
        constraints = [
            models.UniqueConstraint(
                fields=["plan", "service"],
                name="a_plan_has_one_price_per_service",
                violation_error_message="The plan already has a price for this service.",
            ),
            priced("a_service_has_a_price", "price"),
        ]

    def __str__(self) -> str:
        return f"{self.service}"


class UserDefaults(models.Model):
    """What a new customer gets: one row. Without the row, or if it is empty, nothing."""

    ONLY_ID: ClassVar[int] = 1

    bonus = money_field(
        "bonus on registration",
        default=Decimal(0),
        db_default=0,
        validators=[MinValueValidator(Decimal(0), "A gift cannot be negative.")],
        help_text="Given to the bonus balance of each new user. Zero: none.",
    )
    plan = models.ForeignKey(
        Plan,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        limit_choices_to={"is_active": True},
        help_text="The own pricing plan of each new user. If there is not enough money, which is "
        "usual for a new user, the subscription stays suspended until the first refill.",
    )

    class Meta:
        default_permissions = ("view", "change")
        verbose_name = verbose_name_plural = "defaults for new users"
        constraints = [
            models.CheckConstraint(
                name="there_is_one_row_of_defaults",
                condition=Q(id=1),
            ),
            priced("a_gift_is_an_amount", "bonus"),
        ]

    def __str__(self) -> str:
        return "Defaults for new users"
