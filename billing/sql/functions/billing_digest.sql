-- Returns the digest of a transaction: SHA-256 over its canonical form. `uses` are the grants that it
-- took from: a JSON array of their numbers and amounts.
CREATE OR REPLACE FUNCTION public.billing_digest(t public.billing_transaction, previous_digest bytea, uses jsonb)
 RETURNS bytea
 LANGUAGE plpgsql
 STABLE PARALLEL SAFE
AS $function$
BEGIN
    RETURN sha256(convert_to(billing_canonical(
        previous_digest,
        t.id, t.user_id, t.number, t.type, t.subtype, t.description, t.device,
        t.amount, t.old_balance, t.new_balance, t.bonus_amount, t.old_bonus, t.new_bonus,
        t.refilled, t.bonus_refilled, t.created_at, t.actor_id, t.channel, t.idempotency_key,
        t.reverses, t.metadata,
        -- Form 2 says what form 1 has no place for.
        CASE WHEN t.form = 2 THEN jsonb_strip_nulls(jsonb_build_object(
            'uses', uses,
            'payment_date', to_char(t.payment_date::timestamp, 'YYYY-MM-DD'),
            'bonus_expires_at', to_char(
                t.bonus_expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'reason', t.reason_id,
            'batch', t.batch_id::text
        )) END
    ), 'UTF8'));
END
$function$;
