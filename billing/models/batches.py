"""Batches: transactions that were posted together."""

from django.conf import settings
from django.db import models
from django.db.models import OuterRef, Q, Subquery, Sum
from django.db.models.functions import Coalesce

from billing.models.transactions import Channel
from billing.money import DECIMALS


class BatchManager(models.Manager["Batch"]):
    def get_queryset(self) -> models.QuerySet["Batch"]:
        return super().get_queryset().select_related("actor")

    def with_state(self) -> models.QuerySet["Batch"]:
        """Returns the batches with what `state` needs, read in the same query."""
        reversals = Batch._base_manager.filter(reverses=OuterRef("pk")).order_by()
        taken_back = reversals.values("reverses").annotate(count=Sum("posted")).values("count")
        return self.get_queryset().annotate(taken_back=Coalesce(Subquery(taken_back), 0))


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

    class State(models.TextChoices):
        POSTED = "posted", "Posted"
        PARTLY_REVERSED = "partly_reversed", "Reversed in part"
        REVERSED = "reversed", "Reversed"

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

    @property
    def state(self) -> State:
        """Whether it was reversed: as a batch, whatever was reversed of it one by one."""
        taken_back = vars(self).get("taken_back")
        if taken_back is None:
            taken_back = self.reversals.aggregate(count=Sum("posted", default=0))["count"]
        if not taken_back:
            return self.State.POSTED
        return self.State.REVERSED if taken_back >= self.posted else self.State.PARTLY_REVERSED
