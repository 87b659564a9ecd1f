"""Which permissions the ready-made groups have been granted."""

from django.db import models


class GroupDefault(models.Model):
    """A permission that a ready-made group was granted once, and is never granted again.

    So what an installation takes from the group stays taken. `billing.authority.groups` alone
    writes these rows, after each migrate.
    """

    # By its name: a group that is renamed or deleted is the installation's own from then on.
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
