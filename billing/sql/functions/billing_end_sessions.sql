-- A new password ends the sessions of `/v2/panel/`, as it does those of the panel: whoever knew the
-- old one is out, however the password was set.
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
