-- A transaction moves its balance, and the grants that it takes from or gives, at commit (G1, G11).
CREATE CONSTRAINT TRIGGER transactions_move_their_balance
    AFTER INSERT ON public.billing_transaction
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_transaction();
