"""Sums that the start page shows, kept so that it does not have to read every row.

All of this can be computed from the ledger and from the users. Nothing that moves money reads it.
`billing.ledger.turnovers` keeps it, `manage.py verify_ledger` compares it with the rows.
"""

from django.db import models
from django.db.models import Q

from billing.models.balances import total_field


class Turnover(models.Model):
    """The sums of all transactions of a quarter of an hour that are older than `KeptSums.until`.

    A quarter of an hour, because days begin at a multiple of it in every time zone.
    """

    at = models.DateTimeField(primary_key=True, help_text="The first moment, in UTC.")
    transactions = models.BigIntegerField()
    refills = total_field("refills")
    charges = total_field("charges, positive")
    reversals = total_field("reversals")
    bonus_refills = total_field("bonus refills")
    bonus_charges = total_field("bonus charges, positive")
    bonus_reversals = total_field("bonus reversals")

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"Turnover from {self.at:%Y-%m-%d %H:%M} UTC"


class KeptSums(models.Model):
    """How far transactions are summed up in `Turnover`, and the sums of all of them: one row.

    Without it, nothing is summed up.
    """

    ONLY_ID = 1

    until = models.DateTimeField(help_text="Transactions before this moment are summed up.")
    real = total_field("all changes of real balances")
    bonus = total_field("all changes of bonus balances")

    class Meta:
        default_permissions = ()
        constraints = [
            models.CheckConstraint(name="there_is_one_row_of_kept_sums", condition=Q(id=1)),
        ]

    def __str__(self) -> str:
        return f"Summed up until {self.until:%Y-%m-%d %H:%M:%S} UTC"


class UserCount(models.Model):
    """The sum of these rows is the number of customers, and of active ones.

    A trigger adds a row with each change, so that nobody waits for another one's row. A job
    replaces the rows with their sum.
    """

    users = models.BigIntegerField()
    active_users = models.BigIntegerField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.users:+} users, {self.active_users:+} active"
