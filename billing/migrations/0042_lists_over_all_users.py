from django.contrib.postgres.indexes import BrinIndex
from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    """Finds gifts, expired bonuses, and the transactions of an operator, a batch or a device among all users' ones.

    Nobody can post while the indexes are built: some seconds for a million transactions.
    """

    dependencies = [("billing", "0041_kept_sums")]

    operations = [
        migrations.RemoveIndex("transaction", "transaction_by_batch"),
        migrations.AddIndex(
            model_name="transaction",
            index=models.Index(
                condition=Q(batch__isnull=False),
                fields=["batch", "created_at"],
                name="transaction_by_batch",
            ),
        ),
        migrations.AddIndex(
            model_name="transaction",
            index=models.Index(
                condition=Q(amount=0),
                fields=["type", "created_at"],
                name="gifts_and_expiries",
            ),
        ),
        migrations.AddIndex(
            model_name="transaction",
            index=models.Index(
                condition=Q(actor__isnull=False),
                fields=["actor", "created_at"],
                name="transaction_by_actor",
            ),
        ),
        migrations.AddIndex(
            model_name="transaction",
            index=BrinIndex(
                autosummarize=True,
                fields=["device"],
                name="transaction_devices",
                opclasses=["text_bloom_ops"],
                pages_per_range=32,
            ),
        ),
    ]
