-- The first price of a new plan is stored with its moment.
CREATE TRIGGER billing_note_terms_of_new_plan
    AFTER INSERT ON public.billing_plan
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_note_terms();
