-- What a plan cost from when is never rewritten. Declared at the model.
CREATE TRIGGER pgtrigger_append_only_559b8
    BEFORE DELETE OR UPDATE OR TRUNCATE ON public.billing_planterms
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_moments();
