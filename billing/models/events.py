"""Events: the record of operations that are not told by one transaction."""

from django.conf import settings
from django.db import models

from billing.models.transactions import Channel


class Subject(models.TextChoices):
    """What an event is about. Codes are mostly Django's model names."""

    USER = "user", "User"
    OPERATOR = "operator", "Operator"
    GROUP = "group", "Group"
    PLAN = "plan", "Plan"
    SERVICE = "service", "Service"
    USER_DEFAULTS = "userdefaults", "Defaults for new users"
    LOW_BALANCE = "lowbalancethreshold", "Low balance"
    # Reasons were called standard descriptions at first; an event's subject never changes.
    REASON = "standarddescription", "Reason"
    API_KEY = "apikey", "API key"
    VOUCHER = "voucher", "Voucher"
    WEBHOOK_ENDPOINT = "webhookendpoint", "Webhook endpoint"


class EventChannel(models.TextChoices):
    """The channel of an operation: those of transactions, and the command line."""

    PANEL = Channel.PANEL.value, Channel.PANEL.label
    API = Channel.API.value, Channel.API.label
    CHARGING = Channel.CHARGING.value, Channel.CHARGING.label
    IMPORT = Channel.IMPORT.value, Channel.IMPORT.label
    COMMAND = "command", "Command line"


class Event(models.Model):
    """One operation that no single transaction records in full. Written by `billing.events` alone.

    A balance change, a service charge or a charge of a run is recorded by its transaction. An
    operation that posts several transactions, or none, leaves an event, which names them. Its
    sentence is made from `action` and `data` when a page shows it.

    The database function `billing_note_events` writes events. They are numbered 1, 2, 3, … for each
    subject, each with a digest over itself and the one before it (docs/ledger.md).
    """

    subject = models.CharField(max_length=32, choices=Subject.choices)
    subject_id = models.BigIntegerField()
    number = models.BigIntegerField()
    action = models.CharField(max_length=64)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+"
    )
    channel = models.CharField(max_length=10, choices=EventChannel.choices)
    request_id = models.CharField(max_length=64, null=True)  # noqa: DJ001 - none is not a text
    data = models.JSONField()
    created_at = models.DateTimeField()
    digest = models.BinaryField()

    class Meta:
        default_permissions = ()
        ordering = ["-created_at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["subject", "subject_id", "number"], name="events_are_numbered_by_subject"
            ),
        ]
        indexes = [models.Index(fields=["created_at", "id"], name="events_by_date")]

    def __str__(self) -> str:
        return f"{self.action} of {self.subject} {self.subject_id}"
