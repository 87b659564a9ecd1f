"""Finds what was given up without reading what was delivered."""

from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("billing", "0012_administrators_and_programs")]

    operations = [
        migrations.AddIndex(
            model_name="webhookdelivery",
            index=models.Index(
                fields=["endpoint", "id"],
                condition=Q(status="failed"),
                name="deliveries_given_up",
            ),
        ),
    ]
