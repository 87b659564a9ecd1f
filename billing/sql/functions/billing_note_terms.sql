-- What a plan cost from when: a late run charges each day as a run on that day would have.
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
