from decimal import Decimal

import django.core.validators
import django.db.models.deletion
import django.db.models.expressions
import django.db.models.functions.comparison
import django.db.models.functions.text
import django.db.models.lookups
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("users", "0001_initial"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="StandardDescription",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "text",
                    models.CharField(
                        max_length=200,
                        unique=True,
                        validators=[django.core.validators.MinLengthValidator(5)],
                    ),
                ),
                (
                    "position",
                    models.PositiveSmallIntegerField(
                        default=0, help_text="Lower ones are offered first; the same ones by text."
                    ),
                ),
            ],
            options={
                "ordering": ["position", "text"],
            },
        ),
        migrations.CreateModel(
            name="Transaction",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "number",
                    models.BigIntegerField(help_text="1, 2, 3, … for each user, without gaps."),
                ),
                (
                    "type",
                    models.CharField(
                        choices=[
                            ("payment", "Payment"),
                            ("bonus_charge", "Bonus refill"),
                            ("main_charge", "Subscription"),
                            ("tariff_charge", "Service"),
                            ("reversal", "Reversal"),
                        ],
                        max_length=16,
                    ),
                ),
                ("subtype", models.CharField(max_length=32)),
                ("description", models.CharField(max_length=200)),
                ("device", models.CharField(blank=True, db_default="", default="", max_length=100)),
                (
                    "amount",
                    models.DecimalField(
                        decimal_places=4,
                        help_text="What was added to (or, negative, taken from) the real balance.",
                        max_digits=19,
                    ),
                ),
                ("old_balance", models.DecimalField(decimal_places=4, max_digits=19)),
                ("new_balance", models.DecimalField(decimal_places=4, max_digits=19)),
                (
                    "bonus_amount",
                    models.DecimalField(
                        decimal_places=4, help_text="The same for the bonus balance.", max_digits=19
                    ),
                ),
                ("old_bonus", models.DecimalField(decimal_places=4, max_digits=19)),
                ("new_bonus", models.DecimalField(decimal_places=4, max_digits=19)),
                (
                    "refilled",
                    models.DecimalField(
                        db_default=0,
                        decimal_places=4,
                        default=0,
                        max_digits=25,
                        verbose_name="all refills up to this one",
                    ),
                ),
                (
                    "bonus_refilled",
                    models.DecimalField(
                        db_default=0,
                        decimal_places=4,
                        default=0,
                        max_digits=25,
                        verbose_name="all bonus refills up to this one",
                    ),
                ),
                ("created_at", models.DateTimeField(verbose_name="date")),
                (
                    "channel",
                    models.CharField(
                        choices=[
                            ("panel", "Panel"),
                            ("api", "API"),
                            ("charging", "Charging run"),
                            ("import", "Import"),
                        ],
                        max_length=10,
                    ),
                ),
                ("idempotency_key", models.CharField(blank=True, max_length=100, null=True)),
                (
                    "reverses",
                    models.BigIntegerField(
                        blank=True,
                        help_text="The number of the user's transaction this one takes back.",
                        null=True,
                    ),
                ),
                (
                    "metadata",
                    models.JSONField(blank=True, default=dict, help_text="For integrators."),
                ),
                (
                    "digest",
                    models.BinaryField(
                        help_text="SHA-256; see docs/ledger.md for its canonical form."
                    ),
                ),
            ],
            options={
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="Balance",
            fields=[
                (
                    "user",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        primary_key=True,
                        related_name="balance",
                        serialize=False,
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "real",
                    models.DecimalField(
                        db_default=0,
                        decimal_places=4,
                        default=Decimal("0"),
                        max_digits=19,
                        verbose_name="balance",
                    ),
                ),
                (
                    "bonus",
                    models.DecimalField(
                        db_default=0,
                        decimal_places=4,
                        default=Decimal("0"),
                        max_digits=19,
                        verbose_name="bonus balance",
                    ),
                ),
                (
                    "refilled",
                    models.DecimalField(
                        db_default=0,
                        decimal_places=4,
                        default=0,
                        max_digits=25,
                        verbose_name="all refills so far",
                    ),
                ),
                (
                    "bonus_refilled",
                    models.DecimalField(
                        db_default=0,
                        decimal_places=4,
                        default=0,
                        max_digits=25,
                        verbose_name="all bonus refills so far",
                    ),
                ),
                ("last_number", models.BigIntegerField(db_default=0, default=0)),
                ("last_digest", models.BinaryField(db_default=b"", default=b"")),
                (
                    "last_at",
                    models.DateTimeField(blank=True, null=True, verbose_name="last transaction"),
                ),
            ],
            options={
                "default_permissions": ("view", "change"),
                "constraints": [
                    models.CheckConstraint(
                        condition=django.db.models.lookups.LessThanOrEqual(
                            django.db.models.functions.comparison.Greatest(
                                models.Func(models.F("real"), template="(-%(expressions)s)"),
                                models.Func(models.F("bonus"), template="(-%(expressions)s)"),
                            ),
                            0,
                        ),
                        name="balances_are_never_negative",
                        violation_error_message="A balance cannot be negative or out of range.",
                    )
                ],
            },
        ),
        migrations.AddField(
            model_name="transaction",
            name="actor",
            field=models.ForeignKey(
                blank=True,
                db_index=False,
                help_text="The operator who caused it; nobody: the system itself.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="transaction",
            name="user",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="transactions",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddIndex(
            model_name="transaction",
            index=models.Index(fields=["created_at", "id"], name="transaction_by_date"),
        ),
        migrations.AddConstraint(
            model_name="transaction",
            constraint=models.UniqueConstraint(
                fields=("user", "number"), name="transaction_numbers_are_unique_per_user"
            ),
        ),
        migrations.AddConstraint(
            model_name="transaction",
            constraint=models.UniqueConstraint(
                condition=models.Q(("idempotency_key__isnull", False)),
                fields=("user", "idempotency_key"),
                name="idempotency_keys_are_unique_per_user",
                violation_error_message="This idempotency key was used already.",
            ),
        ),
        migrations.AddConstraint(
            model_name="transaction",
            constraint=models.UniqueConstraint(
                condition=models.Q(("reverses__isnull", False)),
                fields=("user", "reverses"),
                name="a_transaction_is_reversed_at_most_once",
                violation_error_message="This transaction was reversed already.",
            ),
        ),
        migrations.AddConstraint(
            model_name="transaction",
            constraint=models.CheckConstraint(
                condition=models.Q(("number__gte", 1)), name="transaction_numbers_start_at_one"
            ),
        ),
        migrations.AddConstraint(
            model_name="transaction",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    (
                        "new_balance",
                        django.db.models.expressions.CombinedExpression(
                            models.F("old_balance"), "+", models.F("amount")
                        ),
                    ),
                    (
                        "new_bonus",
                        django.db.models.expressions.CombinedExpression(
                            models.F("old_bonus"), "+", models.F("bonus_amount")
                        ),
                    ),
                ),
                name="old_balance_plus_amount_is_new_balance",
                violation_error_message="Old balance and amount must add up to the new balance.",
            ),
        ),
        migrations.AddConstraint(
            model_name="transaction",
            constraint=models.CheckConstraint(
                condition=django.db.models.lookups.LessThanOrEqual(
                    django.db.models.functions.comparison.Greatest(
                        models.Func(models.F("new_balance"), template="(-%(expressions)s)"),
                        models.Func(models.F("new_bonus"), template="(-%(expressions)s)"),
                    ),
                    0,
                ),
                name="new_balances_are_never_negative",
                violation_error_message="A balance cannot be negative.",
            ),
        ),
        migrations.AddConstraint(
            model_name="transaction",
            constraint=models.CheckConstraint(
                condition=models.Q(("amount", 0), ("bonus_amount", 0), _negated=True),
                name="a_transaction_changes_something",
                violation_error_message="Nothing would change: both amounts are zero.",
            ),
        ),
        migrations.AddConstraint(
            model_name="transaction",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    django.db.models.lookups.GreaterThanOrEqual(
                        django.db.models.functions.text.Length(
                            django.db.models.functions.text.Trim("description")
                        ),
                        5,
                    )
                ),
                name="a_description_has_5_to_200_characters",
                violation_error_message="A description has 5 to 200 characters.",
            ),
        ),
    ]
