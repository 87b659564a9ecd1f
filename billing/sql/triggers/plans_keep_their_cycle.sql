-- The cycle of a plan never changes, because the paid periods depend on it.
CREATE TRIGGER plans_keep_their_cycle
    BEFORE UPDATE OF cycle ON public.billing_plan
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_refuse_other_cycle();
