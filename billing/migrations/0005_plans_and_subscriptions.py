from decimal import Decimal
from pathlib import Path

import django.core.validators
import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

import billing.models.plans

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """Plans and their prices, who has them, and what the charging runs did."""

    dependencies = [
        ("billing", "0004_groups"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RunSQL(
            sql=(SQL / "0005_plans.sql").read_text(),
            reverse_sql=(SQL / "0005_plans.reverse.sql").read_text(),
        ),
        migrations.CreateModel(
            name="ChargingRun",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "at",
                    models.DateTimeField(
                        help_text="What was due by then is charged.", verbose_name="charged as of"
                    ),
                ),
                (
                    "started_by",
                    models.CharField(
                        choices=[("schedule", "Schedule"), ("command", "Command")], max_length=10
                    ),
                ),
                (
                    "started_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(), verbose_name="started"
                    ),
                ),
                (
                    "finished_at",
                    models.DateTimeField(blank=True, null=True, verbose_name="finished"),
                ),
                (
                    "due",
                    models.BigIntegerField(
                        default=0,
                        help_text="Subscriptions due when it started.",
                        verbose_name="due",
                    ),
                ),
                (
                    "charged",
                    models.BigIntegerField(db_default=0, default=0, help_text="Charges posted."),
                ),
                (
                    "suspended",
                    models.BigIntegerField(
                        db_default=0,
                        default=0,
                        help_text="Subscriptions suspended for want of money.",
                    ),
                ),
                (
                    "resumed",
                    models.BigIntegerField(
                        db_default=0,
                        default=0,
                        help_text="Suspended subscriptions that could be paid again.",
                    ),
                ),
                (
                    "skipped",
                    models.BigIntegerField(
                        db_default=0,
                        default=0,
                        help_text="Suspended subscriptions that still cannot be paid.",
                    ),
                ),
                (
                    "failed",
                    models.BigIntegerField(
                        db_default=0,
                        default=0,
                        help_text="Users who could not be charged; see below why.",
                    ),
                ),
                (
                    "total",
                    models.DecimalField(
                        db_default=0,
                        decimal_places=4,
                        default=0,
                        max_digits=25,
                        verbose_name="the sum of all charges",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="Plan",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "name",
                    models.CharField(
                        max_length=60,
                        unique=True,
                        validators=[billing.models.plans.validate_readable],
                    ),
                ),
                (
                    "cycle",
                    models.CharField(
                        choices=[
                            ("monthly", "Monthly"),
                            ("everyday", "Monthly, by day"),
                            ("activeday", "Active day"),
                            ("every_year", "Annual"),
                        ],
                        default="monthly",
                        help_text="Cannot be changed once somebody has subscribed.",
                        max_length=16,
                        verbose_name="billing cycle",
                    ),
                ),
                (
                    "price",
                    models.DecimalField(
                        decimal_places=4,
                        help_text="Per month, per active day or per year, as the billing cycle says. Another price counts from the next charge on.",
                        max_digits=19,
                        validators=[
                            django.core.validators.MinValueValidator(
                                Decimal("0"), "A price cannot be negative."
                            )
                        ],
                    ),
                ),
                (
                    "proportional_charge",
                    models.BooleanField(
                        default=False,
                        help_text="Who starts within a month (or year) pays for its remaining days only. Of no effect for plans charged by day.",
                    ),
                ),
                (
                    "is_active",
                    models.BooleanField(
                        default=True,
                        help_text="May be chosen for new subscriptions. Clear this to retire the plan: whoever has it keeps it.",
                        verbose_name="active",
                    ),
                ),
            ],
            options={
                "ordering": ["name"],
            },
        ),
        migrations.CreateModel(
            name="ServicePrice",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "price",
                    models.DecimalField(
                        decimal_places=4,
                        max_digits=19,
                        validators=[
                            django.core.validators.MinValueValidator(
                                Decimal("0"), "A price cannot be negative."
                            )
                        ],
                        verbose_name="price per unit",
                    ),
                ),
            ],
            options={
                "ordering": ["service__name"],
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Subscription",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "device",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        help_text="Empty: the user's own pricing plan.",
                        max_length=100,
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("active", "Active"),
                            ("suspended", "Suspended"),
                            ("cancelled", "Cancelled"),
                        ],
                        default="active",
                        max_length=10,
                    ),
                ),
                ("started_on", models.DateField(verbose_name="started")),
                (
                    "plan_since",
                    models.DateField(help_text="The day from which the present plan counts."),
                ),
                (
                    "status_since",
                    models.DateField(help_text="The day from which the present status counts."),
                ),
                (
                    "term",
                    models.PositiveIntegerField(
                        db_default=1,
                        default=1,
                        help_text="1, and one more with each change of plan.",
                    ),
                ),
                ("charged_from", models.DateField(blank=True, null=True)),
                ("charged_through", models.DateField(blank=True, null=True)),
                (
                    "paid",
                    models.DecimalField(
                        db_default=0,
                        decimal_places=4,
                        default=0,
                        help_text="For the days from charged from to charged through.",
                        max_digits=19,
                    ),
                ),
                (
                    "charge_number",
                    models.BigIntegerField(
                        blank=True,
                        help_text="The user's transaction by which these days were paid.",
                        null=True,
                    ),
                ),
                (
                    "due_on",
                    models.DateField(
                        blank=True,
                        help_text="The day from which the charging run has to look at it. None: not before something happens.",
                        null=True,
                    ),
                ),
            ],
            options={
                "default_permissions": ("view", "add", "change"),
            },
        ),
        migrations.CreateModel(
            name="UserDefaults",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "bonus",
                    models.DecimalField(
                        db_default=0,
                        decimal_places=4,
                        default=Decimal("0"),
                        help_text="Given to the bonus balance of each new user. Zero: none.",
                        max_digits=19,
                        validators=[
                            django.core.validators.MinValueValidator(
                                Decimal("0"), "A gift cannot be negative."
                            )
                        ],
                        verbose_name="bonus on registration",
                    ),
                ),
            ],
            options={
                "verbose_name": "defaults for new users",
                "verbose_name_plural": "defaults for new users",
                "default_permissions": ("view", "change"),
            },
        ),
        migrations.CreateModel(
            name="ActiveDay",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("device", models.CharField(blank=True, default="", max_length=100)),
                ("day", models.DateField()),
                (
                    "is_charged",
                    models.BooleanField(db_default=False, default=False, verbose_name="charged"),
                ),
                (
                    "user",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="ChargingFailure",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("problem", models.TextField()),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "user",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "run",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="failures",
                        to="billing.chargingrun",
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="ChargingBatch",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("first_user_id", models.BigIntegerField()),
                ("last_user_id", models.BigIntegerField()),
                ("finished_at", models.DateTimeField(blank=True, null=True)),
                (
                    "run",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="batches",
                        to="billing.chargingrun",
                    ),
                ),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Service",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "code",
                    models.CharField(
                        help_text="Names the service in transactions and to programs, like outgoing_sms. It cannot be changed.",
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
                (
                    "name",
                    models.CharField(
                        help_text="As descriptions of transactions name it, like Outgoing SMS.",
                        max_length=40,
                        validators=[billing.models.plans.validate_readable],
                    ),
                ),
                (
                    "unit",
                    models.CharField(
                        blank=True,
                        help_text="What a quantity is of, like min or MB. May be empty.",
                        max_length=20,
                        validators=[billing.models.plans.validate_readable],
                    ),
                ),
                (
                    "is_active",
                    models.BooleanField(
                        default=True,
                        help_text="Clear this to retire the service: it cannot be charged.",
                        verbose_name="active",
                    ),
                ),
            ],
            options={
                "ordering": ["name", "code"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("code__regex", "^[a-z][a-z0-9_]*$")),
                        name="a_service_code_is_a_code",
                        violation_error_message="A code has small letters, digits and underscores.",
                    )
                ],
            },
        ),
        migrations.RunSQL(
            "CREATE TRIGGER pgtrigger_keeps_its_code_5fd77 "
            "BEFORE UPDATE OF code ON billing_service "
            "FOR EACH ROW EXECUTE FUNCTION billing_refuse_other_code()",
            "DROP TRIGGER pgtrigger_keeps_its_code_5fd77 ON billing_service",
        ),
        migrations.AddField(
            model_name="serviceprice",
            name="plan",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="service_prices",
                to="billing.plan",
            ),
        ),
        migrations.AddField(
            model_name="serviceprice",
            name="service",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="prices",
                to="billing.service",
            ),
        ),
        migrations.AddField(
            model_name="plan",
            name="services",
            field=models.ManyToManyField(
                related_name="plans", through="billing.ServicePrice", to="billing.service"
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="plan",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="subscriptions",
                to="billing.plan",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="user",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="subscriptions",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="activeday",
            name="subscription",
            field=models.ForeignKey(
                blank=True,
                db_index=False,
                help_text="That the day counts for: the device's own, else the account's.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="active_days",
                to="billing.subscription",
            ),
        ),
        migrations.AddField(
            model_name="userdefaults",
            name="plan",
            field=models.ForeignKey(
                blank=True,
                help_text="Each new user's own pricing plan. If the balance does not suffice, as of a new user it mostly does not, the subscription waits, suspended, for the first refill.",
                limit_choices_to={"is_active": True},
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="billing.plan",
            ),
        ),
        migrations.AddConstraint(
            model_name="chargingbatch",
            constraint=models.CheckConstraint(
                condition=models.Q(("first_user_id__lte", models.F("last_user_id"))),
                name="a_batch_has_a_beginning_and_an_end",
            ),
        ),
        migrations.AddConstraint(
            model_name="serviceprice",
            constraint=models.UniqueConstraint(
                fields=("plan", "service"),
                name="a_plan_has_one_price_per_service",
                violation_error_message="The plan has a price for this service already.",
            ),
        ),
        migrations.AddConstraint(
            model_name="serviceprice",
            constraint=models.CheckConstraint(
                condition=models.Q(("price__gte", 0), ("price__lt", Decimal("1000000000000000"))),
                name="a_service_has_a_price",
                violation_error_message="A price cannot be negative.",
            ),
        ),
        migrations.AddConstraint(
            model_name="plan",
            constraint=models.CheckConstraint(
                condition=models.Q(("price__gte", 0), ("price__lt", Decimal("1000000000000000"))),
                name="a_plan_has_a_price",
                violation_error_message="A price cannot be negative.",
            ),
        ),
        migrations.RunSQL(
            "CREATE TRIGGER pgtrigger_keeps_its_cycle_57250 "
            "BEFORE UPDATE OF cycle ON billing_plan "
            "FOR EACH ROW EXECUTE FUNCTION billing_refuse_other_cycle()",
            "DROP TRIGGER pgtrigger_keeps_its_cycle_57250 ON billing_plan",
        ),
        migrations.AddIndex(
            model_name="subscription",
            index=models.Index(fields=["user"], name="subscriptions_of_a_user"),
        ),
        migrations.AddConstraint(
            model_name="subscription",
            constraint=models.UniqueConstraint(
                condition=models.Q(("status", "cancelled"), _negated=True),
                fields=("user", "device"),
                name="a_device_has_one_live_subscription",
                violation_error_message="This device has a subscription already.",
            ),
        ),
        migrations.AddConstraint(
            model_name="subscription",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("due_on__isnull", True),
                    models.Q(("status", "cancelled"), _negated=True),
                    _connector="OR",
                ),
                name="a_cancelled_subscription_is_never_due",
            ),
        ),
        migrations.AddConstraint(
            model_name="subscription",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("due_on__isnull", False),
                    models.Q(("status", "suspended"), _negated=True),
                    _connector="OR",
                ),
                name="a_suspended_subscription_is_tried_again",
            ),
        ),
        migrations.AddConstraint(
            model_name="subscription",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("charged_from__isnull", True), ("charged_through__isnull", True)),
                    models.Q(
                        ("charged_from__isnull", False),
                        ("charged_from__lte", models.F("charged_through")),
                        ("charged_through__isnull", False),
                    ),
                    _connector="OR",
                ),
                name="charged_days_have_a_beginning_and_an_end",
            ),
        ),
        migrations.AddConstraint(
            model_name="subscription",
            constraint=models.CheckConstraint(
                condition=models.Q(("paid__gte", 0), ("paid__lt", 1000000000000000)),
                name="what_was_paid_is_an_amount",
            ),
        ),
        migrations.AddIndex(
            model_name="activeday",
            index=models.Index(
                condition=models.Q(("is_charged", False)),
                fields=["subscription", "day"],
                name="active_days_to_charge",
            ),
        ),
        migrations.AddConstraint(
            model_name="activeday",
            constraint=models.UniqueConstraint(
                fields=("user", "device", "day"), name="a_device_is_active_once_a_day"
            ),
        ),
        migrations.AddConstraint(
            model_name="userdefaults",
            constraint=models.CheckConstraint(
                condition=models.Q(("id", 1)), name="there_is_one_row_of_defaults"
            ),
        ),
        migrations.AddConstraint(
            model_name="userdefaults",
            constraint=models.CheckConstraint(
                condition=models.Q(("bonus__gte", 0), ("bonus__lt", Decimal("1000000000000000"))),
                name="a_gift_is_an_amount",
                violation_error_message="A price cannot be negative.",
            ),
        ),
        # A run updates every row that it charges: room on its page keeps the new version there,
        # without touching the indexes.
        migrations.RunSQL(
            sql="ALTER TABLE billing_subscription SET (fillfactor = 50)",
            reverse_sql=migrations.RunSQL.noop,
        ),
    ]
