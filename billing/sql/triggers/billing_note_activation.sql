-- A user who is activated or deactivated leaves the moment behind.
CREATE TRIGGER billing_note_activation
    AFTER UPDATE OF is_active ON public.users_user
    FOR EACH ROW
    WHEN ((new.is_active <> old.is_active))
    EXECUTE FUNCTION public.billing_note_activation();
