import django.db.models.functions.text
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("users", "0004_one_mailbox"),
    ]

    operations = [
        migrations.AlterField(
            model_name="user",
            name="comment",
            field=models.TextField(blank=True, help_text="Shown to operators only."),
        ),
        migrations.AlterField(
            model_name="user",
            name="email",
            field=models.EmailField(
                help_text="The login. It must be unique in all spellings.",
                max_length=254,
                verbose_name="e-mail",
            ),
        ),
        migrations.AlterField(
            model_name="user",
            name="is_active",
            field=models.BooleanField(
                default=True,
                help_text="Clear this instead of deleting the user: money history is kept permanently.",
                verbose_name="active",
            ),
        ),
        migrations.AlterField(
            model_name="user",
            name="is_staff",
            field=models.BooleanField(
                default=False,
                help_text="An operator of this panel, within the operator's permissions.",
                verbose_name="operator",
            ),
        ),
        migrations.AlterField(
            model_name="user",
            name="okpo_code",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="The code in the classifier of enterprises and organizations.",
                max_length=10,
                verbose_name="OKPO code",
            ),
        ),
        migrations.AlterConstraint(
            model_name="user",
            name="user_email_is_unique_without_regard_to_case",
            constraint=models.UniqueConstraint(
                django.db.models.functions.text.Lower("email"),
                name="user_email_is_unique_without_regard_to_case",
                violation_error_message="Another user has this e-mail address.",
            ),
        ),
        migrations.AlterConstraint(
            model_name="user",
            name="user_email_is_one_mailbox",
            constraint=models.UniqueConstraint(
                fields=("email_identity", "email_twin"),
                name="user_email_is_one_mailbox",
                violation_error_message="Another user has this e-mail address.",
            ),
        ),
    ]
