-- Events are never rewritten (G3), except that what they say about a forgotten person is erased.
CREATE TRIGGER events_are_only_erased
    BEFORE UPDATE ON public.billing_event
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_refuse_rewriting_events();
