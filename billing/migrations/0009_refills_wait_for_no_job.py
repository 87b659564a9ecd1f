from django.db import migrations


class Migration(migrations.Migration):
    """A refill goes on without a job where somebody has the table of jobs for longer."""

    dependencies = [("billing", "0008_known_cycles_and_statuses")]

    operations = [
        migrations.RunSQL(
            sql="ALTER FUNCTION billing_resume_after_refill() SET lock_timeout = '250ms'",
            reverse_sql="ALTER FUNCTION billing_resume_after_refill() RESET lock_timeout",
        ),
    ]
