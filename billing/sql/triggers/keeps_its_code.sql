-- Transactions know a service by its code. Declared at the model.
CREATE TRIGGER pgtrigger_keeps_its_code_5fd77
    BEFORE UPDATE OF code ON public.billing_service
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_refuse_other_code();
