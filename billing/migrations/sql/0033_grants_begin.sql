-- Each user's present bonus becomes one grant without expiry.
ALTER TABLE billing_balance DISABLE TRIGGER balances_match_the_last_transaction;
UPDATE billing_balance SET grants_since = last_number WHERE last_number > 0;
ALTER TABLE billing_balance ENABLE TRIGGER balances_match_the_last_transaction;
INSERT INTO billing_grant (user_id, number, amount, remaining, uses)
SELECT user_id, last_number, bonus, bonus, 0 FROM billing_balance WHERE bonus > 0;
SET CONSTRAINTS ALL IMMEDIATE;
SET CONSTRAINTS ALL DEFERRED;

CREATE TRIGGER grant_uses_move_their_grant
    AFTER INSERT ON public.billing_grantuse
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_use_grant();

CREATE TRIGGER grants_match_the_transactions
    AFTER INSERT OR UPDATE ON public.billing_grant
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_grant();

CREATE TRIGGER grant_uses_are_append_only
    BEFORE DELETE OR UPDATE OR TRUNCATE ON public.billing_grantuse
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_grants();

CREATE TRIGGER grants_are_never_removed
    BEFORE DELETE OR TRUNCATE ON public.billing_grant
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_grants();
