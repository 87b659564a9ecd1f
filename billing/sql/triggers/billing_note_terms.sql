-- Each new price of a plan is stored with its moment.
CREATE TRIGGER billing_note_terms
    AFTER UPDATE OF price, proportional_charge ON public.billing_plan
    FOR EACH ROW
    WHEN (((new.price <> old.price) OR (new.proportional_charge <> old.proportional_charge)))
    EXECUTE FUNCTION public.billing_note_terms();
