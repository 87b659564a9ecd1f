-- The code of a service never changes, because transactions refer to it.
CREATE TRIGGER services_keep_their_code
    BEFORE UPDATE OF code ON public.billing_service
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_refuse_other_code();
