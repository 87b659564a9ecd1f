-- The clock by which moments are kept, other than those of transactions. Tests put it to another
-- time by replacing this function.
CREATE OR REPLACE FUNCTION public.billing_clock()
 RETURNS timestamp with time zone
 LANGUAGE sql
 PARALLEL SAFE
AS $function$SELECT clock_timestamp()$function$;
