-- What was erased of an event is recorded by a later one, at commit (G9).
CREATE CONSTRAINT TRIGGER erasures_are_recorded
    AFTER UPDATE ON public.billing_event
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_event();
