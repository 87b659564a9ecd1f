from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """The history that Django's admin kept becomes events."""

    dependencies = [
        ("billing", "0028_events"),
        ("admin", "0003_logentry_add_action_flag_choices"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        migrations.RunSQL(
            sql=(SQL / "0029_earlier_history.sql").read_text(),
            reverse_sql=migrations.RunSQL.noop,
        ),
    ]
