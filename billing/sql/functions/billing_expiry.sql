-- Returns the transaction by which a grant of a user with balance `b` expires at `moment`: it takes
-- what is left of the grant from the bonus balance.
CREATE OR REPLACE FUNCTION public.billing_expiry(b public.billing_balance, g public.billing_grant, moment timestamp with time zone)
 RETURNS public.billing_posting
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    t billing_posting;
    gift billing_transaction;
BEGIN
    SELECT * INTO gift FROM billing_transaction x
    WHERE x.user_id = b.user_id AND x.number = g.number;
    t := ROW(
        nextval('billing_transaction_id_seq'),
        b.last_number + 1,                                    -- number
        'bonus_expiry',
        -- The grant with which a user's grants began is that of no gift.
        CASE WHEN g.number > b.grants_since THEN gift.subtype ELSE 'gift' END,
        CASE WHEN g.number > b.grants_since THEN 'Expired: ' || left(gift.description, 191)
            ELSE 'Bonus expired' END,
        '',                                                   -- device
        0, b.real, b.real,                                    -- real
        -g.remaining, b.bonus, b.bonus - g.remaining,         -- bonus
        b.refilled,
        b.bonus_refilled,
        greatest(moment, b.last_at),                          -- created_at
        'system',                                             -- channel
        NULL,                                                 -- idempotency_key
        NULL,                                                 -- reverses
        '{}',                                                 -- metadata
        NULL,                                                 -- digest, below
        NULL,                                                 -- actor_id
        b.user_id,
        NULL,                                                 -- payment_date
        NULL,                                                 -- bonus_expires_at
        2,                                                    -- form
        NULL,                                                 -- reason_id
        NULL                                                  -- batch_id
    );
    t.digest := billing_digest(ROW(t.*)::billing_transaction, b.last_digest, jsonb_build_array(
        jsonb_build_array(g.number::text, g.remaining::text)));
    RETURN t;
END
$function$;
