-- When a user was active is never rewritten. Declared at the model.
CREATE TRIGGER pgtrigger_append_only_0046d
    BEFORE DELETE OR UPDATE OR TRUNCATE ON public.billing_activation
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_moments();
