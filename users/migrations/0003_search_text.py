from pathlib import Path

from django.contrib.postgres.indexes import GinIndex
from django.db import migrations, models
from django.db.models import F, Func

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """Folds what users are found by into one text, whenever it is written, and indexes its parts.

    Rewrites the table of users and holds it meanwhile: seconds for some thousands of them, minutes
    for a million.
    """

    dependencies = [
        ("users", "0002_more_about_companies"),
    ]

    operations = [
        migrations.RunSQL(
            sql=(SQL / "0003_texts.sql").read_text(),
            reverse_sql=(SQL / "0003_texts.reverse.sql").read_text(),
        ),
        migrations.AddField(
            model_name="user",
            name="search_text",
            field=models.GeneratedField(
                db_persist=True,
                expression=Func(
                    "email",
                    "phone",
                    "tin",
                    "iec",
                    "state_reg_num",
                    "okpo_code",
                    "postal_code",
                    "registered_postal_code",
                    "first_name",
                    "middle_name",
                    "last_name",
                    "legal_name",
                    "country",
                    "region",
                    "city",
                    "street_address",
                    "registered_country",
                    "registered_region",
                    "registered_city",
                    "registered_street_address",
                    function="users_search_text",
                ),
                output_field=models.TextField(db_collation="C"),
            ),
        ),
        migrations.AddIndex(
            model_name="user",
            index=GinIndex(
                Func(F("search_text"), function="users_trigrams"),
                name="user_found_by_any_part",
            ),
        ),
    ]
