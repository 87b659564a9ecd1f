from pathlib import Path

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """Room for the moments by which a late charging run tells what was so when.

    Their clock comes first, because columns take their default from it.
    """

    dependencies = [
        ("billing", "0020_as_installed_anew"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RunSQL(
            sql=(SQL / "0021_clock.sql").read_text(),
            reverse_sql=(SQL / "0021_clock.reverse.sql").read_text(),
        ),
        migrations.CreateModel(
            name="Activation",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("is_active", models.BooleanField(help_text="What the user was from then on.")),
                (
                    "at",
                    models.DateTimeField(
                        db_default=models.Func(
                            function="billing_clock", output_field=models.DateTimeField()
                        )
                    ),
                ),
            ],
            options={
                "ordering": ["at", "id"],
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="PlanTerms",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("price", models.DecimalField(decimal_places=4, max_digits=19)),
                ("proportional_charge", models.BooleanField()),
                (
                    "at",
                    models.DateTimeField(
                        db_default=models.Func(
                            function="billing_clock", output_field=models.DateTimeField()
                        )
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "plan terms",
                "ordering": ["at", "id"],
                "default_permissions": (),
            },
        ),
        migrations.AddField(
            model_name="activeday",
            name="reported_at",
            field=models.DateTimeField(
                db_default=models.Func(
                    function="billing_clock", output_field=models.DateTimeField()
                ),
                editable=False,
                help_text="When it was reported, by the database's clock.",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="created_at",
            field=models.DateTimeField(
                db_default=models.Func(
                    function="billing_clock", output_field=models.DateTimeField()
                ),
                editable=False,
                help_text="When it was added, by the database's clock.",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="suspended_at",
            field=models.DateTimeField(
                blank=True,
                editable=False,
                help_text="The moment from which it could not be used, by the database's clock. It may be later than the day that it is suspended from, if the run was late.",
                null=True,
            ),
        ),
        migrations.AddField(
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
                help_text="Why it is suspended; empty: it is not.",
                max_length=20,
            ),
        ),
        migrations.AddField(
            model_name="activation",
            name="user",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="planterms",
            name="plan",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="+",
                to="billing.plan",
            ),
        ),
        migrations.AddIndex(
            model_name="activation",
            index=models.Index(fields=["user", "at"], name="activations_of_a_user"),
        ),
        migrations.RunSQL(
            "CREATE TRIGGER pgtrigger_append_only_0046d "
            "BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_activation "
            "FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_rewriting_moments()",
            "DROP TRIGGER pgtrigger_append_only_0046d ON billing_activation",
        ),
        migrations.AddIndex(
            model_name="planterms",
            index=models.Index(fields=["plan", "at"], name="terms_of_a_plan"),
        ),
        migrations.RunSQL(
            "CREATE TRIGGER pgtrigger_append_only_559b8 "
            "BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_planterms "
            "FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_rewriting_moments()",
            "DROP TRIGGER pgtrigger_append_only_559b8 ON billing_planterms",
        ),
    ]
