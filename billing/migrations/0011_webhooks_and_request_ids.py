from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


def posting_function_before():
    """billing_post as 0002 has it."""
    text = (SQL / "0002_ledger.sql").read_text()
    begin = text.index("CREATE FUNCTION billing_post(")
    end = text.index("$$;", begin) + len("$$;")
    return text[begin:end].replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1)


class Migration(migrations.Migration):
    """Notes events for webhooks, and leaves request IDs out of what an idempotency key means."""

    dependencies = [
        ("billing", "0010_billing_api"),
        ("procrastinate", "0041_post_retry_failed_job"),
    ]

    operations = [
        migrations.RunSQL(
            sql=(SQL / "0011_request_ids.sql").read_text(),
            reverse_sql=posting_function_before(),
        ),
        migrations.RunSQL(
            sql=(SQL / "0011_webhooks.sql").read_text(),
            reverse_sql=(SQL / "0011_webhooks.reverse.sql").read_text(),
        ),
    ]
