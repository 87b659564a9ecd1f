from django.db import migrations, models


class Migration(migrations.Migration):
    """Arms what calls the functions: the constraint by type, and billing/models/guards.py."""

    dependencies = [("billing", "0002_ledger_functions")]

    operations = [
        migrations.AddConstraint(
            model_name="transaction",
            constraint=models.CheckConstraint(
                condition=models.Func(
                    models.F("type"),
                    models.F("subtype"),
                    models.F("channel"),
                    models.F("amount"),
                    models.F("bonus_amount"),
                    models.F("new_bonus"),
                    models.F("reverses"),
                    function="billing_type_allows",
                    output_field=models.BooleanField(),
                ),
                name="a_transaction_does_what_its_type_allows",
                violation_error_message="Subscriptions never touch the bonus, services take it "
                "first, bonus refills add to it alone, and only reversals name what they reverse.",
            ),
        ),
        migrations.RunSQL(
            "CREATE TRIGGER pgtrigger_never_removed_31c20 "
            "BEFORE DELETE OR TRUNCATE ON billing_balance "
            "FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_balance_removal()",
            "DROP TRIGGER pgtrigger_never_removed_31c20 ON billing_balance",
        ),
        migrations.RunSQL(
            "CREATE CONSTRAINT TRIGGER pgtrigger_matches_last_transaction_e7352 "
            "AFTER INSERT OR UPDATE ON billing_balance DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION billing_check_balance()",
            "DROP TRIGGER pgtrigger_matches_last_transaction_e7352 ON billing_balance",
        ),
        migrations.RunSQL(
            "CREATE TRIGGER pgtrigger_append_only_bbf22 "
            "BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_transaction "
            "FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_rewriting_history()",
            "DROP TRIGGER pgtrigger_append_only_bbf22 ON billing_transaction",
        ),
        migrations.RunSQL(
            "CREATE CONSTRAINT TRIGGER pgtrigger_follows_c961d "
            "AFTER INSERT ON billing_transaction DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION billing_check_transaction()",
            "DROP TRIGGER pgtrigger_follows_c961d ON billing_transaction",
        ),
    ]
