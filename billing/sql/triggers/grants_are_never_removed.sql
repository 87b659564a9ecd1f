-- A grant stays, also when nothing is left of it.
CREATE TRIGGER grants_are_never_removed
    BEFORE DELETE OR TRUNCATE ON public.billing_grant
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_grants();
