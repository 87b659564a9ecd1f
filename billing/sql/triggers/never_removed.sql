-- A user never loses the balance row. Declared at the model.
CREATE TRIGGER pgtrigger_never_removed_31c20
    BEFORE DELETE OR TRUNCATE ON public.billing_balance
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_balance_removal();
