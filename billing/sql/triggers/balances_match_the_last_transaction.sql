-- A balance is what the last transaction left, at commit (G1).
CREATE CONSTRAINT TRIGGER balances_match_the_last_transaction
    AFTER INSERT OR UPDATE ON public.billing_balance
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_balance();
