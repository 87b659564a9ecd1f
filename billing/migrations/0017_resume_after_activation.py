from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """Resumes what is suspended soon after a user is activated, not with the next run only."""

    dependencies = [
        ("billing", "0016_days_and_deliveries_by_index"),
        ("users", "0001_initial"),
    ]

    operations = [
        migrations.RunSQL(
            sql=(SQL / "0017_resume_after_activation.sql").read_text(),
            reverse_sql=(SQL / "0017_resume_after_activation.reverse.sql").read_text(),
        )
    ]
