-- Returns the digest of a transaction: SHA-256 over its canonical form (docs/ledger.md). PL/pgSQL
-- prepares the long expression once per transaction; in SQL, each caller would.
CREATE OR REPLACE FUNCTION public.billing_digest(t public.billing_transaction, previous_digest bytea, uses jsonb)
 RETURNS bytea
 LANGUAGE plpgsql
 STABLE PARALLEL SAFE
AS $function$
BEGIN
    -- Form 2 says what form 1 has no place for: dates, reason, batch, and the grants that it took
    -- from.
    IF t.form = 2 THEN
        RETURN sha256(convert_to(json_build_array(
            encode(previous_digest, 'hex'),
            t.id::text, t.user_id::text, t.number::text,
            t.type, t.subtype, t.description, t.device,
            t.amount::text, t.old_balance::text, t.new_balance::text,
            t.bonus_amount::text, t.old_bonus::text, t.new_bonus::text,
            t.refilled::text, t.bonus_refilled::text,
            to_char(t.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            t.actor_id::text, t.channel, t.idempotency_key, t.reverses::text, t.metadata::text,
            CASE num_nonnulls(t.payment_date, t.bonus_expires_at, t.reason_id, t.batch_id)
                WHEN 0 THEN jsonb_strip_nulls(jsonb_build_object('uses', uses))
                ELSE jsonb_strip_nulls(jsonb_build_object(
                    'uses', uses,
                    'payment_date', to_char(t.payment_date, 'YYYY-MM-DD'),
                    'bonus_expires_at', to_char(
                        t.bonus_expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                    'reason', t.reason_id,
                    'batch', t.batch_id::text
                ))
            END::text
        )::text, 'UTF8'));
    END IF;
    RETURN sha256(convert_to(json_build_array(
        encode(previous_digest, 'hex'),
        t.id::text, t.user_id::text, t.number::text,
        t.type, t.subtype, t.description, t.device,
        t.amount::text, t.old_balance::text, t.new_balance::text,
        t.bonus_amount::text, t.old_bonus::text, t.new_bonus::text,
        t.refilled::text, t.bonus_refilled::text,
        to_char(t.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        t.actor_id::text, t.channel, t.idempotency_key, t.reverses::text, t.metadata::text
    )::text, 'UTF8'));
END
$function$;
