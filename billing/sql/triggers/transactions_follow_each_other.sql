-- A row continues the user's row before it, at commit (G2, G9).
CREATE CONSTRAINT TRIGGER transactions_follow_each_other
    AFTER INSERT ON public.billing_transaction
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_transaction();
