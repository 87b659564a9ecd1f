from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """Queues a job with each refill of a user who has suspended subscriptions."""

    dependencies = [
        ("billing", "0006_more_for_groups"),
        ("procrastinate", "0041_post_retry_failed_job"),
    ]

    operations = [
        migrations.RunSQL(
            sql=(SQL / "0007_resume.sql").read_text(),
            reverse_sql=(SQL / "0007_resume.reverse.sql").read_text(),
        ),
    ]
