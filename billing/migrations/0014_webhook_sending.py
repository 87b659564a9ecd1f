"""What sending webhooks needs: no keys that postings would wait for, and why an endpoint is paused."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0013_deliveries_given_up"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name="webhookdelivery",
            name="deliveries_to_send",
        ),
        migrations.AddField(
            model_name="webhookdelivery",
            name="refusal_count",
            field=models.PositiveIntegerField(
                db_default=0,
                default=0,
                help_text="Failed attempts while the endpoint took others, since it last was out of reach.",
            ),
        ),
        migrations.AddField(
            model_name="webhookendpoint",
            name="failing_since",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AlterField(
            model_name="webhookdelivery",
            name="endpoint",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="deliveries",
                to="billing.webhookendpoint",
            ),
        ),
        migrations.AlterField(
            model_name="webhookdelivery",
            name="event",
            field=models.ForeignKey(
                db_constraint=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="deliveries",
                to="billing.webhookevent",
            ),
        ),
        migrations.AlterField(
            model_name="webhookendpoint",
            name="failures",
            field=models.PositiveIntegerField(
                default=0, editable=False, help_text="How often in a row nothing got through."
            ),
        ),
        migrations.AlterField(
            model_name="webhookendpoint",
            name="paused_until",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AlterField(
            model_name="webhookevent",
            name="user",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddIndex(
            model_name="webhookdelivery",
            index=models.Index(fields=["endpoint", "id"], name="deliveries_of_an_endpoint"),
        ),
    ]
