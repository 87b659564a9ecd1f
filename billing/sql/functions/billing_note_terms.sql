-- Stores the price of a plan with the moment from which it applies: a late run charges each day
-- like a run on that day.
CREATE OR REPLACE FUNCTION public.billing_note_terms()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    INSERT INTO billing_planterms (plan_id, price, proportional_charge)
    VALUES (NEW.id, NEW.price, NEW.proportional_charge);
    RETURN NULL;
END
$function$;
