from decimal import Decimal

import django.core.validators
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import billing.models.plans


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0031_names_of_guards"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AlterField(
            model_name="activation",
            name="is_active",
            field=models.BooleanField(help_text="True if the user was active from then on."),
        ),
        migrations.AlterField(
            model_name="activeday",
            name="subscription",
            field=models.ForeignKey(
                blank=True,
                db_index=False,
                help_text="The subscription that is charged for the day: the device's own, else the account's.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="active_days",
                to="billing.subscription",
            ),
        ),
        migrations.AlterField(
            model_name="apikey",
            name="expires_at",
            field=models.DateTimeField(
                blank=True,
                help_text="Empty: it is valid until it is revoked.",
                null=True,
                verbose_name="expires",
            ),
        ),
        migrations.AlterField(
            model_name="apikey",
            name="is_read_only",
            field=models.BooleanField(
                default=False, help_text="May read, but change nothing.", verbose_name="read only"
            ),
        ),
        migrations.AlterField(
            model_name="apikey",
            name="name",
            field=models.CharField(
                help_text="The program that uses it, like Payment gateway. Shown to people only.",
                max_length=60,
                validators=[billing.models.plans.validate_readable],
            ),
        ),
        migrations.AlterField(
            model_name="apikey",
            name="owner",
            field=models.ForeignKey(
                help_text="The operator in whose name it acts. It may never do more than this operator.",
                limit_choices_to={"is_staff": True},
                on_delete=django.db.models.deletion.PROTECT,
                related_name="api_keys",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AlterField(
            model_name="apikey",
            name="prefix",
            field=models.CharField(
                help_text="The first characters of the key, to recognise it by.", max_length=16
            ),
        ),
        migrations.AlterField(
            model_name="apikey",
            name="requests_per_minute",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="Empty: the installation's API_REQUESTS_PER_MINUTE. 0: no limit.",
                null=True,
            ),
        ),
        migrations.AlterField(
            model_name="chargingrun",
            name="at",
            field=models.DateTimeField(
                help_text="Everything due by then is charged.", verbose_name="charged as of"
            ),
        ),
        migrations.AlterField(
            model_name="chargingrun",
            name="failed",
            field=models.BigIntegerField(
                db_default=0,
                default=0,
                help_text="Users who could not be charged; the reasons are below.",
            ),
        ),
        migrations.AlterField(
            model_name="keptanswer",
            name="answer",
            field=models.TextField(blank=True, help_text="JSON. Empty: no longer stored."),
        ),
        migrations.AlterField(
            model_name="keptanswer",
            name="lasts",
            field=models.BooleanField(
                default=False, help_text="The key stays used after the answer is deleted."
            ),
        ),
        migrations.AlterField(
            model_name="lowbalancethreshold",
            name="amount",
            field=models.DecimalField(
                blank=True,
                decimal_places=4,
                help_text="Empty: programs are not told.",
                max_digits=19,
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0, "A threshold cannot be negative.")
                ],
            ),
        ),
        migrations.AlterField(
            model_name="plan",
            name="is_active",
            field=models.BooleanField(
                default=True,
                help_text="It can be chosen for new subscriptions. Clear this to retire the plan: users who have it keep it.",
                verbose_name="active",
            ),
        ),
        migrations.AlterField(
            model_name="plan",
            name="price",
            field=models.DecimalField(
                decimal_places=4,
                help_text="Per month, day, active day or year, depending on the billing cycle. A new price applies from the next charge on.",
                max_digits=19,
                validators=[
                    django.core.validators.MinValueValidator(
                        Decimal("0"), "A price cannot be negative."
                    )
                ],
            ),
        ),
        migrations.AlterField(
            model_name="plan",
            name="proportional_charge",
            field=models.BooleanField(
                default=False,
                help_text="A subscription that starts within a month (or year) is charged for its remaining days only. No effect on plans charged by day.",
            ),
        ),
        migrations.AlterField(
            model_name="service",
            name="code",
            field=models.CharField(
                help_text="Identifies the service in transactions and to programs, like outgoing_sms. It cannot be changed.",
                max_length=32,
                unique=True,
                validators=[
                    django.core.validators.RegexValidator(
                        "\\A[a-z][a-z0-9_]*\\Z",
                        "A code has small letters, digits and underscores, like outgoing_sms.",
                    )
                ],
            ),
        ),
        migrations.AlterField(
            model_name="service",
            name="is_active",
            field=models.BooleanField(
                default=True,
                help_text="Clear this to retire the service: then it cannot be charged.",
                verbose_name="active",
            ),
        ),
        migrations.AlterField(
            model_name="service",
            name="name",
            field=models.CharField(
                help_text="The name in descriptions of transactions, like Outgoing SMS.",
                max_length=40,
                validators=[billing.models.plans.validate_readable],
            ),
        ),
        migrations.AlterField(
            model_name="service",
            name="unit",
            field=models.CharField(
                blank=True,
                help_text="The unit of a quantity, like min or MB. May be empty.",
                max_length=20,
                validators=[billing.models.plans.validate_readable],
            ),
        ),
        migrations.AlterField(
            model_name="standarddescription",
            name="position",
            field=models.PositiveSmallIntegerField(
                default=0,
                help_text="Lower numbers are offered first; equal ones are sorted by text.",
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="charge_number",
            field=models.BigIntegerField(
                blank=True,
                help_text="The number of the transaction that paid for these days.",
                null=True,
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="due_on",
            field=models.DateField(
                blank=True,
                help_text="The day on which the charging run next looks at it. Empty: not until something changes.",
                null=True,
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="paid",
            field=models.DecimalField(
                db_default=0,
                decimal_places=4,
                default=0,
                help_text="The amount charged for the days from charged from to charged through.",
                max_digits=19,
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="plan_since",
            field=models.DateField(help_text="The first day of the present plan."),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="status_since",
            field=models.DateField(help_text="The first day of the present status."),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="suspended_at",
            field=models.DateTimeField(
                blank=True,
                editable=False,
                help_text="The moment from which it could not be used, by the database's clock. After a late run it is later than the day from which it is suspended.",
                null=True,
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="suspension_reason",
            field=models.CharField(
                blank=True,
                choices=[
                    ("no_money", "until there is money"),
                    ("user_deactivated", "until the user is active again"),
                ],
                db_default="",
                default="",
                help_text="The reason for the suspension; empty: it is not suspended.",
                max_length=20,
            ),
        ),
        migrations.AlterField(
            model_name="subscription",
            name="term",
            field=models.PositiveIntegerField(
                db_default=1, default=1, help_text="1, plus one for each change of plan."
            ),
        ),
        migrations.AlterField(
            model_name="transaction",
            name="actor",
            field=models.ForeignKey(
                blank=True,
                db_index=False,
                help_text="The operator who caused it. Empty: the system.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AlterField(
            model_name="transaction",
            name="amount",
            field=models.DecimalField(
                decimal_places=4,
                help_text="Added to the real balance; negative: taken from it.",
                max_digits=19,
            ),
        ),
        migrations.AlterField(
            model_name="transaction",
            name="bonus_amount",
            field=models.DecimalField(
                decimal_places=4,
                help_text="Added to the bonus balance; negative: taken from it.",
                max_digits=19,
            ),
        ),
        migrations.AlterField(
            model_name="transaction",
            name="reverses",
            field=models.BigIntegerField(
                blank=True,
                help_text="The number of the user's transaction that this one reverses.",
                null=True,
            ),
        ),
        migrations.AlterField(
            model_name="userdefaults",
            name="plan",
            field=models.ForeignKey(
                blank=True,
                help_text="The own pricing plan of each new user. If there is not enough money, which is usual for a new user, the subscription stays suspended until the first refill.",
                limit_choices_to={"is_active": True},
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="billing.plan",
            ),
        ),
        migrations.AlterField(
            model_name="webhookattempt",
            name="answer",
            field=models.CharField(
                blank=True, help_text="The first part of the response.", max_length=500
            ),
        ),
        migrations.AlterField(
            model_name="webhookattempt",
            name="problem",
            field=models.CharField(
                blank=True,
                help_text="The reason for the failure; empty: it did not fail.",
                max_length=200,
            ),
        ),
        migrations.AlterField(
            model_name="webhookdelivery",
            name="refusal_count",
            field=models.PositiveIntegerField(
                db_default=0,
                default=0,
                help_text="Failed attempts caused by the event itself, not by the endpoint as a whole.",
            ),
        ),
        migrations.AlterField(
            model_name="webhookendpoint",
            name="failures",
            field=models.PositiveIntegerField(
                default=0, editable=False, help_text="The number of failures in a row."
            ),
        ),
        migrations.AlterField(
            model_name="webhookendpoint",
            name="is_active",
            field=models.BooleanField(
                default=True,
                help_text="While this is off, nothing is sent to this endpoint and no new events are stored for it.",
                verbose_name="active",
            ),
        ),
        migrations.AlterField(
            model_name="webhookendpoint",
            name="name",
            field=models.CharField(
                help_text="The program that receives it, like CRM. Shown to people only.",
                max_length=60,
                validators=[billing.models.plans.validate_readable],
            ),
        ),
        migrations.AlterField(
            model_name="webhookendpoint",
            name="secret",
            field=models.CharField(
                help_text="Signs the events, so that the receiver knows that they come from here.",
                max_length=100,
            ),
        ),
        migrations.AlterField(
            model_name="webhookevent",
            name="data",
            field=models.JSONField(default=dict, help_text="Further data of the event."),
        ),
        migrations.AlterConstraint(
            model_name="serviceprice",
            name="a_plan_has_one_price_per_service",
            constraint=models.UniqueConstraint(
                fields=("plan", "service"),
                name="a_plan_has_one_price_per_service",
                violation_error_message="The plan already has a price for this service.",
            ),
        ),
        migrations.AlterConstraint(
            model_name="subscription",
            name="a_device_has_one_live_subscription",
            constraint=models.UniqueConstraint(
                condition=models.Q(("status", "cancelled"), _negated=True),
                fields=("user", "device"),
                name="a_device_has_one_live_subscription",
                violation_error_message="This device already has a subscription.",
            ),
        ),
        migrations.AlterConstraint(
            model_name="transaction",
            name="idempotency_keys_are_unique_per_user",
            constraint=models.UniqueConstraint(
                condition=models.Q(("idempotency_key__isnull", False)),
                fields=("user", "idempotency_key"),
                name="idempotency_keys_are_unique_per_user",
                violation_error_message="This idempotency key has been used.",
            ),
        ),
        migrations.AlterConstraint(
            model_name="transaction",
            name="a_transaction_is_reversed_at_most_once",
            constraint=models.UniqueConstraint(
                condition=models.Q(("reverses__isnull", False)),
                fields=("user", "reverses"),
                name="a_transaction_is_reversed_at_most_once",
                violation_error_message="This transaction has been reversed.",
            ),
        ),
        migrations.AlterConstraint(
            model_name="transaction",
            name="a_transaction_does_what_its_type_allows",
            constraint=models.CheckConstraint(
                condition=models.Func(
                    models.F("type"),
                    models.F("subtype"),
                    models.F("channel"),
                    models.F("amount"),
                    models.F("bonus_amount"),
                    models.F("new_bonus"),
                    models.F("reverses"),
                    function="billing_type_allows",
                    output_field=models.BooleanField(),
                ),
                name="a_transaction_does_what_its_type_allows",
                violation_error_message="Subscriptions never touch the bonus balance, services take it first, gifts change only the bonus balance, and only reversals name the transaction that they reverse.",
            ),
        ),
    ]
