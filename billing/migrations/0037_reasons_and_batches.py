from pathlib import Path

import django.core.validators
import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

import billing.models.plans
import billing.models.reasons

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """Standard descriptions become reasons; what is posted together is a batch."""

    dependencies = [
        ("billing", "0036_forgetting"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RenameModel("StandardDescription", "Reason"),
        migrations.RenameField("reason", "text", "template"),
        migrations.AddField("reason", "code", models.CharField(max_length=32, null=True)),
        migrations.AddField("reason", "label", models.CharField(max_length=100, null=True)),
        migrations.RunSQL(
            sql=(SQL / "0037_codes.sql").read_text(),
            reverse_sql=(SQL / "0037_codes.reverse.sql").read_text(),
        ),
        migrations.AlterField(
            "reason",
            "code",
            models.CharField(
                help_text="For programs and reports, such as bank_transfer. It cannot be changed once transactions have it.",
                max_length=32,
                unique=True,
                validators=[
                    django.core.validators.RegexValidator(
                        "^[a-z][a-z0-9_]*\\Z",
                        "Write small letters, digits and underscores: bank_transfer.",
                    )
                ],
            ),
        ),
        migrations.AlterField(
            "reason",
            "label",
            models.CharField(
                help_text="What operators choose, such as Bank transfer.",
                max_length=100,
                unique=True,
                validators=[billing.models.plans.validate_readable],
            ),
        ),
        migrations.AlterField(
            "reason",
            "template",
            models.CharField(
                help_text="The description of its transactions. Write what differs as a name in braces: Bank transfer {reference}.",
                max_length=200,
                validators=[
                    django.core.validators.MinLengthValidator(5),
                    billing.models.plans.validate_readable,
                    billing.models.reasons.validate_fields,
                ],
                verbose_name="description",
            ),
        ),
        migrations.AlterField(
            "reason",
            "position",
            models.PositiveSmallIntegerField(
                default=0,
                help_text="Lower numbers are offered first; equal ones are sorted by label.",
            ),
        ),
        migrations.AddField(
            "reason",
            "direction",
            models.CharField(
                choices=[
                    ("both", "Either"),
                    ("adds", "Adds"),
                    ("takes", "Takes"),
                ],
                default="both",
                max_length=5,
            ),
        ),
        migrations.AddField(
            "reason",
            "balances",
            models.CharField(
                choices=[
                    ("both", "Both"),
                    ("real", "Real"),
                    ("bonus", "Bonus"),
                ],
                default="both",
                max_length=5,
            ),
        ),
        migrations.AddField(
            "reason",
            "bonus_days",
            models.PositiveSmallIntegerField(
                blank=True,
                help_text="For how many days a bonus added for this reason can be used, unless its change says otherwise. Empty: as the installation's setting says.",
                null=True,
                validators=[django.core.validators.MaxValueValidator(3660)],
                verbose_name="days of a bonus",
            ),
        ),
        migrations.AddField(
            "reason",
            "is_comment_required",
            models.BooleanField(
                default=False,
                help_text="The description has to say more than the text above.",
                verbose_name="comment required",
            ),
        ),
        migrations.AddField(
            "reason",
            "is_active",
            models.BooleanField(
                default=True,
                help_text="Inactive: no longer offered or accepted.",
                verbose_name="active",
            ),
        ),
        migrations.AlterModelOptions("reason", options={"ordering": ["position", "label"]}),
        migrations.AlterField(
            "event",
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
                    ("standarddescription", "Reason"),
                    ("apikey", "API key"),
                    ("webhookendpoint", "Webhook endpoint"),
                ],
                max_length=32,
            ),
        ),
        migrations.CreateModel(
            name="Batch",
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
                        choices=[
                            ("request", "Request of a program"),
                            ("file", "File"),
                            ("history", "Import of a history"),
                            ("reversal", "Reversal of a batch"),
                        ],
                        max_length=10,
                    ),
                ),
                ("title", models.CharField(max_length=200)),
                (
                    "channel",
                    models.CharField(
                        choices=[
                            ("panel", "Panel"),
                            ("api", "API"),
                            ("charging", "Charging run"),
                            ("import", "Import"),
                            ("system", "System"),
                        ],
                        max_length=10,
                    ),
                ),
                ("file_name", models.CharField(blank=True, default="", max_length=255)),
                (
                    "file_hash",
                    models.CharField(
                        blank=True, default="", help_text="SHA-256 of the file.", max_length=64
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(), verbose_name="date"
                    ),
                ),
                (
                    "entries",
                    models.IntegerField(default=0, help_text="How many entries it was given."),
                ),
                (
                    "posted",
                    models.IntegerField(default=0, help_text="How many transactions it has."),
                ),
                (
                    "refused",
                    models.IntegerField(default=0, help_text="How many entries were refused."),
                ),
                (
                    "real",
                    models.DecimalField(
                        decimal_places=4,
                        default=0,
                        help_text="What it added to real balances, less what it took.",
                        max_digits=25,
                    ),
                ),
                (
                    "bonus",
                    models.DecimalField(
                        decimal_places=4,
                        default=0,
                        help_text="The same for bonus balances.",
                        max_digits=25,
                    ),
                ),
                (
                    "actor",
                    models.ForeignKey(
                        help_text="The operator who posted it. Empty: the system.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "reverses",
                    models.ForeignKey(
                        help_text="The batch that this one reverses.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="reversals",
                        to="billing.batch",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
                "default_permissions": ("view",),
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("file_hash", ""), _negated=True),
                        fields=("file_hash",),
                        name="a_file_is_posted_as_one_batch",
                    )
                ],
            },
        ),
        migrations.RemoveConstraint("transaction", "a_transaction_does_what_its_type_allows"),
        migrations.AddField(
            "transaction",
            "reason",
            models.ForeignKey(
                blank=True,
                db_index=False,
                help_text="Why the balance was changed, by its code.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="billing.reason",
                to_field="code",
            ),
        ),
        migrations.AddField(
            "transaction",
            "batch",
            models.ForeignKey(
                blank=True,
                db_index=False,
                help_text="The batch with which it was posted.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="transactions",
                to="billing.batch",
            ),
        ),
        migrations.AddIndex(
            "transaction",
            models.Index(
                condition=models.Q(("reason__isnull", False)),
                fields=["reason", "created_at", "id"],
                name="transaction_by_reason",
            ),
        ),
        migrations.AddIndex(
            "transaction",
            models.Index(
                condition=models.Q(("batch__isnull", False)),
                fields=["batch", "id"],
                name="transaction_by_batch",
            ),
        ),
        migrations.RunSQL(
            sql=(SQL / "0037_reasons_and_batches.sql").read_text(),
            reverse_sql=(SQL / "0037_reasons_and_batches.reverse.sql").read_text(),
        ),
        migrations.AddConstraint(
            "transaction",
            models.CheckConstraint(
                condition=models.Func(
                    models.F("type"),
                    models.F("subtype"),
                    models.F("channel"),
                    models.F("amount"),
                    models.F("bonus_amount"),
                    models.F("new_bonus"),
                    models.F("reverses"),
                    models.F("payment_date"),
                    models.F("bonus_expires_at"),
                    models.F("form"),
                    models.F("reason"),
                    models.F("batch"),
                    function="billing_type_allows",
                    output_field=models.BooleanField(),
                ),
                name="a_transaction_does_what_its_type_allows",
                violation_error_message="Subscriptions never touch the bonus balance, services take it first, gifts change only the bonus balance, and only reversals name the transaction that they reverse.",
            ),
        ),
    ]
