-- A grant is what a transaction gave, less its uses (G11).
CREATE TRIGGER grants_match_the_transactions
    AFTER INSERT OR UPDATE ON public.billing_grant
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_grant();
