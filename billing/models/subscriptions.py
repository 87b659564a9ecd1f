"""Subscriptions: who uses which plan, and through which day it is paid."""

from datetime import date, datetime
from typing import Self

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from billing.models.balances import money_field
from billing.models.moments import DATABASE_CLOCK
from billing.models.plans import Plan
from billing.plans.pricing import Charge, Cycle


class SubscriptionQuerySet(models.QuerySet["Subscription"]):
    def live(self) -> Self:
        """Returns active and suspended subscriptions."""
        return self.exclude(status=Subscription.Status.CANCELLED)


class Subscription(models.Model):
    """A user's use of a plan, for one device or, without one, for the account as a whole.

    Days are UTC days. Only `billing.plans` writes these rows, with the user's balance locked
    (`ledger.lock_balances`), so that they always agree with the transactions. An import creates
    them (`billing.operations.history`).
    """

    class Status(models.TextChoices):
        ACTIVE = "active", "Active"
        SUSPENDED = "suspended", "Suspended"
        CANCELLED = "cancelled", "Cancelled"

    class SuspensionReason(models.TextChoices):
        """Why the last attempt to charge a subscription failed.

        The label says what it waits for.
        """

        NO_MONEY = "no_money", "until there is money"
        USER_DEACTIVATED = "user_deactivated", "until the user is active again"

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        related_name="subscriptions",
        db_index=False,  # declared below
    )
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="subscriptions")
    device = models.CharField(
        max_length=100,
        blank=True,
        default="",
        db_default="",
        help_text="Empty: the user's own pricing plan.",
    )
    status = models.CharField(max_length=10, choices=Status, default=Status.ACTIVE)
    started_on = models.DateField("started")
    plan_since = models.DateField(help_text="The first day of the present plan.")
    status_since = models.DateField(help_text="The first day of the present status.")
    suspension_reason = models.CharField(
        max_length=20,
        choices=SuspensionReason,
        blank=True,
        default="",
        db_default="",
        help_text="The reason for the suspension; empty: it is not suspended.",
    )
    suspended_at = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="The moment from which it could not be used, by the database's clock. After a "
        "late run it is later than the day from which it is suspended.",
    )
    created_at = models.DateTimeField(
        editable=False,
        db_default=DATABASE_CLOCK,
        help_text="When it was added, by the database's clock.",
    )
    term = models.PositiveIntegerField(
        default=1, db_default=1, help_text="1, plus one for each change of plan."
    )
    charged_from = models.DateField(null=True, blank=True)
    charged_through = models.DateField(null=True, blank=True)
    paid = money_field(
        default=0,
        db_default=0,
        help_text="The amount charged for the days from charged from to charged through.",
    )
    charge_number = models.BigIntegerField(
        null=True, blank=True, help_text="The number of the transaction that paid for these days."
    )
    due_on = models.DateField(
        null=True,
        blank=True,
        help_text="The day on which the charging run next looks at it. Empty: not until something "
        "changes.",
    )

    objects = SubscriptionQuerySet.as_manager()

    class Meta:
        default_permissions = ("view", "add", "change")
        # No index on due_on: a run changes it in every row that it charges, which is several times
        # faster without an index to update. Finding due subscriptions reads the table.
        indexes = [models.Index(fields=["user"], name="subscriptions_of_a_user")]
        constraints = [
            models.UniqueConstraint(
                fields=["user", "device"],
                condition=~Q(status="cancelled"),
                name="a_device_has_one_live_subscription",
                violation_error_message="This device already has a subscription.",
            ),
            models.CheckConstraint(
                name="a_subscription_has_a_status",
                condition=Q(status__in=["active", "suspended", "cancelled"]),
            ),
            models.CheckConstraint(
                name="a_cancelled_subscription_is_never_due",
                condition=Q(due_on__isnull=True) | ~Q(status="cancelled"),
            ),
            models.CheckConstraint(
                name="a_suspended_subscription_is_tried_again",
                condition=Q(due_on__isnull=False) | ~Q(status="suspended"),
            ),
            models.CheckConstraint(
                name="a_suspended_subscription_has_a_reason",
                condition=~Q(status="suspended")
                | Q(suspension_reason__in=["no_money", "user_deactivated"]),
            ),
            models.CheckConstraint(
                name="charged_days_have_a_beginning_and_an_end",
                condition=Q(charged_from__isnull=True, charged_through__isnull=True)
                | Q(
                    # A CHECK constraint accepts NULL.
                    charged_from__isnull=False,
                    charged_through__isnull=False,
                    charged_from__lte=F("charged_through"),
                ),
            ),
            models.CheckConstraint(
                name="what_was_paid_is_an_amount",
                condition=Q(paid__gte=0, paid__lt=10**15),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.plan}, device {self.device}" if self.device else f"{self.plan}"

    @property
    def is_live(self) -> bool:
        return self.status != self.Status.CANCELLED

    @property
    def suspended_until(self) -> str:
        """What a suspended subscription waits for: "until there is money"."""
        reason = self.suspension_reason
        return self.SuspensionReason(reason).label if reason else ""

    @property
    def added_at(self) -> datetime | None:
        """When it was added; None if this object does not know it."""
        return self.created_at if isinstance(self.created_at, datetime) else None

    @property
    def accrues_from(self) -> date:
        """The first day of activity that can be charged: since the plan or the status changed."""
        return max(self.plan_since, self.status_since)

    @property
    def paid_period(self) -> Charge | None:
        if self.charged_from is None or self.charged_through is None:
            return None
        return Charge(self.charged_from, self.charged_through, self.paid)

    @property
    def is_by_active_day(self) -> bool:
        return self.plan.cycle == Cycle.ACTIVE_DAY


class ActiveDay(models.Model):
    """A device was active on a day. Used by plans charged by active day, stored for all."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    device = models.CharField(max_length=100, blank=True, default="")
    day = models.DateField()
    subscription = models.ForeignKey(
        Subscription,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="active_days",
        db_index=False,  # see the index below
        help_text="The subscription that is charged for the day: the device's own, else the "
        "account's.",
    )
    is_charged = models.BooleanField("charged", default=False, db_default=False)
    reported_at = models.DateTimeField(
        editable=False,
        db_default=DATABASE_CLOCK,
        help_text="When it was reported, by the database's clock.",
    )

    class Meta:
        default_permissions = ("view",)
        indexes = [
            models.Index(
                fields=["subscription", "is_charged", "day"], name="active_days_to_charge"
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["user", "device", "day"],
                name="a_device_is_active_once_a_day",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.device or 'Account'} on {self.day}"
