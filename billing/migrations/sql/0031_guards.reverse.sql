-- The guards under their names from before.

DROP TRIGGER activations_are_append_only ON billing_activation;
CREATE TRIGGER pgtrigger_append_only_0046d
    BEFORE DELETE OR UPDATE OR TRUNCATE ON public.billing_activation
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_moments();

DROP TRIGGER balances_are_never_removed ON billing_balance;
CREATE TRIGGER pgtrigger_never_removed_31c20
    BEFORE DELETE OR TRUNCATE ON public.billing_balance
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_balance_removal();

DROP TRIGGER balances_match_the_last_transaction ON billing_balance;
CREATE CONSTRAINT TRIGGER pgtrigger_matches_last_transaction_e7352
    AFTER INSERT OR UPDATE ON public.billing_balance
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_balance();

DROP TRIGGER events_are_append_only ON billing_event;
CREATE TRIGGER pgtrigger_append_only_b91c7
    BEFORE DELETE OR UPDATE OR TRUNCATE ON public.billing_event
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_events();

DROP TRIGGER events_follow_each_other ON billing_event;
CREATE CONSTRAINT TRIGGER pgtrigger_follows_e2756
    AFTER INSERT ON public.billing_event
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_event();

DROP TRIGGER plans_keep_their_cycle ON billing_plan;
CREATE TRIGGER pgtrigger_keeps_its_cycle_57250
    BEFORE UPDATE OF cycle ON public.billing_plan
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_refuse_other_cycle();

DROP TRIGGER plan_terms_are_append_only ON billing_planterms;
CREATE TRIGGER pgtrigger_append_only_559b8
    BEFORE DELETE OR UPDATE OR TRUNCATE ON public.billing_planterms
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_moments();

DROP TRIGGER services_keep_their_code ON billing_service;
CREATE TRIGGER pgtrigger_keeps_its_code_5fd77
    BEFORE UPDATE OF code ON public.billing_service
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_refuse_other_code();

DROP TRIGGER transactions_are_append_only ON billing_transaction;
CREATE TRIGGER pgtrigger_append_only_bbf22
    BEFORE DELETE OR UPDATE OR TRUNCATE ON public.billing_transaction
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_history();

DROP TRIGGER transactions_follow_each_other ON billing_transaction;
CREATE CONSTRAINT TRIGGER pgtrigger_follows_c961d
    AFTER INSERT ON public.billing_transaction
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_transaction();
