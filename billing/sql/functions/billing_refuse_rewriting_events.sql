-- Guard of billing_event: UPDATE, DELETE and TRUNCATE.
CREATE OR REPLACE FUNCTION public.billing_refuse_rewriting_events()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
    RAISE EXCEPTION 'Events are append-only: % is refused.', TG_OP USING ERRCODE = 'BL002';
END
$function$;
