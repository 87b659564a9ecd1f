-- The moments of activation are never rewritten.
CREATE TRIGGER activations_are_append_only
    BEFORE DELETE OR UPDATE OR TRUNCATE ON public.billing_activation
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_moments();
