"""Who may use the Billing API: keys for `/api/v1/`, sessions for `/v2/panel/`. No secret is kept.

`billing.authority` alone writes these rows.
"""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from billing.models.plans import validate_readable


class ApiKey(models.Model):
    """What a program shows to act for an operator, its owner, within the owner's permissions.

    The key itself is shown once and cannot be found out again: only its SHA-256 is kept. It is
    revoked, never deleted, so that what it did can be told for ever.
    """

    name = models.CharField(
        max_length=60,
        validators=[validate_readable],
        help_text="What uses it, like Payment gateway. For people only.",
    )
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        related_name="api_keys",
        limit_choices_to={"is_staff": True},
        help_text="The operator in whose name it acts: never more than this operator may do.",
    )
    prefix = models.CharField(max_length=16, help_text="How the key begins, to recognise it by.")
    hashed = models.CharField(max_length=64, unique=True, help_text="SHA-256 of the key, in hex.")
    is_read_only = models.BooleanField(
        "read only", default=False, help_text="May look, and change nothing."
    )
    requests_per_minute = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Empty: as the installation's API_REQUESTS_PER_MINUTE says. 0: no limit.",
    )
    expires_at = models.DateTimeField(
        "expires", null=True, blank=True, help_text="Empty: when it is revoked."
    )
    created_at = models.DateTimeField("created", default=timezone.now, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+"
    )
    last_used_at = models.DateTimeField("last used", null=True, blank=True)
    revoked_at = models.DateTimeField("revoked", null=True, blank=True)
    revoked_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
    )

    class Meta:
        default_permissions = ("view", "add", "change")
        verbose_name = "API key"
        constraints = [
            models.CheckConstraint(
                name="a_revoked_key_was_revoked_by_somebody",
                condition=Q(revoked_at__isnull=True, revoked_by__isnull=True)
                | Q(revoked_at__isnull=False, revoked_by__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return self.name


class ApiSession(models.Model):
    """A login to `/v2/panel/`. Ended ones are deleted: what was done stands in the ledger."""

    hashed = models.CharField(max_length=64, unique=True, help_text="SHA-256 of the session hash.")
    operator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+"
    )
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"Session of {self.operator}"


class ApiAllowance(models.Model):
    """How much of its requests per minute a key, a session or a login has spent.

    One number is enough for it: the moment up to which the requests so far are "paid", each by its
    share of a minute. Of an address from which a login has succeeded, it is until when the address
    is known. The table is not logged: after a crash of the database it begins anew.
    """

    bearer = models.CharField(max_length=100, primary_key=True)
    spent_until = models.DateTimeField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.bearer
