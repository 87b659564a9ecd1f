from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """Installs the posting function, the guards' functions, and a balance for every user."""

    dependencies = [("billing", "0001_balances_and_transactions")]

    operations = [
        migrations.RunSQL(
            sql=(SQL / "0002_ledger.sql").read_text(),
            reverse_sql=(SQL / "0002_ledger.reverse.sql").read_text(),
        ),
    ]
