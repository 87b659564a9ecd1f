import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    """Workbooks that workers write in the background, with their files."""

    dependencies = [
        ("billing", "0042_lists_over_all_users"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Export",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("title", models.TextField(help_text="Which transactions, in words.")),
                ("listing", models.JSONField(help_text="Which transactions, for the worker.")),
                (
                    "time_zone",
                    models.CharField(help_text="The time zone of the dates.", max_length=63),
                ),
                ("file_name", models.CharField(max_length=100)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("waiting", "Waiting"),
                            ("running", "Running"),
                            ("finished", "Finished"),
                            ("failed", "Failed"),
                        ],
                        default="waiting",
                        max_length=10,
                    ),
                ),
                (
                    "total",
                    models.BigIntegerField(help_text="Transactions in all, if counted.", null=True),
                ),
                (
                    "done",
                    models.BigIntegerField(default=0, help_text="Transactions written so far."),
                ),
                (
                    "crashes",
                    models.SmallIntegerField(
                        default=0,
                        help_text="How often the work began again because it was broken off.",
                    ),
                ),
                ("problem", models.TextField(blank=True, default="", help_text="Why it failed.")),
                ("requested_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("started_at", models.DateTimeField(null=True)),
                ("finished_at", models.DateTimeField(null=True)),
                ("size", models.BigIntegerField(default=0, help_text="Bytes of the file.")),
                (
                    "operator",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        help_text="The user whose transactions they are. Empty: those of all users.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="ExportPart",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("number", models.IntegerField(help_text="0, 1, 2, … in the order of the file.")),
                ("content", models.BinaryField()),
                (
                    "export",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="parts",
                        to="billing.export",
                    ),
                ),
            ],
            options={
                "default_permissions": (),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("export", "number"), name="parts_of_a_file_have_an_order"
                    )
                ],
            },
        ),
        # A file is compressed already.
        migrations.RunSQL(
            "ALTER TABLE billing_exportpart ALTER COLUMN content SET STORAGE EXTERNAL",
            migrations.RunSQL.noop,
        ),
    ]
