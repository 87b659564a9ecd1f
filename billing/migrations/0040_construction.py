from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """Transactions are right by construction: a guard makes their digest, before they are written."""

    dependencies = [("billing", "0039_sound_transactions")]

    operations = [
        migrations.RemoveConstraint("transaction", "a_transaction_does_what_its_type_allows"),
        migrations.RunSQL(
            sql=(SQL / "0040_construction.sql").read_text(),
            reverse_sql=(SQL / "0040_construction.reverse.sql").read_text(),
        ),
    ]
