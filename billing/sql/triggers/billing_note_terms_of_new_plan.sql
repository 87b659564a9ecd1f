-- A new plan leaves the moment behind, with its first price.
CREATE TRIGGER billing_note_terms_of_new_plan
    AFTER INSERT ON public.billing_plan
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_note_terms();
