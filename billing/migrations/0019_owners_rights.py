from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """Posts with the rights of the tables' owner; compiles nothing; knows a clock that is behind."""

    dependencies = [
        ("billing", "0018_refusals_explained"),
        ("procrastinate", "0041_post_retry_failed_job"),
    ]

    operations = [
        migrations.RunSQL(
            sql=(SQL / "0019_owners_rights.sql").read_text(),
            reverse_sql=(SQL / "0019_owners_rights.reverse.sql").read_text(),
        ),
    ]
