import sys
from pathlib import Path
from typing import Any

from django.db import migrations, models
from django.db.models import F, Func

SQL = Path(__file__).parent / "sql"


def report_twins(apps: Any, schema_editor: Any) -> None:
    """Prints which users share a mailbox. Nothing is changed about them."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT email_identity, array_agg(id ORDER BY email_twin)
            FROM users_user
            WHERE email_identity IN (SELECT email_identity FROM users_user WHERE email_twin > 0)
            GROUP BY email_identity ORDER BY min(id)
            """
        )
        shared = cursor.fetchall()
    if shared:
        sys.stdout.write(
            f"\n  {len(shared)} mailboxes have more than one user each, with the same address "
            "spelled differently. Nothing was changed about them; no further one is let in. "
            "`manage.py list_twins` lists them:\n"
        )
        for mailbox, ids in shared:
            sys.stdout.write(f"    {mailbox}: users {', '.join(map(str, ids))}\n")


class Migration(migrations.Migration):
    """One mailbox has one user. Those who share one from before stay, and are told."""

    dependencies = [
        ("users", "0003_search_text"),
    ]

    operations = [
        migrations.AddField(
            model_name="user",
            name="email_identity",
            field=models.GeneratedField(
                db_persist=True,
                expression=Func(F("email"), function="users_email_identity"),
                output_field=models.TextField(db_collation="C"),
            ),
        ),
        migrations.AddField(
            model_name="user",
            name="email_twin",
            field=models.SmallIntegerField(db_default=0, default=0, editable=False),
        ),
        migrations.RunSQL(
            sql=(SQL / "0004_one_mailbox.sql").read_text(),
            reverse_sql=(SQL / "0004_one_mailbox.reverse.sql").read_text(),
        ),
        migrations.AddConstraint(
            model_name="user",
            constraint=models.UniqueConstraint(
                fields=("email_identity", "email_twin"),
                name="user_email_is_one_mailbox",
                violation_error_message="Another user has this e-mail address already.",
            ),
        ),
        migrations.AddIndex(
            model_name="user",
            index=models.Index(
                fields=["email_identity"],
                condition=models.Q(email_twin__gt=0),
                name="user_twins_of_old",
            ),
        ),
        migrations.RunPython(report_twins, migrations.RunPython.noop),
        migrations.AlterField(
            model_name="user",
            name="email",
            field=models.EmailField(
                help_text="The login. Unique, however it is spelled.",
                max_length=254,
                verbose_name="e-mail",
            ),
        ),
    ]
