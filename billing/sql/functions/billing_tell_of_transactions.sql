-- After transactions were posted: stores the webhook events of the transactions of balances
-- that fell below their threshold, and of bonus that has expired.
--
-- If no endpoint subscribes to these events, posting pays only for the first query.
CREATE OR REPLACE FUNCTION public.billing_tell_of_transactions()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    wanted text[];
    default_threshold numeric;
BEGIN
    IF NOT EXISTS (
        SELECT FROM billing_webhookendpoint e
        WHERE e.is_active AND e.events && ARRAY['transaction.posted', 'balance.low', 'bonus.expired']::varchar[]
    ) THEN
        RETURN NULL;
    END IF;
    wanted := ARRAY(SELECT unnest(e.events) FROM billing_webhookendpoint e WHERE e.is_active);
    SELECT amount INTO default_threshold FROM billing_lowbalancethreshold WHERE user_id IS NULL;
    WITH happened AS (
        SELECT p.user_id, p.number, 1 AS place, 'transaction.posted' AS type, '{}'::jsonb AS data
        FROM posted p
        WHERE 'transaction.posted' = ANY (wanted)
        UNION ALL
        SELECT p.user_id, p.number, 2, 'balance.low', jsonb_build_object(
            'threshold', limited.threshold::text, 'balance', p.new_balance::text
        )
        FROM posted p
        LEFT JOIN billing_lowbalancethreshold own ON own.user_id = p.user_id
        CROSS JOIN LATERAL (
            SELECT CASE WHEN own.id IS NULL THEN default_threshold ELSE own.amount END
        ) limited (threshold)
        WHERE 'balance.low' = ANY (wanted)
            AND p.old_balance >= limited.threshold AND p.new_balance < limited.threshold
        UNION ALL
        SELECT p.user_id, p.number, 3, 'bonus.expired', jsonb_build_object(
            'expired', (-p.bonus_amount)::text, 'bonus', p.new_bonus::text
        )
        FROM posted p
        WHERE 'bonus.expired' = ANY (wanted) AND p.type = 'bonus_expiry'
    ), noted AS (
        INSERT INTO billing_webhookevent (type, user_id, number, data, created_at)
        SELECT type, user_id, number, data, clock_timestamp() FROM happened
        ORDER BY user_id, number, place
        RETURNING id, type, user_id
    )
    INSERT INTO billing_webhookdelivery (event_id, endpoint_id, user_id, status)
    SELECT n.id, e.id, n.user_id, 'pending'
    FROM noted n JOIN billing_webhookendpoint e ON e.is_active AND n.type = ANY (e.events)
    ORDER BY n.id, e.id;
    PERFORM billing_wake_webhooks(e.id) FROM billing_webhookendpoint e
    WHERE e.is_active AND e.events && ARRAY['transaction.posted', 'balance.low', 'bonus.expired']::varchar[];
    RETURN NULL;
END
$function$;
