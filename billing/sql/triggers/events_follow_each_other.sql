-- An event continues its subject's event before it, at commit (G9).
CREATE CONSTRAINT TRIGGER events_follow_each_other
    AFTER INSERT ON public.billing_event
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_event();
