"""Files that workers write for operators, and that are kept for a while."""

from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db import models
from django.utils import timezone


class Export(models.Model):
    """A workbook of transactions that an operator has asked for, and its file once it is written.

    `billing.operations.exports` alone writes these rows, and deletes them after KEPT_FOR.
    """

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        RUNNING = "running", "Running"
        FINISHED = "finished", "Finished"
        FAILED = "failed", "Failed"

    KEPT_FOR: Final = timedelta(hours=24)

    operator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+"
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="The user whose transactions they are. Empty: those of all users.",
    )
    title = models.TextField(help_text="Which transactions, in words.")
    listing = models.JSONField(help_text="Which transactions, for the worker.")
    time_zone = models.CharField(max_length=63, help_text="The time zone of the dates.")
    file_name = models.CharField(max_length=100)
    state = models.CharField(max_length=10, choices=State, default=State.WAITING)
    total = models.BigIntegerField(null=True, help_text="Transactions in all, if counted.")
    done = models.BigIntegerField(default=0, help_text="Transactions written so far.")
    crashes = models.SmallIntegerField(
        default=0, help_text="How often the work began again because it was broken off."
    )
    problem = models.TextField(blank=True, default="", help_text="Why it failed.")
    requested_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    size = models.BigIntegerField(default=0, help_text="Bytes of the file.")

    class Meta:
        default_permissions = ()
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"Export {self.pk}: {self.title}"

    @property
    def is_finished(self) -> bool:
        return self.state == self.State.FINISHED

    @property
    def is_under_way(self) -> bool:
        return self.state in (self.State.WAITING, self.State.RUNNING)

    @property
    def expires_at(self) -> datetime:
        """When it is deleted."""
        return (self.finished_at or self.requested_at) + self.KEPT_FOR

    def left(self, now: datetime) -> timedelta | None:
        """Returns how long the rest will take at the present speed; None if that is unknown."""
        if self.state != self.State.RUNNING or not (self.started_at and self.total and self.done):
            return None
        return (now - self.started_at) * max(self.total - self.done, 0) / self.done


class ExportPart(models.Model):
    """A piece of the file of an export.

    In the database, all web processes and workers reach it, on however many machines they run, and
    it is deleted together with its export.
    """

    export = models.ForeignKey(Export, on_delete=models.CASCADE, related_name="parts")
    number = models.IntegerField(help_text="0, 1, 2, … in the order of the file.")
    content = models.BinaryField()

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["export", "number"], name="parts_of_a_file_have_an_order"
            )
        ]

    def __str__(self) -> str:
        return f"Part {self.number} of export {self.export_id}"
