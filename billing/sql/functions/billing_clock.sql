-- The clock of all moments except the times of transactions. Tests replace this function to set
-- another time.
CREATE OR REPLACE FUNCTION public.billing_clock()
 RETURNS timestamp with time zone
 LANGUAGE sql
 PARALLEL SAFE
AS $function$SELECT clock_timestamp()$function$;
