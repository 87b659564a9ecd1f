-- A new password ends the sessions of the Panel API.
CREATE TRIGGER billing_end_sessions
    AFTER UPDATE OF password ON public.users_user
    FOR EACH ROW
    WHEN (((old.password)::text IS DISTINCT FROM (new.password)::text))
    EXECUTE FUNCTION public.billing_end_sessions();
