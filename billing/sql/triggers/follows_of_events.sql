-- An event continues its subject's event before it, at commit (G9). Declared at the model.
CREATE CONSTRAINT TRIGGER pgtrigger_follows_e2756
    AFTER INSERT ON public.billing_event
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_event();
