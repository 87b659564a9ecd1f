"""API keys for `/api/v1/`, sessions for `/v2/panel/`. Secrets are not stored.

`billing.authority` alone writes these rows.
"""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from billing.models.plans import validate_readable


class ApiKey(models.Model):
    """A key with which a program acts in the name of an operator, with the owner's permissions.

    The key is shown once; only its SHA-256 is stored. Keys are revoked, never deleted, so that the
    record of what they did stays complete.
    """

    name = models.CharField(
        max_length=60,
        validators=[validate_readable],
        help_text="The program that uses it, like Payment gateway. Shown to people only.",
    )
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        related_name="api_keys",
        limit_choices_to={"is_staff": True},
        help_text="The operator in whose name it acts. It may never do more than this operator.",
    )
    prefix = models.CharField(
        max_length=16, help_text="The first characters of the key, to recognise it by."
    )
    hashed = models.CharField(max_length=64, unique=True, help_text="SHA-256 of the key, in hex.")
    is_read_only = models.BooleanField(
        "read only", default=False, help_text="May read, but change nothing."
    )
    requests_per_minute = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Empty: the installation's API_REQUESTS_PER_MINUTE. 0: no limit.",
    )
    expires_at = models.DateTimeField(
        "expires", null=True, blank=True, help_text="Empty: it is valid until it is revoked."
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
    """A session of `/v2/panel/`. Deleted when it ends; the ledger records what was done in it."""

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
    """How much of its requests per minute a key, a session or a login has used.

    One time is enough: each request moves it forward by its share of a minute, from now at least.
    For an address with a successful login, it is the time until which the address is known. The
    table is unlogged: after a crash of the database it is empty.
    """

    bearer = models.CharField(max_length=100, primary_key=True)
    spent_until = models.DateTimeField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.bearer
