-- Guard of billing_plan: the cycle never changes, because the paid periods depend on it.
CREATE OR REPLACE FUNCTION public.billing_refuse_other_cycle()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    IF NEW.cycle <> OLD.cycle
        AND EXISTS (SELECT FROM billing_subscription s WHERE s.plan_id = NEW.id)
    THEN
        RAISE EXCEPTION 'A plan in use keeps its billing cycle.'
            USING ERRCODE = 'BL002', HINT = 'Retire the plan, and add another.';
    END IF;
    RETURN NEW;
END
$function$;
