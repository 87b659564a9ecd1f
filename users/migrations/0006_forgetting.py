import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    """Users can be duplicates of others, and can be forgotten."""

    dependencies = [
        ("users", "0005_plain_help_texts"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="user",
            options={
                "permissions": [
                    ("merge_user", "Can merge user"),
                    ("forget_user", "Can forget user"),
                ]
            },
        ),
        migrations.AddField(
            model_name="user",
            name="duplicate_of",
            field=models.ForeignKey(
                blank=True,
                db_index=False,
                editable=False,
                help_text="The same person's other account, to which everything was moved.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="duplicates",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="user",
            name="forgotten_at",
            field=models.DateTimeField(
                blank=True,
                editable=False,
                help_text="When the personal data was erased.",
                null=True,
                verbose_name="forgotten",
            ),
        ),
        # Checked at once: PostgreSQL does not alter a table while deferred checks of new users are
        # pending, and a large import drops and restores foreign keys to it.
        migrations.RunSQL(
            "ALTER TABLE users_user ALTER CONSTRAINT "
            "users_user_duplicate_of_id_6a8514e5_fk_users_user_id NOT DEFERRABLE",
            migrations.RunSQL.noop,
        ),
        migrations.AddIndex(
            model_name="user",
            index=models.Index(
                condition=models.Q(("duplicate_of__isnull", False)),
                fields=["duplicate_of"],
                name="duplicates_of_a_user",
            ),
        ),
        migrations.AddConstraint(
            model_name="user",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("is_active", False),
                    models.Q(("duplicate_of__isnull", True), ("forgotten_at__isnull", True)),
                    _connector="OR",
                ),
                name="duplicates_and_forgotten_users_stay_deactivated",
                violation_error_message="A duplicate or forgotten user stays deactivated.",
            ),
        ),
        migrations.AddConstraint(
            model_name="user",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("duplicate_of__isnull", True),
                    models.Q(("duplicate_of", models.F("id")), _negated=True),
                    _connector="OR",
                ),
                name="nobody_is_a_duplicate_of_themselves",
            ),
        ),
    ]
