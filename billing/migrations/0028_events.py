from pathlib import Path

import django.db.models.deletion
import pgtrigger.compiler
import pgtrigger.migrations
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
        pgtrigger.migrations.AddTrigger(
            model_name="event",
            trigger=pgtrigger.compiler.Trigger(
                name="append_only",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    execute="billing_refuse_rewriting_events()",
                    func="RETURN NULL;",
                    hash="edb4bbcc3b25375de67ad15fdf7c4a8b226555c9",
                    level="STATEMENT",
                    operation="UPDATE OR DELETE OR TRUNCATE",
                    pgid="pgtrigger_append_only_b91c7",
                    table="billing_event",
                    when="BEFORE",
                ),
            ),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name="event",
            trigger=pgtrigger.compiler.Trigger(
                name="follows",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    constraint="CONSTRAINT",
                    execute="billing_check_event()",
                    func="RETURN NULL;",
                    hash="14e1ecb8005da6ad2614d4ab66977d82ec22650e",
                    operation="INSERT",
                    pgid="pgtrigger_follows_e2756",
                    table="billing_event",
                    timing="DEFERRABLE INITIALLY DEFERRED",
                    when="AFTER",
                ),
            ),
        ),
    ]
