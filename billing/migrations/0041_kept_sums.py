from pathlib import Path
from typing import Any

from django.db import migrations, models

SQL = Path(__file__).parent / "sql"


def _total(verbose_name: str) -> "models.DecimalField[Any, Any]":
    return models.DecimalField(
        db_default=0, decimal_places=4, default=0, max_digits=25, verbose_name=verbose_name
    )


class Migration(migrations.Migration):
    """Sums that the start page shows. A worker fills them from the first transaction on."""

    dependencies = [("billing", "0040_construction")]

    operations = [
        migrations.CreateModel(
            name="Turnover",
            fields=[
                (
                    "at",
                    models.DateTimeField(
                        help_text="The first moment, in UTC.", primary_key=True, serialize=False
                    ),
                ),
                ("transactions", models.BigIntegerField()),
                ("refills", _total("refills")),
                ("charges", _total("charges, positive")),
                ("reversals", _total("reversals")),
                ("bonus_refills", _total("bonus refills")),
                ("bonus_charges", _total("bonus charges, positive")),
                ("bonus_reversals", _total("bonus reversals")),
            ],
            options={"default_permissions": ()},
        ),
        migrations.CreateModel(
            name="UserCount",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("users", models.BigIntegerField()),
                ("active_users", models.BigIntegerField()),
            ],
            options={"default_permissions": ()},
        ),
        migrations.CreateModel(
            name="KeptSums",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "until",
                    models.DateTimeField(
                        help_text="Transactions before this moment are summed up."
                    ),
                ),
                ("real", _total("all changes of real balances")),
                ("bonus", _total("all changes of bonus balances")),
            ],
            options={
                "default_permissions": (),
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("id", 1)), name="there_is_one_row_of_kept_sums"
                    )
                ],
            },
        ),
        migrations.RunSQL(
            sql=(SQL / "0041_user_counts.sql").read_text(),
            reverse_sql=(SQL / "0041_user_counts.reverse.sql").read_text(),
        ),
    ]
