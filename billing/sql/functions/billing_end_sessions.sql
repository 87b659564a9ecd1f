-- Ends the sessions of `/v2/panel/` when the password changes, as for the panel's own sessions:
-- anyone who knew the old password is logged out, however the new one was set.
CREATE OR REPLACE FUNCTION public.billing_end_sessions()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    DELETE FROM billing_apisession WHERE operator_id = NEW.id;
    RETURN NULL;
END
$function$;
