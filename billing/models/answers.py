"""Stored answers of API calls, by idempotency key."""

from django.conf import settings
from django.db import models
from django.utils import timezone


class KeptAnswer(models.Model):
    """The answer of a call, which is returned again when the call is repeated with the same key.

    For calls whose effect is not one transaction of the ledger, which stores keys itself. The
    database transaction that does the work writes the row, so it exists only if the work was done.
    `billing.answers` alone writes these rows, and deletes them after a while, because an answer may
    contain a customer's name and address.
    """

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    call = models.CharField(max_length=200, help_text="Method and address, as POST /api/v1/users.")
    key = models.CharField(max_length=100)
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of what was sent, in hex.")
    answered_at = models.DateTimeField(default=timezone.now)
    answer = models.TextField(blank=True, help_text="JSON. Empty: no longer stored.")
    lasts = models.BooleanField(
        default=False, help_text="The key stays used after the answer is deleted."
    )

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["owner", "call", "key"], name="a_key_names_one_call_of_its_owner"
            )
        ]
        indexes = [
            models.Index(
                fields=["answered_at"],
                condition=~models.Q(answer=""),
                name="answers_to_forget",
            )
        ]

    def __str__(self) -> str:
        return f"{self.call}, {self.key}"
