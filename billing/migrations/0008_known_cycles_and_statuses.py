from django.db import migrations, models


class Migration(migrations.Migration):
    """A word that nobody knows would be charged like an active subscription, or by the month."""

    dependencies = [
        ("billing", "0007_resume_after_refill"),
    ]

    operations = [
        migrations.AddConstraint(
            model_name="plan",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("cycle__in", ["monthly", "everyday", "activeday", "every_year"])
                ),
                name="a_plan_has_a_cycle",
            ),
        ),
        migrations.AddConstraint(
            model_name="subscription",
            constraint=models.CheckConstraint(
                condition=models.Q(("status__in", ["active", "suspended", "cancelled"])),
                name="a_subscription_has_a_status",
            ),
        ),
    ]
