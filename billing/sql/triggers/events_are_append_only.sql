-- Events are never removed (G3).
CREATE TRIGGER events_are_append_only
    BEFORE DELETE OR TRUNCATE ON public.billing_event
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_events();
