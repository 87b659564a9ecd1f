from django.db import migrations, models


class Migration(migrations.Migration):
    """Finds the few operators among many users."""

    dependencies = [("users", "0006_forgetting")]

    operations = [
        migrations.AddIndex(
            model_name="user",
            index=models.Index(
                condition=models.Q(("is_staff", True)), fields=["id"], name="user_is_operator"
            ),
        ),
    ]
