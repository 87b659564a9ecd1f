"""The past that late charging runs need: when users were active, and earlier prices of plans.

Triggers write these rows (`billing/sql/triggers/`), however a user or a plan is changed. Rows are
never changed. `billing.plans.history` reads them.
"""

from django.conf import settings
from django.db import models

from billing.models.balances import money_field

# A function of ours, so that tests can move the clock.
DATABASE_CLOCK = models.Func(function="billing_clock", output_field=models.DateTimeField())


class Activation(models.Model):
    """A user was activated or deactivated. Before the first row, the opposite was true."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        related_name="+",
        db_index=False,  # declared below
    )
    is_active = models.BooleanField(help_text="True if the user was active from then on.")
    at = models.DateTimeField(db_default=DATABASE_CLOCK)

    class Meta:
        default_permissions = ()
        ordering = ["at", "id"]
        indexes = [models.Index(fields=["user", "at"], name="activations_of_a_user")]

    def __str__(self) -> str:
        return f"User {self.user_id} {'activated' if self.is_active else 'deactivated'}"


class PlanTerms(models.Model):
    """The terms of a plan from a moment until its next row. The last row has the present ones.

    A plan that nobody ever subscribed to can be deleted; these rows stay.
    """

    plan = models.ForeignKey(
        "billing.Plan",
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        db_index=False,  # declared below
        related_name="+",
    )
    price = money_field()
    proportional_charge = models.BooleanField()
    at = models.DateTimeField(db_default=DATABASE_CLOCK)

    class Meta:
        default_permissions = ()
        verbose_name_plural = "plan terms"
        ordering = ["at", "id"]
        indexes = [models.Index(fields=["plan", "at"], name="terms_of_a_plan")]

    def __str__(self) -> str:
        return f"Plan {self.plan_id} at {self.price}"
