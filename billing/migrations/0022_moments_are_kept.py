from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """Triggers note when users are activated and plans change; what is there already is filled in."""

    dependencies = [("billing", "0021_moments"), ("users", "0001_initial")]

    operations = [
        migrations.RunSQL(
            sql=(SQL / "0022_moments.sql").read_text(),
            reverse_sql=(SQL / "0022_moments.reverse.sql").read_text(),
        ),
    ]
