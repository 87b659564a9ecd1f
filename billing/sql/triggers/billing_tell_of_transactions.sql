-- Programs are told of transactions and low balances.
CREATE TRIGGER billing_tell_of_transactions
    AFTER INSERT ON public.billing_transaction
    REFERENCING NEW TABLE AS posted
    FOR EACH STATEMENT
    EXECUTE FUNCTION public.billing_tell_of_transactions();
