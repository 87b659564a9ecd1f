-- Guards get names that say what they keep, and lose the functions that nothing called.

DROP TRIGGER pgtrigger_append_only_0046d ON billing_activation;
CREATE TRIGGER activations_are_append_only
    BEFORE DELETE OR UPDATE OR TRUNCATE ON public.billing_activation
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_moments();
DROP FUNCTION IF EXISTS pgtrigger_append_only_0046d();

DROP TRIGGER pgtrigger_never_removed_31c20 ON billing_balance;
CREATE TRIGGER balances_are_never_removed
    BEFORE DELETE OR TRUNCATE ON public.billing_balance
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_balance_removal();
DROP FUNCTION IF EXISTS pgtrigger_never_removed_31c20();

DROP TRIGGER pgtrigger_matches_last_transaction_e7352 ON billing_balance;
CREATE CONSTRAINT TRIGGER balances_match_the_last_transaction
    AFTER INSERT OR UPDATE ON public.billing_balance
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_balance();
DROP FUNCTION IF EXISTS pgtrigger_matches_last_transaction_e7352();

DROP TRIGGER pgtrigger_append_only_b91c7 ON billing_event;
CREATE TRIGGER events_are_append_only
    BEFORE DELETE OR UPDATE OR TRUNCATE ON public.billing_event
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_events();
DROP FUNCTION IF EXISTS pgtrigger_append_only_b91c7();

DROP TRIGGER pgtrigger_follows_e2756 ON billing_event;
CREATE CONSTRAINT TRIGGER events_follow_each_other
    AFTER INSERT ON public.billing_event
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_event();
DROP FUNCTION IF EXISTS pgtrigger_follows_e2756();

DROP TRIGGER pgtrigger_keeps_its_cycle_57250 ON billing_plan;
CREATE TRIGGER plans_keep_their_cycle
    BEFORE UPDATE OF cycle ON public.billing_plan
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_refuse_other_cycle();
DROP FUNCTION IF EXISTS pgtrigger_keeps_its_cycle_57250();

DROP TRIGGER pgtrigger_append_only_559b8 ON billing_planterms;
CREATE TRIGGER plan_terms_are_append_only
    BEFORE DELETE OR UPDATE OR TRUNCATE ON public.billing_planterms
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_moments();
DROP FUNCTION IF EXISTS pgtrigger_append_only_559b8();

DROP TRIGGER pgtrigger_keeps_its_code_5fd77 ON billing_service;
CREATE TRIGGER services_keep_their_code
    BEFORE UPDATE OF code ON public.billing_service
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_refuse_other_code();
DROP FUNCTION IF EXISTS pgtrigger_keeps_its_code_5fd77();

DROP TRIGGER pgtrigger_append_only_bbf22 ON billing_transaction;
CREATE TRIGGER transactions_are_append_only
    BEFORE DELETE OR UPDATE OR TRUNCATE ON public.billing_transaction
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_history();
DROP FUNCTION IF EXISTS pgtrigger_append_only_bbf22();

DROP TRIGGER pgtrigger_follows_c961d ON billing_transaction;
CREATE CONSTRAINT TRIGGER transactions_follow_each_other
    AFTER INSERT ON public.billing_transaction
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_transaction();
DROP FUNCTION IF EXISTS pgtrigger_follows_c961d();
