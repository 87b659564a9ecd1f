-- A balance is what the last transaction left (G1).
CREATE TRIGGER balances_match_the_last_transaction
    AFTER INSERT OR UPDATE ON public.billing_balance
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_balance();
