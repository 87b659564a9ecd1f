import pgtrigger.compiler
import pgtrigger.migrations
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
        pgtrigger.migrations.AddTrigger(
            model_name="balance",
            trigger=pgtrigger.compiler.Trigger(
                name="never_removed",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    execute="billing_refuse_balance_removal()",
                    func="RETURN NULL;",
                    hash="bd1a64887ec3b6ee2970415277eb1fe96e7ee9bf",
                    level="STATEMENT",
                    operation="DELETE OR TRUNCATE",
                    pgid="pgtrigger_never_removed_31c20",
                    table="billing_balance",
                    when="BEFORE",
                ),
            ),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name="balance",
            trigger=pgtrigger.compiler.Trigger(
                name="matches_last_transaction",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    constraint="CONSTRAINT",
                    execute="billing_check_balance()",
                    func="RETURN NULL;",
                    hash="50eb36fbc9ee5df7577bf4cab4ee61013bc1e45f",
                    operation="INSERT OR UPDATE",
                    pgid="pgtrigger_matches_last_transaction_e7352",
                    table="billing_balance",
                    timing="DEFERRABLE INITIALLY DEFERRED",
                    when="AFTER",
                ),
            ),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name="transaction",
            trigger=pgtrigger.compiler.Trigger(
                name="append_only",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    execute="billing_refuse_rewriting_history()",
                    func="RETURN NULL;",
                    hash="081ef2b3a8ad5f95e9918d78ebb0d1cc85d6ecea",
                    level="STATEMENT",
                    operation="UPDATE OR DELETE OR TRUNCATE",
                    pgid="pgtrigger_append_only_bbf22",
                    table="billing_transaction",
                    when="BEFORE",
                ),
            ),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name="transaction",
            trigger=pgtrigger.compiler.Trigger(
                name="follows",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    constraint="CONSTRAINT",
                    execute="billing_check_transaction()",
                    func="RETURN NULL;",
                    hash="5d6952f77c598bf38b239ca3f71411d16eecea40",
                    operation="INSERT",
                    pgid="pgtrigger_follows_c961d",
                    table="billing_transaction",
                    timing="DEFERRABLE INITIALLY DEFERRED",
                    when="AFTER",
                ),
            ),
        ),
    ]
