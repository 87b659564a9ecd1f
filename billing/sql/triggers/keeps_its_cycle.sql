-- What is paid was reckoned by the plan's cycle. Declared at the model.
CREATE TRIGGER pgtrigger_keeps_its_cycle_57250
    BEFORE UPDATE OF cycle ON public.billing_plan
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_refuse_other_cycle();
