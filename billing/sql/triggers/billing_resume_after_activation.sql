-- An activated user's subscriptions resume soon.
CREATE TRIGGER billing_resume_after_activation
    AFTER UPDATE OF is_active ON public.users_user
    FOR EACH ROW
    WHEN ((new.is_active AND (NOT old.is_active)))
    EXECUTE FUNCTION public.billing_resume_after_activation();
