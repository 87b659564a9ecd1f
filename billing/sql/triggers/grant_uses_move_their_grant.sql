-- A use takes from its grant what its transaction took from the bonus balance (G11).
CREATE TRIGGER grant_uses_move_their_grant
    AFTER INSERT ON public.billing_grantuse
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_use_grant();
