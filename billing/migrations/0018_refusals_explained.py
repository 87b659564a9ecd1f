from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0017_resume_after_activation"),
    ]

    operations = [
        migrations.AlterField(
            model_name="webhookdelivery",
            name="refusal_count",
            field=models.PositiveIntegerField(
                db_default=0,
                default=0,
                help_text="Failed attempts for which the endpoint as a whole was not to blame.",
            ),
        ),
    ]
