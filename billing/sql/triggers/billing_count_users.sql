-- The start page says how many users there are without counting them.
CREATE TRIGGER billing_count_users
    AFTER INSERT OR DELETE OR UPDATE OF is_active, is_staff ON public.users_user
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_count_users();
