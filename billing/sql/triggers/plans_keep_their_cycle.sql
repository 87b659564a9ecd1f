-- What is paid was reckoned by the plan's cycle.
CREATE TRIGGER plans_keep_their_cycle
    BEFORE UPDATE OF cycle ON public.billing_plan
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_refuse_other_cycle();
