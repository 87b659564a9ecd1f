-- Programs are told of suspensions and resumptions.
CREATE TRIGGER billing_tell_of_subscription
    AFTER UPDATE ON public.billing_subscription
    FOR EACH ROW
    WHEN ((((old.status)::text <> (new.status)::text) AND ((new.status)::text <> 'cancelled'::text)))
    EXECUTE FUNCTION public.billing_tell_of_subscription();
