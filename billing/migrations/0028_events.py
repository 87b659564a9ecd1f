from pathlib import Path

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """Events: what is done other than posting is recorded like what is posted."""

    dependencies = [
        ("billing", "0027_heartbeat"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Event",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "subject",
                    models.CharField(
                        choices=[
                            ("user", "User"),
                            ("operator", "Operator"),
                            ("group", "Group"),
                            ("plan", "Plan"),
                            ("service", "Service"),
                            ("userdefaults", "Defaults for new users"),
                            ("lowbalancethreshold", "Low balance"),
                            ("standarddescription", "Standard description"),
                            ("apikey", "API key"),
                            ("webhookendpoint", "Webhook endpoint"),
                        ],
                        max_length=32,
                    ),
                ),
                ("subject_id", models.BigIntegerField()),
                ("number", models.BigIntegerField()),
                ("action", models.CharField(max_length=64)),
                (
                    "channel",
                    models.CharField(
                        choices=[
                            ("panel", "Panel"),
                            ("api", "API"),
                            ("charging", "Charging run"),
                            ("import", "Import"),
                            ("command", "Command line"),
                        ],
                        max_length=10,
                    ),
                ),
                ("request_id", models.CharField(max_length=64, null=True)),
                ("data", models.JSONField()),
                ("created_at", models.DateTimeField()),
                ("digest", models.BinaryField()),
                (
                    "actor",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ["-created_at", "-id"],
                "default_permissions": (),
                "indexes": [models.Index(fields=["created_at", "id"], name="events_by_date")],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("subject", "subject_id", "number"),
                        name="events_are_numbered_by_subject",
                    )
                ],
            },
        ),
        migrations.RunSQL(
            sql=(SQL / "0028_events.sql").read_text(),
            reverse_sql=(SQL / "0028_events.reverse.sql").read_text(),
        ),
        migrations.RunSQL(
            "CREATE TRIGGER pgtrigger_append_only_b91c7 "
            "BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_event "
            "FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_rewriting_events()",
            "DROP TRIGGER pgtrigger_append_only_b91c7 ON billing_event",
        ),
        migrations.RunSQL(
            "CREATE CONSTRAINT TRIGGER pgtrigger_follows_e2756 "
            "AFTER INSERT ON billing_event DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION billing_check_event()",
            "DROP TRIGGER pgtrigger_follows_e2756 ON billing_event",
        ),
    ]
