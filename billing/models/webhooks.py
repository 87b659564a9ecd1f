"""Webhooks: endpoints, events, deliveries and attempts; thresholds of low balances.

Triggers write events and deliveries in the same database transaction as what they report
(`billing/sql/`); `billing.webhooks` sends them.
"""

from typing import ClassVar

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from billing.models.balances import money_field
from billing.models.plans import validate_readable


class EventType(models.TextChoices):
    """The types of events. The codes are part of the interface."""

    TRANSACTION_POSTED = "transaction.posted", "Transaction posted"
    BALANCE_LOW = "balance.low", "Balance below its threshold"
    BONUS_EXPIRING = "bonus.expiring", "Bonus expires soon"
    BONUS_EXPIRED = "bonus.expired", "Bonus expired"
    SUBSCRIPTION_SUSPENDED = "subscription.suspended", "Subscription suspended"
    SUBSCRIPTION_RESUMED = "subscription.resumed", "Subscription resumed"


class WebhookEndpoint(models.Model):
    """An address that events are sent to. While it is inactive, it collects no events."""

    name = models.CharField(
        max_length=60,
        validators=[validate_readable],
        help_text="The program that receives it, like CRM. Shown to people only.",
    )
    url = models.URLField("address", max_length=500, help_text="Events are sent here, by POST.")
    secret = models.CharField(
        max_length=100,
        help_text="Signs the events, so that the receiver knows that they come from here.",
    )
    events = ArrayField(models.CharField(max_length=32, choices=EventType), verbose_name="events")
    is_active = models.BooleanField(
        "active",
        default=True,
        help_text="While this is off, nothing is sent to this endpoint and no new events are stored"
        " for it.",
    )
    created_at = models.DateTimeField("created", default=timezone.now, editable=False)
    # While nothing gets through, attempts are rare. `failing_since` without failures: one user's
    # event was refused then, and nothing was delivered since.
    failures = models.PositiveIntegerField(
        default=0, editable=False, help_text="The number of failures in a row."
    )
    paused_until = models.DateTimeField(null=True, blank=True, editable=False)
    failing_since = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        default_permissions = ("view", "add", "change", "delete")
        ordering = ["name", "id"]

    def __str__(self) -> str:
        return self.name


# The foreign keys of the next two tables are not checked by the database: all postings would lock
# the same row of an endpoint, and a posting would fail at its commit if the endpoint was deleted
# meanwhile.


class WebhookEvent(models.Model):
    """Something that happened to a user's money or subscription, if an endpoint wants it."""

    type = models.CharField(max_length=32, choices=EventType)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        related_name="+",
        db_index=False,
        db_constraint=False,
    )
    number = models.BigIntegerField(
        null=True, blank=True, help_text="The number of the user's transaction that it is about."
    )
    data = models.JSONField(default=dict, help_text="Further data of the event.")
    created_at = models.DateTimeField("date", db_index=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.get_type_display()}, user {self.user_id}"


class WebhookDelivery(models.Model):
    """One event for one endpoint.

    An endpoint gets a user's events in the order of their IDs: while one waits for another attempt,
    later ones wait, too. Deliveries of deleted endpoints are deleted in the background
    (`billing.webhooks.delete_old`).
    """

    class Status(models.TextChoices):
        PENDING = "pending", "Waiting"
        DELIVERED = "delivered", "Delivered"
        FAILED = "failed", "Given up"

    event = models.ForeignKey(
        WebhookEvent, on_delete=models.CASCADE, related_name="deliveries", db_constraint=False
    )
    endpoint = models.ForeignKey(
        WebhookEndpoint,
        on_delete=models.DO_NOTHING,
        related_name="deliveries",
        db_index=False,  # declared below
        db_constraint=False,
    )
    user_id = models.BigIntegerField(help_text="The event's user.")
    status = models.CharField(max_length=10, choices=Status, default=Status.PENDING)
    attempt_count = models.PositiveIntegerField("attempts", default=0, db_default=0)
    refusal_count = models.PositiveIntegerField(
        default=0,
        db_default=0,
        help_text="Failed attempts caused by the event itself, not by the endpoint as a whole.",
    )
    next_attempt_at = models.DateTimeField(
        "next attempt", null=True, blank=True, help_text="None: as soon as possible."
    )
    finished_at = models.DateTimeField("finished", null=True, blank=True)

    class Meta:
        default_permissions = ("view", "change")
        verbose_name_plural = "webhook deliveries"
        indexes = [
            models.Index(
                fields=["endpoint", "user_id", "id"],
                condition=Q(status="pending"),
                name="deliveries_to_send_by_user",
            ),
            models.Index(fields=["endpoint", "id"], name="deliveries_of_an_endpoint"),
            # For the oldest waiting delivery, which each scrape of the metrics reads.
            models.Index(
                fields=["endpoint", "id"],
                condition=Q(status="pending"),
                name="deliveries_waiting",
            ),
            models.Index(fields=["user_id", "id"], name="deliveries_of_a_user"),
            models.Index(
                fields=["endpoint", "id"],
                condition=Q(status="failed"),
                name="deliveries_given_up",
            ),
        ]

    def __str__(self) -> str:
        return f"Delivery {self.pk}"


class WebhookAttempt(models.Model):
    """One attempt to deliver, and its result."""

    delivery = models.ForeignKey(WebhookDelivery, on_delete=models.CASCADE, related_name="attempts")
    at = models.DateTimeField("date")
    milliseconds = models.PositiveIntegerField()
    status_code = models.PositiveSmallIntegerField(null=True, blank=True)
    problem = models.CharField(
        max_length=200, blank=True, help_text="The reason for the failure; empty: it did not fail."
    )
    answer = models.CharField(
        max_length=500, blank=True, help_text="The first part of the response."
    )

    class Meta:
        default_permissions = ()
        ordering = ["id"]

    def __str__(self) -> str:
        return f"Attempt at {self.at}"


class LowBalanceThreshold(models.Model):
    """The real balance below which programs are told: of one user, or the default (no user)."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="low_balance_threshold",
    )
    amount = money_field(
        null=True,
        blank=True,
        validators=[MinValueValidator(0, "A threshold cannot be negative.")],
        help_text="Empty: programs are not told.",
    )

    class Meta:
        default_permissions = ("view", "change")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["user"], nulls_distinct=False, name="there_is_one_default_threshold"
            ),
            models.CheckConstraint(
                name="a_threshold_is_an_amount",
                condition=Q(amount__isnull=True) | Q(amount__gte=0, amount__lt=10**15),
            ),
        ]

    def __str__(self) -> str:
        return f"Threshold of user {self.user_id}" if self.user_id else "Default threshold"
