from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """Ends the API sessions of an operator who gets another password."""

    dependencies = [("billing", "0014_webhook_sending"), ("users", "0001_initial")]

    operations = [
        migrations.RunSQL(
            sql=(SQL / "0015_password_ends_sessions.sql").read_text(),
            reverse_sql=(SQL / "0015_password_ends_sessions.reverse.sql").read_text(),
        )
    ]
