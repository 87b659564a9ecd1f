-- A row continues the user's row before it, at commit (G2, G9). Declared at the model.
CREATE CONSTRAINT TRIGGER pgtrigger_follows_c961d
    AFTER INSERT ON public.billing_transaction
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_transaction();
