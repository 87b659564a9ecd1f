from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0015_password_ends_sessions"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name="activeday",
            name="active_days_to_charge",
        ),
        migrations.AddIndex(
            model_name="activeday",
            index=models.Index(
                fields=["subscription", "is_charged", "day"], name="active_days_to_charge"
            ),
        ),
        migrations.AddIndex(
            model_name="webhookdelivery",
            index=models.Index(fields=["user_id", "id"], name="deliveries_of_a_user"),
        ),
    ]
