"""Batches: transactions that were posted together."""

from django.conf import settings
from django.db import models
from django.db.models import Q

from billing.models.transactions import Channel
from billing.money import DECIMALS


class BatchManager(models.Manager["Batch"]):
    def get_queryset(self) -> models.QuerySet["Batch"]:
        return super().get_queryset().select_related("actor")


class Batch(models.Model):
    """Transactions that were posted together: from a file, by a program's request, or as the
    reversal of another batch.

    `billing.operations.batches` writes it in the database transaction of its postings. `posted`,
    `real` and `bonus` are the number and the sums of its transactions.
    """

    class Kind(models.TextChoices):
        REQUEST = "request", "Request of a program"
        FILE = "file", "File"
        HISTORY = "history", "Import of a history"
        REVERSAL = "reversal", "Reversal of a batch"

    kind = models.CharField(max_length=10, choices=Kind)
    title = models.CharField(max_length=200)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="The operator who posted it. Empty: the system.",
    )
    channel = models.CharField(max_length=10, choices=Channel)
    file_name = models.CharField(max_length=255, blank=True, default="")
    file_hash = models.CharField(
        max_length=64, blank=True, default="", help_text="SHA-256 of the file."
    )
    created_at = models.DateTimeField("date", db_default=models.functions.Now())
    entries = models.IntegerField(default=0, help_text="How many entries it was given.")
    posted = models.IntegerField(default=0, help_text="How many transactions it has.")
    refused = models.IntegerField(default=0, help_text="How many entries were refused.")
    real = models.DecimalField(
        max_digits=25,
        decimal_places=DECIMALS,
        default=0,
        help_text="What it added to real balances, less what it took.",
    )
    bonus = models.DecimalField(
        max_digits=25,
        decimal_places=DECIMALS,
        default=0,
        help_text="The same for bonus balances.",
    )
    reverses = models.ForeignKey(
        "self",
        on_delete=models.PROTECT,
        null=True,
        related_name="reversals",
        help_text="The batch that this one reverses.",
    )

    objects = BatchManager()

    class Meta:
        default_permissions = ("view",)
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["file_hash"],
                condition=~Q(file_hash=""),
                name="a_file_is_posted_as_one_batch",
            ),
        ]

    def __str__(self) -> str:
        return f"Batch {self.pk}: {self.title}"
