-- Returns what the digest of a transaction is made from: its canonical form, a JSON array of texts
-- (docs/ledger.md). `further` is what only form 2 has, or NULL.
--
-- A function in SQL becomes a part of the expression that calls it, so that a call costs nothing.
CREATE OR REPLACE FUNCTION public.billing_canonical(previous_digest bytea, id bigint, user_id bigint, number bigint, type text, subtype text, description text, device text, amount numeric, old_balance numeric, new_balance numeric, bonus_amount numeric, old_bonus numeric, new_bonus numeric, refilled numeric, bonus_refilled numeric, created_at timestamp with time zone, actor_id bigint, channel text, idempotency_key text, reverses bigint, metadata jsonb, further jsonb)
 RETURNS text
 LANGUAGE sql
 STABLE PARALLEL SAFE
AS $function$
    SELECT format(
        '["%s", "%s", "%s", "%s", "%s", "%s", %s, %s, '
        '"%s", "%s", "%s", "%s", "%s", "%s", "%s", "%s", "%s", %s, "%s", %s, %s, %s%s]',
        encode(previous_digest, 'hex'), id, user_id, number,
        type, subtype, to_json(description), to_json(device),
        amount, old_balance, new_balance, bonus_amount, old_bonus, new_bonus,
        refilled, bonus_refilled,
        to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        coalesce('"' || actor_id || '"', 'null'), channel,
        coalesce(to_json(idempotency_key), 'null'), coalesce('"' || reverses || '"', 'null'),
        to_json(metadata::text), ', ' || to_json(further::text)
    )
$function$;
