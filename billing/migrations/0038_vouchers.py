import uuid
from decimal import Decimal

import django.core.validators
import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

import billing.models.plans


class Migration(migrations.Migration):
    """Vouchers, and who redeemed them."""

    dependencies = [
        ("billing", "0037_reasons_and_batches"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AlterField(
            model_name="event",
            name="subject",
            field=models.CharField(
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
                    ("voucher", "Voucher"),
                    ("webhookendpoint", "Webhook endpoint"),
                ],
                max_length=32,
            ),
        ),
        migrations.CreateModel(
            name="Voucher",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("code", models.CharField(editable=False, max_length=12, unique=True)),
                (
                    "series",
                    models.UUIDField(
                        db_index=True,
                        default=uuid.uuid4,
                        editable=False,
                        help_text="Vouchers that were made together have the same.",
                    ),
                ),
                (
                    "title",
                    models.CharField(
                        help_text="Users read it in their history: Voucher: Spring campaign.",
                        max_length=100,
                        validators=[billing.models.plans.validate_readable],
                    ),
                ),
                (
                    "amount",
                    models.DecimalField(
                        db_default=0,
                        decimal_places=4,
                        default=Decimal("0"),
                        help_text="Added to the real balance.",
                        max_digits=19,
                        validators=[
                            django.core.validators.MinValueValidator(
                                Decimal("0"), "A voucher cannot take money."
                            )
                        ],
                    ),
                ),
                (
                    "bonus",
                    models.DecimalField(
                        db_default=0,
                        decimal_places=4,
                        default=Decimal("0"),
                        help_text="Added to the bonus balance.",
                        max_digits=19,
                        validators=[
                            django.core.validators.MinValueValidator(
                                Decimal("0"), "A voucher cannot take money."
                            )
                        ],
                    ),
                ),
                (
                    "bonus_days",
                    models.PositiveSmallIntegerField(
                        blank=True,
                        help_text="How many days after the day of the redemption the bonus can still be used. Empty: until the day below or, without one, as the installation's setting says.",
                        null=True,
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(3660),
                        ],
                        verbose_name="days of the bonus",
                    ),
                ),
                (
                    "bonus_until",
                    models.DateField(
                        blank=True,
                        help_text="The last day on which the bonus can be used, for all users. The voucher cannot be redeemed later.",
                        null=True,
                        verbose_name="last day of the bonus",
                    ),
                ),
                (
                    "uses_max",
                    models.PositiveIntegerField(
                        blank=True,
                        default=1,
                        help_text="How many users can redeem it. Empty: any number.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="uses at most",
                    ),
                ),
                (
                    "uses",
                    models.PositiveIntegerField(
                        db_default=0,
                        default=0,
                        editable=False,
                        help_text="How many users have redeemed it.",
                    ),
                ),
                (
                    "valid_until",
                    models.DateField(
                        blank=True,
                        help_text="The last day on which it can be redeemed, in the installation's time zone. Empty: no end.",
                        null=True,
                    ),
                ),
                (
                    "is_active",
                    models.BooleanField(
                        default=True,
                        help_text="Inactive: it cannot be redeemed.",
                        verbose_name="active",
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        editable=False,
                        verbose_name="made",
                    ),
                ),
                (
                    "created_by",
                    models.ForeignKey(
                        editable=False,
                        help_text="The operator who made it. Empty: the system.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "plan",
                    models.ForeignKey(
                        blank=True,
                        help_text="The user is subscribed to it, and charged at once.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="billing.plan",
                    ),
                ),
            ],
            options={
                "ordering": ["-pk"],
                "default_permissions": ("add", "change", "view"),
            },
        ),
        migrations.CreateModel(
            name="VoucherRedemption",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "number",
                    models.BigIntegerField(
                        help_text="The number of the user's transaction. Empty: it gave only a plan.",
                        null=True,
                    ),
                ),
                ("redeemed_at", models.DateTimeField()),
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
                    "voucher",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="redemptions",
                        to="billing.voucher",
                    ),
                ),
            ],
            options={
                "ordering": ["-pk"],
                "default_permissions": (),
            },
        ),
        migrations.AddConstraint(
            model_name="voucher",
            constraint=models.CheckConstraint(
                condition=models.Q(("code__regex", "^[23456789ABCDEFGHJKMNPQRSTUVWXYZ]{12}$")),
                name="a_voucher_has_a_code",
            ),
        ),
        migrations.AddConstraint(
            model_name="voucher",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("amount__gte", 0),
                    ("bonus__gte", 0),
                    ("amount__lt", Decimal("1000000000000000")),
                    ("bonus__lt", Decimal("1000000000000000")),
                ),
                name="a_voucher_gives_amounts",
                violation_error_message="A price cannot be negative.",
            ),
        ),
        migrations.AddConstraint(
            model_name="voucher",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("amount__gt", 0), ("bonus__gt", 0), ("plan__isnull", False), _connector="OR"
                ),
                name="a_voucher_gives_something",
                violation_error_message="A voucher gives money, a bonus or a plan.",
            ),
        ),
        migrations.AddConstraint(
            model_name="voucher",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("bonus__gt", 0),
                    models.Q(("bonus_days__isnull", True), ("bonus_until__isnull", True)),
                    _connector="OR",
                ),
                name="only_a_bonus_expires",
                violation_error_message="Without a bonus there is nothing that expires.",
            ),
        ),
        migrations.AddConstraint(
            model_name="voucher",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("bonus_days__isnull", True), ("bonus_until__isnull", True), _connector="OR"
                ),
                name="a_bonus_of_a_voucher_has_one_expiry",
                violation_error_message="Give either the days of the bonus or its last day.",
            ),
        ),
        migrations.AddConstraint(
            model_name="voucher",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("uses_max__isnull", True), ("uses__lte", models.F("uses_max")), _connector="OR"
                ),
                name="a_voucher_is_used_as_often_as_it_may_be",
                violation_error_message="More users than that have redeemed it already.",
            ),
        ),
        migrations.AddConstraint(
            model_name="voucherredemption",
            constraint=models.UniqueConstraint(
                fields=("user", "voucher"), name="a_user_redeems_a_voucher_once"
            ),
        ),
    ]
