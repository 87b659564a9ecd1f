-- Transactions are never updated, deleted or truncated (G3).
CREATE TRIGGER transactions_are_append_only
    BEFORE DELETE OR UPDATE OR TRUNCATE ON public.billing_transaction
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_history();
