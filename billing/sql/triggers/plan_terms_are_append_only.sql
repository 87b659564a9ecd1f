-- Earlier prices of a plan are never rewritten.
CREATE TRIGGER plan_terms_are_append_only
    BEFORE DELETE OR UPDATE OR TRUNCATE ON public.billing_planterms
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_moments();
