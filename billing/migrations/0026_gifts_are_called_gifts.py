"""Bonus refills are called gifts on the pages. Nothing in the database changes."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0025_kept_answers")]

    operations = [
        migrations.AlterField(
            model_name="transaction",
            name="type",
            field=models.CharField(
                choices=[
                    ("payment", "Payment"),
                    ("bonus_charge", "Gift"),
                    ("main_charge", "Subscription"),
                    ("tariff_charge", "Service"),
                    ("reversal", "Reversal"),
                ],
                max_length=16,
            ),
        ),
    ]
