-- Transactions are never updated, deleted or truncated (G3). Declared at the model.
CREATE TRIGGER pgtrigger_append_only_bbf22
    BEFORE DELETE OR UPDATE OR TRUNCATE ON public.billing_transaction
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_history();
