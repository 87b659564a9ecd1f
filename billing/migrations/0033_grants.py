from pathlib import Path

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.lookups
from django.conf import settings
from django.db import migrations, models

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """Bonus money comes in grants; reversals may take back a part; payments have a date."""

    dependencies = [
        ("billing", "0032_plain_help_texts"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Grant",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "user_id",
                        "number",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "number",
                    models.BigIntegerField(
                        help_text="The number of the user's transaction that gave it, or after which grants began."
                    ),
                ),
                ("amount", models.DecimalField(decimal_places=4, max_digits=19)),
                ("remaining", models.DecimalField(decimal_places=4, max_digits=19)),
                (
                    "uses",
                    models.BigIntegerField(
                        db_default=0, default=0, help_text="How often it was used."
                    ),
                ),
                (
                    "expires_at",
                    models.DateTimeField(
                        blank=True,
                        help_text="The moment from which it cannot be spent. Empty: it never expires.",
                        null=True,
                        verbose_name="expires",
                    ),
                ),
                (
                    "is_open",
                    models.GeneratedField(
                        db_persist=True,
                        expression=django.db.models.lookups.GreaterThan(models.F("remaining"), 0),
                        output_field=models.BooleanField(),
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="grants",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="GrantUse",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "user_id",
                        "grant_number",
                        "place",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("grant_number", models.BigIntegerField(help_text="The number of the grant.")),
                (
                    "place",
                    models.BigIntegerField(help_text="1, 2, 3, … for each grant, without gaps."),
                ),
                (
                    "number",
                    models.BigIntegerField(help_text="The number of the user's transaction."),
                ),
                (
                    "line",
                    models.IntegerField(
                        help_text="1, 2, 3, … for each transaction: the order of taking."
                    ),
                ),
                ("amount", models.DecimalField(decimal_places=4, max_digits=19)),
                (
                    "remaining",
                    models.DecimalField(
                        decimal_places=4,
                        help_text="What remained of the grant afterwards.",
                        max_digits=19,
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.RemoveConstraint(
            model_name="transaction",
            name="a_transaction_is_reversed_at_most_once",
        ),
        migrations.RemoveConstraint(
            model_name="transaction",
            name="a_transaction_does_what_its_type_allows",
        ),
        migrations.AddField(
            model_name="balance",
            name="grants_since",
            field=models.BigIntegerField(
                db_default=0,
                default=0,
                help_text="The last transaction of a history without grants. Its bonus is one grant.",
            ),
        ),
        migrations.AddField(
            model_name="transaction",
            name="payment_date",
            field=models.DateField(
                blank=True,
                help_text="The day on which the payment was made, if it was posted later.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="transaction",
            name="bonus_expires_at",
            field=models.DateTimeField(
                blank=True,
                help_text="The moment from which the added bonus cannot be spent. Empty: it never expires.",
                null=True,
                verbose_name="bonus expires",
            ),
        ),
        migrations.AddField(
            model_name="transaction",
            name="form",
            field=models.SmallIntegerField(
                db_default=1, default=1, help_text="The version of the digest's canonical form."
            ),
        ),
        migrations.AlterField(
            model_name="transaction",
            name="channel",
            field=models.CharField(
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
        migrations.AlterField(
            model_name="transaction",
            name="type",
            field=models.CharField(
                choices=[
                    ("payment", "Payment"),
                    ("bonus_charge", "Gift"),
                    ("bonus_expiry", "Bonus expired"),
                    ("main_charge", "Subscription"),
                    ("tariff_charge", "Service"),
                    ("reversal", "Reversal"),
                ],
                max_length=16,
            ),
        ),
        migrations.AddIndex(
            model_name="transaction",
            index=models.Index(
                condition=models.Q(("reverses__isnull", False)),
                fields=["user", "reverses"],
                name="reversals_of_a_transaction",
            ),
        ),
        migrations.AddIndex(
            model_name="grant",
            index=models.Index(
                condition=models.Q(("is_open", True)), fields=["user", "number"], name="open_grants"
            ),
        ),
        migrations.AddIndex(
            model_name="grant",
            index=models.Index(
                condition=models.Q(("expires_at__isnull", False), ("is_open", True)),
                fields=["expires_at"],
                name="open_grants_by_expiry",
            ),
        ),
        migrations.AddConstraint(
            model_name="grant",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("amount__gt", 0), ("remaining__gte", 0), ("remaining__lte", models.F("amount"))
                ),
                name="a_grant_has_between_nothing_and_all_of_it_left",
            ),
        ),
        migrations.AddConstraint(
            model_name="grantuse",
            constraint=models.UniqueConstraint(
                fields=("user", "number", "line"), name="a_transaction_uses_grants_in_order"
            ),
        ),
        migrations.AddConstraint(
            model_name="grantuse",
            constraint=models.CheckConstraint(
                condition=models.Q(("amount", 0), _negated=True), name="a_use_moves_something"
            ),
        ),
        migrations.AlterField(
            model_name="webhookendpoint",
            name="events",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(
                    choices=[
                        ("transaction.posted", "Transaction posted"),
                        ("balance.low", "Balance below its threshold"),
                        ("bonus.expiring", "Bonus expires soon"),
                        ("bonus.expired", "Bonus expired"),
                        ("subscription.suspended", "Subscription suspended"),
                        ("subscription.resumed", "Subscription resumed"),
                    ],
                    max_length=32,
                ),
                size=None,
                verbose_name="events",
            ),
        ),
        migrations.AlterField(
            model_name="webhookevent",
            name="type",
            field=models.CharField(
                choices=[
                    ("transaction.posted", "Transaction posted"),
                    ("balance.low", "Balance below its threshold"),
                    ("bonus.expiring", "Bonus expires soon"),
                    ("bonus.expired", "Bonus expired"),
                    ("subscription.suspended", "Subscription suspended"),
                    ("subscription.resumed", "Subscription resumed"),
                ],
                max_length=32,
            ),
        ),
        migrations.RunSQL(
            sql=(SQL / "0033_grants.sql").read_text(),
            reverse_sql=(SQL / "0033_grants.reverse.sql").read_text(),
        ),
        migrations.AddConstraint(
            model_name="transaction",
            constraint=models.CheckConstraint(
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
                    function="billing_type_allows",
                    output_field=models.BooleanField(),
                ),
                name="a_transaction_does_what_its_type_allows",
                violation_error_message="Subscriptions never touch the bonus balance, services take it first, gifts change only the bonus balance, and only reversals name the transaction that they reverse.",
            ),
        ),
        migrations.RunSQL(
            sql=(SQL / "0033_grants_begin.sql").read_text(),
            reverse_sql=(SQL / "0033_grants_begin.reverse.sql").read_text(),
        ),
    ]
