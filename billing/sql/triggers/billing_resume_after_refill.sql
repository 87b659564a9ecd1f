-- Subscriptions that a refill can pay for resume soon.
CREATE TRIGGER billing_resume_after_refill
    AFTER UPDATE ON public.billing_balance
    FOR EACH ROW
    WHEN ((new."real" > old."real"))
    EXECUTE FUNCTION public.billing_resume_after_refill();
