-- Uses of grants are never updated, deleted or truncated (G3).
CREATE TRIGGER grant_uses_are_append_only
    BEFORE DELETE OR UPDATE OR TRUNCATE ON public.billing_grantuse
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_grants();
