-- A user never loses the balance row.
CREATE TRIGGER balances_are_never_removed
    BEFORE DELETE OR TRUNCATE ON public.billing_balance
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_balance_removal();
