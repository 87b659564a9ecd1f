import django.db.models.functions.text
import django.utils.timezone
from django.db import migrations, models

import users.models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [
        migrations.CreateModel(
            name="User",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("password", models.CharField(max_length=128, verbose_name="password")),
                (
                    "last_login",
                    models.DateTimeField(blank=True, null=True, verbose_name="last login"),
                ),
                (
                    "is_superuser",
                    models.BooleanField(
                        default=False,
                        help_text="Designates that this user has all permissions without explicitly assigning them.",
                        verbose_name="superuser status",
                    ),
                ),
                (
                    "email",
                    models.EmailField(
                        help_text="The login. Unique without regard to case.",
                        max_length=254,
                        verbose_name="e-mail",
                    ),
                ),
                ("first_name", models.CharField(blank=True, max_length=100)),
                ("middle_name", models.CharField(blank=True, max_length=100)),
                ("last_name", models.CharField(blank=True, max_length=100)),
                ("phone", models.CharField(blank=True, max_length=30)),
                (
                    "legal_type",
                    models.CharField(
                        choices=[
                            ("individual", "Individual"),
                            ("legal_entity", "Legal entity"),
                            ("sole_trader", "Sole trader"),
                        ],
                        db_default="individual",
                        default="individual",
                        max_length=16,
                    ),
                ),
                (
                    "legal_name",
                    models.CharField(
                        blank=True, help_text="The company's registered name.", max_length=200
                    ),
                ),
                (
                    "tin",
                    models.CharField(
                        blank=True,
                        help_text="Taxpayer identification number.",
                        max_length=30,
                        verbose_name="TIN",
                    ),
                ),
                ("country", models.CharField(blank=True, max_length=100)),
                ("region", models.CharField(blank=True, max_length=100)),
                ("city", models.CharField(blank=True, max_length=100)),
                ("street_address", models.CharField(blank=True, max_length=200)),
                ("postal_code", models.CharField(blank=True, max_length=20)),
                (
                    "time_zone",
                    models.CharField(
                        blank=True,
                        help_text="For example Europe/Berlin. Empty: the installation's time zone.",
                        max_length=64,
                        validators=[users.models.validate_time_zone],
                    ),
                ),
                (
                    "comment",
                    models.TextField(
                        blank=True, help_text="For operators; the user does not see it."
                    ),
                ),
                (
                    "is_active",
                    models.BooleanField(
                        default=True,
                        help_text="Clear this instead of deleting: money history is kept for ever.",
                        verbose_name="active",
                    ),
                ),
                (
                    "is_staff",
                    models.BooleanField(
                        default=False,
                        help_text="Works in this panel, as far as permissions go.",
                        verbose_name="operator",
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(
                        default=django.utils.timezone.now, editable=False, verbose_name="created"
                    ),
                ),
                (
                    "groups",
                    models.ManyToManyField(
                        blank=True,
                        help_text="The groups this user belongs to. A user will get all permissions granted to each of their groups.",
                        related_name="user_set",
                        related_query_name="user",
                        to="auth.group",
                        verbose_name="groups",
                    ),
                ),
                (
                    "user_permissions",
                    models.ManyToManyField(
                        blank=True,
                        help_text="Specific permissions for this user.",
                        related_name="user_set",
                        related_query_name="user",
                        to="auth.permission",
                        verbose_name="user permissions",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Operator",
            fields=[],
            options={
                "proxy": True,
                "indexes": [],
                "constraints": [],
            },
            bases=("users.user",),
        ),
        migrations.AddIndex(
            model_name="user",
            index=models.Index(fields=["-created_at"], name="user_newest_first"),
        ),
        migrations.AddConstraint(
            model_name="user",
            constraint=models.UniqueConstraint(
                django.db.models.functions.text.Lower("email"),
                name="user_email_is_unique_without_regard_to_case",
                violation_error_message="Another user has this e-mail address already.",
            ),
        ),
    ]
