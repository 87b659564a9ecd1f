-- A balance is what the last transaction left, at commit (G1). Declared at the model.
CREATE CONSTRAINT TRIGGER pgtrigger_matches_last_transaction_e7352
    AFTER INSERT OR UPDATE ON public.billing_balance
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_balance();
