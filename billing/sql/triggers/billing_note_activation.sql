-- The moment of each activation and deactivation is stored.
CREATE TRIGGER billing_note_activation
    AFTER UPDATE OF is_active ON public.users_user
    FOR EACH ROW
    WHEN ((new.is_active <> old.is_active))
    EXECUTE FUNCTION public.billing_note_activation();
