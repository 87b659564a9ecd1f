-- Guard of billing_service: the code never changes, because transactions refer to it.
CREATE OR REPLACE FUNCTION public.billing_refuse_other_code()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    IF NEW.code <> OLD.code THEN
        RAISE EXCEPTION 'A service keeps its code.'
            USING ERRCODE = 'BL002', HINT = 'Retire the service, and add another.';
    END IF;
    RETURN NEW;
END
$function$;
