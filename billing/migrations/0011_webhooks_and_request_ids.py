from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """Notes events for webhooks, and leaves request IDs out of what an idempotency key means."""

    dependencies = [
        ("billing", "0010_billing_api"),
        ("procrastinate", "0041_post_retry_failed_job"),
    ]

    operations = [
        migrations.RunSQL(
            sql=(SQL / f"0011_{name}.sql").read_text(),
            reverse_sql=(SQL / f"0011_{name}.reverse.sql").read_text(),
        )
        for name in ("request_ids", "webhooks")
    ]
