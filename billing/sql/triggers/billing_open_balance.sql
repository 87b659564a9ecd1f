-- A user created with raw SQL has a balance too.
CREATE TRIGGER billing_open_balance
    AFTER INSERT ON public.users_user
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_open_balance();
