from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """Erases what events say about forgotten persons; posts nothing to duplicates and to them.

    Its reverse cannot bring back what was erased; the earlier `verify_ledger` names these events.
    """

    dependencies = [
        ("billing", "0035_proofs"),
        ("users", "0006_forgetting"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("admin", "0003_logentry_add_action_flag_choices"),
    ]

    operations = [
        migrations.RunSQL(
            sql=(SQL / "0036_forgetting.sql").read_text(),
            reverse_sql=(SQL / "0036_forgetting.reverse.sql").read_text(),
        ),
    ]
