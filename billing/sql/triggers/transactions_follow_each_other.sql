-- A row continues the user's row before it, and gets its digest (G2, G9).
CREATE TRIGGER transactions_follow_each_other
    BEFORE INSERT ON public.billing_transaction
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_continue_history();
