from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """The guards of the ledger get names that say what they keep."""

    dependencies = [("billing", "0030_group_defaults")]

    operations = [
        migrations.RunSQL(
            sql=(SQL / "0031_guards.sql").read_text(),
            reverse_sql=(SQL / "0031_guards.reverse.sql").read_text(),
        ),
    ]
