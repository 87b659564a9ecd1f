from pathlib import Path

from django.db import migrations, models

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """The guard checks what constraints did, which PostgreSQL parses for each statement."""

    dependencies = [("billing", "0038_vouchers")]

    operations = [
        migrations.RemoveConstraint("transaction", "a_transaction_does_what_its_type_allows"),
        migrations.RunSQL(
            sql=(SQL / "0039_sound_transactions.sql").read_text(),
            reverse_sql=(SQL / "0039_sound_transactions.reverse.sql").read_text(),
        ),
        migrations.AddConstraint(
            "transaction",
            models.CheckConstraint(
                condition=models.Func(
                    models.F("type"),
                    models.F("subtype"),
                    models.F("channel"),
                    models.F("amount"),
                    models.F("bonus_amount"),
                    models.F("new_balance"),
                    models.F("new_bonus"),
                    models.F("reverses"),
                    function="billing_type_allows",
                    output_field=models.BooleanField(),
                ),
                name="a_transaction_does_what_its_type_allows",
                violation_error_message="A balance cannot be negative. Subscriptions never touch the bonus balance, services take it first, gifts change only the bonus balance, and only reversals name the transaction that they reverse.",
            ),
        ),
        migrations.RemoveConstraint("transaction", "transaction_numbers_start_at_one"),
        migrations.RemoveConstraint("transaction", "old_balance_plus_amount_is_new_balance"),
        migrations.RemoveConstraint("transaction", "new_balances_are_never_negative"),
        migrations.RemoveConstraint("transaction", "a_transaction_changes_something"),
        migrations.RemoveConstraint("transaction", "a_description_has_5_to_200_characters"),
        migrations.RemoveConstraint("balance", "balances_are_never_negative"),
        migrations.RemoveConstraint("grant", "a_grant_has_between_nothing_and_all_of_it_left"),
        migrations.RemoveConstraint("grantuse", "a_use_moves_something"),
    ]
