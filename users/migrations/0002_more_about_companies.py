from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("users", "0001_initial"),
    ]

    operations = [
        migrations.AddField(
            model_name="user",
            name="iec",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="Interbranch enterprise code.",
                max_length=255,
                verbose_name="IEC",
            ),
        ),
        migrations.AddField(
            model_name="user",
            name="okpo_code",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="Of the classifier of enterprises and organizations.",
                max_length=10,
                verbose_name="OKPO code",
            ),
        ),
        migrations.AddField(
            model_name="user",
            name="registered_city",
            field=models.CharField(blank=True, db_default="", default="", max_length=100),
        ),
        migrations.AddField(
            model_name="user",
            name="registered_country",
            field=models.CharField(blank=True, db_default="", default="", max_length=100),
        ),
        migrations.AddField(
            model_name="user",
            name="registered_postal_code",
            field=models.CharField(blank=True, db_default="", default="", max_length=20),
        ),
        migrations.AddField(
            model_name="user",
            name="registered_region",
            field=models.CharField(blank=True, db_default="", default="", max_length=100),
        ),
        migrations.AddField(
            model_name="user",
            name="registered_street_address",
            field=models.CharField(blank=True, db_default="", default="", max_length=200),
        ),
        migrations.AddField(
            model_name="user",
            name="state_reg_num",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                max_length=15,
                verbose_name="state registration number",
            ),
        ),
        migrations.AlterField(
            model_name="user",
            name="legal_name",
            field=models.CharField(
                blank=True, help_text="The company's registered name.", max_length=255
            ),
        ),
        migrations.AlterField(
            model_name="user",
            name="tin",
            field=models.CharField(
                blank=True,
                help_text="Taxpayer identification number.",
                max_length=255,
                verbose_name="TIN",
            ),
        ),
    ]
