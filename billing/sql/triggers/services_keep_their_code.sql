-- Transactions know a service by its code.
CREATE TRIGGER services_keep_their_code
    BEFORE UPDATE OF code ON public.billing_service
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_refuse_other_code();
