import django.core.validators
from django.db import migrations, models

import billing.models.plans


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0023_reasons_of_suspensions"),
    ]

    operations = [
        migrations.AlterField(
            model_name="apikey",
            name="name",
            field=models.CharField(
                help_text="What uses it, like Payment gateway. For people only.",
                max_length=60,
                validators=[billing.models.plans.validate_readable],
            ),
        ),
        migrations.AlterField(
            model_name="standarddescription",
            name="text",
            field=models.CharField(
                max_length=200,
                unique=True,
                validators=[
                    django.core.validators.MinLengthValidator(5),
                    billing.models.plans.validate_readable,
                ],
            ),
        ),
        migrations.AlterField(
            model_name="webhookendpoint",
            name="name",
            field=models.CharField(
                help_text="Whose it is, like CRM. For people only.",
                max_length=60,
                validators=[billing.models.plans.validate_readable],
            ),
        ),
    ]
