"""Which permissions the ready-made groups have been granted."""

from django.db import models


class GroupDefault(models.Model):
    """A permission that a ready-made group was granted once, and is never granted again.

    So a permission that an installation removes from the group stays removed.
    `billing.authority.groups` alone writes these rows, after each migrate.
    """

    # The name: a group that is renamed or deleted belongs to the installation from then on.
    group = models.CharField(max_length=150)
    permission = models.CharField(max_length=200)  # "billing.view_balance"

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["group", "permission"], name="a_group_is_granted_a_permission_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.group}: {self.permission}"
