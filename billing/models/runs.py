"""Charging runs and proofs of the ledger: what they did, for pages and monitoring."""

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from billing.models.balances import total_field


class ChargingRun(models.Model):
    """One run: everything that was due at `at`.

    Figures are added in the same database transactions as what they count, so they are right even
    if a run is killed.
    """

    class Start(models.TextChoices):
        SCHEDULE = "schedule", "Schedule"
        COMMAND = "command", "Command"

    at = models.DateTimeField("charged as of", help_text="Everything due by then is charged.")
    started_by = models.CharField(max_length=10, choices=Start)
    started_at = models.DateTimeField("started", db_default=Now())
    finished_at = models.DateTimeField("finished", null=True, blank=True)
    due = models.BigIntegerField("due", default=0, help_text="Subscriptions due when it started.")
    charged = models.BigIntegerField(default=0, db_default=0, help_text="Charges posted.")
    suspended = models.BigIntegerField(
        default=0, db_default=0, help_text="Subscriptions suspended."
    )
    resumed = models.BigIntegerField(
        default=0, db_default=0, help_text="Suspended subscriptions that could be paid again."
    )
    skipped = models.BigIntegerField(
        default=0, db_default=0, help_text="Suspended subscriptions that still cannot be paid."
    )
    failed = models.BigIntegerField(
        default=0, db_default=0, help_text="Users who could not be charged; the reasons are below."
    )
    total = total_field("the sum of all charges")

    class Meta:
        default_permissions = ("view",)
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"Charging run of {self.at:%Y-%m-%d %H:%M} UTC"


class Heartbeat(models.Model):
    """When a worker last did a job: one row, written by a job that does nothing else.

    procrastinate lists the workers that run now. This says how long none has worked, and includes
    workers that cron starts and that end again.
    """

    ONLY_ID = 1

    at = models.DateTimeField(db_default=Now())

    class Meta:
        default_permissions = ()
        constraints = [
            models.CheckConstraint(name="there_is_one_heartbeat", condition=Q(id=1)),
        ]

    def __str__(self) -> str:
        return f"{self.at}"


class ChargingBatch(models.Model):
    """A part of a run: the users with IDs from `first_user_id` to `last_user_id`.

    Workers share a run by taking batches. The run is finished when all its batches are.
    """

    run = models.ForeignKey(ChargingRun, on_delete=models.CASCADE, related_name="batches")
    first_user_id = models.BigIntegerField()
    last_user_id = models.BigIntegerField()
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        default_permissions = ()
        constraints = [
            models.CheckConstraint(
                name="a_batch_has_a_beginning_and_an_end",
                condition=Q(first_user_id__lte=F("last_user_id")),
            ),
        ]

    def __str__(self) -> str:
        return f"Users {self.first_user_id} to {self.last_user_id}"


class ChargingFailure(models.Model):
    """A user whom a run could not charge, and why. The next run tries again."""

    run = models.ForeignKey(ChargingRun, on_delete=models.CASCADE, related_name="failures")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    problem = models.TextField()
    at = models.DateTimeField(db_default=Now())

    class Meta:
        default_permissions = ()
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.user}: {self.problem}"


class Proof(models.Model):
    """One proof of the ledger: what was checked, and the first thing that was wrong.

    For people and monitoring. Whoever can rewrite the ledger can rewrite this table, too; what
    counts is a heads file that is kept elsewhere.
    """

    class Kind(models.TextChoices):
        FULL = "full", "All rows"
        INCREMENTAL = "incremental", "New rows"

    class Start(models.TextChoices):
        SCHEDULE = "schedule", "Schedule"
        COMMAND = "command", "Command"

    kind = models.CharField(max_length=11, choices=Kind)
    started_by = models.CharField(max_length=10, choices=Start)
    started_at = models.DateTimeField("started")
    finished_at = models.DateTimeField("finished", db_default=Now())
    users = models.BigIntegerField(help_text="Users whose balances were checked.")
    transactions = models.BigIntegerField(help_text="Transactions checked.")
    problem = models.TextField(blank=True, help_text="The first thing that was wrong, or nothing.")
    heads = models.CharField(
        max_length=100, blank=True, help_text="The name of the heads file that was written."
    )

    class Meta:
        default_permissions = ()
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"Proof of {self.started_at:%Y-%m-%d %H:%M} UTC"
