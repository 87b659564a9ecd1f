-- Events are never rewritten (G3). Declared at the model.
CREATE TRIGGER pgtrigger_append_only_b91c7
    BEFORE DELETE OR UPDATE OR TRUNCATE ON public.billing_event
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_refuse_rewriting_events();
