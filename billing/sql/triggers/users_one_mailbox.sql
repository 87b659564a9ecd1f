-- One mailbox is one user, however it is spelled (users/migrations/sql/0004_one_mailbox.sql).
CREATE TRIGGER users_one_mailbox
    BEFORE INSERT OR UPDATE OF email, email_twin ON public.users_user
    FOR EACH ROW
    EXECUTE FUNCTION public.users_one_mailbox();
