"""What the nightly proof of the ledger found."""

from django.db import migrations, models
from django.db.models.functions import Now


class Migration(migrations.Migration):
    dependencies = [("billing", "0034_payment_dates")]

    operations = [
        migrations.CreateModel(
            name="Proof",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[("full", "All rows"), ("incremental", "New rows")], max_length=11
                    ),
                ),
                (
                    "started_by",
                    models.CharField(
                        choices=[("schedule", "Schedule"), ("command", "Command")], max_length=10
                    ),
                ),
                ("started_at", models.DateTimeField(verbose_name="started")),
                ("finished_at", models.DateTimeField(db_default=Now(), verbose_name="finished")),
                (
                    "users",
                    models.BigIntegerField(help_text="Users whose balances were checked."),
                ),
                ("transactions", models.BigIntegerField(help_text="Transactions checked.")),
                (
                    "problem",
                    models.TextField(
                        blank=True, help_text="The first thing that was wrong, or nothing."
                    ),
                ),
                (
                    "heads",
                    models.CharField(
                        blank=True,
                        help_text="The name of the heads file that was written.",
                        max_length=100,
                    ),
                ),
            ],
            options={"ordering": ["-id"], "default_permissions": ()},
        ),
    ]
