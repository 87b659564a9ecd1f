from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """Brings installations that applied an earlier text of 0005 to what a new one has."""

    dependencies = [("billing", "0019_owners_rights")]

    operations = [
        migrations.RunSQL(
            sql=(SQL / "0020_as_installed_anew.sql").read_text(),
            reverse_sql=migrations.RunSQL.noop,  # nobody is to have the weaker text back
        ),
    ]
