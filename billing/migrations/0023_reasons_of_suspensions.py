from pathlib import Path

from django.db import migrations, models

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """A suspended subscription says why it is, in the database and to other programs."""

    dependencies = [("billing", "0022_moments_are_kept")]

    operations = [
        migrations.AddConstraint(
            model_name="subscription",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("status", "suspended"), _negated=True),
                    ("suspension_reason__in", ["no_money", "user_deactivated"]),
                    _connector="OR",
                ),
                name="a_suspended_subscription_has_a_reason",
            ),
        ),
        migrations.AlterField(
            model_name="chargingrun",
            name="suspended",
            field=models.BigIntegerField(
                db_default=0, default=0, help_text="Subscriptions suspended."
            ),
        ),
        migrations.RunSQL(
            sql=(SQL / "0023_reasons.sql").read_text(),
            reverse_sql=(SQL / "0023_reasons.reverse.sql").read_text(),
        ),
    ]
