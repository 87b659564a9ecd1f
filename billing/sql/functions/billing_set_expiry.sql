-- Sets when a grant expires, with its owner's rights. A guard compares it with the user's last event,
-- which has to record this change.
CREATE OR REPLACE FUNCTION public.billing_set_expiry(of_user_id bigint, grant_number bigint, moment timestamp with time zone)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    UPDATE billing_grant g SET expires_at = moment
    WHERE g.user_id = of_user_id AND g.number = grant_number
$function$;
