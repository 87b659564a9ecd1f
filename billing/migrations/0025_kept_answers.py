import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0024_names_can_be_seen"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="KeptAnswer",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "call",
                    models.CharField(
                        help_text="Method and address, as POST /api/v1/users.", max_length=200
                    ),
                ),
                ("key", models.CharField(max_length=100)),
                (
                    "fingerprint",
                    models.CharField(help_text="SHA-256 of what was sent, in hex.", max_length=64),
                ),
                ("answered_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("answer", models.TextField(blank=True, help_text="JSON. Empty: no longer kept.")),
                (
                    "lasts",
                    models.BooleanField(
                        default=False,
                        help_text="The key stays used when the answer is no longer kept.",
                    ),
                ),
                (
                    "owner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "default_permissions": (),
                "indexes": [
                    models.Index(
                        condition=models.Q(("answer", ""), _negated=True),
                        fields=["answered_at"],
                        name="answers_to_forget",
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("owner", "call", "key"), name="a_key_names_one_call_of_its_owner"
                    )
                ],
            },
        ),
    ]
