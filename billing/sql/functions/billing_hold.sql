-- Locks balances in the order of user IDs until the database transaction ends. It runs with its
-- owner's rights, because a lock needs the right to write. With `skip_held` it leaves out balances
-- that others have locked instead of waiting for them.
CREATE OR REPLACE FUNCTION public.billing_hold(user_ids bigint[], skip_held boolean DEFAULT false)
 RETURNS SETOF public.billing_balance
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    IF skip_held THEN
        RETURN QUERY SELECT * FROM billing_balance b WHERE b.user_id = ANY (user_ids)
            ORDER BY b.user_id FOR NO KEY UPDATE SKIP LOCKED;
    ELSE
        RETURN QUERY SELECT * FROM billing_balance b WHERE b.user_id = ANY (user_ids)
            ORDER BY b.user_id FOR NO KEY UPDATE;
    END IF;
END
$function$;
